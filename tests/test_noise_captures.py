"""The captures behind the noise floors, on tiny models: base against its rounded self, and seeds against each other."""

import numpy as np
import pytest
import torch
from tiny import changed, tiny_examples, tiny_model

from summlens.analysis import material
from summlens.analysis.noise import floors
from summlens.artifacts import Run
from summlens.capture import capture, weight_change


def captured(run: Run, base, model) -> None:
    run.write_json("run.json", {"state": "trained"})
    run.write_step(0, {}, capture(base, tiny_examples(), base=base))
    run.write_step(9, {}, capture(model, tiny_examples(), base=base) | weight_change(model, base)[1])


def test_rounding_is_that_of_bfloat16_and_leaves_the_model_alone():
    base = tiny_model("gpt2").eval()
    rounded = floors.rounded(base)
    weight = base.transformer.wte.weight
    assert torch.equal(rounded.transformer.wte.weight, weight.to(torch.bfloat16).float())
    assert not torch.equal(rounded.transformer.wte.weight, weight) and not base.lm_head._forward_hooks
    ids = torch.tensor([tiny_examples()[1].input_ids])
    with torch.no_grad():
        ours, plain = rounded(ids).logits, base(ids).logits
        real = base.to(torch.bfloat16)(ids).logits.float()
    assert torch.equal(ours, ours.to(torch.bfloat16).float())
    distance = (ours - plain).abs().mean()
    assert 0.3 < distance / (real - plain).abs().mean() < 3  # as far from float32 as bfloat16 arithmetic is


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_numerical_floor_is_small_and_everywhere(kind):
    base = tiny_model(kind)
    first = capture(base, tiny_examples(), base=base)
    ((arrays, other),) = floors.numerical(base, tiny_examples(), first).pairs
    assert other is first
    kl = arrays["attention/kl/summary"].mean(axis=0)
    far = capture(changed(base), tiny_examples(), base=base)["attention/kl/summary"].mean(axis=0)
    assert (kl > 0).all() and (kl < 0.2 * far).all()


def test_seeds_are_compared_with_one_another_not_with_base(tmp_path):
    base = tiny_model("gpt2").eval()
    ours, theirs = changed(base, seed=1).eval(), changed(base, seed=2).eval()
    run = Run(tmp_path)
    captured(run, base, ours)
    first, last = material.captured_ends(run)
    assert floors.seeds(run, ours, tiny_examples(), first, last) is None
    captured(run.companion("shuffled-pairs"), base, ours)
    assert floors.seeds(run, ours, tiny_examples(), first, last) is None  # a control is no seed
    other = run.companion("seed-43")
    captured(other, base, theirs)
    other_last = other.read_step(9).arrays
    floor = floors.seeds(run, ours, tiny_examples(), first, last)
    assert "attention/kl/summary" not in floor.pairs[0][0]  # the other model is gone
    theirs.save_pretrained(other.model_outputs)
    floor = floors.seeds(run, ours, tiny_examples(), first, last)
    ((one, another),) = floor.pairs
    expected = capture(ours, tiny_examples(), base=theirs)
    for name in ("attention/kl/summary", "attention/js_no_sink/summary"):
        np.testing.assert_allclose(one[name], expected[name], rtol=1e-3, atol=1e-6)
    assert np.abs(one["attention/kl/summary"] - last["attention/kl/summary"]).max() > 1e-3
    np.testing.assert_allclose(
        one["weights_by_head/q/absolute"], weight_change(ours, theirs)[1]["weights_by_head/q/absolute"], rtol=1e-5
    )
    np.testing.assert_array_equal(one["attention/entropy/summary"], last["attention/entropy/summary"])
    np.testing.assert_array_equal(another["attention/kl/summary"], other_last["attention/kl/summary"])
    np.testing.assert_array_equal(floor.ends[0]["neuron/mean"], other_last["neuron/mean"])
    assert "seed 43" in floor.what
