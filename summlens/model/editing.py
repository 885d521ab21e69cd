"""A model's forward pass with parts of it replaced, run only from the lowest replaced layer on.

Everything a replacement can leave as it was is taken from one recorded pass: the blocks below it return what they
returned there, and the attention of its own block is not computed again. Padding is on the right, where causal
attention never looks, so it needs no mask.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from summlens.data.batches import Batch
from summlens.model.architecture import Architecture, Block, architecture
from summlens.model.observing import observed_sites


@dataclass(frozen=True)
class Edit:
    """What to put in place of one part's output, `value` (B, T, D) or (D,), at every position.

    `site` is `head` (what one head adds to the residual stream: its slice through the output projection),
    `attention` (the whole output projection, its bias included), `mlp` (the MLP's output) or `residual` (the stream
    that enters block `layer`; layer L is what the last block leaves).
    """

    site: str
    layer: int
    value: Tensor
    head: int | None = None


@dataclass
class Recorded:
    """One ordinary pass over a batch: by layer, `residual` (B, T, D) (L + 1 of them), and `heads` (B, T, H * d),
    `attention` (B, T, D), `mlp` (B, T, D), `neurons` (B, T, N); `blocks` and `attentions` as the modules returned
    them."""

    residual: dict[int, Tensor] = field(default_factory=dict)
    heads: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[int, Tensor] = field(default_factory=dict)
    mlp: dict[int, Tensor] = field(default_factory=dict)
    neurons: dict[int, Tensor] = field(default_factory=dict)
    blocks: dict[int, object] = field(default_factory=dict)
    attentions: dict[int, object] = field(default_factory=dict)


_SITES = {
    "residual": "residual",
    "head_outputs": "heads",
    "attention_output": "attention",
    "mlp_output": "mlp",
    "mlp_hidden": "neurons",
}


class Subject:
    """A model to intervene on. Keep it in eval mode (`observing.evaluating`) while it is used."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.found: Architecture = architecture(model)
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    def output_weights(self, layer: int) -> Tensor:
        """(H, d, D): how each head of the layer writes into the residual stream."""
        return self.found.heads_of(layer)["o"]

    def contribution(self, heads: Tensor, layer: int, head: int) -> Tensor:
        """What one head adds to the residual stream, (..., D), from the heads' outputs side by side (..., H * d)."""
        width = self.found.head_dim
        return heads[..., head * width : (head + 1) * width] @ self.output_weights(layer)[head]

    def record(self, batch: Batch) -> Recorded:
        """One ordinary pass, with all that interventions need of it."""
        recorded = Recorded()

        def keep(site: str, layer: int, values: Tensor) -> None:
            getattr(recorded, _SITES[site])[layer] = values

        with ExitStack() as stack:
            for layer, block in enumerate(self.found.blocks):
                for module, kept in ((block.module, recorded.blocks), (block.attention, recorded.attentions)):
                    stack.callback(module.register_forward_hook(_keeper(kept, layer)).remove)
            stack.enter_context(observed_sites(self.found, keep))
            self.logits(batch)
        return recorded

    def logits(self, batch: Batch) -> Tensor:
        """(B, T - first, V): the logits from the batch's first summary query on."""
        wanted = batch.ids.shape[1] - batch.first
        options = {"logits_to_keep": wanted} if self._keeps else {}
        return self.model(input_ids=batch.ids, use_cache=False, **options).logits[:, -wanted:]

    def whole_loss(self, batch: Batch) -> Tensor:
        """(B,) nats a token of each reference summary, from an ordinary pass; float64."""
        return _losses(self.logits(batch), batch)

    def loss(
        self, batch: Batch, recorded: Recorded, edits: Sequence[Edit] = (), changed_from: int | None = None
    ) -> Tensor:
        """(B,) nats a token of each reference summary, with `edits` in place; float64.

        `recorded` is this model's own pass over the batch. `changed_from` is the lowest block whose weights are other
        ones than when it was recorded (0 also stands for embeddings).
        """
        layers = self.found.layers
        start = min((edit.layer for edit in edits), default=layers)
        start = min(start, layers if changed_from is None else changed_from)
        fresh = changed_from is not None or any(e.site == "residual" and e.layer == start for e in edits)
        with ExitStack() as stack:
            for layer, block in enumerate(self.found.blocks[:start]):
                _replace_forward(stack, block.module, _returning(recorded.blocks[layer]))
            if start < layers and not fresh:
                self._reuse_attention(stack, start, recorded)
            if start < layers:
                _shorten_mlp(stack, self.found.blocks[-1], batch.first)
            self._apply(stack, edits)
            return _losses(self.logits(batch), batch)

    def _reuse_attention(self, stack: ExitStack, layer: int, recorded: Recorded) -> None:
        """The layer's heads give again what they gave; only the output projection is computed."""
        block, returned = self.found.blocks[layer], recorded.attentions[layer]
        own = returned if isinstance(returned, Tensor) else returned[0]
        if not torch.equal(own, recorded.attention[layer]):  # something stands between projection and residual stream
            return

        def attention(*args, **kwargs):
            again = block.output(recorded.heads[layer])
            return again if isinstance(returned, Tensor) else (again, *returned[1:])

        _replace_forward(stack, block.attention, attention)

    def _apply(self, stack: ExitStack, edits: Sequence[Edit]) -> None:
        by_place: dict[tuple[str, int], list[Edit]] = {}
        for edit in edits:
            by_place.setdefault((edit.site, edit.layer), []).append(edit)
        # Heads first: a whole attention output, where both are given, then has the last word.
        for (site, layer), own in sorted(by_place.items(), key=lambda item: item[0][0] != "head"):
            if site == "head":
                hook = self.found.blocks[layer].output.register_forward_hook(self._heads_replaced(layer, own))
            elif site == "residual" and layer == 0:
                hook = self.found.blocks[0].module.register_forward_pre_hook(_entered(own[-1].value), with_kwargs=True)
            else:
                block = self.found.blocks[layer - (site == "residual")]
                module = {"attention": block.output, "mlp": block.down, "residual": block.module}[site]
                hook = module.register_forward_hook(_replaced(own[-1].value))
            stack.callback(hook.remove)

    def _heads_replaced(self, layer: int, edits: Sequence[Edit]) -> Callable:
        def hook(module, args, output):
            for edit in edits:
                output = output + (edit.value - self.contribution(args[0], layer, edit.head))
            return output

        return hook


