"""Two processes against one (gloo, CPU), with the model in each or spread over both (FSDP): the same steps, numbers
and files; one line when something is wrong."""

import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_training import VOCABULARY, make_study, slow_loss
from transformers import LlamaConfig, LlamaForCausalLM

from summlens.artifacts import Run
from summlens.core import processes
from summlens.core.config import PROJECT, parse_command_line
from summlens.core.errors import UserError
from summlens.study.prepare import Study
from summlens.training import checkpoints, fine_tune, sharding
from summlens.training.trainer import SummaryTrainer, training_arguments

FORK = multiprocessing.get_context("fork")  # the libraries are loaded already


FSDP = str(PROJECT / "examples/fsdp.json")


def in_two_processes(function, *arguments, join=True):
    """Run function(*arguments) as rank 0 and rank 1 of one run; what each returned, or its exit code. With join=False
    the function joins the two by itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes = [FORK.Pipe(duplex=False) for _ in range(2)]

    def work(rank):
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        try:
            if join:
                processes.start()
            answer = function(*arguments)
        except SystemExit as stop:
            answer = stop.code
        pipes[rank][1].send(answer)
        if join:
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
    return Study(**{**vars(study), "base": base})


def llama(study):
    """The study with a model of other blocks, with grouped keys and an unembedding of its own."""
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40, "vocab_size": VOCABULARY}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(**shape, **heads, bos_token_id=0, eos_token_id=0)).eval()
    return Study(**{**vars(study), "base": base})


def weights(study, resume=False):
    """The weights after training; None where the process has none. The base must stay what it was."""
    before = {name: value.clone() for name, value in study.base.state_dict().items()}
    model = fine_tune.fine_tune(study, resume)
    assert all(torch.equal(value, before[name]) for name, value in study.base.state_dict().items())
    return model and {name: value.numpy() for name, value in model.state_dict().items()}


def files(run):
    """Every file of a run, but for the names that hold a time or a rank, and what checkpoints consist of."""
    names = {str(path.relative_to(run.root)) for path in run.root.rglob("*") if path.is_file()}
    return {name for name in names if "tfevents" not in name and "/checkpoint-" not in name}


def test_two_processes_train_as_one(tmp_path):
    """37 articles, 8 a step: the last step of an epoch has 5, which fill neither process' share.

    One after the other in the same two processes: each with a model of its own, and sharing one, of two architectures.
    """
    options = {"accumulation": 4, "learning_rate": 1e-3, "epochs": 1.0}
    whole, shared = {**options, "checkpoint_steps": 100}, {**options, "checkpoint_steps": 100, "fsdp": FSDP}
    gpt2 = without_dropout(make_study(tmp_path / "gpt2", **whole))
    runs = [
        (gpt2, without_dropout(make_study(tmp_path / "gpt2-two", **whole))),
        (gpt2, without_dropout(make_study(tmp_path / "gpt2-shared", **shared))),
        (llama(make_study(tmp_path / "llama", **whole)), llama(make_study(tmp_path / "llama-shared", **shared))),
    ]
    for study in {id(study): study for pair in runs for study in pair}.values():
        del study.train[37:]
    expected = {study.run: weights(study) for study in (gpt2, runs[2][0])}
    rank0, rank1 = in_two_processes(lambda: [weights(two) for _, two in runs])

    assert rank1[1:] == [None, None]
    for (one, two), result in zip(runs, rank0, strict=True):
        _same(one, two, expected[one.run], result)
    for name, weight in rank1[0].items():
        np.testing.assert_array_equal(rank0[0][name], weight, err_msg=name)


def _same(one, two, expected, weights):
    """Two runs with the same weights at the end and the same files."""
    assert set(weights) == set(expected)
    for name, weight in expected.items():
        np.testing.assert_allclose(weights[name], weight, rtol=0, atol=2e-5, err_msg=name)
    assert max(np.abs(weight - one.base.state_dict()[name].numpy()).max() for name, weight in expected.items()) > 2e-3
    assert files(two.run) == files(one.run)
    assert len(list(two.run.logs.glob("*tfevents*"))) == 1
    assert two.run.steps() == [0, 4, 5]
    for step in one.run.steps():
        mine, other = one.run.read_step(step), two.run.read_step(step)
        for key, array in mine.arrays.items():
            np.testing.assert_allclose(other.arrays[key], array, rtol=1e-3, atol=1e-5, err_msg=f"{step} {key}")
        for mine_log, other_log in zip(mine.info["log"], other.info["log"], strict=True):
            assert other_log == pytest.approx(mine_log, rel=1e-4)
        for of, norms in (mine.info["gradients"] or {}).items():
            assert other.info["gradients"][of] == pytest.approx(norms, rel=1e-3)


def test_the_validation_loss_of_two_processes_weighs_every_token_alike(tmp_path):
    """7 articles in batches of 2: one process has two batches, the other one and a short one, and they agree."""
    study = make_study(tmp_path, accumulation=2, evaluation_batch_size=2)

    def measure():
        trainer = SummaryTrainer(
            model=study.base,
            args=training_arguments(study.config, study.run),
            train_dataset=study.train,
            eval_dataset=study.validation[:5],
        )
        return trainer.evaluate()["eval_loss"]

    expected = slow_loss(study.base, study.validation[:5]).item()
    assert in_two_processes(measure) == pytest.approx([expected, expected], rel=1e-5)


@pytest.mark.parametrize("fsdp", ["", FSDP])
def test_a_resumed_run_of_two_processes_ends_as_an_uninterrupted_one(tmp_path, fsdp):
    """With dropout, which each process draws for itself; a SIGTERM that reaches one process stops both.

    The second run recomputes activations and is captured at every step, which must not change a weight.
    """
    options = {"accumulation": 2, "max_steps": 4, "evaluation_steps": 100, "fsdp": fsdp}
    whole = make_study(tmp_path / "whole", **options, capture_steps=100)
    stopped = make_study(tmp_path / "stopped", **options, capture_steps=1, gradient_checkpointing=True)

    class Terminated(fine_tune.Progress):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 1 and processes.rank() == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    def three_runs():
        expected = weights(whole)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
            patch.setattr(fine_tune, "Progress", Terminated)
            weights(stopped)
        assert stop.value.code == 143
        assert checkpoints.newest_checkpoint(stopped.run).name == "checkpoint-2"
        torch.manual_seed(99)  # a resumed process does not start where the old one's random state was
        return expected, weights(stopped, True)

    for rank, (expected, resumed) in enumerate(in_two_processes(three_runs)):
        assert (resumed is None) == (rank == 1 and bool(fsdp))
        for name, weight in (expected or {}).items():
            np.testing.assert_array_equal(resumed[name], weight, err_msg=name)
    assert stopped.run.steps() == list(range(5))
    assert [checkpoints.newest_checkpoint(study.run).name for study in (whole, stopped)] == ["checkpoint-4"] * 2


def test_processes_draw_their_own_dropout(tmp_path):
    study = make_study(tmp_path, accumulation=2, max_steps=1)

    def after():
        fine_tune.fine_tune(study)
        return float(torch.rand(()))

    first, second = in_two_processes(after)
    assert first != second


def test_the_loss_of_a_shared_model_in_16_bit_is_not_rounded_to_16_bit(tmp_path):
    study = make_study(tmp_path, accumulation=2, max_steps=1, precision="bf16", fsdp=FSDP)
    in_two_processes(weights, study)
    logged = study.run.read_step(0).info["log"][0]["eval_loss"]
    assert logged == pytest.approx(slow_loss(study.base, study.validation).item(), rel=2e-4)


def test_a_capture_that_does_not_fit_the_gpu_is_made_on_the_cpu(monkeypatch, caplog):
    places, moved = iter(["meta", "cpu"]), torch.nn.Linear(2, 2)

    def measure():
        assert moved.weight.device.type == next(places)
        if moved.weight.device.type == "meta":
            moved.to_empty(device="cpu")  # a GPU's weights would come back
            raise torch.cuda.OutOfMemoryError
        return 7

    monkeypatch.setattr(sharding.loading, "device", lambda: torch.device("meta"))
    assert sharding.on_device(measure, moved) == 7
    assert "made on the CPU" in caplog.text


def test_a_whole_run_that_shares_a_model_ends_with_a_plain_one(tmp_path, monkeypatch):
    """The script itself, from the articles to the scores: rank 0 alone captures and writes sample summaries."""
    counts = ["--train-articles", "4", "--validation-articles", "2", "--test-articles", "3", "--probe-articles", "2"]
    sizes = ["--batch-size", "2", "--accumulation", "2", "--max-new-tokens", "3", "--resamples", "20"]
    script = str(PROJECT / "gpt2_summarization.py")
    monkeypatch.setattr(sys, "argv", [script, "--output-dir", str(tmp_path), "--fsdp", FSDP, *counts, *sizes])
    in_two_processes(lambda: runpy.run_path(script, run_name="__main__") and None, join=False)
    run = Run(tmp_path)
    assert run.read_json("run.json")["finished"]
    assert run.steps() == [0, 1]
    assert len(list(run.read_predictions())) == 3
    assert {path.name for path in run.model_outputs.iterdir()} >= {"config.json", "model.safetensors"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "is not one JSON object"),
        ({"cpu_offload": True}, "unknown key 'cpu_offload'"),
        ({"version": 1}, "version must be 2, it is 1"),
        ({"state_dict_type": "FULL_STATE_DICT"}, 'state_dict_type must be "SHARDED_STATE_DICT"'),
    ],
)
def test_a_wrong_fsdp_file_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "fsdp.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=f"--fsdp {path}.*{message}"):
        parse_command_line(["--accumulation", "2", "--fsdp", str(path)], processes=2)


@pytest.mark.parametrize(
    ("arguments", "count", "message"),
    [
        ([], 1, "start them with --processes N"),
        (["--lora"], 2, "--fsdp trains all of a model"),
        (["--trainable", "layers 0"], 2, "--fsdp trains all of a model"),
    ],
)
def test_what_does_not_go_with_fsdp_is_refused_by_name(arguments, count, message):
    with pytest.raises(UserError, match=message):
        parse_command_line(["--accumulation", "2", "--fsdp", FSDP, *arguments], processes=count)


def launch(count, *arguments, script=PROJECT / "gpt2_summarization.py"):
    command = [sys.executable, "-m", "summlens.core.launch", str(count), str(script), *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, env=environment, timeout=200)


def test_an_error_is_one_line(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import logging\n"
        "from summlens.core import errors, processes\n"
        "logging.basicConfig(format='%(message)s')\n"
        "logging.getLogger('summlens').setLevel(logging.INFO)\n"
        "with errors.one_line_errors(), processes.one_voice():\n"
        "    processes.start()\n"
        "    logging.getLogger('summlens.script').info('what a run says')\n"
        "    raise errors.UserError('what is wrong in both')\n"
    )
    done = launch(2, "--accumulation", "2", script=script)
    assert done.returncode == 1
    assert done.stderr == "what a run says\nerror: what is wrong in both\n"


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
