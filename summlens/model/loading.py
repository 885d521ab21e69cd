"""Loading a decoder-only language model and its tokenizer from the hub or a directory, with clear refusals."""

import logging
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.activations import NewGELUActivation

from summlens.core.errors import UserError

log = logging.getLogger(__name__)


def load_model(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A decoder-only language model in eval mode. Raises UserError where there is none behind `name`.

    The weights are float32 unless told otherwise, whatever type they were saved in: the numbers of this project are
    measured in float32 or better. GPT-2's activation function, which transformers spells out in eight operations, is
    PyTorch's own of the same formula: equal to rounding, in one pass, with two fifths of the memory.
    """
    load_config(name)
    model, report = _load(AutoModelForCausalLM, name, dtype=dtype, output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"model {name} lacks {len(missing)} weights ({missing[0]} …): it is no whole language model")
    model.eval()
    fuse_gelu(model)
    _check_weights(model, name)
    _check_causal(model, name)
    return model


def on_device(name: str) -> PreTrainedModel:
    """`load_model` on this machine's device."""
    return load_model(name).to(device())


def load_config(name: str) -> PreTrainedConfig:
    """The configuration of a decoder-only language model. Raises UserError where there is none behind `name`."""
    config = _load(AutoConfig, name)
    if config.is_encoder_decoder:
        raise UserError(f"{name} is an encoder-decoder model ({config.model_type}); a decoder-only one is needed")
    return config


def check_layers_and_heads(one: str, other: str) -> None:
    """Refuse two models of which one's heads have no counterpart in the other. No weight is loaded."""
    configs = [load_config(name).get_text_config() for name in (one, other)]
    for what, attribute in (("layers", "num_hidden_layers"), ("heads a layer", "num_attention_heads")):
        ours, theirs = (getattr(config, attribute) for config in configs)
        if ours != theirs:
            raise UserError(
                f"{one} has {ours} {what}, {other} has {theirs}: one's heads have no counterpart in the other. Compare "
                "models of one shape, or with --causal off their representations alone"
            )


def load_tokenizer(name: str):
    """The model's tokenizer. Raises UserError where it is missing or has no end-of-text token."""
    tokenizer = _load(AutoTokenizer, name)
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {name} has no end-of-text token, which ends a summary")
    tokenizer.model_max_length = int(1e9)  # the window is this project's business: no warning about long texts
    return tokenizer


def check_pair(model: PreTrainedModel, tokenizer, name: str) -> None:
    """Refuse a tokenizer whose ids the model has no embedding for."""
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise UserError(f"the tokenizer of {name} has {len(tokenizer)} tokens but the model embeds only {rows}")


LONGEST_WINDOW = 1024  # tokens: the window of this project's experiments, where a model has more or names none


def window(model: PreTrainedModel) -> int:
    """The longest sequence to use with the model, in tokens: its own positions, at most LONGEST_WINDOW."""
    return min(positions(model) or LONGEST_WINDOW, LONGEST_WINDOW)


def positions(model: PreTrainedModel) -> int | None:
    """How many positions the model has; None where its configuration names none."""
    return getattr(model.config, "max_position_embeddings", None)


def device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def training_dtype(precision: str, on: torch.device) -> torch.dtype:
    """The arithmetic of the forward pass that `--precision` stands for on this device."""
    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision != "auto":
        if precision == "fp16" and on.type != "cuda":
            raise UserError("--precision fp16 needs a CUDA GPU: use auto or fp32")
        return named[precision]
    if on.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _load(kind, name: str, **options):
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise UserError(f"directory {name} holds no model (no config.json)")
    try:
        return kind.from_pretrained(name, **options)
    except Exception as error:  # the hub's libraries raise a dozen unrelated types; every one means: not loaded
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        mend = (
            "its files are damaged or incomplete: make it again"
            if Path(name).is_dir()
            else "check the name and the network, or give a local directory with --model"
        )
        raise UserError(f"model {name!r} could not be loaded ({reason}): {mend}") from error


def fuse_gelu(model: nn.Module) -> None:
    """GPT-2's activation as one kernel in place of eight: the same function, faster, and with less to keep."""
    for module in model.modules():
        for child, activation in module.named_children():
            if isinstance(activation, NewGELUActivation):
                setattr(module, child, nn.GELU(approximate="tanh"))


def _check_weights(model: PreTrainedModel, name: str) -> None:
    for key, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise UserError(f"model {name} has NaN or infinite weights in {key}: it cannot be used")


@torch.no_grad()
def _check_causal(model: PreTrainedModel, name: str) -> None:
    """A model that looks ahead (BERT under a language-modelling head, say) is no decoder: its loss would be a cheat."""
    ids = torch.arange(8).unsqueeze(0) % model.get_input_embeddings().num_embeddings
    changed = ids.clone()
    changed[0, -1] = 0
    before, after = (model(input_ids=x.to(model.device)).logits[0, :-1] for x in (ids, changed))
    if (before - after).abs().max() > 1e-4 * before.std():
        raise UserError(
            f"{name} ({model.config.model_type}) sees later tokens: a decoder-only language model is needed"
        )


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"GPU ({torch.cuda.get_device_name()})"
    return "Apple GPU (mps)" if device.type == "mps" else f"CPU ({torch.get_num_threads()} threads)"
