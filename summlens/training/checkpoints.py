"""Checkpoints that are whole or not there, and the final model."""

import json
import logging
import shutil
import signal
from pathlib import Path

from transformers import TrainerCallback

from summlens.artifacts import Run, write_atomically
from summlens.core import processes

log = logging.getLogger(__name__)


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
        if is_whole(folder):
            return folder
        log.warning("%s is half-written or damaged: left aside", folder)
    return None


def checkpoint_step(folder: Path) -> int:
    return int(folder.name.rsplit("-", 1)[1])


def is_whole(folder: Path) -> bool:
    try:
        files = json.loads((folder / CheckpointSeal.NAME).read_text())["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


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
