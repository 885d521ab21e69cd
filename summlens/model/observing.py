"""Reading a model during a forward pass: its queries and keys, and what passes its sites. Nothing is changed."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from summlens.core.errors import UserError
from summlens.model.architecture import Architecture

# What an attention function may be passed that changes its rows into something other than softmax(scaling q . k).
_UNREADABLE = {
    "softcap": "soft-capped logits",
    "s_aux": "attention sinks of its own",
    "position_bias": "position biases",
}


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
