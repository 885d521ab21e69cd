"""Attention statistics from queries and keys: against slow float64 loops, at their bounds, and at extreme scores."""

import math

import numpy as np
import pytest
import torch
from attention_oracle import statistics
from hypothesis import given, settings
from hypothesis import strategies as st

from summlens.data.tokens import Example
from summlens.metrics.attention import Projected, Tokens, attention_statistics, row_statistics
from summlens.names import HEAD_METRICS, attention_forms

TWO = attention_forms(divergences=True)
ATTENTION = {metric.key: metric for metric in HEAD_METRICS if metric.of_attention}


def random_model(seed, heads=3, key_heads=3, length=17, width=4, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    query = scale * torch.randn(heads, length, width, generator=generator)
    return Projected(query, torch.randn(key_heads, length, width, generator=generator), 0.7)


def random_tokens(seed, length=17, prompt=11):
    ids = torch.randint(0, 6, (length,), generator=torch.Generator().manual_seed(seed))
    return Tokens(ids, article_start=0, article_stop=prompt - 2, prompt_length=prompt)


def probabilities(model):
    """(H, T, T) float64 causal attention maps, the slow way."""
    query, key, scaling = model.query.double(), model.key.double(), model.scaling
    key = key.repeat_interleave(len(query) // len(key), dim=0)
    scores = torch.einsum("htd,hsd->hts", query, key) * scaling
    causal = torch.ones(scores.shape[-2:]).tril().bool()
    return scores.masked_fill(~causal, -torch.inf).softmax(-1)


def expected_means(model, tokens, queries, base=None):
    example = Example("x", tuple(tokens.ids.tolist()), tokens.prompt_length, tokens.article_start, tokens.article_stop)
    maps, base_maps = probabilities(model), None if base is None else probabilities(base)
    return [
        statistics(maps[h].tolist(), example, queries, None if base is None else base_maps[h].tolist())
        for h in range(len(maps))
    ]


def batched(*models):
    return Projected(torch.stack([m.query for m in models]), torch.stack([m.key for m in models]), models[0].scaling)


@given(
    seed=st.integers(0, 10**6),
    length=st.integers(2, 40),
    scale=st.sampled_from([0.0, 0.1, 1.0, 8.0]),
    grouped=st.booleans(),
    block=st.sampled_from([1, 200, 10**6]),
    data=st.data(),
)
@settings(max_examples=25, deadline=None)
def test_every_metric_is_the_slow_loops(seed, length, scale, grouped, block, data):
    prompt = data.draw(st.integers(1, length - 1))
    start = data.draw(st.integers(0, prompt - 1))
    stop = data.draw(st.integers(start, prompt))
    ids = torch.randint(0, 6, (length,), generator=torch.Generator().manual_seed(seed))
    tokens = Tokens(ids, start, stop, prompt)
    heads, key_heads = (6, 2) if grouped else (3, 3)
    model = random_model(seed, heads, key_heads, length, scale=scale)
    base = random_model(seed + 1, heads, key_heads, length, scale=scale)
    got = attention_statistics(batched(model), [tokens], batched(base), block_elements=block)
    for where in ("summary", "all"):
        queries = tokens.queries(where)
        wanted = expected_means(model, tokens, range(queries.start, queries.stop), base)
        for head, name in ((h, n) for h in range(heads) for n in TWO):
            value = got[f"{name}/{where}"][0, head].item()
            expected = wanted[head].get(name, math.nan)
            assert value == pytest.approx(expected, rel=1e-4, abs=3e-5, nan_ok=True), (name, where, head)


@pytest.mark.parametrize("block", [1, 200, 10**6])
def test_summary_positions_alone_have_the_numbers_that_they_have_beside_all(block):
    models = [[random_model(seed, 6, 2, 40) for seed in seeds] for seeds in ((1, 2), (3, 4))]
    tokens = [random_tokens(1, 40, 31), random_tokens(2, 40, 5)]
    both, alone = (
        attention_statistics(batched(*models[0]), tokens, batched(*models[1]), positions=where, block_elements=block)
        for where in (("summary", "all"), ("summary",))
    )
    assert set(alone) == {key for key in both if key.endswith("/summary")}
    for key, values in alone.items():
        torch.testing.assert_close(values, both[key], rtol=1e-5, atol=1e-6, equal_nan=True, msg=key)


def test_blocks_of_many_rows_and_of_few_give_the_same():
    """More than one block, whose edges fall anywhere; the row averages are compared with one block of everything."""
    length = 150
    tokens, model, base = random_tokens(0, length, 120), random_model(1, length=length), random_model(2, length=length)
    whole = row_statistics(model, tokens, base, block_elements=10**9)
    for block in (1, 3 * 40 * 20, 3 * 150 * 30):
        parts = row_statistics(model, tokens, base, block_elements=block)
        for name in TWO:
            torch.testing.assert_close(parts[name], whole[name], rtol=1e-5, atol=2e-6, equal_nan=True, msg=name)


@pytest.mark.parametrize("recording", [torch.enable_grad, torch.inference_mode])
def test_threads_change_no_number_and_are_as_many_as_before(recording):
    """Also within a context that is a thread's own, and where a block fails."""
    length = 150
    tokens, model = random_tokens(0, length, 120), random_model(1, 6, 2, length)
    base = random_model(2, 6, 2, length)
    alone = row_statistics(model, tokens, base, block_elements=3 * 150 * 30)
    torch.set_num_threads(3)
    try:
        with recording():
            shared = row_statistics(model, tokens, base, block_elements=3 * 150 * 30)
        with pytest.raises(TypeError):
            row_statistics(model._replace(scaling=None), tokens)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    for name in TWO:
        torch.testing.assert_close(shared[name], alone[name], rtol=0, atol=0, equal_nan=True, msg=name)


def test_padding_is_never_read():
    """Garbage (even NaN) at padded positions on either side changes nothing at all."""
    tokens = [random_tokens(0, 17, 11), random_tokens(1, 9, 6)]
    models = [random_model(3), random_model(4, length=9)]
    alone = [attention_statistics(batched(m), [t]) for m, t in zip(models, tokens, strict=True)]
    for side in ("left", "right"):
        query, key = torch.full((2, 2, 3, 20, 4), torch.nan)
        placed = []
        for b, (m, t) in enumerate(zip(models, tokens, strict=True)):
            placed.append(
                Tokens(
                    t.ids, t.article_start, t.article_stop, t.prompt_length, 20 - len(t.ids) if side == "left" else 0
                )
            )
            query[b, :, placed[b].real], key[b, :, placed[b].real] = m.query, m.key
        padded = attention_statistics(Projected(query, key, 0.7), placed)
        for name, values in padded.items():
            for b in range(2):
                torch.testing.assert_close(values[b], alone[b][name][0], rtol=1e-6, atol=1e-7, equal_nan=True, msg=name)


def test_uniform_attention():
    """Zero queries: entropy log2(t + 1), Gini 0, and shares that are counts."""
    tokens = random_tokens(0)
    uniform = Projected(torch.zeros(2, 17, 4), torch.randn(2, 17, 4), 1.0)
    rows = {name: values[0].numpy() for name, values in row_statistics(uniform, tokens, uniform).items()}
    t = np.arange(17)
    np.testing.assert_allclose(rows["entropy"], np.log2(t + 1), atol=1e-6)
    np.testing.assert_allclose(rows["entropy_no_sink"][1:], np.log2(t[1:]), atol=1e-6)
    np.testing.assert_allclose(rows["normalized_entropy"][1:], 1, atol=1e-6)
    np.testing.assert_allclose(rows["normalized_entropy_no_sink"][2:], 1, atol=1e-6)
    assert np.isnan(rows["normalized_entropy"][0]) and np.isnan(rows["normalized_entropy_no_sink"][:2]).all()
    np.testing.assert_allclose(rows["sparsity"], 0, atol=1e-6)
    np.testing.assert_allclose(rows["sparsity_no_sink"][1:], 0, atol=1e-6)
    np.testing.assert_allclose(rows["first_token_share"], 1 / (t + 1), rtol=1e-6)
    np.testing.assert_allclose(rows["previous_token_share"][1:], 1 / (t[1:] + 1), rtol=1e-6)
    np.testing.assert_allclose(rows["distance"], t / 2, rtol=1e-5)
    np.testing.assert_allclose(rows["article_share"][11:], 9 / (t[11:] + 1), rtol=1e-5)
    np.testing.assert_allclose(rows["summary_share"][11:], (t[11:] - 10) / (t[11:] + 1), rtol=1e-5)
    assert rows["summary_share"][:11].max() == 0


def test_a_head_that_sees_one_key():
    """All mass on the previous token: entropy 0, Gini n-1 over n, distance 1."""
    length = 12
    key = torch.eye(length)[None]
    query = 200 * torch.cat([key[:, :1], key[:, :-1]], dim=1)  # row t points at key t - 1
    rows = row_statistics(Projected(query, key, 1.0), random_tokens(0, length, 8))
    t = torch.arange(length)
    torch.testing.assert_close(rows["previous_token_share"][0, 1:], torch.ones(length - 1))
    torch.testing.assert_close(rows["distance"][0, 1:], torch.ones(length - 1))
    torch.testing.assert_close(rows["sparsity"][0], t / (t + 1))
    assert rows["entropy"].max() < 1e-6


def sink_head(strength, length=10):
    """Scores of `strength` on the first token and 0, 0.1, 0.2 ... on the others, at every query."""
    key = torch.zeros(1, length, 2)
    key[0, :, 0] = torch.arange(length) / 10
    key[0, 0] = torch.tensor([0.0, strength])
    return Projected(torch.ones(1, length, 2), key, 1.0)


@pytest.mark.parametrize("strength", [5.0, 30.0, 200.0, 5000.0])
def test_a_full_sink_hides_nothing(strength):
    """Where the sink holds all but e^-200 of the mass, the sink-free row is still exact."""
    rows = row_statistics(sink_head(strength), random_tokens(0, 10, 6), sink_head(strength + 3))
    plain = row_statistics(sink_head(0.0), random_tokens(0, 10, 6), sink_head(3.0))
    for name in TWO:
        assert rows[name].isfinite().sum() == plain[name].isfinite().sum(), name
        if name.endswith("_no_sink"):
            torch.testing.assert_close(rows[name], plain[name], rtol=1e-5, atol=1e-6, equal_nan=True, msg=name)
    rest = 1 / (1 + math.exp(min(strength, 700)) / sum(math.exp(j / 10) for j in range(1, 10)))
    assert 1 - rows["first_token_share"][0, -1].item() == pytest.approx(rest, rel=1e-3, abs=1e-7)


def test_kl_is_exact_where_base_probability_underflows():
    """Base scores 300 nats apart: its probabilities underflow, its logarithms do not."""
    fine = Projected(torch.zeros(1, 4, 1), torch.zeros(1, 4, 1), 1.0)
    base = Projected(torch.ones(1, 4, 1), torch.tensor([[[0.0], [-300.0], [-300.0], [0.0]]]), 1.0)
    rows = row_statistics(fine, random_tokens(0, 4, 2), base)
    # uniform quarters against (1/2, 0, 0, 1/2): mean log2 ratio = log2(1/4) - mean log2 q
    expected = -2 - (2 * -1 + 2 * (-1 - 300 / math.log(2))) / 4
    assert rows["kl"][0, 3].item() == pytest.approx(expected, rel=1e-6)
    assert rows["kl_no_sink"][0, 2].item() == pytest.approx(0, abs=1e-6)  # keys 1 and 2 alone: uniform in both
    # their mixture is (3/8, 1/8, 1/8, 3/8)
    js = ((math.log2(2 / 3) + math.log2(2)) / 2 + math.log2(4 / 3)) / 2
    assert rows["js"][0, 3].item() == pytest.approx(js, rel=1e-5)


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.3, 2.0, 30.0]))
@settings(max_examples=15, deadline=None)
def test_divergences(seed, scale):
    tokens, a, b = random_tokens(seed), random_model(seed, scale=scale), random_model(seed + 1, scale=scale)
    same, one, other = row_statistics(a, tokens, a), row_statistics(a, tokens, b), row_statistics(b, tokens, a)
    for form in ("", "_no_sink"):
        rows = slice(1, None) if form else slice(None)
        for name in ("kl", "js"):
            assert not same[name + form][:, rows].any()  # exactly 0, not nearly
        assert (one["kl" + form][:, rows] >= 0).all() and one["kl" + form][:, rows].max() > 0
        torch.testing.assert_close(one["js" + form], other["js" + form], rtol=1e-5, atol=1e-6, equal_nan=True)
        assert one["js" + form][:, rows].max() <= 1 + 1e-6


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.0, 1.0, 50.0]))
@settings(max_examples=15, deadline=None)
def test_bounds_and_head_order(seed, scale):
    tokens, model, base = random_tokens(seed), random_model(seed, scale=scale), random_model(seed + 1)
    rows = row_statistics(model, tokens, base)
    t = torch.arange(17)
    for name, values in rows.items():
        values = values.nan_to_num(0)
        assert (values >= 0).all(), name
        unit = ATTENTION[name.removesuffix("_no_sink")].unit
        if unit in ("share", "0 to 1") or name.startswith("js"):
            assert (values <= 1 + 1e-5).all(), name
        elif name.startswith("entropy"):
            assert (values <= torch.log2(t + 1) + 1e-5).all(), name
        elif unit == "tokens":
            assert (values <= t + 1e-4).all(), name
    order = torch.tensor([2, 0, 1])
    shuffled = row_statistics(
        Projected(model.query[order], model.key[order], 0.7), tokens, Projected(base.query[order], base.key[order], 0.7)
    )
    for name, values in rows.items():
        torch.testing.assert_close(shuffled[name], values[order], rtol=1e-5, atol=1e-6, equal_nan=True, msg=name)


