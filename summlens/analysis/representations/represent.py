"""One model's view of the probe articles: the mean residual stream of each, and the logit lens."""

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from summlens import names
from summlens.analysis.material import Load
from summlens.artifacts import Run
from summlens.core.errors import UserError
from summlens.data.tokens import Example
from summlens.metrics.lens import logit_lens
from summlens.model import loading
from summlens.model.architecture import Architecture, architecture, final_norm
from summlens.model.observing import evaluating, observed_sites

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Representation:
    """One model's view of the probe articles: `vectors` (A, L + 1, D); logit lens `loss` and `rank` (A, L + 1).

    `no_lens` says why there is no logit lens, where there is none.
    """

    vectors: np.ndarray
    loss: np.ndarray | None = None
    rank: np.ndarray | None = None
    no_lens: str = "needs the models: the saved vectors are means over positions"


def saved_vectors(run: Run, articles: int) -> dict[int, np.ndarray]:
    """The vectors (A, L + 1, D) that a run saved, by step. Raises UserError where they do not fit together.

    The steps are those of the whole captures (`summlens.artifacts`).
    """
    vectors = {}
    for step in run.whole_steps():
        path, saved = run.step_arrays(step), run.read_step(step).arrays.get(names.LATENT)
        if saved is None:
            raise UserError(f"{path} holds no {names.LATENT}: make the run again")
        expected = next(iter(vectors.values())).shape if vectors else (articles, *saved.shape[1:])
        if saved.ndim != 3 or saved.shape != expected:
            raise UserError(
                f"{path} holds vectors of shape {saved.shape}, not {expected} as this run's probe set and other steps "
                "do: it belongs to another run; make this one again"
            )
        check_finite(saved, str(path))
        vectors[step] = saved
    return vectors


def ends(steps: Mapping[int, np.ndarray]) -> tuple[Representation, Representation]:
    """Base and fine-tuned from saved vectors: step 0 and the last step. Raises UserError where they are not there."""
    if 0 not in steps or len(steps) < 2:
        raise UserError(f"captured steps {list(steps)}: step 0 and a later one are needed to compare; train further")
    return Representation(steps[0]), Representation(steps[max(steps)])


def represent_pair(
    base: str,
    fine_tuned: str,
    examples: Sequence[Example],
    tokens_of: str,
    any_shape: bool = False,
    load: Load = loading.on_device,
) -> tuple[Representation, Representation]:
    """Run the probe articles through two models (see `represent`).

    Raises:
        UserError: a model or tokenizer that cannot be loaded; one whose tokenizer reads the ids of the probe articles
            otherwise than that of `tokens_of`, the model they were made for; unless `any_shape`, models of different
            depth or number of heads.
    """
    ids = sorted({token for example in examples for token in example.input_ids})
    meant = loading.load_tokenizer(tokens_of).convert_ids_to_tokens(ids)
    for name in (base, fine_tuned):
        for token, theirs, ours in zip(
            ids, loading.load_tokenizer(name).convert_ids_to_tokens(ids), meant, strict=True
        ):
            if theirs != ours:
                raise UserError(
                    f"the tokenizer of {name} differs from that of {tokens_of} (token {token} is {theirs!r}, not "
                    f"{ours!r}): only models that read the same tokens can be compared"
                )
    if not any_shape:
        loading.check_layers_and_heads(base, fine_tuned)
    log.info("running %d probe articles through %s and %s", len(examples), base, fine_tuned)
    return tuple(represent(load(name), examples, name) for name in (base, fine_tuned))


@torch.no_grad()
def represent(model: nn.Module, examples: Sequence[Example], name: str) -> Representation:
    """Run the probe articles through a model, one at a time: vectors and logit lens.

    The lens is checked where it must equal the model itself, after the last layer: a model whose head does more than
    final norm and unembedding (scaled or soft-capped logits) gets no lens, and `no_lens` says so.

    Raises:
        UserError: no articles, one without a summary position, a token the model does not have, more tokens than
            it has positions, or vectors that are not finite; it names the model by `name`.
    """
    if not examples:
        raise UserError("the probe set is empty: there is nothing to represent")
    found = architecture(model)
    unembedding, limit = model.get_output_embeddings(), loading.positions(model)
    vectors, losses, ranks, exact = [], [], [], True
    with evaluating(model):
        norm = final_norm(model)
        for example in examples:
            if not example.queries:
                raise UserError(f"probe article {example.id} leaves no summary position")
            if max(example.input_ids) >= found.vocabulary:
                raise UserError(f"probe article {example.id} has tokens beyond the {found.vocabulary} of {name}")
            if limit and len(example.input_ids) > limit:
                raise UserError(f"probe article {example.id} has {len(example.input_ids)} tokens; {name} reads {limit}")
            residuals, logits = _read(model, found, example)
            targets = torch.tensor(example.input_ids[example.prompt_length :], device=logits.device)
            loss, rank = logit_lens(residuals, targets, norm, unembedding)
            own = nn.functional.cross_entropy(logits.float(), targets, reduction="none")
            exact = exact and torch.allclose(own, loss[-1], rtol=1e-3, atol=1e-3)
            for kept, values in ((vectors, residuals), (losses, loss), (ranks, rank)):
                kept.append(values.double().mean(dim=1).cpu().numpy())
    check_finite(np.stack(vectors), name)
    if not exact:
        return Representation(np.stack(vectors), no_lens=f"the head of {name} is more than final norm and unembedding")
    return Representation(np.stack(vectors), np.stack(losses), np.stack(ranks))


def _read(model: nn.Module, found: Architecture, example: Example) -> tuple[Tensor, Tensor]:
    """Residual stream (L + 1, m, D), before the first block and after each, and logits (m, V), at the m queries."""
    layers = {}
    count = len(example.queries)

    def keep(site, layer, values):
        if site == "residual":
            layers[layer] = values[0, -count - 1 : -1]  # the queries are the last positions but one

    ids = torch.tensor([example.input_ids], device=model.device)
    options = {"use_cache": False}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:  # spares the prompt's logits
        options["logits_to_keep"] = count + 1
    with observed_sites(found, keep):
        logits = model(input_ids=ids, **options).logits[0, -count - 1 : -1]
    return torch.stack([layers[layer] for layer in range(found.layers + 1)]), logits


def check_finite(vectors: np.ndarray, name: str) -> None:
    bad = np.argwhere(~np.isfinite(vectors))
    if len(bad):
        raise UserError(f"{name} gives values that are not finite at layer {bad[0][1]}, probe article {bad[0][0]}")