def _losses(logits: Tensor, batch: Batch) -> Tensor:
    losses = []
    for own, ids, queries in zip(logits, batch.ids, batch.rows(), strict=True):
        rows = own[queries.start - batch.first : queries.stop - batch.first].float()
        losses.append(cross_entropy(rows, ids[queries.start + 1 : queries.stop + 1], reduction="none").double().mean())
    return torch.stack(losses)


def _keeper(kept: dict, layer: int) -> Callable:
    def hook(module, args, output):
        kept[layer] = output

    return hook


def _returning(value) -> Callable:
    return lambda *args, **kwargs: value


def _replaced(value: Tensor) -> Callable:
    def hook(module, args, output):
        shaped = output if isinstance(output, Tensor) else output[0]
        # A shortened MLP works on the last positions only.
        new = value[:, -shaped.shape[1] :] if value.ndim == 3 else value.expand_as(shaped)
        return new if isinstance(output, Tensor) else (new, *output[1:])

    return hook


def _entered(value: Tensor) -> Callable:
    def hook(module, args, kwargs):
        return ((value, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": value})

    return hook


def _replace_forward(stack: ExitStack, module: nn.Module, forward: Callable) -> None:
    """`module` computes `forward` until the stack unwinds; its hooks still run."""
    before = module.__dict__.get("forward")  # something else (a device map, say) may have put its own there
    module.forward = forward
    stack.callback(lambda: delattr(module, "forward") if before is None else setattr(module, "forward", before))


def _shorten_mlp(stack: ExitStack, last: Block, first: int) -> None:
    """The last block's MLP works from position `first` on: what it would write before is never read."""
    for child in last.module.children():
        if child is not last.down and any(module is last.down for module in child.modules()):
            _replace_forward(stack, child, partial(_from_position, child.forward, first))


def _from_position(forward: Callable, first: int, hidden: Tensor) -> Tensor:
    return pad(forward(hidden[:, first:].contiguous()), (0, 0, first, 0))


@contextmanager
def restored(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Iterator[None]:
    """`ours` hold the values of `theirs` within, and their own, bit for bit, after."""
    kept = [tensor.detach().clone() for tensor in ours]
    try:
        for tensor, value in zip(ours, theirs, strict=True):
            tensor.copy_(value)
        yield
    finally:
        for tensor, value in zip(ours, kept, strict=True):
            tensor.copy_(value)
