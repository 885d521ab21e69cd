"""Training held against plain PyTorch: the loss, the gradients' norms, the steps, and resume = uninterrupted."""

import dataclasses
import json
import multiprocessing
import os
import signal

import numpy as np
import pytest
import tiny
import torch
from tiny import tiny_examples, tiny_model
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

from summlens.artifacts import Run
from summlens.capture import capture
from summlens.core import config as configuration
from summlens.core.errors import UserError
from summlens.data import batches, tokens
from summlens.study.prepare import Study
from summlens.study.record import open_run
from summlens.training import checkpoints, fine_tune
from summlens.training.estimate import optimiser_steps
from summlens.training.trainer import SummaryTrainer, training_arguments

VOCABULARY = 61


def example(random, index):
    prompt, target = random.integers(4, 24), random.integers(1, 7)
    ids = random.integers(1, VOCABULARY, size=prompt + target)
    return tokens.Example(f"a{index}", (*map(int, ids), 0), int(prompt), 0, int(prompt) - 2)


def make_study(folder, **values):
    """A tiny GPT-2 with dropout, so that a resumed run must also restore the random state."""
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    shape = {"n_layer": 2, "n_head": 3, "n_embd": 24, "n_positions": 64, "vocab_size": VOCABULARY}
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0)).eval()
    options = {
        **{"batch_size": 2, "accumulation": 3, "epochs": 2.0, "learning_rate": 1e-2, "max_grad_norm": 0.5},
        **{"warmup_steps": 2, "evaluation_steps": 4, "checkpoint_steps": 3, "capture_steps": 4, "logging_steps": 1},
        "output_dir": str(folder),
    }
    config = configuration.preset("demo", **{**options, **values})
    train = [example(random, n) for n in range(40)]
    held = [example(random, 100 + n) for n in range(7)]
    return Study(config, Run(config.output_dir), {}, None, model, None, train, held, held[:3])


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path / "run")


def slow_loss(model, examples, mean=True):
    """Sum or mean of -log p over summary tokens and end-of-text, one article and one position at a time, in float64."""
    terms = []
    for one in examples:
        logits = model(input_ids=torch.tensor([one.input_ids])).logits[0].double()
        terms += [cross_entropy(logits[t], torch.tensor(one.input_ids[t + 1])) for t in one.queries]
    total = torch.stack(terms).sum()
    return total / len(terms) if mean else total


def make_trainer(study, model=None):
    return SummaryTrainer(
        model=model or study.base,
        args=training_arguments(study.config, study.run),
        train_dataset=study.train,
        eval_dataset=study.validation,
        data_collator=batches.collate,
    )


