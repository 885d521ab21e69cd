"""Representations of models between which nothing of interest changed: what `summlens.latent_noise` compares with."""

import logging
from collections.abc import Sequence
from itertools import combinations

from summlens import models, noise_captures
from summlens.artifacts import Run
from summlens.data import Example
from summlens.latent_space import Representation, represent
from summlens.noise_captures import Floor

log = logging.getLogger(__name__)


def measure(
    base: Representation,
    fine_tuned: Representation,
    examples: Sequence[Example],
    base_name: str | None,
    run: Run | None,
) -> dict[str, Floor[Representation]]:
    """The noise floors, those that there are: `numerical` and `seed` (`summlens.noise_captures`).

    Args:
        base_name: the model of `base`, by name or directory; without it nothing is run, and saved vectors alone serve.
        run: the one that leads from base to fine-tuned; without it there are no other seeds.
    """
    floors = {}
    if base_name is not None:
        log.info("noise floor: %s with bfloat16 rounding on %d probe articles", base_name, len(examples))
        rounded = noise_captures.rounded(models.load_model(base_name).to(models.device()))
        floors["numerical"] = Floor(
            noise_captures.NUMERICAL, [(represent(rounded, examples, f"{base_name} in bfloat16"), base)], base
        )
    others = {} if run is None else seeds(run, fine_tuned, examples if base_name is not None else ())
    if others:
        floors["seed"] = Floor(
            noise_captures.SEEDS.format(", ".join(others)),
            list(combinations([fine_tuned, *others.values()], 2)),
            base,
            list(others.values()),
        )
    return floors


def seeds(run: Run, fine_tuned: Representation, examples: Sequence[Example]) -> dict[str, Representation]:
    """{seed: its fine-tuned model}, of those whose captures are of the same probe articles.

    Without `examples`, or where a model is gone, they are the vectors that its last whole capture holds.
    """
    found = {}
    for seed, other in noise_captures.other_seeds(run).items():
        steps = other.whole_steps()
        if not steps:
            continue
        vectors = other.read_arrays(f"step_{steps[-1]:06d}.npz").get("latent/residual")
        if vectors is None or vectors.shape != fine_tuned.vectors.shape:
            continue
        found[seed] = Representation(vectors)
        model = noise_captures.final_model(other, models.device()) if examples else None
        if model is not None:
            log.info("noise floor: the fine-tuned model of seed %s on %d probe articles", seed, len(examples))
            found[seed] = represent(model, examples, str(other.model_outputs))
    return found
