"""Fine-tuning with the Hugging Face Trainer, and the callback that looks inside the model while it learns."""

import copy
import json
import logging
import shutil
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from summlens import models
from summlens.artifacts import Run, write_atomically
from summlens.capture import capture, gradient_norms, weight_change
from summlens.config import Config
from summlens.data import IGNORED, ByLength, collate
from summlens.errors import UserError
from summlens.experiment import Experiment
from summlens.tensorboard import TensorBoard

log = logging.getLogger(__name__)


def fine_tune(study: Experiment, resume: bool = False, sample_summaries=None):
    """Train a copy of the study's base model and return it, in eval mode; the inside of it is captured on the way.

    `sample_summaries(model) -> str` gives a text for TensorBoard at every capture. With `resume`, training goes on from
    the newest whole checkpoint and ends with the weights of a run that was never interrupted.
    """
    config, run = study.config, study.run
    model = copy.deepcopy(study.base)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    checkpoint = newest_checkpoint(run) if resume else None
    first_step = checkpoint_step(checkpoint) if checkpoint else 0
    if checkpoint:
        log.info("continuing from step %d", first_step)
    run.delete_steps_after(first_step if checkpoint else -1)
    board = TensorBoard(run.logs, from_step=first_step)
    progress = Progress()
    trainer = SummaryTrainer(
        model=model,
        args=training_arguments(config, run, first_step),
        train_dataset=study.train,
        eval_dataset=study.validation,
        data_collator=collate,
        callbacks=[Observer(study, board, sample_summaries), CheckpointSeal(), progress],
    )
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.cuda.OutOfMemoryError:
        raise UserError(
            f"the GPU is out of memory with --batch-size {config.batch_size}: halve it and double --accumulation, "
            "or add --gradient-checkpointing; then continue with --resume"
        ) from None
    finally:
        progress.close()
        board.close()
    return model.eval()


def training_arguments(config: Config, run: Run, first_step: int = 0) -> TrainingArguments:
    device = models.device()
    dtype = models.training_dtype(config.precision, device)
    arguments = TrainingArguments(
        output_dir=str(run.checkpoints),
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.evaluation_batch_size,
        gradient_accumulation_steps=config.accumulation,
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
        dataloader_pin_memory=device.type == "cuda",
        use_cpu=device.type == "cpu",
        seed=config.seed,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # DataParallel would multiply the effective batch behind our back
    return arguments


class SummaryTrainer(Trainer):
    """The Trainer with batches by length and a loss over summary tokens that computes no other token's logits."""

    def __init__(self, **options):
        super().__init__(**options)
        self.model_accepts_loss_kwargs = True  # the loss is the mean over all target tokens of an optimiser step
        self.label_names = ["labels"]

    def _get_train_sampler(self, train_dataset=None) -> ByLength:
        lengths = [len(example.input_ids) for example in self.train_dataset]
        batch = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        sampler = ByLength(lengths, batch, self.args.seed)
        self.add_callback(_TellEpoch(sampler))
        return sampler

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        targets = torch.nn.functional.pad(inputs["labels"], (0, 1), value=IGNORED)[:, 1:]  # of query t: token t + 1
        queries = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
        kept = targets[:, queries]
        narrowed = {"input_ids": inputs["input_ids"], "labels": kept, "shift_labels": kept, "logits_to_keep": queries}
        return super().compute_loss(model, narrowed, return_outputs, num_items_in_batch)

    @torch.no_grad()
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """The validation loss: nats a target token, over all target tokens (not a mean of batch means)."""
        model = self.model.eval()
        examples = sorted(self.eval_dataset, key=lambda example: len(example.input_ids))
        total, count = 0.0, 0
        for start in range(0, len(examples), self.args.per_device_eval_batch_size):
            batch = self._prepare_inputs(collate(examples[start : start + self.args.per_device_eval_batch_size]))
            tokens = int((batch["labels"] != IGNORED).sum())
            with self.compute_loss_context_manager():
                total += float(self.compute_loss(model, batch, num_items_in_batch=torch.tensor(1)))
            count += tokens
        metrics = {f"{metric_key_prefix}_loss": total / count}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _TellEpoch(TrainerCallback):
    """Tell the sampler the epoch, also in a resumed run, where the Trainer wraps it out of its own reach."""

    def __init__(self, sampler: ByLength):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **_):
        self.sampler.set_epoch(int(state.epoch or 0))