def test_the_loss_is_the_mean_over_summary_tokens_and_end_of_text(study):
    trainer = make_trainer(study)
    batch = study.train[:5]
    count = sum(len(one.queries) for one in batch)
    loss = trainer.compute_loss(study.base, batches.collate(batch), num_items_in_batch=torch.tensor(count))
    assert loss.item() == pytest.approx(slow_loss(study.base, batch).item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
def test_loss_and_gradients_of_a_padded_batch_are_those_of_its_articles_alone(study, kind):
    """Padding, batches and the logits that are left out change nothing; no logits but the targets' are made."""
    model = tiny_model(kind).eval().double()
    examples = [tiny_examples()[index] for index in (1, 0, 2)]
    loss = slow_loss(model, examples)
    loss.backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()

    made = []
    model.get_output_embeddings().register_forward_hook(lambda module, inputs, logits: made.append(logits.shape))
    trainer = make_trainer(study, model)
    count = sum(len(one.queries) for one in examples)
    mine = trainer.compute_loss(model, batches.collate(examples), num_items_in_batch=torch.tensor(count))
    mine.backward()
    assert made == [(count, tiny.VOCABULARY)]
    # The library's loss is float32 whatever the model is, and rotary angles are.
    assert mine.item() == pytest.approx(loss.item(), rel=1e-6)
    for (name, parameter), reference in zip(model.named_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, reference, rtol=1e-5, atol=1e-7, msg=name)


def test_the_validation_loss_weighs_every_token_alike(study):
    expected = slow_loss(study.base, study.validation).item()
    assert make_trainer(study).evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_one_step_is_one_adamw_step_on_the_whole_effective_batch(study):
    """Accumulation over batches of unequal token counts equals one batch; norms are those before clipping."""
    study.base.config.resid_pdrop = study.base.config.embd_pdrop = study.base.config.attn_pdrop = 0.0
    base = GPT2LMHeadModel(study.base.config).eval()
    base.load_state_dict(study.base.state_dict())
    config = dataclasses.replace(study.config, max_steps=1, capture_steps=1, warmup_steps=0)
    tuned = fine_tune.fine_tune(dataclasses.replace(study, config=config, base=base))

    order = list(batches.ByLength([len(one.input_ids) for one in study.train], 6, config.seed))
    slow_loss(base, [study.train[index] for index in order[:6]]).backward()
    squares = {name: float((p.grad.double() ** 2).sum()) for name, p in base.named_parameters()}
    gradients = study.run.read_step(1).info["gradients"]
    assert gradients["total"] == pytest.approx(np.sqrt(sum(squares.values())), rel=1e-4)
    assert gradients["total"] > config.max_grad_norm  # so that a norm read after clipping would be found out
    for layer in range(2):
        own = sum(value for name, value in squares.items() if f".h.{layer}." in name)
        assert gradients["layers"][layer] == pytest.approx(np.sqrt(own), rel=1e-4)

    torch.nn.utils.clip_grad_norm_(base.parameters(), config.max_grad_norm)
    decayed = [p for name, p in base.named_parameters() if p.ndim > 1]
    others = [p for name, p in base.named_parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    torch.optim.AdamW(groups, lr=config.learning_rate).step()
    for (name, mine), reference in zip(tuned.named_parameters(), base.parameters(), strict=True):
        clear = reference.grad.abs() > 1e-6  # Adam's first step is the gradient's sign, which rounding decides near 0
        torch.testing.assert_close(mine[clear], reference[clear], rtol=1e-4, atol=1e-5, msg=name)
    assert clear.any()


def test_steps_captures_and_checkpoints_are_where_the_configuration_says(study):
    fine_tune.fine_tune(study)
    assert optimiser_steps(study.config, len(study.train)) == 14  # 2 epochs of 40 articles, 6 a step
    assert study.run.steps() == [0, 4, 8, 12, 14]
    assert sorted(folder.name for folder in study.run.checkpoints.iterdir()) == ["checkpoint-12", "checkpoint-14"]
    log = [entry for step in study.run.steps() for entry in study.run.read_step(step).info["log"]]
    assert [entry["step"] for entry in log if "loss" in entry] == list(range(1, 15))
    assert [entry["step"] for entry in log if "eval_loss" in entry] == [0, 4, 8, 12, 14]
    assert study.run.read_step(0).info["gradients"] is None
    assert study.run.read_step(0).arrays["attention/kl/summary"].max() == 0.0
    assert study.run.read_step(14).arrays["attention/kl/summary"].min() > 0.0


def test_weights_that_stop_being_numbers_in_training_end_it_in_one_line(tmp_path):
    study = make_study(tmp_path / "run", learning_rate=1e30, checkpoint_steps=100)
    with pytest.raises(
        UserError, match=r"^transformer\.\S+ holds NaN or infinite weights: the training diverged[^\n]*$"
    ):
        fine_tune.fine_tune(study)
    assert study.run.steps() == [0] and not study.run.model_outputs.exists()
    assert not any(parameter.isnan().any() for parameter in study.base.parameters())


def test_a_run_of_many_captures_has_slim_ones_with_the_numbers_of_whole_ones(tmp_path):
    often, other = (make_study(tmp_path / str(n), max_steps=9, capture_steps=n, checkpoint_steps=9) for n in (1, 3))
    fine_tune.fine_tune(often)
    assert often.run.steps() == list(range(10)) and often.run.whole_steps() == [0, 2, 4, 6, 8, 9]
    fine_tune.fine_tune(other)
    assert other.run.whole_steps() == [0, 3, 6, 9]
    slim, whole = often.run.read_step(3), other.run.read_step(3)
    assert (slim.info["positions"], whole.info["positions"]) == (["summary"], ["summary", "all"])
    assert slim.info["weights"] == whole.info["weights"]
    missing = {key for key in whole.arrays if key.endswith("/all") or key.startswith(("latent/", "neuron/"))}
    assert set(slim.arrays) == set(whole.arrays) - missing and missing
    for key, array in slim.arrays.items():
        np.testing.assert_allclose(array, whole.arrays[key], rtol=5e-4, atol=1e-6, err_msg=key)


def test_a_capture_measures_in_float32_whatever_the_arithmetic_of_training(study):
    config = dataclasses.replace(study.config, precision="bf16", max_steps=1)
    tuned = fine_tune.fine_tune(dataclasses.replace(study, config=config))
    assert "forward" in vars(tuned)  # the autocast that a capture must not meet
    captured = study.run.read_step(0).arrays
    expected = capture(study.base, study.probe, base=study.base, batch_size=config.capture_batch_size)
    for key, array in expected.items():
        np.testing.assert_array_equal(captured[key], array, err_msg=key)


@pytest.mark.parametrize("stop", [5, 10])
def test_an_interrupted_run_that_resumes_ends_as_an_uninterrupted_one(study, tmp_path, monkeypatch, stop):
    """Stopped in the first and in the second epoch, between two checkpoints; weights and captures equal bit for bit."""
    whole = fine_tune.fine_tune(study)
    expected = {step: study.run.read_step(step) for step in study.run.steps()}

    config = dataclasses.replace(study.config, output_dir=str(tmp_path / "interrupted"))
    second = dataclasses.replace(study, config=config, run=Run(config.output_dir))

    class Stop(fine_tune.Progress):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == stop:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fine_tune, "Progress", Stop)
        fine_tune.fine_tune(second)
    torch.manual_seed(99)  # a resumed process does not start where the old one's random state was
    np.random.seed(99)  # noqa: NPY002 - the global state is what is meant
    resumed = fine_tune.fine_tune(second, resume=True)

    for (name, one), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert second.run.steps() == sorted(expected)
    for step, reference in expected.items():
        captured = second.run.read_step(step)
        assert captured.info == reference.info
        for key, array in reference.arrays.items():
            np.testing.assert_array_equal(captured.arrays[key], array, err_msg=f"{step} {key}")


def test_a_damaged_checkpoint_is_left_aside(study, caplog):
    fine_tune.fine_tune(study)
    newest, older = (study.run.checkpoints / f"checkpoint-{step}" for step in (14, 12))
    assert checkpoints.newest_checkpoint(study.run) == newest
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert checkpoints.newest_checkpoint(study.run) == older
    assert "half-written or damaged" in caplog.text
    (older / checkpoints.CheckpointSeal.NAME).unlink()
    assert checkpoints.newest_checkpoint(study.run) is None


def test_a_seal_names_every_file_of_its_checkpoint(study):
    fine_tune.fine_tune(study)
    folder = study.run.checkpoints / "checkpoint-14"
    sealed = json.loads((folder / checkpoints.CheckpointSeal.NAME).read_text())["files"]
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"} <= set(sealed)
    assert any(name.startswith("rng_state") for name in sealed)


def test_gradient_checkpointing_gives_the_same_weights(study, tmp_path):
    plain = fine_tune.fine_tune(study)
    other = make_study(tmp_path / "checkpointing", gradient_checkpointing=True)
    recomputed = fine_tune.fine_tune(other)
    blocks = [[block.gradient_checkpointing for block in model.transformer.h] for model in (plain, recomputed)]
    assert blocks == [[False, False], [True, True]]
    for (name, one), two in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6, msg=name)


