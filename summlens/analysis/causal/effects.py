"""Two models in, the effect of every intervention on every probe article out: nats a token of the reference summary.

Everything is measured by teacher forcing on the same tokens, at every position, over the same A articles. With L
layers, H heads and N neurons, `measure` returns

loss/<base|fine_tuned>                          (A,) the unchanged models
ablation/<mean|zero>/<base|fine_tuned>/heads    (A, L, H) rise of the loss when one head adds its mean (over all real
                                                positions of the probe set, of the same model), or nothing
ablation/mean/<...>/attention, .../mlp          (A, L) the same for a layer's whole attention, or MLP
patching/noising/<heads|attention|mlp>          (A, L, H) or (A, L) gain lost: rise of fine-tuned's loss with that
                                                part's output taken from base
patching/denoising/<heads|attention|mlp>        the same, gain recovered: fall of base's loss with fine-tuned's output
patching/<...>/residual                         (A, L + 1) the stream that enters block l; at L, what the last one left
weight_patching/<heads|layers>                  (A, L, H), (A, L) gain lost when base's weights are put back into
                                                fine-tuned; a head's are its slices of Q, K, V, O (with grouped keys Q
                                                and O, for K and V are not its own), no biases; a layer's are all
weight_patching/outside                         (A,) the same for embeddings, final norm and unembedding together
attribution_patching/<noising|denoising>/<heads|attention|mlp>    first-order estimate of patching
neurons/<base|fine_tuned>                       (A, L, N) mean activation over summary positions
neurons/<base|fine_tuned>/<max|std|positive_share>   (A, L, N) the others of `summlens.metrics.activations`, likewise

Sources: Michel, Levy & Neubig (2019), "Are sixteen heads really better than one?" (head ablation); Wang et al. (2023),
"Interpretability in the wild" (mean ablation); Meng et al. (2022), "Locating and editing factual associations in GPT",
and Prakash et al. (2024), "Fine-tuning enhances existing mechanisms" (cross-model activation patching); Heimersheim &
Nanda (2024), "How to use and interpret activation patching" (noising, denoising); Nanda (2023), "Attribution patching".
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from summlens.data.batches import Batch, batches
from summlens.data.tokens import Example
from summlens.metrics.activations import NeuronStatistics
from summlens.model.architecture import Architecture
from summlens.model.editing import Edit, Recorded, Subject, restored
from summlens.model.observing import evaluating
from summlens.names import MODELS, neurons_by_article

WHOLE = ("attention", "mlp")  # outputs of a whole layer
CPU_TOKENS, GPU_TOKENS = 1000, 8192  # of a batch


def interventions(layers: int, heads: int) -> int:
    """How many passes `measure` makes over the probe set, each of about half of a forward pass."""
    return 7 * layers * heads + 12 * layers


@torch.no_grad()
def measure(base: nn.Module, fine_tuned: nn.Module, examples: Sequence[Example], exact: bool) -> dict[str, np.ndarray]:
    """Every effect of the module docstring; without `exact` only loss, attribution_patching and neurons."""
    subjects = dict(zip(MODELS, (Subject(base), Subject(fine_tuned)), strict=True))
    collected = _Collected(len(examples))
    with evaluating(base, fine_tuned):
        means = {name: site_means(subject, examples) for name, subject in subjects.items()} if exact else {}
        parts = list(chunks(subjects["base"], examples, range(len(examples))))
        for batch in tqdm(parts, desc="interventions", unit="batch", leave=False):
            recorded = {name: subject.record(batch) for name, subject in subjects.items()}
            losses = {name: subjects[name].loss(batch, recorded[name]) for name in MODELS}
            keep = collected.of(batch)
            for name in MODELS:
                keep(f"loss/{name}", losses[name])
                for statistic, values in _neurons(recorded[name], batch).items():
                    keep(neurons_by_article(name, statistic), values)
                if exact:
                    _ablate(
                        subjects[name], batch, recorded[name], losses[name], means[name], f"ablation/{{}}/{name}", keep
                    )
            for direction, host, donor, sign in (
                ("noising", "fine_tuned", "base", 1.0),
                ("denoising", "base", "fine_tuned", -1.0),
            ):
                pair = (subjects[host], recorded[host], subjects[donor], recorded[donor])
                for site, change in _attribute(*pair, batch).items():
                    keep(f"attribution_patching/{direction}/{site}", sign * change)
                if exact:
                    for site, loss in _patch(*pair, batch).items():
                        shape = (-1,) + (1,) * (loss.ndim - 1)
                        keep(f"patching/{direction}/{site}", sign * (loss - losses[host].view(shape)))
            if exact:
                for site, loss in _patch_weights(subjects, recorded["fine_tuned"], batch).items():
                    shape = (-1,) + (1,) * (loss.ndim - 1)
                    keep(f"weight_patching/{site}", loss - losses["fine_tuned"].view(shape))
    return collected.arrays


def chunks(subject: Subject, examples: Sequence[Example], indices) -> Iterator[Batch]:
    """Batches of a size that the device computes fast."""
    return batches(examples, indices, CPU_TOKENS if subject.device.type == "cpu" else GPU_TOKENS, subject.device)


class _Collected:
    """Values of batches, written into their articles' places."""

    def __init__(self, articles: int):
        self.articles = articles
        self.arrays: dict[str, np.ndarray] = {}

    def of(self, batch: Batch):
        def keep(name: str, values: Tensor) -> None:
            values = values.double().cpu().numpy()
            array = self.arrays.setdefault(name, np.full((self.articles, *values.shape[1:]), np.nan))
            array[batch.indices] = values

        return keep


