"""Causal tests against plain hooks in a slow loop, against identities, and on models with a planted truth."""

import copy

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, changed, tiny_examples, tiny_model
from transformers import GPT2Config, GPT2LMHeadModel

from summlens.analysis import material
from summlens.analysis.causal import causal_tests, effects
from summlens.analysis.causal.circuit import _greedy, find
from summlens.artifacts import Run
from summlens.core.errors import UserError
from summlens.data.batches import batches
from summlens.data.tokens import Example
from summlens.model import editing
from summlens.model.architecture import architecture
from summlens.model.editing import Edit, Subject
from summlens.model.observing import evaluating


def many_examples(count: int) -> list[Example]:
    generator = torch.Generator().manual_seed(8)
    made = []
    for index in range(count):
        prompt, target = 6 + index % 5, 3 + index % 3
        ids = torch.randint(1, VOCABULARY, (prompt + target,), generator=generator).tolist()
        made.append(Example(str(index), tuple(ids), prompt, 0, prompt - 1))
    return made


# ------------------------------------------------------------------------------------------------ the slow oracle


class Slow:
    """One article at a time, the whole model every time, the library's modules hooked directly."""

    def __init__(self, model):
        self.model = copy.deepcopy(model).double().eval()
        self.found = architecture(self.model)

    def _run(self, example, hooks=()):
        handles = [getattr(module, f"register_forward_{kind}")(hook) for module, kind, hook in hooks]
        try:
            with torch.no_grad():
                logits = self.model(input_ids=torch.tensor([example.input_ids]), use_cache=False).logits[0]
        finally:
            for handle in handles:
                handle.remove()
        losses = [-logits[t].log_softmax(-1)[example.input_ids[t + 1]].item() for t in example.queries]
        return sum(losses) / len(losses)

    def loss(self, example):
        return self._run(example)

    def seen(self, example):
        """{(site, layer): values (T, ...)} of an ordinary pass."""
        kept = {}

        def before(key):
            return lambda module, args: kept.__setitem__(key, args[0][0])

        def after(key):
            return lambda module, args, out: kept.__setitem__(key, (out if torch.is_tensor(out) else out[0])[0])

        hooks = []
        for layer, block in enumerate(self.found.blocks):
            hooks += [
                (block.output, "pre_hook", before(("z", layer))),
                (block.output, "hook", after(("attention", layer))),
                (block.down, "hook", after(("mlp", layer))),
                (block.module, "hook", after(("residual", layer + 1))),
            ]
        self._run(example, hooks)
        return kept

    def slice(self, head):
        width = self.found.head_dim
        return slice(head * width, (head + 1) * width)

    def with_head_input(self, example, layer, head, value):
        """The loss when the head's slice before the output projection is `value` (d,) at every position."""

        def hook(module, args):
            z = args[0].clone()
            z[..., self.slice(head)] = value
            return (z, *args[1:])

        return self._run(example, [(self.found.blocks[layer].output, "pre_hook", hook)])

    def with_output(self, example, site, layer, value):
        block = self.found.blocks[layer - (site == "residual")]
        module = {"attention": block.output, "mlp": block.down, "residual": block.module}[site]

        def hook(module, args, output):
            new = value.expand(1, *(output if torch.is_tensor(output) else output[0]).shape[1:])
            return new if torch.is_tensor(output) else (new, *output[1:])

        return self._run(example, [(module, "hook", hook)])

    def written(self, z, layer, head):
        """What a head adds to the residual stream, through a whole output projection whose other inputs are zero."""
        alone = torch.zeros_like(z)
        alone[..., self.slice(head)] = z[..., self.slice(head)]
        output = self.found.blocks[layer].output
        with torch.no_grad():
            return output(alone) - output(torch.zeros_like(z))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neox"])
