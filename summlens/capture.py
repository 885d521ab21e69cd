"""One capture: every number of a step, over the probe examples, from one forward pass of the model (and its base).

Returns the arrays of a step's file (`summlens.artifacts`, step_NNNNNN.npz). Nothing is left behind in the model.
"""

import inspect
from collections.abc import Sequence
from operator import attrgetter

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from summlens import names
from summlens.core.errors import UserError
from summlens.data.batches import Batch, batches
from summlens.data.tokens import Example
from summlens.metrics import activations, weights
from summlens.metrics.attention import Projected, Tokens, attention_statistics
from summlens.model import loading
from summlens.model.architecture import Architecture, architecture, check_one_shape
from summlens.model.observing import evaluating, observed_attention, observed_sites

__all__ = ["Architecture", "architecture", "capture", "gradient_norms", "weight_change"]


_SITES = {site.key: site for site in names.SITES}


@torch.no_grad()
def capture(
    model: nn.Module,
    examples: Sequence[Example],
    *,
    base: nn.Module | None = None,
    batch_size: int = 8,
    pad_id: int = 0,
    padding_side: str = "right",
    positions: Sequence[str] = names.POSITIONS,
) -> dict[str, np.ndarray]:
    """Every per-example, per-layer and per-head number of `model` on `examples`, as float32 arrays by name.

    Names, shapes and units: `summlens.artifacts` (step_NNNNNN.npz) and `summlens.names`. With
    `base` also attention kl and js of the model against it. Rows are in the order of `examples`; they are batched by
    length, and padding (with `pad_id`, on `padding_side`) changes no number. How far the weights moved needs no
    example: `weight_change`.

    Measured in eval mode without gradients; modes, random state, configuration and hooks are as before afterwards.
    Raises UserError for a model that cannot be captured rightly (`architecture`), for weights that are not finite,
    for a base of another shape, for no examples, and for an example without a summary.
    """
    found = architecture(model)
    base_found = None if base is None else _comparable(found, base)
    for one in (found, base_found):
        if one is not None:
            _check_finite(one.model)
    _check(examples, found)

    collected = _Collected(found, len(examples), base is not None, positions)
    with evaluating(*(m for m in (model, base) if m is not None)):
        on = model.get_input_embeddings().weight.device
        for batch in batches(examples, device=on, articles=batch_size, pad_id=pad_id, side=padding_side):
            _capture_batch(found, base_found, batch, collected)
    return {key: np.asarray(value, dtype=np.float32) for key, value in collected.arrays().items()}


def _capture_batch(found: Architecture, base: Architecture | None, batch: Batch, collected: "_Collected") -> None:
    """Run base, then model, on a batch. The base's queries and keys wait for the model's: they grow with T alone."""
    waiting: dict[int, Projected] = {}

    def keep(layer: int, *projected) -> None:
        waiting[layer] = Projected(*projected)

    def attend(layer: int, *projected) -> None:
        collected.attention(batch, layer, Projected(*projected), waiting.pop(layer, None))

    def visit(site: str, layer: int, values: Tensor) -> None:
        collected.site(batch, site, layer, values)

    if base is not None:
        with observed_attention(base, batch.real, keep):
            _forward(base.model, batch)
    with observed_attention(found, batch.real, attend), observed_sites(found, visit):
        collected.loss(batch, *_forward(found.model, batch))


def weight_change(model: nn.Module, base: nn.Module) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """How far each weight matrix moved from `base`, per matrix and per head.

    Returns ({matrix name: {layer, absolute, relative}}, {"weights_by_head/<q|k|v|o>/<absolute|relative>": (L, H)}).
    Fused projections are split; biases and normalisation vectors are not matrices. With grouped keys a query head has
    the numbers of the key head it reads.
    """
    found = architecture(model)
    other = _comparable(found, base)
    matrices = {}
    for (name, layer, weight), (_, _, before) in zip(found.matrices(), other.matrices(), strict=True):
        absolute, relative = weights.change(weight, before)
        matrices[name] = {"layer": layer, "absolute": float(absolute), "relative": float(relative)}
    rows = {names.head_weights(part, of): [] for part in names.PROJECTIONS for of in ("absolute", "relative")}
    for layer in range(found.layers):
        before = other.heads_of(layer)
        for part, weight in found.heads_of(layer).items():
            for of, values in zip(("absolute", "relative"), weights.change(weight, before[part], keep=1), strict=True):
                by_query_head = values.repeat_interleave(found.heads // len(values))
                rows[names.head_weights(part, of)].append(by_query_head.cpu().numpy())
    return matrices, {name: np.stack(values).astype(np.float32) for name, values in rows.items()}


def gradient_norms(model: nn.Module, found: Architecture | None = None, gradient=attrgetter("grad")) -> dict:
    """L2 norms of the gradients in `.grad`: {total, layers: [L], embeddings, final_norm}.

    Read it at the optimiser step, before clipping and before the gradients are zeroed: `.grad` then holds the
    accumulated gradient of all the step's micro-batches (with loss scaling, unscale first). `embeddings` are the token
    and position embeddings and the unembedding; `final_norm` is what else stands outside the blocks. A model into which
    adapters were put needs `found`, its architecture before; `gradient` takes a parameter's gradient out of it.
    """
    found = found or architecture(model)
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)] + [model.get_output_embeddings()]
    embeddings = {id(parameter) for module in tables for parameter in module.parameters()}
    groups: dict[int | str, list[Tensor | None]] = {i: [] for i in [*range(found.layers), "embeddings", "final_norm"]}
    for name, parameter in model.named_parameters():
        layer = found.layer_of(name)
        outside = "embeddings" if id(parameter) in embeddings else "final_norm"
        groups[outside if layer is None else layer].append(gradient(parameter))
    norms = {group: weights.gradient_norm(gradients) for group, gradients in groups.items()}
    return {
        "total": sum(norm**2 for norm in norms.values()) ** 0.5,
        "layers": [norms[layer] for layer in range(found.layers)],
        "embeddings": norms["embeddings"],
        "final_norm": norms["final_norm"],
    }


