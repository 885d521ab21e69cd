"""FSDP: one model in training spread over the processes, and all of it where all of it is needed.

With P parameters and N processes each process holds the base model on the CPU (4 P bytes: it writes the zero-shot
summaries at the end) and on its device a shard of the float32 weights, of their gradients and of AdamW's two moments
(16 P / N bytes), and the whole weights of the block that computes, of the embeddings and of the unembedding. Rank 0
holds besides, during a capture and at the end, a copy of all weights (4 P bytes on the CPU); for the time of a capture
this copy and the base are on the device, where there is room for both.
"""

import copy
import logging

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import TrainingArguments

from summlens import capture
from summlens.core import processes
from summlens.core.config import Config, fsdp_options
from summlens.core.errors import UserError
from summlens.model import loading
from summlens.model.architecture import Architecture

log = logging.getLogger(__name__)


def training_arguments(config: Config, dtype: torch.dtype, **options) -> TrainingArguments:
    """The Trainer's arguments `options` with those of FSDP, for arithmetic in `dtype`.

    Gradients are summed over the processes in float32, and what the model puts out, the loss, is not rounded. They are
    summed at every micro-batch: a process that waited for the last would hold the gradients of the whole model.
    """
    if dtype == torch.float16:
        raise UserError("--fsdp does not train in fp16, whose losses are scaled: give --precision bf16 or fp32")
    arguments = TrainingArguments(
        fsdp=True,
        fsdp_config={**fsdp_options(config), "state_dict_type": "SHARDED_STATE_DICT"},
        accelerator_config={"gradient_accumulation_kwargs": {"sync_each_batch": True}},
        **options,
    )
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    arguments.fsdp_plugin_args["mixed_precision_policy"] = policy
    return arguments


def to_shard(base):
    """A copy of `base` that the Trainer can shard. Until then it shares the base's weights; the shards are copies."""
    return _with_weights(base, {name: weight.detach() for name, weight in base.named_parameters()})


def whole(model, base):
    """All weights of the sharded `model` in a copy of `base`, on the CPU of rank 0. Every process must ask; the others
    get None."""
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return _with_weights(base, weights) if processes.rank() == 0 else None


def _with_weights(base, weights: dict[str, Tensor]):
    """A copy of `base` around these weights, which are not copied. What is tied stays tied."""
    memo = {id(own): nn.Parameter(weights[name], own.requires_grad) for name, own in base.named_parameters()}
    return copy.deepcopy(base, memo)


def gradient_norms(model, found: Architecture) -> dict:
    """`capture.gradient_norms` over all shards of a model; `found`: its architecture before. Every process must ask."""
    own = capture.gradient_norms(model, found, lambda weight: None if weight.grad is None else weight.grad.to_local())
    squares = processes.total([norm**2 for norm in (*own["layers"], own["embeddings"], own["final_norm"])])
    *layers, embeddings, final_norm = (square**0.5 for square in squares)
    return {"total": sum(squares) ** 0.5, "layers": layers, "embeddings": embeddings, "final_norm": final_norm}


def on_device(measure, *wholes):
    """What `measure()` gives with whole models on the device meanwhile; on the CPU, where they do not fit there."""
    try:
        for model in wholes:
            model.to(loading.device())
        return measure()
    except torch.cuda.OutOfMemoryError:
        log.warning("two whole models do not fit the GPU beside the shards: this capture is made on the CPU")
    finally:
        for model in wholes:
            model.to("cpu")
    return measure()