def test_every_intervention_equals_a_slow_loop_with_plain_hooks(kind):
    base = tiny_model(kind)
    fine_tuned = changed(base, scale=0.1)
    examples = tiny_examples()
    arrays = effects.measure(base, fine_tuned, examples, exact=True)
    slow = {"base": Slow(base), "fine_tuned": Slow(fine_tuned)}
    heads, layers = slow["base"].found.heads, slow["base"].found.layers
    passes = {name: [one.seen(example) for example in examples] for name, one in slow.items()}

    for name, one in slow.items():
        means = {
            key: torch.cat([seen[key] for seen in passes[name]]).mean(dim=0) for key in passes[name][0]
        }  # over all real positions of all articles
        for row, example in enumerate(examples):
            loss = one.loss(example)
            assert arrays[f"loss/{name}"][row] == pytest.approx(loss, abs=2e-5)
            for layer in range(layers):
                for head in range(heads):
                    mean = means["z", layer][one.slice(head)]
                    for how, value in (("mean", mean), ("zero", torch.zeros_like(mean))):
                        rise = one.with_head_input(example, layer, head, value) - loss
                        assert arrays[f"ablation/{how}/{name}/heads"][row, layer, head] == pytest.approx(rise, abs=5e-5)
                for site in ("attention", "mlp"):
                    rise = one.with_output(example, site, layer, means[site, layer]) - loss
                    assert arrays[f"ablation/mean/{name}/{site}"][row, layer] == pytest.approx(rise, abs=5e-5)

    for direction, host, donor, sign in (("noising", "fine_tuned", "base", 1), ("denoising", "base", "fine_tuned", -1)):
        one, other = slow[host], slow[donor]
        for row, example in enumerate(examples):
            loss = one.loss(example)
            own, theirs = passes[host][row], passes[donor][row]
            for layer in range(layers):
                for head in range(heads):
                    value = (
                        own["attention", layer]
                        - one.written(own["z", layer], layer, head)
                        + other.written(theirs["z", layer], layer, head)
                    )
                    effect = sign * (one.with_output(example, "attention", layer, value) - loss)
                    found = arrays[f"patching/{direction}/heads"][row, layer, head]
                    assert found == pytest.approx(effect, abs=5e-5)
                for site, depth in (("attention", layer), ("mlp", layer), ("residual", layer + 1)):
                    effect = sign * (one.with_output(example, site, depth, theirs[site, depth]) - loss)
                    assert arrays[f"patching/{direction}/{site}"][row, depth] == pytest.approx(effect, abs=5e-5)


def test_weight_patching_equals_a_model_with_those_weights():
    base = tiny_model("gpt2")
    fine_tuned = changed(base, scale=0.1)
    examples = tiny_examples()
    arrays = effects.measure(base, fine_tuned, examples, exact=True)
    kept = Slow(fine_tuned)
    loss = np.array([kept.loss(example) for example in examples])

    def effect(restore):
        model = copy.deepcopy(fine_tuned)
        with torch.no_grad():
            restore(model.transformer, base.transformer)
        slow = Slow(model)
        return np.array([slow.loss(example) for example in examples]) - loss

    def head(ours, theirs):  # head 2 of layer 0: columns 16..23 of each of Q, K, V; rows 16..23 of the projection
        for part in range(3):
            columns = slice(24 * part + 16, 24 * part + 24)
            ours.h[0].attn.c_attn.weight[:, columns] = theirs.h[0].attn.c_attn.weight[:, columns]
        ours.h[0].attn.c_proj.weight[16:24] = theirs.h[0].attn.c_proj.weight[16:24]

    def layer(ours, theirs):
        ours.h[1].load_state_dict(theirs.h[1].state_dict())

    def outside(ours, theirs):
        for name in ("wte", "wpe", "ln_f"):
            getattr(ours, name).load_state_dict(getattr(theirs, name).state_dict())

    np.testing.assert_allclose(arrays["weight_patching/heads"][:, 0, 2], effect(head), atol=5e-5)
    np.testing.assert_allclose(arrays["weight_patching/layers"][:, 1], effect(layer), atol=5e-5)
    np.testing.assert_allclose(arrays["weight_patching/outside"], effect(outside), atol=5e-5)


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_attribution_is_the_first_order_of_patching(kind):
    base = tiny_model(kind)
    near = changed(base, scale=1e-3)
    arrays = effects.measure(base, near, tiny_examples(), exact=True)
    for direction in ("noising", "denoising"):
        for site in ("heads", "attention", "mlp"):
            exact, estimate = (arrays[f"{test}/{direction}/{site}"] for test in ("patching", "attribution_patching"))
            assert np.abs(exact).max() > 1e-4
            np.testing.assert_allclose(estimate, exact, atol=0.03 * np.abs(exact).max(), rtol=0.05)