class Observer(TrainerCallback):
    """Looks inside the model at step 0, every `capture_steps` and at the end, and writes one file a step.

    A step is captured at its end and written once its loss is logged, before its checkpoint is sealed: where there is
    a whole checkpoint, there is its capture.
    """

    def __init__(self, study: Experiment, board: TensorBoard, sample_summaries=None):
        self.base, self.probe, self.config, self.run = study.base, study.probe, study.config, study.run
        self.board, self.sample_summaries = board, sample_summaries
        self.gradients: dict | None = None
        self.pending: tuple | None = None  # a captured step that waits for its log entries

    def on_train_begin(self, args, state, control, model=None, **_):
        self.base.to(model.device).eval()
        if state.global_step == 0:
            self._capture(state, model)

    def on_step_begin(self, args, state, control, **_):
        self._write(state)

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if self._due(state.global_step + 1, state.max_steps):
            self.gradients = gradient_norms(model)
        if self.config.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), self.config.max_grad_norm)

    def on_step_end(self, args, state, control, model=None, **_):
        if self._due(state.global_step, state.max_steps):
            self._capture(state, model)
            control.should_log = True
        if state.global_step == state.max_steps:
            control.should_evaluate = True

    def on_log(self, args, state, control, logs=None, **_):
        numbers = {_LOGGED[name]: float(value) for name, value in logs.items() if name in _LOGGED}
        self.board.scalars(numbers, state.global_step)

    def on_save(self, args, state, control, **_):
        self._write(state)

    def on_train_end(self, args, state, control, **_):
        self._write(state)

    def _due(self, step: int, last: int) -> bool:
        return step % self.config.capture_steps == 0 or step == last

    def _capture(self, state, model) -> None:
        arrays = capture(model, self.probe, base=self.base, batch_size=self.config.capture_batch_size)
        info = {
            "epoch": state.epoch or 0.0,
            "attention_metrics": sorted({key.split("/")[1] for key in arrays if key.startswith("attention/")}),
            "positions": ["summary", "all"],
            "scalars": {"probe_loss": float(arrays["loss/summary"].mean())},
            "gradients": self.gradients,
            "weights": weight_change(model, self.base)[0],
        }
        self.gradients, self.pending = None, (state.global_step, info, arrays)
        self.board.step(state.global_step, info, arrays)
        if self.sample_summaries:
            self.board.text("summaries", self.sample_summaries(model), state.global_step)

    def _write(self, state) -> None:
        if self.pending:
            step, info, arrays = self.pending
            earlier = max((done for done in self.run.steps() if done < step), default=-1)
            self.run.write_step(step, {**info, "log": _log_between(state.log_history, earlier, step)}, arrays)
            self.pending = None


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
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        sizes = {str(file.relative_to(folder)): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
        write_atomically(folder / self.NAME, json.dumps({"step": state.global_step, "files": sizes}).encode())


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
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="fine-tuning", unit="step")

    def on_step_end(self, args, state, control, **_):
        self.bar.update(1)

    def on_log(self, args, state, control, logs=None, **_):
        if self.bar:
            self.bar.set_postfix({n: f"{logs[n]:.3f}" for n in ("loss", "eval_loss") if n in logs}, refresh=False)

    def close(self) -> None:
        if self.bar:
            self.bar.close()


def save_model(model, tokenizer, run: Run) -> None:
    """Write the final model and tokenizer to model_outputs/, whole or not at all."""
    temporary = run.model_outputs.with_name(run.model_outputs.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(run.model_outputs, ignore_errors=True)
    temporary.rename(run.model_outputs)
