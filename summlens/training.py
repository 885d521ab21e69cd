"""Fine-tuning with the Hugging Face Trainer, and the callback that looks inside the model while it learns."""

import copy
import json
import logging
import shutil
import signal
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin
from tqdm.auto import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from summlens import models, processes, sharding
from summlens.artifacts import Run, is_whole, write_atomically
from summlens.capture import capture, gradient_norms, weight_change
from summlens.config import Config
from summlens.data import IGNORED, ByLength, Example, collate, lengths
from summlens.errors import UserError
from summlens.experiment import Experiment
from summlens.metrics.attention import POSITIONS
from summlens.tensorboard import TensorBoard
from summlens.trainable import Part, count

log = logging.getLogger(__name__)


def fine_tune(study: Experiment, resume: bool = False, sample_summaries=None):
    """Train a copy of the study's base model, or the part of it that the configuration names, and return it, in eval
    mode and without adapters; the inside of it is captured on the way.

    `sample_summaries(model) -> str` gives a text for TensorBoard at every capture. With `resume`, training goes on from
    the newest whole checkpoint and ends with the weights of a run that was never interrupted. On SIGTERM the step is
    finished, a checkpoint written, and the program ended.

    In a run of several processes each calls this, and each gets the model; rank 0 alone writes. With --fsdp the model
    is spread over the processes while it trains (`summlens.sharding`), and rank 0 alone gets it, whole and on the CPU.
    """
    config, run = study.config, study.run
    model = sharding.to_shard(study.base) if config.fsdp else copy.deepcopy(study.base)
    if config.gradient_checkpointing:
        # transformers renames it on the way to version 6
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    part = Part(model, config)
    if config.trainable != "all" or config.lora:
        log.info("%s learn: %s%s", f"{count(config, study.base):,} numbers", part.chosen, ", LoRA" * config.lora)
    checkpoint = processes.from_rank_zero(lambda: newest_checkpoint(run) if resume else None)
    first_step = checkpoint_step(checkpoint) if checkpoint else 0
    if checkpoint:
        log.info("continuing from step %d", first_step)
    board = None
    if processes.rank() == 0:
        run.delete_steps_after(first_step if checkpoint else -1)
        board = TensorBoard(run.logs, from_step=first_step)
    progress, preemption = Progress(), Preemption()
    trainer = SummaryTrainer(
        model=part.model,
        masked=part.masked,
        args=training_arguments(config, run, first_step),
        train_dataset=study.train,
        eval_dataset=study.validation,
        data_collator=collate,
        callbacks=[Observer(study, part, board, sample_summaries), preemption, CheckpointSeal(), progress],
    )
    trainer.remove_callback(PrinterCallback)
    if processes.rank() > 0:
        torch.manual_seed(config.seed + processes.rank())  # else every process would drop out the same units
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.cuda.OutOfMemoryError:
        raise UserError(out_of_memory(config)) from None
    finally:
        progress.close()
        if board:
            board.close()
    if preemption.came:
        processes.wait()  # a launcher ends all at the first that ends: the checkpoint must be sealed
        log.warning("stopped by SIGTERM at step %d: --resume continues from there", trainer.state.global_step)
        raise SystemExit(128 + signal.SIGTERM)
    return sharding.whole(part.model, study.base) if config.fsdp else part.release()


def out_of_memory(config: Config) -> str:
    """What to do where the GPU's memory does not do: nothing of it changes what an optimiser step is."""
    halves, odd = divmod(config.batch_size, 2)
    ways = [] if odd else [f"give --batch-size {halves} --accumulation {2 * config.accumulation}"]
    ways += [] if config.gradient_checkpointing else ["add --gradient-checkpointing"]
    ways = ways or ["take a GPU with more memory"]
    return (
        f"the GPU is out of memory with --batch-size {config.batch_size}: {' or '.join(ways)}, then continue with "
        "--resume"
    )


def training_arguments(config: Config, run: Run, first_step: int = 0) -> TrainingArguments:
    """The Trainer's arguments: the processes share the forward passes of an optimiser step, which stays what it is."""
    device = models.device()
    dtype = models.training_dtype(config.precision, device)
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