# ---------------------------------------------------------------------------------------------------- identities


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3", "gpt_neox"])
def test_replacing_nothing_changes_nothing_bit_for_bit(kind):
    model = tiny_model(kind)
    subject = Subject(model)
    (batch,) = batches(tiny_examples(), range(3), 1000, "cpu")
    with evaluating(model):
        recorded = subject.record(batch)
        loss = subject.loss(batch, recorded)
        again = subject.loss(batch, recorded, changed_from=0)
        assert torch.equal(loss, again)
        assert torch.equal(loss, subject.whole_loss(batch))
        same = [
            Edit("head", layer, subject.contribution(recorded.heads[layer], layer, head), head)
            for layer in range(subject.found.layers)
            for head in range(subject.found.heads)
        ]
        assert torch.equal(loss, subject.loss(batch, recorded, same))
        for site in ("attention", "mlp", "residual"):
            values = getattr(recorded, site)
            assert torch.equal(loss, subject.loss(batch, recorded, [Edit(site, i, v) for i, v in values.items()]))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_patching_everything_gives_exactly_the_other_model(kind):
    base = tiny_model(kind)
    fine_tuned = changed(base, scale=0.1)
    for ours, theirs in zip(_outside(fine_tuned), _outside(base), strict=True):
        ours.copy_(theirs)  # one final norm, one unembedding: then the last residual stream is everything
    subjects = [Subject(base), Subject(fine_tuned)]
    (batch,) = batches(tiny_examples(), range(3), 1000, "cpu")
    with evaluating(base, fine_tuned):
        own, other = (subject.record(batch) for subject in subjects)
        wanted = subjects[1].whole_loss(batch)
        assert not torch.allclose(subjects[0].whole_loss(batch), wanted)
        for depth in (own.residual.keys(), [2]):
            edits = [Edit("residual", layer, other.residual[layer]) for layer in depth]
            assert torch.equal(subjects[0].loss(batch, own, edits), wanted)
        parts = [Edit(site, i, getattr(other, site)[i]) for site in ("attention", "mlp") for i in range(2)]
        assert torch.allclose(subjects[0].loss(batch, own, parts), wanted, atol=1e-5)
        # All weights put back give base's loss, and fine-tuned is itself again afterwards.
        with editing.restored(list(fine_tuned.parameters()), list(base.parameters())):
            assert torch.equal(subjects[1].whole_loss(batch), subjects[0].whole_loss(batch))
        assert torch.equal(subjects[1].whole_loss(batch), wanted)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("turned", [False, True])
def test_every_part_from_the_other_model_and_the_rest_of_its_weights_is_the_other_model(kind, turned):
    """Embeddings, attention, MLPs and what lies outside the blocks: the other model's loss, bit for bit. By heads the
    sums are in another order: equal to float64's rounding. Three lengths in a batch."""
    models = [tiny_model(kind).double(), changed(tiny_model(kind), scale=0.1).double()]
    host, donor = reversed(models) if turned else models
    (batch,) = batches(tiny_examples(), range(3), 1000, "cpu")
    ours, theirs = Subject(host), Subject(donor)
    with evaluating(host, donor):
        own, other, wanted = ours.record(batch), theirs.record(batch), theirs.whole_loss(batch)
        assert not torch.allclose(ours.whole_loss(batch), wanted)
        layers, heads = range(ours.found.layers), range(ours.found.heads)
        rest = [Edit("residual", 0, other.residual[0]), *(Edit("mlp", i, other.mlp[i]) for i in layers)]
        attention = [Edit("attention", i, other.attention[i]) for i in layers]
        by_head = [Edit("head", i, theirs.contribution(other.heads[i], i, h), h) for i in layers for h in heads]
        biases = [m.bias for s in (ours, theirs) for m in (block.output for block in s.found.blocks)]
        with editing.restored(_outside(host), _outside(donor)):
            assert torch.equal(ours.loss(batch, own, rest + attention, changed_from=0), wanted)
            half = len(biases) // 2
            with editing.restored(*([b for b in p if b is not None] for p in (biases[:half], biases[half:]))):
                loss = ours.loss(batch, own, rest + by_head, changed_from=0)
                torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-7)
                missing = ours.loss(batch, own, rest + by_head[:-1], changed_from=0)
        assert (missing - wanted).abs().max() > 1e-5
        with editing.restored(list(host.parameters()), list(donor.parameters())):
            assert torch.equal(ours.whole_loss(batch), wanted)


