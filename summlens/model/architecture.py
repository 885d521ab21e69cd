"""Where things are inside a model: blocks, heads and sites, named once, and how to read them during a forward pass.

Found by structure, for every Hugging Face decoder-only model whose attention goes through the library's attention
interface. What cannot be read rightly is refused by name.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from summlens.core.errors import UserError

_SEPARATE = ("q_proj", "k_proj", "v_proj")
_FUSED = ("c_attn", "query_key_value", "qkv_proj")


@dataclass(frozen=True)
class Block:
    """One transformer block. `output` maps the heads' concatenated outputs, `down` the MLP's hidden neurons, to D."""

    name: str  # the prefix of its parameters' names
    module: nn.Module
    attention_name: str
    attention: nn.Module
    output: nn.Module
    down: nn.Module


@dataclass(frozen=True)
class Architecture:
    """L layers, H query heads reading Hkv key heads, head width d, model width D, N MLP hidden neurons a layer."""

    model: nn.Module
    blocks: tuple[Block, ...]
    layers: int
    heads: int
    key_heads: int
    head_dim: int
    width: int
    neurons: int
    vocabulary: int

    def heads_of(self, layer: int) -> dict[str, Tensor]:
        """The weights of a layer's attention by head: {q: (H, d, D), k: (Hkv, d, D), v: (Hkv, d, D), o: (H, d, D)}.

        The one place that knows how fused projections are laid out. Views where the layout allows, never a bias.
        """
        output = matrix_of(self.blocks[layer].output).T.unflatten(0, (self.heads, self.head_dim))
        return {**self._by_head(layer, matrix_of), "o": output}

    def _by_head(self, layer: int, rows: Callable[[nn.Module], Tensor]) -> dict[str, Tensor]:
        """{q, k, v: (heads, d, ...)} of what `rows` gives of the projections, with their outputs as first axis."""
        shape = {"q": self.heads, "k": self.key_heads, "v": self.key_heads}
        children = dict(self.blocks[layer].attention.named_children())
        if "c_attn" in children:  # GPT-2: [Q; K; V], heads in order within each
            q, k, v = rows(children["c_attn"]).unflatten(0, (3, self.heads, self.head_dim))
        elif "query_key_value" in children:  # GPT-NeoX: for each head in turn its q, k, v
            q, k, v = rows(children["query_key_value"]).unflatten(0, (self.heads, 3, self.head_dim)).unbind(1)
        else:
            if "qkv_proj" in children:  # Phi-3: [Q; K; V] with fewer key heads
                parts = rows(children["qkv_proj"]).split([n * self.head_dim for n in shape.values()])
            else:
                parts = [rows(children[name]) for name in _SEPARATE]
            q, k, v = (w.unflatten(0, (n, self.head_dim)) for w, n in zip(parts, shape.values(), strict=True))
        return {"q": q, "k": k, "v": v}

    def head_masks(self, heads: Iterable[tuple[int, int]]) -> dict[str, Tensor]:
        """{parameter name: bool, of the parameter's shape}: the entries that are these heads' alone ((layer, head)).

        They are the weights and biases of the head's query, key and value, and its part of the output projection's
        weight (whose bias is all heads'). Where query heads share keys and values, these are no head's alone: left out.
        On the CPU, also for a model without memory for its weights.
        """
        masks: dict[int, Tensor] = {}

        def mask(parameter: Tensor) -> Tensor:
            return masks.setdefault(id(parameter), torch.zeros(parameter.shape, dtype=torch.bool))

        def weight(linear: nn.Module) -> Tensor:
            return matrix_of(linear, mask(linear.weight))

        def bias(linear: nn.Module) -> Tensor:
            return torch.zeros(len(matrix_of(linear))) if linear.bias is None else mask(linear.bias)

        own = "qkv" if self.key_heads == self.heads else "q"
        for layer, head in heads:
            for entries in (self._by_head(layer, weight), self._by_head(layer, bias)):
                for part in own:
                    entries[part][head] = True
            weight(self.blocks[layer].output).T.unflatten(0, (self.heads, self.head_dim))[head] = True
        return {
            name: masks[id(p)] for name, p in self.model.named_parameters() if id(p) in masks and masks[id(p)].any()
        }

    def projections(self, layer: int) -> dict[str, tuple[int, int]]:
        """{module name: (inputs, outputs)} of every projection of a block, of attention and MLP."""
        block = self.blocks[layer]
        return {
            f"{block.name}.{name}": tuple(matrix_of(module).T.shape)
            for name, module in block.module.named_modules()
            if isinstance(module, (nn.Linear, Conv1D))
        }

    def matrices(self) -> Iterator[tuple[str, int | None, Tensor]]:
        """(name, layer or None outside the blocks, weight) of every weight matrix; a fused projection as its q, k, v.

        The q of `...attn.c_attn.weight` is named `...attn.c_attn.q.weight`.
        """
        fused = {
            f"{block.attention_name}.{name}.weight": (layer, f"{block.attention_name}.{name}")
            for layer, block in enumerate(self.blocks)
            for name, _ in block.attention.named_children()
            if name in _FUSED
        }
        for name, parameter in self.model.named_parameters():
            if name in fused:
                layer, prefix = fused[name]
                for part, weight in self.heads_of(layer).items():
                    if part != "o":
                        yield f"{prefix}.{part}.weight", layer, weight
            elif parameter.ndim == 2:
                yield name, self.layer_of(name), parameter

    def layer_of(self, parameter: str) -> int | None:
        """The layer that a parameter name belongs to; None outside the blocks."""
        return next((i for i, block in enumerate(self.blocks) if parameter.startswith(f"{block.name}.")), None)


def architecture(model: nn.Module) -> Architecture:
    """Find a model's blocks, heads and sites. Raises UserError, naming what it is, where the structure is not known."""
    config = model.config.get_text_config()
    kind = type(model).__name__
    if getattr(config, "is_encoder_decoder", False) or model.get_output_embeddings() is None:
        raise UserError(f"{kind} is not a decoder-only language model: use a causal one such as GPT-2, Llama or Qwen")
    if getattr(config, "attn_logit_softcapping", None) is not None:
        raise UserError(f"{kind} has soft-capped attention logits (attn_logit_softcapping): it cannot be captured")
    try:
        heads, width, depth = config.num_attention_heads, config.hidden_size, config.num_hidden_layers
        key_heads = getattr(config, "num_key_value_heads", None) or heads
        head_dim = getattr(config, "head_dim", None) or width // heads
    except (AttributeError, RuntimeError):  # a state-space model; layers of different shapes
        raise UserError(f"{kind} has no attention heads, or not the same ones in every layer: not supported") from None
    lists = [
        (name, modules)
        for name, modules in model.named_modules()
        if isinstance(modules, nn.ModuleList) and len(modules) == depth
    ]
    if not lists:
        raise UserError(f"{kind} has no list of {depth} blocks: its structure is not known")
    name, modules = lists[0]  # the outermost
    blocks = tuple(_block(f"{name}.{i}", module, width, heads * head_dim) for i, module in enumerate(modules))
    found = Architecture(
        model=model,
        blocks=blocks,
        layers=len(blocks),
        heads=heads,
        key_heads=key_heads,
        head_dim=head_dim,
        width=width,
        neurons=matrix_of(blocks[0].down).shape[1],
        vocabulary=model.get_input_embeddings().weight.shape[0],
    )
    for layer, block in enumerate(blocks):
        try:
            shapes = [tuple(weight.shape) for weight in found.heads_of(layer).values()]
        except (RuntimeError, ValueError):
            shapes = None
        expected = [(n, head_dim, width) for n in (heads, key_heads, key_heads, heads)]
        if shapes != expected or matrix_of(block.down).shape[1] != found.neurons:
            raise UserError(f"{kind}: the projections of {block.name} do not split into {heads} heads of {head_dim}")
    return found


def check_one_shape(one: Architecture, other: Architecture, names: tuple[str, str]) -> None:
    """Refuse models whose layers, heads, neurons or tokens are not counterparts of each other's."""
    for what in ("layers", "heads", "key_heads", "head_dim", "width", "neurons", "vocabulary"):
        ours, theirs = getattr(one, what), getattr(other, what)
        if ours != theirs:
            raise UserError(
                f"only models of one shape can be compared head by head: {what} is {ours} in {names[0]} and {theirs} "
                f"in {names[1]}"
            )


def _block(name: str, module: nn.Module, width: int, concatenated: int) -> Block:
    unknown = f"{name} ({type(module).__name__})"
    if any(isinstance(m, nn.ModuleList) for m in module.modules()) or any(p.ndim > 2 for p in module.parameters()):
        raise UserError(f"{unknown} is not a plain block of attention and MLP (a mixture of experts?): not supported")
    attentions = [(n, m) for n, m in module.named_children() if "att" in n and _linears(m)]
    if len(attentions) != 1:
        raise UserError(f"{unknown} has {len(attentions)} attention modules where one is expected: not supported")
    child, attention = attentions[0]
    projections = dict(attention.named_children())
    known = [n for n in projections if n in _SEPARATE + _FUSED]
    outputs = [m for n, m in projections.items() if isinstance(m, (nn.Linear, Conv1D)) and n not in known]
    if (
        set(known) != set(_SEPARATE)
        and len(known) != 1
        or "c_attn" in known
        and not isinstance(projections["c_attn"], Conv1D)
    ):
        raise UserError(f"{name}.{child} ({type(attention).__name__}): the layout of its projections is not known")
    if len(outputs) != 1 or matrix_of(outputs[0]).shape != (width, concatenated):
        raise UserError(f"{name}.{child} ({type(attention).__name__}): its output projection was not found")
    inside = set(_linears(attention))
    downs = [m for m in _linears(module) if m not in inside and len(matrix_of(m)) == width]
    if not downs:
        raise UserError(f"{unknown}: its MLP's output projection was not found")
    return Block(name, module, f"{name}.{child}", attention, outputs[0], downs[-1])  # the last one defined maps down


def _linears(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, (nn.Linear, Conv1D))]


def matrix_of(linear: nn.Module, weight: Tensor | None = None) -> Tensor:
    """A linear layer's weight (or what has its shape) as (outputs, inputs); Conv1D holds the transpose."""
    weight = linear.weight if weight is None else weight
    return weight.T if isinstance(linear, Conv1D) else weight


def final_norm(model: nn.Module) -> nn.Module:
    """The module that makes the decoder's last hidden state, found by following a token through the model."""
    made = []
    leaves = [module for module in model.base_model.modules() if not any(module.children())]
    hooks = [leaf.register_forward_hook(lambda module, _, output: made.append((module, output))) for leaf in leaves]
    try:
        ids = torch.zeros((1, 1), dtype=torch.long, device=model.device)
        last = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    for module, output in reversed(made):
        if isinstance(output, Tensor) and output.data_ptr() == last.data_ptr():
            return module
    raise UserError(f"{type(model).__name__}: its final norm was not found")