def test_sigterm_leaves_a_checkpoint_from_which_the_run_ends_as_an_uninterrupted_one(study, tmp_path, monkeypatch):
    whole = fine_tune.fine_tune(study)
    preempted = make_study(tmp_path / "preempted")

    class Terminated(fine_tune.Progress):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 4:  # between two checkpoints, in the middle of a step
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(fine_tune, "Progress", Terminated)
        fine_tune.fine_tune(preempted)
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert checkpoints.newest_checkpoint(preempted.run).name == "checkpoint-5"
    resumed = fine_tune.fine_tune(preempted, resume=True)
    for (name, one), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert preempted.run.steps() == study.run.steps()


def test_batches_made_ahead_by_workers_train_the_same_and_sigterm_leaves_the_workers_alone(
    study, tmp_path, monkeypatch
):
    whole = fine_tune.fine_tune(study)
    other = make_study(tmp_path / "workers")
    plain, seen, others = training_arguments, set(), multiprocessing.active_children()

    def with_workers(*arguments):
        made = plain(*arguments)
        made.dataloader_num_workers = 2
        return made

    class Signalled(fine_tune.Progress):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step % 7 == 4:  # in each epoch, when both have begun
                for worker in set(multiprocessing.active_children()) - set(others):
                    seen.add(worker.pid)
                    os.kill(worker.pid, signal.SIGTERM)

    monkeypatch.setattr(fine_tune, "training_arguments", with_workers)
    monkeypatch.setattr(fine_tune, "Progress", Signalled)
    ahead = fine_tune.fine_tune(other)
    assert len(seen) == 4  # two an epoch
    for (name, one), two in zip(whole.named_parameters(), ahead.parameters(), strict=True):
        assert torch.equal(one, two), name
    logs = [[run.read_step(step).info["log"] for step in run.steps()] for run in (study.run, other.run)]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        (
            {"batch_size": 16, "accumulation": 1},
            "give --batch-size 8 --accumulation 2 or add --gradient-checkpointing,",
        ),
        ({"batch_size": 16, "gradient_checkpointing": True}, "give --batch-size 8 --accumulation 6, then"),
        ({"batch_size": 1}, "--batch-size 1: add --gradient-checkpointing, then"),
        ({"batch_size": 1, "gradient_checkpointing": True}, "--batch-size 1: take a GPU with more memory, then"),
    ],
)
def test_a_run_out_of_memory_says_which_option_helps(tmp_path, monkeypatch, values, advice):
    study = make_study(tmp_path, **values)

    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(SummaryTrainer, "train", full)
    with pytest.raises(UserError) as error:
        fine_tune.fine_tune(study)
    assert advice in str(error.value) and "--resume" in str(error.value)


def test_a_run_out_of_memory_may_go_on_with_smaller_batches_of_the_same_steps(study):
    study.run.write_json("run.json", {"config": dataclasses.asdict(study.config)})
    smaller = dataclasses.replace(study.config, batch_size=1, accumulation=6, gradient_checkpointing=True)
    assert open_run(smaller, resume=True).root == study.run.root
    with pytest.raises(UserError, match=r"--resume with 3 articles a step \(the run began with 6\)"):
        open_run(dataclasses.replace(study.config, batch_size=1), resume=True)