@pytest.mark.parametrize("turned", [False, True])
def test_the_whole_gain_is_in_what_the_last_layer_leaves(turned):
    """Models that share what lies outside the blocks: the last residual stream carries all, to the last bit."""
    base, fine_tuned = tiny_model("gpt2"), changed(tiny_model("gpt2"), scale=0.1)
    with torch.no_grad():
        for ours, theirs in zip(_outside(fine_tuned), _outside(base), strict=True):
            ours.copy_(theirs)
    pair = (fine_tuned, base) if turned else (base, fine_tuned)
    arrays = effects.measure(*pair, tiny_examples(), exact=True)
    gain = arrays["loss/base"] - arrays["loss/fine_tuned"]
    assert (gain != 0).all()
    for direction in ("noising", "denoising"):
        np.testing.assert_array_equal(arrays[f"patching/{direction}/residual"][:, -1], gain)
        assert not arrays[f"patching/{direction}/residual"][:, 0].any()  # equal embeddings: nothing is replaced


def _outside(model):
    found = architecture(model)
    return [parameter for name, parameter in model.named_parameters() if found.layer_of(name) is None]


def test_batches_and_padding_change_no_number_and_the_models_stay_as_they_were(monkeypatch):
    base = tiny_model("gpt2")
    fine_tuned = changed(base, scale=0.1)
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in (base, fine_tuned)]
    together = effects.measure(base, fine_tuned, tiny_examples(), exact=True)
    one_by_one = lambda subject, examples, indices: batches(examples, indices, 1, subject.device)  # noqa: E731
    monkeypatch.setattr(effects, "chunks", one_by_one)
    alone = effects.measure(base, fine_tuned, tiny_examples(), exact=True)
    assert together.keys() == alone.keys()
    for name, values in together.items():
        assert np.isfinite(values).all(), name
        np.testing.assert_allclose(values, alone[name], atol=2e-5, err_msg=name)
    for model, state in zip((base, fine_tuned), before, strict=True):
        assert model.training
        for module in model.modules():
            assert not module._forward_hooks and not module._forward_pre_hooks and "forward" not in vars(module)
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name]), name


def test_neurons_are_those_of_the_summary_positions_of_each_article():
    model = tiny_model("gpt2")
    arrays = effects.measure(model, model, tiny_examples(), exact=False)
    slow = Slow(model)
    for row, example in enumerate(tiny_examples()):
        kept = {}
        hook = (slow.found.blocks[1].down, "pre_hook", lambda module, args, kept=kept: kept.update(x=args[0][0]))
        slow._run(example, [hook])
        own = kept["x"][list(example.queries)].double().numpy()
        wanted = {"": own.mean(0), "/max": own.max(0), "/std": own.std(0), "/positive_share": (own > 0).mean(0)}
        for name, values in wanted.items():
            np.testing.assert_allclose(arrays[f"neurons/base{name}"][row, 1], values, atol=1e-5)


# ------------------------------------------------------------------------------------------------ planted truths


