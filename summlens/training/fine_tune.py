"""Fine-tuning: a copy of the study's base model learns, watched on the way."""

import copy
import logging
import signal

import torch
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback

from summlens.core import processes
from summlens.core.config import Config
from summlens.core.errors import UserError
from summlens.data.batches import collate
from summlens.model.trainable import Part, count
from summlens.study.prepare import Study
from summlens.training import sharding
from summlens.training.checkpoints import CheckpointSeal, Preemption, checkpoint_step, newest_checkpoint
from summlens.training.observer import Observer
from summlens.training.tensorboard import TensorBoard
from summlens.training.trainer import SummaryTrainer, training_arguments

log = logging.getLogger(__name__)


def fine_tune(study: Study, resume: bool = False, sample_summaries=None):
    """Train a copy of the study's base model, or the part of it that the configuration names, and return it, in eval
    mode and without adapters; the inside of it is captured on the way.

    `sample_summaries(model) -> str` gives a text for TensorBoard at every capture. With `resume`, training goes on from
    the newest whole checkpoint and ends with the weights of a run that was never interrupted. On SIGTERM the step is
    finished, a checkpoint written, and the program ended.

    In a run of several processes each calls this, and each gets the model; rank 0 alone writes. With --fsdp the model
    is spread over the processes while it trains (`training.sharding`), and rank 0 alone gets it, whole and on the CPU.
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
    """What to do where the GPU's memory does not suffice: no way of it changes what an optimiser step is."""
    halves, odd = divmod(config.batch_size, 2)
    ways = [] if odd else [f"give --batch-size {halves} --accumulation {2 * config.accumulation}"]
    ways += [] if config.gradient_checkpointing else ["add --gradient-checkpointing"]
    ways = ways or ["take a GPU with more memory"]
    return (
        f"the GPU is out of memory with --batch-size {config.batch_size}: {' or '.join(ways)}, then continue with "
        "--resume"
    )


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