def test_sink_free_is_dropping_the_first_position_by_hand():
    """A sink-free row of T tokens is the whole row of the T - 1 tokens that remain."""
    tokens, model, base = random_tokens(0), random_model(0), random_model(1)
    rest = Tokens(tokens.ids[1:], 0, tokens.article_stop - 1, tokens.prompt_length - 1)
    rows = row_statistics(model, tokens, base)
    dropped = row_statistics(
        Projected(model.query[:, 1:], model.key[:, 1:], 0.7), rest, Projected(base.query[:, 1:], base.key[:, 1:], 0.7)
    )
    for name, metric in ATTENTION.items():
        if metric.no_sink and name != "copy_score":  # its rows depend on whether the article has the target
            torch.testing.assert_close(
                rows[f"{name}_no_sink"][:, 1:], dropped[name], rtol=1e-5, atol=2e-6, equal_nan=True, msg=name
            )


def test_half_precision_inputs_are_computed_in_float32():
    tokens, model = random_tokens(0, 200, 150), random_model(0, length=200)
    half = Projected(model.query.bfloat16(), model.key.bfloat16(), 0.7)
    upcast = Projected(half.query.float(), half.key.float(), 0.7)
    for name, values in row_statistics(half, tokens).items():
        assert values.dtype == torch.float32
        torch.testing.assert_close(values, row_statistics(upcast, tokens)[name], equal_nan=True)


def test_copy_score_without_a_qualifying_query_is_missing_and_touches_nothing_else():
    ids = torch.arange(10)  # no token occurs twice
    got = attention_statistics(batched(random_model(0, length=10)), [Tokens(ids, 0, 6, 7)])
    missing = {name for name, values in got.items() if values.isnan().any()}
    assert missing == {f"copy_score{form}/{where}" for form in ("", "_no_sink") for where in ("summary", "all")}
