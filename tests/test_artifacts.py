"""A run's files: what is written is read back, and a damaged file is one clear line."""

import json
import math

import numpy as np
import pytest

from summlens import artifacts
from summlens.artifacts import Run
from summlens.errors import UserError


def test_a_step_comes_back_as_it_was_written(tmp_path):
    run = Run(tmp_path)
    array = np.random.default_rng(0).normal(size=(3, 2, 5)).astype(np.float32)
    run.write_step(200, {"epoch": 0.5}, {"attention/kl/summary": array})
    step = run.read_step(200)
    assert step.info == {"schema_version": artifacts.SCHEMA_VERSION, "step": 200, "epoch": 0.5}
    np.testing.assert_array_equal(step.arrays["attention/kl/summary"], array)
    assert step.arrays["attention/kl/summary"].dtype == np.float32


def test_steps_are_listed_in_order_and_only_whole_ones(tmp_path):
    run = Run(tmp_path)
    for step in (1000, 0, 200):
        run.write_step(step, {}, {})
    (run.metrics / "step_000200.json").unlink()  # the JSON is written last: without it the step does not exist
    assert run.steps() == [0, 1000]
    run.write_step(2_000_000, {}, {})
    assert run.steps() == [0, 1000, 2_000_000]


def test_later_steps_can_be_forgotten(tmp_path):
    run = Run(tmp_path)
    for step in (0, 10, 20):
        run.write_step(step, {}, {})
    run.delete_steps_after(10)
    assert run.steps() == [0, 10]
    assert not (run.metrics / "step_000020.npz").exists()


def test_numbers_json_does_not_know_become_null(tmp_path):
    run = Run(tmp_path)
    run.write_json("x.json", {"a": math.nan, "b": [np.float32(np.inf), np.int64(3), np.bool_(True)], "c": np.eye(1)})
    text = (run.metrics / "x.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["b"] == [None, 3, True]
    assert run.read_json("x.json")["a"] is None
    assert run.read_json("x.json")["c"] == [[1.0]]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    artifacts.write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(artifacts.os, "fsync", full)
        artifacts.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_predictions_come_back_line_by_line_whatever_they_hold(tmp_path):
    run = Run(tmp_path)
    rows = [{"id": "a", "article": "line\u2028separator \x85 and\nbreak"}, {"id": "b", "article": "שלום 👩‍👩‍👧"}]
    run.write_predictions(rows)
    assert list(run.read_predictions()) == rows


@pytest.mark.parametrize("damage", [b"", b"{", b'{"schema_version": 1', b"\xff\xfe\x00"])
def test_damaged_json_is_one_line_that_names_the_file(tmp_path, damage):
    run = Run(tmp_path)
    run.write_json("evaluation.json", {})
    (run.metrics / "evaluation.json").write_bytes(damage)
    with pytest.raises(UserError, match="evaluation.json is damaged"):
        run.read_json("evaluation.json")


def test_a_truncated_npz_is_one_line_that_names_the_file(tmp_path):
    run = Run(tmp_path)
    run.write_step(5, {}, {"latent/residual": np.ones((30, 40))})
    path = run.metrics / "step_000005.npz"
    for size in (0, 10, path.stat().st_size // 2, path.stat().st_size - 1):
        whole = path.read_bytes()
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"step_000005\.npz is damaged"):
            run.read_step(5)
        path.write_bytes(whole)


def test_pickles_are_never_loaded(tmp_path):
    run = Run(tmp_path)
    run.metrics.mkdir()
    np.savez(run.metrics / "evil.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="damaged"):
        run.read_arrays("evil.npz")


def test_another_schema_version_is_refused(tmp_path):
    run = Run(tmp_path)
    run.metrics.mkdir()
    (run.metrics / "run.json").write_text('{"schema_version": 99}')
    with pytest.raises(UserError, match="schema version 99"):
        run.read_json("run.json")


def test_an_absent_file_says_what_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"run_experiment\.sh"):
        Run(tmp_path).read_json("run.json")