class _Collected:
    """The numbers of a capture as batches come by, one example's at a time written into its place."""

    def __init__(self, found: Architecture, examples: int, two_models: bool, positions: Sequence[str]):
        self.found, self.positions = found, positions
        layers, heads = found.layers, found.heads
        self.projections = [found.heads_of(layer)["o"] for layer in range(layers)]
        self.neurons = [activations.NeuronStatistics(found.neurons) for _ in range(layers)]
        shapes = {names.LOSS: (), names.LATENT: (layers + 1, found.width)}
        for where in positions:
            for metric in names.HEAD_METRICS:
                if two_models or not metric.divergence:
                    shapes |= dict.fromkeys(metric.arrays(where).values(), (layers, heads))
            for site in names.SITES:
                shapes |= {site.array(size, where): (layers + site.embeddings,) for size in names.SIZES}
        self._arrays = {key: np.full((examples, *shape), np.nan, dtype=np.float32) for key, shape in shapes.items()}

    def attention(self, batch: Batch, layer: int, model: Projected, base: Projected | None) -> None:
        statistics = attention_statistics(model, _tokens(batch), base, positions=self.positions)
        for key, values in statistics.items():
            self._arrays[f"attention/{key}"][batch.indices, layer] = values.numpy()

    def site(self, batch: Batch, site: str, layer: int, values: Tensor) -> None:
        if site == "head_outputs":
            norms = activations.head_output_norms(values, self.projections[layer])
            for where in self.positions:
                mean = activations.mean_vector(norms, _slices(batch, where))
                self._arrays[names.HEAD["head_output_norm"].array(where)][batch.indices, layer] = mean.cpu().numpy()
            return
        for where in self.positions:
            for size, function in (("mean_abs", activations.mean_absolute), ("l2", activations.mean_l2)):
                sizes = function(values, _slices(batch, where))
                self._arrays[_SITES[site].array(size, where)][batch.indices, layer] = sizes.cpu().numpy()
        summary = _slices(batch)
        if site == "residual":
            mean = activations.mean_vector(values, summary)
            self._arrays[names.LATENT][batch.indices, layer] = mean.cpu().numpy()
        elif site == "mlp_hidden":
            self.neurons[layer].update(torch.cat([values[b, rows] for b, rows in enumerate(summary)]))

    def loss(self, batch: Batch, logits: Tensor, first: int) -> None:
        """logits: (B, T - first, V), of the positions from `first` on."""
        for b, (index, rows) in enumerate(zip(batch.indices, batch.rows(), strict=True)):
            own = logits[b, rows.start - first : rows.stop - first].float()
            self._arrays[names.LOSS][index] = cross_entropy(own, batch.ids[b, rows.start + 1 : rows.stop + 1]).item()

    def arrays(self) -> dict[str, np.ndarray]:
        by_layer = [neurons.result() for neurons in self.neurons]
        return self._arrays | {names.neurons(key): np.stack([one[key] for one in by_layer]) for key in by_layer[0]}


def _slices(batch: Batch, positions: str = "summary") -> list[slice]:
    return [slice(rows.start, rows.stop) for rows in batch.rows(positions)]


def _forward(model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
    """The logits from the batch's first summary query on, and that position. Positions count real tokens only."""
    accepted = inspect.signature(model.forward).parameters
    first = batch.first
    optional = {"position_ids": (batch.real.cumsum(-1) - 1).clamp_min(0), "logits_to_keep": batch.ids.shape[1] - first}
    logits = model(
        input_ids=batch.ids,
        attention_mask=batch.real.long(),
        use_cache=False,
        **{name: value for name, value in optional.items() if name in accepted},
    ).logits
    return logits, batch.ids.shape[1] - logits.shape[1]


def _tokens(batch: Batch) -> list[Tokens]:
    return [
        Tokens(torch.tensor(one.input_ids), one.article_start, one.article_stop, one.prompt_length, start)
        for one, start in zip(batch.examples, batch.starts, strict=True)
    ]


def _check(examples: Sequence[Example], found: Architecture) -> None:
    if not examples:
        raise UserError("the probe set is empty: there is nothing to capture")
    limit = loading.positions(found.model)
    for example in examples:
        length = len(example.input_ids)
        if example.prompt_length < 1 or len(example.queries) == 0:
            raise UserError(
                f"probe article {example.id} leaves no summary position: leave it out of the data or shorten its prompt"
            )
        if limit is not None and length > limit:
            raise UserError(f"probe article {example.id} has {length} tokens; the model reads at most {limit}")


def _comparable(found: Architecture, base: nn.Module) -> Architecture:
    other = architecture(base)
    check_one_shape(found, other, ("the model", "base"))
    return other


def _check_finite(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        low, high = torch.aminmax(parameter.detach())  # NaN shows in both; no copy the size of the matrix
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise UserError(
                f"{name} holds NaN or infinite weights: the training diverged (a lower --learning-rate?), or the "
                "checkpoint is damaged"
            )