@pytest.fixture(scope="module")
def planted():
    """(base, fine-tuned, examples): only head 2 of the last layer was trained, on what the summaries say."""
    torch.manual_seed(0)
    shape = GPT2Config(n_layer=2, n_head=4, n_embd=32, vocab_size=VOCABULARY, n_positions=32)
    base = GPT2LMHeadModel(shape).eval()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    fine_tuned = copy.deepcopy(base)
    examples = many_examples(16)
    subject = Subject(fine_tuned)
    weights = subject.found.heads_of(1)
    own = {part: weights[part][2].detach().clone().requires_grad_() for part in "vo"}
    attention = fine_tuned.transformer.h[1].attn
    optimiser = torch.optim.Adam(own.values(), lr=0.05)
    (batch,) = batches(examples, range(16), 10_000, "cpu")
    start = {name: parameter.detach().clone() for name, parameter in attention.named_parameters()}
    rows = slice(16, 24)  # head 2 of 4, width 8
    for _ in range(60):
        fused, out = start["c_attn.weight"].clone(), start["c_proj.weight"].clone()
        fused[:, 64 + 16 : 64 + 24], out[rows] = own["v"].T, own["o"]
        both = {"transformer.h.1.attn.c_attn.weight": fused, "transformer.h.1.attn.c_proj.weight": out}
        logits = torch.func.functional_call(fine_tuned, both, kwargs={"input_ids": batch.ids}).logits
        losses = [
            torch.nn.functional.cross_entropy(one[list(q)], ids[q.start + 1 : q.stop + 1])
            for one, ids, q in zip(logits, batch.ids, batch.rows(), strict=True)
        ]
        optimiser.zero_grad()
        torch.stack(losses).mean().backward()
        optimiser.step()
    with torch.no_grad():
        weights["v"][2], weights["o"][2] = own["v"], own["o"]
    return base, fine_tuned, examples


def test_ablation_patching_and_circuit_name_the_planted_head(planted):
    base, fine_tuned, examples = planted
    assert architecture(fine_tuned).heads_of(1)["v"][2].ne(architecture(base).heads_of(1)["v"][2]).all()
    info, arrays = causal_tests.analyze(base, fine_tuned, examples, resamples=200)
    assert info["loss"]["gain"]["low"] > 0.1
    others = np.ones((2, 4), dtype=bool)
    others[1, 2] = False
    for table in (
        info["patching"]["noising"]["heads"],
        info["patching"]["denoising"]["heads"],
        info["weight_patching"]["heads"],
    ):
        assert table["share"][1, 2] == pytest.approx(1, abs=1e-4)
        assert table["flag"][1, 2]
        np.testing.assert_allclose(table["share"][others], 0, atol=1e-4)
        assert not table["flag"][others].any()
    difference = info["ablation"]["mean"]["difference"]["heads"]
    assert np.unravel_index(np.argmax(difference["mean"]), (2, 4)) == (1, 2)
    assert difference["low"][1, 2] > 0 and difference["flag"][1, 2]
    for direction in ("noising", "denoising"):
        estimate = arrays[f"attribution_patching/{direction}/heads"].mean(axis=0)
        assert np.abs(estimate).argmax() == 6 and estimate[1, 2] > 0
    circuit = info["circuit"]
    assert circuit["heads"] == [(1, 2)] and circuit["of"] == 8
    assert circuit["greedy"]["share"] == pytest.approx(1, abs=1e-4)
    shares = np.array(circuit["random"]["shares"])
    assert ((np.abs(shares) < 1e-4) | (np.abs(shares - 1) < 1e-4)).all() and (shares < 0.5).any()
    assert circuit["by_metric"]["attribution_patching"]["in_common"] == 1
    assert circuit["target_of"] == "gain" and circuit["all_heads"]["share"] == pytest.approx(1, abs=1e-4)
    as_good = sum(share >= circuit["greedy"]["share"] for share in shares)
    assert circuit["random"]["p_value"] == (as_good + 1) / (len(shares) + 1) and len(shares) >= 50


def test_a_model_that_learned_nothing_shows_nothing(planted):
    base, _, examples = planted
    info, arrays = causal_tests.analyze(base, copy.deepcopy(base), examples, resamples=200)
    assert "no gain to share" in info["left_out"]["patching"] and "patching" not in info and "circuit" not in info
    assert not arrays["patching/noising/heads"].any()
    difference = info["ablation"]["mean"]["difference"]["heads"]
    assert not difference["mean"].any() and not difference["flag"].any()
    assert info["noise_floor"]["neurons"]["flagged"] == 0
    assert any("no" in line or "0.000" in line for line in causal_tests.headlines(info))


