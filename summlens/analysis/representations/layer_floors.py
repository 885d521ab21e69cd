"""Representations of models between which nothing of interest changed: what `layer_noise` compares with."""

import logging
from collections.abc import Sequence
from itertools import combinations

from summlens import names
from summlens.analysis.material import Load
from summlens.analysis.noise.floors import NUMERICAL, SEEDS, Floor, final_model, other_seeds, rounded
from summlens.analysis.representations.represent import Representation, represent
from summlens.artifacts import Run
from summlens.data.tokens import Example
from summlens.model import loading

log = logging.getLogger(__name__)


def measure(
    base: Representation,
    fine_tuned: Representation,
    examples: Sequence[Example],
    base_name: str | None,
    run: Run | None,
    load: Load = loading.on_device,
) -> dict[str, Floor[Representation]]:
    """The noise floors that can be measured here, of `numerical` and `seed` (`summlens.analysis.noise.floors`).

    Args:
        base_name: the model of `base`, by name or directory; without it nothing is run, and saved vectors alone serve.
        run: the one that leads from base to fine-tuned; without it there are no other seeds.
    """
    floors = {}
    if base_name is not None:
        log.info("noise floor: %s with bfloat16 rounding on %d probe articles", base_name, len(examples))
        other = represent(rounded(load(base_name)), examples, f"{base_name} in bfloat16")
        floors["numerical"] = Floor(NUMERICAL, [(other, base)], base)
    others = {} if run is None else seeds(run, fine_tuned, examples if base_name is not None else (), load)
    if others:
        floors["seed"] = Floor(
            SEEDS.format(", ".join(others)),
            list(combinations([fine_tuned, *others.values()], 2)),
            base,
            list(others.values()),
        )
    return floors


def seeds(
    run: Run, fine_tuned: Representation, examples: Sequence[Example], load: Load = loading.on_device
) -> dict[str, Representation]:
    """{seed: its fine-tuned model}, of those whose captures are of the same probe articles.

    Without `examples`, or where a model is gone, they are the vectors that its last whole capture holds.
    """
    found = {}
    for seed, other in other_seeds(run).items():
        steps = other.whole_steps()
        if not steps:
            continue
        vectors = other.read_step(steps[-1]).arrays.get(names.LATENT)
        if vectors is None or vectors.shape != fine_tuned.vectors.shape:
            continue
        found[seed] = Representation(vectors)
        model = final_model(other, load) if examples else None
        if model is not None:
            log.info("noise floor: the fine-tuned model of seed %s on %d probe articles", seed, len(examples))
            found[seed] = represent(model, examples, str(other.model_outputs))
    return found
