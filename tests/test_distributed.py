"""Two processes against one (gloo, CPU): the same steps, numbers and files; one line when something is wrong."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_training import make_study, slow_loss

from summlens import processes, training
from summlens.config import PROJECT
from summlens.experiment import Experiment

FORK = multiprocessing.get_context("fork")  # the libraries are loaded already


def in_two_processes(function, *arguments):
    """Run function(*arguments) as rank 0 and rank 1 of one run; what each returned, or its exit code."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes = [FORK.Pipe(duplex=False) for _ in range(2)]

    def work(rank):
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        try:
            processes.start()
            answer = function(*arguments)
        except SystemExit as stop:
            answer = stop.code
        pipes[rank][1].send(answer)
        processes.stop()

    workers = [FORK.Process(target=work, args=(rank,)) for rank in range(2)]
    for worker in workers:
        worker.start()
    try:
        assert all(pipe.poll(100) for pipe, _ in pipes), "a process died or waits for the other"
        return [pipe.recv() for pipe, _ in pipes]
    finally:
        for worker in workers:
            worker.join(10)
            worker.kill()


def without_dropout(study):
    study.base.config.resid_pdrop = study.base.config.embd_pdrop = study.base.config.attn_pdrop = 0.0
    base = type(study.base)(study.base.config).eval()
    base.load_state_dict(study.base.state_dict())
    return Experiment(**{**vars(study), "base": base})


def weights(study, resume=False):
    return {name: value.numpy() for name, value in training.fine_tune(study, resume).state_dict().items()}


def files(run):
    """Every file of a run, but for the names that hold a time or a rank."""
    names = {str(path.relative_to(run.root)) for path in run.root.rglob("*") if path.is_file()}
    return {name for name in names if "tfevents" not in name and "rng_state" not in name}


def test_two_processes_train_as_one(tmp_path):
    """37 articles, 8 a step: the last step of an epoch has 5, which fill neither process' share."""
    options = {"accumulation": 4, "learning_rate": 1e-3}
    one, two = (without_dropout(make_study(tmp_path / name, **options)) for name in ("one", "two"))
    for study in (one, two):
        del study.train[37:]
    expected = weights(one)
    rank0, rank1 = in_two_processes(weights, two)

    for name, weight in expected.items():
        np.testing.assert_array_equal(rank0[name], rank1[name], err_msg=name)
        np.testing.assert_allclose(rank0[name], weight, rtol=0, atol=2e-5, err_msg=name)
    assert max(np.abs(weight - one.base.state_dict()[name].numpy()).max() for name, weight in expected.items()) > 5e-3
    assert files(two.run) == files(one.run)
    assert len(list(two.run.logs.glob("*tfevents*"))) == 1
    assert two.run.steps() == [0, 4, 8, 10]
    for step in one.run.steps():
        mine, other = one.run.read_step(step), two.run.read_step(step)
        for key, array in mine.arrays.items():
            np.testing.assert_allclose(other.arrays[key], array, rtol=1e-3, atol=1e-5, err_msg=f"{step} {key}")
        for mine_log, other_log in zip(mine.info["log"], other.info["log"], strict=True):
            assert other_log == pytest.approx(mine_log, rel=1e-4)
        if step:
            assert other.info["gradients"]["layers"] == pytest.approx(mine.info["gradients"]["layers"], rel=1e-3)


def test_the_validation_loss_of_two_processes_weighs_every_token_alike(tmp_path):
    """7 articles in batches of 2: one process has two batches, the other one and a short one, and they agree."""
    study = make_study(tmp_path, accumulation=2, evaluation_batch_size=2)

    def measure():
        trainer = training.SummaryTrainer(
            model=study.base,
            args=training.training_arguments(study.config, study.run),
            train_dataset=study.train,
            eval_dataset=study.validation[:5],
        )
        return trainer.evaluate()["eval_loss"]

    expected = slow_loss(study.base, study.validation[:5]).item()
    assert in_two_processes(measure) == pytest.approx([expected, expected], rel=1e-5)


def test_a_resumed_run_of_two_processes_ends_as_an_uninterrupted_one(tmp_path):
    """With dropout, which each process draws for itself; a SIGTERM that reaches one process stops both."""
    whole, stopped = (make_study(tmp_path / name, accumulation=2) for name in ("whole", "stopped"))
    expected = in_two_processes(weights, whole)[0]

    class Terminated(training.Progress):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 7 and processes.rank() == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "Progress", Terminated)
        assert in_two_processes(weights, stopped) == [143, 143]
    assert training.newest_checkpoint(stopped.run).name == "checkpoint-8"
    torch.manual_seed(99)  # a resumed process does not start where the old one's random state was
    for resumed in in_two_processes(weights, stopped, True):
        for name, weight in expected.items():
            np.testing.assert_array_equal(resumed[name], weight, err_msg=name)
    assert files(stopped.run) == files(whole.run)


def test_processes_draw_their_own_dropout(tmp_path):
    study = make_study(tmp_path, accumulation=2, max_steps=1)

    def after():
        training.fine_tune(study)
        return float(torch.rand(()))

    first, second = in_two_processes(after)
    assert first != second


def launch(count, *arguments):
    command = [sys.executable, "-m", "summlens.launch", str(count), str(PROJECT / "gpt2_summarization.py"), *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, env=environment, timeout=200)


def test_an_error_is_one_line(tmp_path):
    tiny = ("--train-articles", "8", "--validation-articles", "4", "--test-articles", "4", "--accumulation", "2")
    done = launch(2, "--output-dir", str(tmp_path), *tiny, "--window", "9999")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count("preset demo: fine-tune") == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [done.stderr.splitlines()[-1]]
    assert "--window 9999 is longer than the 512 positions" in done.stderr


@pytest.mark.parametrize(
    ("count", "arguments", "code", "message"),
    [
        ("0", [], 1, "--processes must be a whole number above zero"),
        ("2", ["--sed", "1"], 2, "unrecognized"),
        ("3", ["--accumulation", "8"], 1, "3 processes cannot share --accumulation 8"),
        ("2", ["--accumulation", "2", "--generation-backend", "vllm"], 1, "vllm manages its own processes"),
    ],
)
def test_a_wrong_option_is_refused_once_and_before_anything_starts(count, arguments, code, message):
    done = launch(count, *arguments)
    assert done.returncode == code
    assert done.stderr.count(message) == 1