def test_what_moved_is_ranked_against_what_matters(planted):
    base, fine_tuned, examples = planted
    random = np.random.default_rng(0)
    kl = random.uniform(0, 0.01, (16, 2, 4))
    kl[:, 1, 2] += 1
    first = {"loss/summary": np.ones(16), "attention/normalized_entropy/summary": random.random((16, 2, 4))}
    weight = {f"weights_by_head/{part}/absolute": np.arange(8.0).reshape(2, 4) for part in "qkvo"}
    moved = np.array(first["attention/normalized_entropy/summary"])
    moved[:, 0, 1] -= 0.3
    last = {**first, "attention/kl/summary": kl, "attention/normalized_entropy/summary": moved, **weight}
    info, _ = causal_tests.analyze(base, fine_tuned, examples, (first, last), resamples=200)
    found = info["moved_and_matters"]
    assert np.unravel_index(found["moved"]["kl"].argmax(), (2, 4)) == (1, 2)
    assert found["moved"]["entropy_change"][0, 1] == pytest.approx(0.3)  # a fall counts as much as a rise
    np.testing.assert_allclose(found["moved"]["weight_change"], 2 * np.arange(8.0).reshape(2, 4))
    assert {(row["moved"], row["matters"]) for row in found["correlations"]} == {
        (moved, matters)
        for moved in ("kl", "entropy_change", "weight_change")
        for matters in ("ablation", "noising", "denoising", "weight_patching")
    }
    for row in found["correlations"]:
        assert row["low"] <= row["high"] and 0 < row["p_value"] <= 1
    assert info["circuit"]["by_metric"]["kl"]["in_common"] == 1
    assert info["circuit"]["by_metric"]["weight_change"]["in_common"] == 0
    assert info["noise_floor"]["heads"]["normalized_entropy"]["flag"].tolist() == [
        [False, True, *[False] * 2],
        [False] * 4,
    ]


# ------------------------------------------------------------------------------------------- circuit, cost, refusals


def test_greedy_search_takes_what_a_hand_made_table_says():
    """Heads a, b are redundant, c adds: the best single one first, then what is new, not what is next in the list."""
    a, b, c, d = (0, 0), (0, 1), (1, 0), (1, 1)

    class Search:
        def recovered(self, heads):
            worth = (0.5 if {a, b} & set(heads) else 0) + 0.4 * (c in heads) + 0.1 * (d in heads)
            return np.array([worth, worth])

    known = {head: Search().recovered([head]).mean() for head in (a, b, c, d)}
    chosen, curve = _greedy(Search(), known, 0.8)
    assert chosen in ([a, c], [b, c])
    np.testing.assert_allclose(curve, [0.5, 0.9])


@pytest.mark.parametrize("seed", range(6))
def test_greedy_search_chooses_as_one_that_measures_every_head_at_every_step(seed):
    """Each head covers some of 40 weighted things: diminishing returns, with more redundant heads than LOOKS."""
    random = np.random.default_rng(seed)
    heads = [(0, index) for index in range(14)]
    weights = random.uniform(0.2, 1, 40)
    covers = {head: random.random(40) < 0.2 for head in heads}
    for head in heads[:7]:  # the best alone, and each of them the same
        covers[head] = np.arange(40) < 15

    class Search:
        def recovered(self, members):
            return np.array([weights[np.any([covers[head] for head in members], axis=0)].sum()])

    def slow(goal):
        chosen, reached = [], 0.0
        while reached < goal:
            value = {head: Search().recovered([*chosen, head])[0] for head in heads if head not in chosen}
            chosen.append(max(value, key=value.get))
            reached = value[chosen[-1]]
        return chosen

    known = {head: Search().recovered([head])[0] for head in heads}
    goal = 0.8 * Search().recovered(heads)[0]
    chosen, curve = _greedy(Search(), dict(known), goal)
    assert chosen == slow(goal) and len(chosen) >= 3
    np.testing.assert_allclose(curve[-1], Search().recovered(chosen)[0])
    assert curve[-1] >= goal > curve[-2]


def test_where_heads_alone_cannot_reach_the_goal_the_circuit_says_so(planted):
    """The planted head is all that differs; with a gain twice as large as it was, heads recover half of it."""
    base, fine_tuned, examples = planted
    arrays = effects.measure(base, fine_tuned, examples, exact=True)
    gain, single = 2 * (arrays["loss/base"] - arrays["loss/fine_tuned"]), arrays["patching/denoising/heads"]
    circuit = find(base, fine_tuned, examples, gain, single, {}, seed=0, resamples=100)
    assert circuit["target_of"] == "all_heads" and "for those recover less of the gain" in circuit["definition"]
    assert circuit["heads"] == [(1, 2)]
    for recovered in (circuit["all_heads"], circuit["greedy"]):
        assert recovered["share"] == pytest.approx(0.5, abs=1e-4)
    assert circuit["curve"] == pytest.approx([0.5], abs=1e-4)