def site_means(subject: Subject, examples: Sequence[Example]) -> dict[str, list[Tensor]]:
    """{heads: [(H * d,)], attention: [(D,)], mlp: [(D,)]} by layer: means over all real positions of the probe set."""
    sums: dict[str, list[Tensor | float]] = {site: [0.0] * subject.found.layers for site in ("heads", *WHOLE)}
    count = 0
    for batch in chunks(subject, examples, range(len(examples))):
        recorded = subject.record(batch)
        count += int(batch.real.sum())
        for site, totals in sums.items():
            for layer, values in getattr(recorded, site).items():
                totals[layer] = totals[layer] + values[batch.real].double().sum(dim=0)
    dtype = subject.model.get_input_embeddings().weight.dtype
    return {site: [(total / count).to(dtype) for total in totals] for site, totals in sums.items()}


def _ablate(subject: Subject, batch: Batch, recorded: Recorded, loss: Tensor, means: dict, name: str, keep) -> None:
    layers, heads = range(subject.found.layers), range(subject.found.heads)
    nothing = torch.zeros(subject.found.width, device=subject.device, dtype=means["mlp"][0].dtype)

    def rise(edit: Edit) -> Tensor:
        return subject.loss(batch, recorded, [edit]) - loss

    for kind in ("mean", "zero"):
        values = [
            [subject.contribution(means["heads"][i], i, h) if kind == "mean" else nothing for h in heads]
            for i in layers
        ]
        rises = [torch.stack([rise(Edit("head", i, values[i][h], h)) for h in heads], dim=1) for i in layers]
        keep(f"{name.format(kind)}/heads", torch.stack(rises, dim=1))
    for site in WHOLE:
        rises = [rise(Edit(site, i, means[site][i])) for i in layers]
        keep(f"{name.format('mean')}/{site}", torch.stack(rises, dim=1))


def _patch(host: Subject, own: Recorded, donor: Subject, other: Recorded, batch: Batch) -> dict[str, Tensor]:
    """The host's losses with one part's output taken from the donor's pass over the same tokens."""
    layers, heads = range(host.found.layers), range(host.found.heads)

    def loss(site: str, layer: int, value: Tensor, head: int | None = None) -> Tensor:
        return host.loss(batch, own, [Edit(site, layer, value, head)])

    found = {
        "heads": torch.stack(
            [
                torch.stack([loss("head", i, donor.contribution(other.heads[i], i, h), h) for h in heads], dim=1)
                for i in layers
            ],
            dim=1,
        )
    }
    for site in WHOLE:
        found[site] = torch.stack([loss(site, i, getattr(other, site)[i]) for i in layers], dim=1)
    depth = range(host.found.layers + 1)
    found["residual"] = torch.stack([loss("residual", i, other.residual[i]) for i in depth], dim=1)
    return found


