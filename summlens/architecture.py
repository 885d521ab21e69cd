"""Where things are inside a model: blocks, heads and sites, named once, and how to read them during a forward pass.

Found by structure, for every Hugging Face decoder-only model whose attention goes through the library's attention
interface. What cannot be read rightly is refused by name.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.pytorch_utils import Conv1D

from summlens.errors import UserError

SITES = ("residual", "attention_output", "mlp_output", "mlp_hidden")
_SEPARATE = ("q_proj", "k_proj", "v_proj")
_FUSED = ("c_attn", "query_key_value", "qkv_proj")
# What an attention function may be passed that changes its rows into something other than softmax(scaling q . k).
_UNREADABLE = {
    "softcap": "soft-capped logits",
    "s_aux": "attention sinks of its own",
    "position_bias": "position biases",
}


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
        output = _matrix(self.blocks[layer].output).T.unflatten(0, (self.heads, self.head_dim))
        return {**self._by_head(layer, _matrix), "o": output}

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
            return _matrix(linear, mask(linear.weight))

        def bias(linear: nn.Module) -> Tensor:
            return torch.zeros(len(_matrix(linear))) if linear.bias is None else mask(linear.bias)

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
            f"{block.name}.{name}": tuple(_matrix(module).T.shape)
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
        neurons=_matrix(blocks[0].down).shape[1],
        vocabulary=model.get_input_embeddings().weight.shape[0],
    )
    for layer, block in enumerate(blocks):
        try:
            shapes = [tuple(weight.shape) for weight in found.heads_of(layer).values()]
        except (RuntimeError, ValueError):
            shapes = None
        expected = [(n, head_dim, width) for n in (heads, key_heads, key_heads, heads)]
        if shapes != expected or _matrix(block.down).shape[1] != found.neurons:
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
    if len(outputs) != 1 or _matrix(outputs[0]).shape != (width, concatenated):
        raise UserError(f"{name}.{child} ({type(attention).__name__}): its output projection was not found")
    inside = set(_linears(attention))
    downs = [m for m in _linears(module) if m not in inside and len(_matrix(m)) == width]
    if not downs:
        raise UserError(f"{unknown}: its MLP's output projection was not found")
    return Block(name, module, f"{name}.{child}", attention, outputs[0], downs[-1])  # the last one defined maps down


def _linears(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, (nn.Linear, Conv1D))]


def _matrix(linear: nn.Module, weight: Tensor | None = None) -> Tensor:
    """A linear layer's weight (or what has its shape) as (outputs, inputs); Conv1D holds the transpose."""
    weight = linear.weight if weight is None else weight
    return weight.T if isinstance(linear, Conv1D) else weight


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Models in eval mode within, each module's own mode restored after."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def observed_attention(
    found: Architecture,
    real: Tensor,
    observe: Callable[[int, Tensor, Tensor, float], None],
    observe_value: Callable[[int, Tensor], None] = lambda layer, value: None,
) -> Iterator[None]:
    """Call observe(layer, query (B, H, T, d), key (B, Hkv, T, d), scaling), after any rotation, at every attention,
    and then observe_value(layer, value (B, Hkv, T, d)).

    The model's own attention implementation computes the output, unchanged: the entry that the library's attention
    interface holds for it is replaced while the context lasts. `real`: (B, T) bool, False at padding. Raises UserError
    where the rows are not the causal softmax of scaling q . k over the real tokens, and where a layer never came by.
    """
    layer_of = {block.attention: layer for layer, block in enumerate(found.blocks)}
    name = found.model.config.get_text_config()._attn_implementation
    table = AttentionInterface._global_mapping
    own = table.get(name)
    seen, causal = set(), []

    def attention(module, query, key, value, attention_mask, *args, scaling=None, **kwargs):
        if module in layer_of:
            length = query.shape[-2]
            for option, meaning in _UNREADABLE.items():
                if kwargs.get(option) is not None:
                    raise UserError(f"{found.blocks[layer_of[module]].name} has {meaning}: it cannot be captured")
            window = kwargs.get("sliding_window")
            if window is not None and window < length or not _is_causal(module, kwargs, attention_mask, real, causal):
                raise UserError(
                    f"{found.blocks[layer_of[module]].name} does not attend to all earlier tokens (a sliding "
                    f"window?): it cannot be captured with articles of {length} tokens"
                )
            observe(layer_of[module], query, key, query.shape[-1] ** -0.5 if scaling is None else scaling)
            observe_value(layer_of[module], value)
            seen.add(layer_of[module])
        implementation = own or _eager(module)
        return implementation(module, query, key, value, attention_mask, *args, scaling=scaling, **kwargs)

    AttentionInterface.register(name, attention)
    try:
        yield
    finally:
        if own is None:
            del table[name]
        else:
            AttentionInterface.register(name, own)
    missing = [block.name for layer, block in enumerate(found.blocks) if layer not in seen]
    if missing:
        raise UserError(
            f"the attention of {missing[0]} ({type(found.blocks[0].attention).__name__}, {name}) does not go through "
            "the library's attention interface: it cannot be captured, or only with another attn_implementation"
        )


