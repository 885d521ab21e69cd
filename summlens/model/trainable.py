"""Fine-tuning a part of a model: whole layers, single heads, or low-rank adapters. The rest stays bit for bit.

layers  every parameter of the named blocks learns.
heads   of the named heads the weights and biases of query, key and value, and their part of the output projection's
        weight. Gradients are masked, and tensors of which only a part learns have no weight decay: AdamW makes no step
        where all gradients were zero. With grouped keys a head shares its keys and values with others: then only its
        query and its part of the output projection learn.
LoRA    W + 2 B A in place of each attention and MLP projection W of the named layers, with A (r, inputs) random by the
        seed, B (outputs, r) zero at first, and W frozen (Hu et al. 2021, arXiv 2106.09685, section 4.1; their alpha is
        2 r). What is captured and saved is the plain model in which the products are added to the weights.
"""

import copy

import torch
from torch import nn

from summlens.core.config import Config
from summlens.core.selection import Selection, parse
from summlens.model.architecture import Architecture, architecture


def selection(config: Config, model: nn.Module) -> Selection:
    """The layers or heads that learn in this model. Raises UserError for one that it does not have."""
    found = architecture(model)
    return parse(config.trainable).within(found.layers, found.heads, config.seed)


def count(config: Config, model: nn.Module) -> int:
    """How many numbers of the model, or of its adapters, learn: of a tensor of which a part learns, only that part."""
    found, chosen = architecture(model), selection(config, model)
    if config.lora:
        return sum(config.lora_rank * sum(shape) for shape in _adapted(found, chosen).values())
    if chosen.kind == "heads":
        return sum(int(mask.sum()) for mask in found.head_masks(chosen.places).values())
    whole = chosen.kind == "all"
    return sum(p.numel() for name, p in model.named_parameters() if whole or found.layer_of(name) in chosen.places)


def with_gradients(config: Config, model: nn.Module) -> int:
    """How many numbers have a gradient and AdamW's two moments: all of a tensor of which a part learns."""
    chosen = selection(config, model)
    if chosen.kind == "heads":
        return sum(mask.numel() for mask in architecture(model).head_masks(chosen.places).values())
    return count(config, model)


def _adapted(found: Architecture, chosen: Selection) -> dict[str, tuple[int, int]]:
    """{module name: (inputs, outputs)} of the projections that get adapters."""
    layers = chosen.places if chosen.kind == "layers" else range(found.layers)
    return {name: shape for layer in layers for name, shape in found.projections(layer).items()}


class Part:
    """A model, of which the part that the configuration names learns; what else the Trainer sees is frozen.

    `model` is what the Trainer trains: the given one, changed in place, or peft's wrapper of it. `inside` is the given
    one, whose parameters keep their layers' names, with any adapters; `found` its architecture without them. `chosen`
    is what learns, `masked` the names of the tensors that learn in part.
    """

    def __init__(self, model: nn.Module, config: Config):
        self.inside, self.found, self.lora = model, architecture(model), config.lora
        self.chosen = chosen = selection(config, model)
        masks = self.found.head_masks(chosen.places) if chosen.kind == "heads" else {}
        self.masked = frozenset(masks)
        self._hooks = []
        if self.lora:
            self.model = _with_adapters(model, list(_adapted(self.found, chosen)), config)
            return
        self.model = model
        if chosen.kind == "all":
            return
        for name, parameter in model.named_parameters():
            layer = self.found.layer_of(name)
            parameter.requires_grad_(name in masks if chosen.kind == "heads" else layer in chosen.places)
            if name in masks:
                self._hooks.append(parameter.register_hook(_Mask(masks[name])))

    def plain(self) -> nn.Module:
        """The model without adapters: a copy into which they are merged, or the very model where there are none."""
        return copy.deepcopy(self.model).merge_and_unload() if self.lora else self.model

    def release(self) -> nn.Module:
        """The plain model at the end of training, in eval mode; all of it could learn again."""
        for hook in self._hooks:
            hook.remove()
        model = self.model.merge_and_unload() if self.lora else self.model
        return model.requires_grad_(True).eval()


class _Mask:
    """Sets a gradient to zero outside the entries that learn, also where it is not finite."""

    def __init__(self, entries: torch.Tensor):
        self.frozen = ~entries

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        self.frozen = self.frozen.to(gradient.device)
        return gradient.masked_fill(self.frozen, 0)


def _with_adapters(model: nn.Module, names: list[str], config: Config) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    model.name_or_path = ""  # else each checkpoint would ask the hub whether the vocabulary was changed
    transposed = not any(isinstance(module, nn.Linear) for name, module in model.named_modules() if name in names)
    adapters = LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        target_modules=names,
        fan_in_fan_out=transposed,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return get_peft_model(model, adapters)