class Observer(TrainerCallback):
    """Looks inside the model at step 0, every `capture_steps` and at the end, and writes one file a step.

    A step is captured at its end and written once its loss is logged, before its checkpoint is sealed: where there is
    a whole checkpoint, there is its capture. Rank 0 captures, with `board`; the others share the sample summaries
    and wait. Of a sharded model rank 0 has a whole copy for this, and writes the sample summaries alone.
    """

    def __init__(self, study: Experiment, part: Part, board: TensorBoard | None, sample_summaries=None):
        self.base, self.probe, self.config, self.run = study.base, study.probe, study.config, study.run
        self.part, self.board, self.sample_summaries = part, board, sample_summaries
        self.gradients: dict | None = None
        self.pending: tuple | None = None  # a captured step that waits for its log entries

    def on_train_begin(self, args, state, control, model=None, **_):
        if self.board and not self.config.fsdp:
            self.base.to(model.device).eval()
        if state.global_step == 0:
            self._capture(state)

    def on_step_begin(self, args, state, control, **_):
        self._write(state)

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if self._due(state.global_step + 1, state.max_steps):
            norms = sharding.gradient_norms if self.config.fsdp else gradient_norms
            self.gradients = norms(self.part.inside, self.part.found)
        if self.config.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), self.config.max_grad_norm)

    def on_step_end(self, args, state, control, **_):
        if self._due(state.global_step, state.max_steps):
            self._capture(state)
            control.should_log = True
        if state.global_step == state.max_steps:
            control.should_evaluate = True

    def on_log(self, args, state, control, logs=None, **_):
        if self.board:
            numbers = {_LOGGED[name]: float(value) for name, value in logs.items() if name in _LOGGED}
            self.board.scalars(numbers, state.global_step)

    def on_save(self, args, state, control, **_):
        self._write(state)

    def on_train_end(self, args, state, control, **_):
        self._write(state)

    def _due(self, step: int, last: int) -> bool:
        return step % self.config.capture_steps == 0 or step == last

    def _capture(self, state) -> None:
        model = sharding.whole(self.part.model, self.base) if self.config.fsdp else self.part.plain()
        if self.board:
            self._look_inside(state, model)
        if self.sample_summaries and model is not None:
            text = self.sample_summaries(model)
            if self.board:
                self.board.text("summaries", text, state.global_step)
        processes.wait()

    def _look_inside(self, state, model) -> None:
        step, whole = state.global_step, is_whole(state.global_step, self.config.capture_steps, state.max_steps)
        positions = POSITIONS if whole else ("summary",)
        options = {"base": self.base, "batch_size": self.config.capture_batch_size, "positions": positions}

        def measure():
            with _as_it_is(model):
                return capture(model, self.probe, **options), *weight_change(model, self.base)

        arrays, matrices, by_head = sharding.on_device(measure, model, self.base) if self.config.fsdp else measure()
        arrays |= by_head
        info = {
            "epoch": state.epoch or 0.0,
            "whole": whole,
            "attention_metrics": sorted({key.split("/")[1] for key in arrays if key.startswith("attention/")}),
            "positions": list(positions),
            "scalars": {"probe_loss": float(arrays["loss/summary"].mean())},
            "gradients": self.gradients,
            "weights": matrices,
        }
        self.gradients, self.pending = None, (step, info, arrays)
        self.board.step(step, info, arrays)

    def _write(self, state) -> None:
        if self.pending:
            step, info, arrays = self.pending
            earlier = max((done for done in self.run.steps() if done < step), default=-1)
            self.run.write_step(step, {**info, "log": _log_between(state.log_history, earlier, step)}, arrays)
            self.pending = None


@contextmanager
def _as_it_is(model):
    """Within, a model in training computes in the type of its weights, float32: accelerate wraps its forward pass in
    autocast, and against a base in float32 that would show as a change."""
    wrapped = vars(model).pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            model.forward = wrapped


def _log_between(history: list[dict], after: int, until: int) -> list[dict]:
    """What the Trainer logged in (after, until], one entry a step."""
    entries: dict[int, dict] = {}
    for logged in history:
        numbers = {name: float(value) for name, value in logged.items() if name in _LOGGED}
        if numbers and after < logged["step"] <= until:
            entries.setdefault(logged["step"], {"step": logged["step"]}).update(numbers)
    return list(entries.values())


_LOGGED = {
    "loss": "training/loss",
    "eval_loss": "validation/loss",
    "learning_rate": "training/learning_rate",
    "grad_norm": "training/gradient_norm",
}


class CheckpointSeal(TrainerCallback):
    """Seals a checkpoint once all of it is on the disk, with its files' sizes: one without a seal is half-written."""

    NAME = "complete.json"

    def on_save(self, args, state, control, **_):
        processes.wait()  # each has written its random state
        if processes.rank() > 0:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        sizes = {str(file.relative_to(folder)): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
        write_atomically(folder / self.NAME, json.dumps({"step": state.global_step, "files": sizes}).encode())


class Preemption(TrainerCallback):
    """On SIGTERM (a cluster that wants its machine back): a checkpoint after this step, in all processes the same."""

    def __init__(self):
        self.came = False  # to any process
        self._here = False

    def on_train_begin(self, args, state, control, **_):
        self._before = signal.signal(signal.SIGTERM, self._note)

    def on_step_end(self, args, state, control, **_):
        if processes.anywhere(self._here):
            self.came = control.should_log = control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, **_):
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_) -> None:
        self._here = True


def newest_checkpoint(run: Run) -> Path | None:
    """The newest checkpoint that is whole; half-written and damaged ones are named in the log and left aside."""
    for folder in sorted(run.checkpoints.glob("checkpoint-*"), key=checkpoint_step, reverse=True):
        if _is_whole(folder):
            return folder
        log.warning("%s is half-written or damaged: left aside", folder)
    return None


def checkpoint_step(folder: Path) -> int:
    return int(folder.name.rsplit("-", 1)[1])


def _is_whole(folder: Path) -> bool:
    try:
        files = json.loads((folder / CheckpointSeal.NAME).read_text())["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


class Progress(TrainerCallback):
    """One progress bar with the loss, in place of the Trainer's printed dictionaries."""

    bar: tqdm | None = None

    def on_train_begin(self, args, state, control, **_):
        options = {"total": state.max_steps, "initial": state.global_step, "disable": processes.rank() > 0}
        self.bar = tqdm(desc="fine-tuning", unit="step", **options)

    def on_step_end(self, args, state, control, **_):
        self.bar.update(1)

    def on_log(self, args, state, control, logs=None, **_):
        if self.bar:
            self.bar.set_postfix({n: f"{logs[n]:.3f}" for n in ("loss", "eval_loss") if n in logs}, refresh=False)

    def close(self) -> None:
        if self.bar:
            self.bar.close()


def save_model(model, tokenizer, run: Run) -> None:
    """Write the final model and tokenizer to model_outputs/, whole or not at all; rank 0 does, the others wait."""
    if processes.rank() > 0:
        return processes.wait()
    temporary = run.model_outputs.with_name(run.model_outputs.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(run.model_outputs, ignore_errors=True)
    temporary.rename(run.model_outputs)
    processes.wait()