def _eager(module: nn.Module) -> Callable:
    """The eager attention of a model, which the interface does not list: a function in the file of its class."""
    for kind in type(module).__mro__:
        function = getattr(sys.modules[kind.__module__], "eager_attention_forward", None)
        if function is not None:
            return function
    raise UserError(
        f"{type(module).__name__} has no eager attention of its own: load it with attn_implementation='sdpa'"
    )


def _is_causal(module: nn.Module, kwargs: dict, mask: Tensor | None, real: Tensor, checked: list[Tensor]) -> bool:
    """Whether real queries attend to exactly the real tokens up to themselves, judged by the mask that layers share.

    The masks that passed are kept in `checked`, alive: a layer's own mask could else take the place, and the identity,
    of one that an earlier layer gave back.
    """
    if mask is not None and not isinstance(mask, Tensor):
        raise UserError(
            f"masks of type {type(mask).__name__} cannot be read: load the model with attn_implementation='sdpa'"
        )
    if mask is None or mask.ndim != 4:
        return kwargs.get("is_causal") is not False and getattr(module, "is_causal", True)
    if any(mask is known for known in checked):
        return True
    checked.append(mask)
    length = mask.shape[-2]
    for row in range(0, length, 256):  # in blocks, so that checking costs no second mask
        rows = slice(row, min(row + 256, length))
        part = mask[:, :, rows, :length]
        if part.dtype != torch.bool:
            if not ((part == 0) | (part < -1e4)).all():
                return False
            part = part == 0
        t = torch.arange(length, device=mask.device)
        wanted = (t[rows, None] >= t) & real[:, None, None, :]
        if not (part == wanted)[real[:, None, rows, None].expand_as(part)].all():
            return False
    return True


@contextmanager
def observed_sites(found: Architecture, observe: Callable[[str, int, Tensor], None]) -> Iterator[None]:
    """Call observe(site, layer, values) during a forward pass; hooks are removed after.

    Sites: `residual` (B, T, D) with layer 0 the embeddings and l + 1 the output of block l; `attention_output` and
    `mlp_output` (B, T, D), as their projections give them; `mlp_hidden` (B, T, N), the neurons after the activation;
    `head_outputs` (B, T, H * d), the heads' outputs side by side before the output projection.
    """
    rows = []  # (B, T) of the forward pass

    def visit(site, layer, values):
        if site == "residual" and layer == 0:
            rows[:] = values.shape[:2]
        # OPT's MLP sees the tokens of all articles in one row, (B * T, ...)
        observe(site, layer, values if values.ndim == 3 else values.unflatten(0, rows))

    def entering(site, layer, module, args, kwargs):
        visit(site, layer, args[0] if args else kwargs["hidden_states"])

    def leaving(site, layer, module, args, output):
        visit(site, layer, output if isinstance(output, Tensor) else output[0])

    with ExitStack() as hooks:

        def before(module, site, layer):
            hook = module.register_forward_pre_hook(partial(entering, site, layer), with_kwargs=True)
            hooks.callback(hook.remove)

        def after(module, site, layer):
            hooks.callback(module.register_forward_hook(partial(leaving, site, layer)).remove)

        before(found.blocks[0].module, "residual", 0)
        for layer, block in enumerate(found.blocks):
            before(block.output, "head_outputs", layer)
            after(block.output, "attention_output", layer)
            before(block.down, "mlp_hidden", layer)
            after(block.down, "mlp_output", layer)
            after(block.module, "residual", layer + 1)
        yield