def _attribute(host: Subject, own: Recorded, donor: Subject, other: Recorded, batch: Batch) -> dict[str, Tensor]:
    """First-order change of the host's loss for each patch: its gradient at the part's output times the difference.

    One forward and one backward pass for all parts together.
    """
    gradients = _gradients(host, batch)
    found: dict[str, list[Tensor]] = {site: [] for site in ("heads", *WHOLE)}
    for layer in range(host.found.layers):
        gradient = gradients["attention"][layer]
        by_head = []
        for subject, recorded in ((donor, other), (host, own)):
            heads = recorded.heads[layer].unflatten(-1, (subject.found.heads, subject.found.head_dim))
            pulled = torch.einsum("btw,hdw->bthd", gradient, subject.output_weights(layer))
            by_head.append((pulled * heads).double().sum(dim=(1, 3)))
        found["heads"].append(by_head[0] - by_head[1])
        for site in WHOLE:
            difference = getattr(other, site)[layer] - getattr(own, site)[layer]
            found[site].append((gradients[site][layer] * difference).double().sum(dim=(1, 2)))
    return {site: torch.stack(values, dim=1) for site, values in found.items()}


def _gradients(subject: Subject, batch: Batch) -> dict[str, list[Tensor]]:
    """By layer, the gradient (B, T, D) of each article's own loss at the attention's and at the MLP's output."""
    outputs: dict[str, list[Tensor]] = {site: [] for site in WHOLE}
    first = subject.found.blocks[0].module

    def enter(module, args, kwargs):
        hidden = (args[0] if args else kwargs["hidden_states"]).detach().requires_grad_()
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    hooks = [first.register_forward_pre_hook(enter, with_kwargs=True)]
    for block in subject.found.blocks:
        for site, module in (("attention", block.output), ("mlp", block.down)):
            hooks.append(module.register_forward_hook(lambda _m, _a, output, site=site: outputs[site].append(output)))
    try:
        with torch.enable_grad():
            loss = subject.whole_loss(batch).sum()
            flat = torch.autograd.grad(loss, outputs["attention"] + outputs["mlp"])
    finally:
        for hook in hooks:
            hook.remove()
    return {"attention": list(flat[: subject.found.layers]), "mlp": list(flat[subject.found.layers :])}


def _patch_weights(subjects: dict[str, Subject], recorded: Recorded, batch: Batch) -> dict[str, Tensor]:
    """Fine-tuned's losses with base's weights put back in one place."""
    host, donor = subjects["fine_tuned"], subjects["base"]
    layers, heads = range(host.found.layers), range(host.found.heads)

    def loss(layer: int, ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
        with restored(ours, theirs):
            return host.loss(batch, recorded, changed_from=layer)

    by_head = [
        torch.stack([loss(i, *(_head_weights(s.found, i, h) for s in (host, donor))) for h in heads], dim=1)
        for i in layers
    ]
    by_layer = [loss(i, *(list(s.found.blocks[i].module.parameters()) for s in (host, donor))) for i in layers]
    return {
        "heads": torch.stack(by_head, dim=1),
        "layers": torch.stack(by_layer, dim=1),
        "outside": loss(0, *(_outside(s.found) for s in (host, donor))),
    }


def _head_weights(found: Architecture, layer: int, head: int) -> list[Tensor]:
    own = "qkvo" if found.key_heads == found.heads else "qo"
    weights = found.heads_of(layer)
    return [weights[part][head] for part in own]


def _outside(found: Architecture) -> list[Tensor]:
    return [parameter for name, parameter in found.model.named_parameters() if found.layer_of(name) is None]


def _neurons(recorded: Recorded, batch: Batch) -> dict[str, Tensor]:
    """{mean, max, std, positive_share}: (B, L, N), of each article's summary positions."""
    values = torch.stack([recorded.neurons[layer] for layer in sorted(recorded.neurons)], dim=1)
    found: dict[str, list[Tensor]] = {}
    for own, rows in zip(values, batch.rows(), strict=True):
        by_layer = []
        for layer in own:
            statistics = NeuronStatistics(layer.shape[-1])
            statistics.update(layer[rows.start : rows.stop])
            by_layer.append(statistics.result())
        for name in by_layer[0]:
            found.setdefault(name, []).append(torch.from_numpy(np.stack([one[name] for one in by_layer])))
    return {name: torch.stack(articles) for name, articles in found.items()}
