"""The Hugging Face Trainer with batches by length, a loss over summaries, and optimiser steps that processes share."""

import signal
from contextlib import contextmanager
from functools import partial

import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin
from transformers import Trainer, TrainerCallback, TrainingArguments

from summlens.artifacts import Run
from summlens.core import processes
from summlens.core.config import Config
from summlens.data.batches import ByLength, collate
from summlens.data.tokens import IGNORED, Example, lengths
from summlens.model import loading
from summlens.training import sharding


def training_arguments(config: Config, run: Run, first_step: int = 0) -> TrainingArguments:
    """The Trainer's arguments: the processes share the forward passes of an optimiser step, which stays what it is."""
    device = loading.device()
    dtype = loading.training_dtype(config.precision, device)
    make = partial(sharding.training_arguments, config, dtype) if config.fsdp else TrainingArguments
    arguments = make(
        output_dir=str(run.checkpoints),
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.evaluation_batch_size,
        gradient_accumulation_steps=config.accumulation // processes.world(),
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=0.0,  # the Observer clips, after it has read the gradients as they are
        optim="adamw_torch_fused" if device.type == "cuda" else "adamw_torch",
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        eval_strategy="steps",
        eval_steps=config.evaluation_steps,
        eval_on_start=first_step == 0,
        save_strategy="steps",
        save_steps=config.checkpoint_steps,
        save_total_limit=2,
        logging_steps=config.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # a loss that is not a number must be seen, not replaced by the last average
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        # Batches are made ahead beside a GPU. Not persistent: workers that are would draw from the random state once a
        # run, where it is once an epoch without them, and dropout would differ.
        dataloader_num_workers=2 if device.type == "cuda" else 0,
        dataloader_pin_memory=device.type == "cuda",
        use_cpu=device.type == "cpu",
        log_level_replica="error",
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        seed=config.seed,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # DataParallel would multiply the effective batch behind our back
    return arguments


class SummaryTrainer(Trainer):
    """The Trainer with batches by length and a loss over summary tokens that computes no other token's logits.

    With several processes an optimiser step has the articles that it has with one: its micro-batches are dealt out in
    turn. What the last, short step of an epoch lacks is filled with NOTHING, never with articles a second time.
    Of the parameters that `masked` names only a part learns.
    """

    def __init__(self, masked: frozenset[str] = frozenset(), **options):
        self.masked = masked
        self.lengths = lengths(options["train_dataset"])
        options["train_dataset"] = _WithNothing(options["train_dataset"])
        super().__init__(**options)
        self.model_accepts_loss_kwargs = True  # the loss is the mean over all target tokens of an optimiser step
        self.label_names = ["labels"]

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        if self.args.fsdp and not self.is_fsdp_enabled:  # accelerate knows FSDP on accelerators alone; it works on CPUs
            state = self.accelerator.state
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            state.distributed_type = DistributedType.FSDP
            self.is_fsdp_enabled = True

    def get_train_dataloader(self):
        loader = super().get_train_dataloader()
        getattr(loader, "base_dataloader", loader).worker_init_fn = _ignore_sigterm  # accelerate wraps the loader
        return loader

    def _get_train_sampler(self, train_dataset=None) -> ByLength:
        at_once = self.args.per_device_train_batch_size * self.args.world_size
        sampler = _Filled(self.lengths, at_once * self.args.gradient_accumulation_steps, self.args.seed)
        if self.args.world_size > 1:
            sampler.multiple = at_once
        self.add_callback(_TellEpoch(sampler))
        return sampler

    def get_decay_parameter_names(self, model) -> list[str]:
        return [name for name in super().get_decay_parameter_names(model) if name not in self.masked]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        targets = torch.nn.functional.pad(inputs["labels"], (0, 1), value=IGNORED)[:, 1:]  # of query t: token t + 1
        wanted = targets != IGNORED
        columns = wanted.any(dim=0).nonzero().squeeze(1)
        kept = targets[wanted]
        narrowed = {"input_ids": inputs["input_ids"], "labels": kept, "shift_labels": kept, "logits_to_keep": columns}
        with _unembedding_only(self.model, wanted[:, columns]):
            return super().compute_loss(model, narrowed, return_outputs, num_items_in_batch)

    @torch.no_grad()
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """The validation loss: nats a target token, over all target tokens (not a mean of batch means).

        The processes take the batches in turn; one that is left over at the end runs the last one uncounted, because a
        sharded model needs them all.
        """
        model = self.model.eval()
        order = lengths(self.eval_dataset).argsort(kind="stable")
        size, world = self.args.per_device_eval_batch_size, self.args.world_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        total, count = 0.0, 0
        for turn in range(0, len(batches), world):
            own = turn + self.args.process_index
            batch = self._prepare_inputs(
                collate([self.eval_dataset[index] for index in batches[min(own, len(batches) - 1)]])
            )
            tokens = int((batch["labels"] != IGNORED).sum())
            with self.compute_loss_context_manager():
                loss = float(self.compute_loss(model, batch, num_items_in_batch=torch.tensor(1)))
            if own < len(batches):
                total += loss / world  # compute_loss multiplies by it, for gradients that are averaged
                count += tokens
        total, count = processes.total([total, count])
        metrics = {f"{metric_key_prefix}_loss": total / count}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _ignore_sigterm(_worker: int) -> None:
    """A cluster sends SIGTERM to all of a job; a worker that died of it would take the last checkpoint with it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def _unembedding_only(model, wanted: torch.Tensor):
    """Within, the model makes the logits (n, V) of the n positions that `wanted` (B, Q) names, of Q kept ones a row."""

    def select(module, inputs):
        return (inputs[0][wanted],)

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()


NOTHING = Example("", (0,), 1, 0, 0)  # one token and no target: it adds nothing to loss, gradient and token count


class _WithNothing(torch.utils.data.Dataset):
    """The articles, and NOTHING at the index behind the last."""

    def __init__(self, articles):
        self.articles = articles

    def __len__(self) -> int:
        return len(self.articles) + 1

    def __getitem__(self, index: int) -> Example:
        return self.articles[index] if index < len(self.articles) else NOTHING


class _Filled(ByLength):
    """ByLength, filled up to a multiple of `multiple` indices with the index behind the last article: NOTHING."""

    multiple = 1

    def __len__(self) -> int:
        return len(self.lengths) + self._filling

    def __iter__(self):
        yield from super().__iter__()
        yield from [len(self.lengths)] * self._filling

    @property
    def _filling(self) -> int:
        return -len(self.lengths) % self.multiple


class _TellEpoch(TrainerCallback):
    """Tell the sampler the epoch, also in a resumed run, where the Trainer wraps it out of its own reach."""

    def __init__(self, sampler: ByLength):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **_):
        self.sampler.set_epoch(int(state.epoch or 0))
