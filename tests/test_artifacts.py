"""A run's files: what is written is read back, and a damaged file is one clear line."""

import json
import math

import numpy as np
import pytest

from summlens import artifacts
from summlens.artifacts import Run
from summlens.core.errors import UserError


def test_a_step_comes_back_as_it_was_written(tmp_path):
    run = Run(tmp_path)
    array = np.random.default_rng(0).normal(size=(3, 2, 5)).astype(np.float32)
    run.write_step(200, {"epoch": 0.5}, {"attention/kl/summary": array})
    step = run.read_step(200)
    assert step.info == {"schema_version": artifacts.SCHEMA_VERSION, "step": 200, "epoch": 0.5}
    np.testing.assert_array_equal(step.arrays["attention/kl/summary"], array)
    assert step.arrays["attention/kl/summary"].dtype == np.float32


def test_a_slim_step_keeps_what_is_drawn_over_the_steps_to_half_a_thousandth(tmp_path):
    random = np.random.default_rng(0)
    run, name = Run(tmp_path), "attention/distance/summary"
    values = (10 ** random.uniform(-30, 30, 4000) * random.choice([-1, 1], 4000)).astype(np.float32)
    special = np.array([0.0, -0.0, 1023, 1e-7, 1 + 2**-11, 1 + 3 * 2**-11, np.inf, -np.inf, np.nan], np.float32)
    values = np.concatenate([values, special])
    left_out = {"attention/distance/all": values, "latent/residual": values, "neuron/mean": values}
    run.write_step(3, {"whole": False}, {name: values, **left_out})
    run.write_step(4, {"whole": True}, {name: values, **left_out})

    kept = run.read_step(3).arrays
    assert set(kept) == {name} and kept[name].dtype == np.float32
    for value, got in zip(values.tolist(), kept[name].tolist(), strict=True):
        fraction, exponent = math.frexp(value)
        wanted = math.ldexp(round(fraction * 2**11), exponent - 11) if math.isfinite(value) else value
        assert got == wanted or (math.isnan(got) and math.isnan(wanted))
        assert not math.isfinite(value) or abs(got - value) <= 0.0005 * abs(value)
    assert (kept[name] == 0).sum() == 2
    for key, array in run.read_step(4).arrays.items():
        np.testing.assert_array_equal(array, values, err_msg=key)
    assert run.steps() == [3, 4] and run.whole_steps() == [4]


@pytest.mark.parametrize("every", [1, 7, 200])
def test_the_ends_and_up_to_six_evenly_spaced_captures_are_whole(every):
    for last in [1, 7, every, 7 * every, 7 * every + 1, 8 * every, 95 * every + every // 2, 53_835]:
        captured = [*range(0, last, every), last]
        whole = [step for step in captured if artifacts.is_whole(step, every, last)]
        assert {0, last} <= set(whole) and len(whole) <= 8
        if len(captured) <= 8:
            assert whole == captured
        else:
            assert len(whole) >= 5 and len(set(np.diff(whole[:-1]))) == 1


def test_numpy_reads_the_arrays_without_this_program(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = Run(tmp_path).write_arrays("x.npz", {"a/b": array, "scalar": np.float64(2.5)})
    with np.load(path) as archive:
        np.testing.assert_array_equal(archive["a/b"], array)
        assert archive["scalar"] == 2.5


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
    with pytest.raises(UserError, match="schema version 99.*make the run again"):
        run.read_json("run.json")
    (run.metrics / "causal.json").write_text(
        '{"schema_version": 1}'
    )  # from before its circuit's shares were of the gain
    with pytest.raises(UserError, match="schema version 1, .*analyze_latent_space.py again"):
        run.read_json("causal.json")
    run.write_json("causal.json", {"exact": True})
    assert run.read_json("causal.json")["exact"]


def test_an_absent_file_says_what_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"run_experiment\.sh"):
        Run(tmp_path).read_json("run.json")
