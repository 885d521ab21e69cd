"""The callback that looks inside the model while it learns, and writes one file a step."""

from contextlib import contextmanager

import torch
from transformers import TrainerCallback

from summlens.artifacts import is_whole
from summlens.capture import capture, gradient_norms, weight_change
from summlens.core import processes
from summlens.model.trainable import Part
from summlens.names import LOSS, POSITIONS
from summlens.study.prepare import Study
from summlens.training import sharding
from summlens.training.tensorboard import TensorBoard


class Observer(TrainerCallback):
    """Looks inside the model at step 0, every `capture_steps` and at the end, and writes one file a step.

    A step is captured at its end and written once its loss is logged, before its checkpoint is sealed: where there is
    a whole checkpoint, there is its capture. Rank 0 captures, with `board`; the others share the sample summaries
    and wait. Of a sharded model rank 0 has a whole copy for this, and writes the sample summaries alone.
    """

    def __init__(self, study: Study, part: Part, board: TensorBoard | None, sample_summaries=None):
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
            numbers = {LOGGED[name]: float(value) for name, value in logs.items() if name in LOGGED}
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
            "scalars": {"probe_loss": float(arrays[LOSS].mean())},
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
        numbers = {name: float(value) for name, value in logged.items() if name in LOGGED}
        if numbers and after < logged["step"] <= until:
            entries.setdefault(logged["step"], {"step": logged["step"]}).update(numbers)
    return list(entries.values())


LOGGED = {
    "loss": "training/loss",
    "eval_loss": "validation/loss",
    "learning_rate": "training/learning_rate",
    "grad_norm": "training/gradient_norm",
}