def test_fast_tests_leave_out_what_takes_long(planted):
    base, fine_tuned, examples = planted
    info, arrays = causal_tests.analyze(base, fine_tuned, examples, exact=False, resamples=100)
    assert set(info["left_out"]) >= {"ablation", "patching", "weight_patching", "circuit"}
    assert info["attribution_patching"]["noising"]["heads"]["share"].argmax() == 6
    assert not any(name.startswith(("ablation", "patching")) for name in arrays)


def test_the_estimate_of_the_time_grows_with_what_there_is_to_do(planted):
    base, _, examples = planted
    assert causal_tests.seconds(base, examples * 2) == pytest.approx(2 * causal_tests.seconds(base, examples))


def test_models_of_two_shapes_are_refused_in_one_line(tmp_path):
    for name, layers in (("one", 1), ("two", 2)):
        shape = GPT2Config(n_layer=layers, n_head=2, n_embd=8, vocab_size=VOCABULARY, n_positions=16)
        GPT2LMHeadModel(shape).save_pretrained(tmp_path / name)
    with pytest.raises(UserError, match="models of one shape.*: layers is 1 in .*one and 2 in .*two"):
        causal_tests.load_pair(str(tmp_path / "one"), str(tmp_path / "two"))
    one, again = causal_tests.load_pair(str(tmp_path / "one"), str(tmp_path / "one"))
    plain = GPT2LMHeadModel.from_pretrained(tmp_path / "one")
    ids = torch.arange(8)[None]
    assert torch.allclose(one(ids).logits, plain.eval()(ids).logits, atol=1e-6)  # the fused activation is the same


def test_no_articles_and_broken_models_are_refused():
    model = tiny_model("gpt2")
    with pytest.raises(UserError, match="probe set is empty"):
        causal_tests.analyze(model, model, [])
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.transformer.ln_f.bias[0] = torch.inf
    with pytest.raises(UserError, match="not finite"):
        causal_tests.analyze(model, broken, tiny_examples(), exact=False)


def test_two_models_on_disk_with_the_captures_of_their_run(planted, tmp_path, monkeypatch):
    base, fine_tuned, examples = planted
    run = Run(tmp_path)
    base.save_pretrained(tmp_path / "base")
    fine_tuned.save_pretrained(run.model_outputs)
    assert material.captured_ends(run) is None
    for step in (0, 5, 9):
        run.write_step(step, {}, {"loss/summary": np.ones(16), "attention/kl/summary": np.full((16, 2, 4), step)})
    captured = material.captured_ends(run)
    assert captured[1]["attention/kl/summary"].min() == 9
    names = str(tmp_path / "base"), str(run.model_outputs)
    info, _ = causal_tests.test_pair(*names, examples, run)
    assert (info["base"], info["fine_tuned"]) == names and info["exact"]
    monkeypatch.setattr(causal_tests, "MOST_SECONDS", 0)
    info, _ = causal_tests.test_pair(*names, examples, run)
    assert not info["exact"] and "--causal exact" in info["left_out"]["circuit"]
    run.write_json("causal.json", info)
    assert run.read_json("causal.json")["loss"]["gain"]["low"] > 0
    assert causal_tests.test_pair(*names, examples, run, "exact")[0]["exact"]


def test_few_or_foreign_probe_articles_leave_out_what_they_cannot_carry(planted):
    base, fine_tuned, examples = planted
    captured = ({"loss/summary": np.ones(16)}, {"loss/summary": np.ones(16)})
    info, _ = causal_tests.analyze(base, fine_tuned, examples[:3], captured, resamples=100)
    assert "not of these probe articles" in info["left_out"]["captures"]
    assert "at least 4" in info["left_out"]["circuit"] and "at least 4" in info["left_out"]["noise_floor"]
