"""Information flow against its definitions, written out as float64 loops, and against the model's own outputs."""

import numpy as np
import pytest
import torch
from tiny import BUILDERS, changed, tiny_examples, tiny_model

from summlens.analysis import attention_maps
from summlens.analysis.material import Material
from summlens.artifacts import Run
from summlens.core.errors import UserError
from summlens.metrics import flow
from summlens.model.architecture import architecture
from summlens.model.observing import evaluating, observed_sites


def random_attention(heads, tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    query, key = (torch.randn(heads, tokens, 4, generator=generator) for _ in range(2))
    return flow.attention_rows(query, key, 0.7)


def test_rows_are_causal_softmaxes_with_grouped_keys():
    generator = torch.Generator().manual_seed(1)
    query, key = torch.randn(6, 7, 4, generator=generator), torch.randn(2, 7, 4, generator=generator)
    rows = flow.attention_rows(query, key, 0.3)
    for h in range(6):
        for t in range(7):
            scores = np.array([0.3 * float(query[h, t].double() @ key[h // 3, j].double()) for j in range(t + 1)])
            expected = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
            assert rows[h, t, : t + 1].numpy() == pytest.approx(expected, rel=1e-5)
            assert (rows[h, t, t + 1 :] == 0).all()


def test_value_weights_are_the_lengths_of_the_moved_vectors():
    generator = torch.Generator().manual_seed(2)
    attention = random_attention(4, 6)
    value, output = torch.randn(2, 6, 3, generator=generator), torch.randn(4, 3, 5, generator=generator)
    weights = flow.value_weighted(attention, value, output)
    for i in range(6):
        lengths = []
        for j in range(6):
            moved = sum(
                attention[h, i, j].double() * (value[h // 2, j].double() @ output[h].double()) for h in range(4)
            )
            lengths.append(float(moved.norm()))
        assert weights[i].numpy() == pytest.approx(np.array(lengths) / sum(lengths), rel=1e-4, abs=1e-7)


def test_value_weights_of_values_that_are_zero_are_the_attention():
    attention = random_attention(2, 3)
    weights = flow.value_weighted(attention, torch.zeros(2, 3, 4), torch.ones(2, 4, 5))
    assert torch.equal(weights, attention.mean(0))


@pytest.mark.parametrize("kind", BUILDERS)
def test_what_the_heads_move_adds_up_to_the_models_own_attention_output(kind, monkeypatch):
    """Rows, values with their biases and output slices of every layer are the model's own."""
    model, example = tiny_model(kind), tiny_examples()[1]
    found, own = architecture(model), {}
    seen = []
    original = flow.value_weighted

    def spy(attention, value, output):
        seen.append((attention, value, output))
        return original(attention, value, output)

    monkeypatch.setattr(flow, "value_weighted", spy)
    attention_maps.read(model, example, [(0, 0)])
    with (
        torch.no_grad(),
        evaluating(model),
        observed_sites(found, lambda site, layer, values: own.setdefault((site, layer), values[0])),
    ):
        model(input_ids=torch.tensor([example.input_ids]), use_cache=False)
    for layer, (attention, value, output) in enumerate(seen):
        value = value.repeat_interleave(found.heads // found.key_heads, dim=0)
        moved = torch.einsum("hij,hjd,hdo->io", attention, value, output)
        bias = getattr(found.blocks[layer].output, "bias", None)
        expected = own["attention_output", layer] - (0 if bias is None else bias)
        torch.testing.assert_close(moved, expected, rtol=2e-4, atol=2e-5)
    assert len(seen) == found.layers and model.training


def test_flow_is_attention_rollout():
    layers = [flow.with_residual(random_attention(3, 8, seed).mean(0)) for seed in range(4)]
    sources, edges = flow.flow(layers, [7, 4], threshold=0.02, most=5)
    product = np.eye(8)
    for matrix in layers:
        product = matrix.double().numpy() @ product
    assert sources.numpy() == pytest.approx(product[[7, 4]], rel=1e-5, abs=1e-8)
    for q, query in enumerate([7, 4]):
        share = np.eye(8)[query]
        for layer in reversed(range(4)):
            weights = layers[layer].double().numpy()
            every = sorted(((share[i] * weights[i, j], j, i) for i in range(8) for j in range(8)), key=lambda e: -e[0])
            expected = [edge for edge in every if edge[0] >= 0.02][:5]
            below, above, weight = edges[q][layer]
            assert weight.numpy() == pytest.approx([edge[0] for edge in expected], rel=1e-5)
            assert list(zip(below.tolist(), above.tolist(), strict=True)) == [edge[1:] for edge in expected]
            assert sum(edge[0] for edge in every) == pytest.approx(1, rel=1e-5)
            share = share @ weights


# --- the maps of a run


def test_quantisation_keeps_its_promise():
    shares = np.concatenate([np.linspace(0, 1, 4001), np.geomspace(1e-9, 1, 2000)])
    wrong = np.abs(attention_maps.restore(attention_maps.quantise(shares)) - shares)
    assert (wrong <= np.sqrt(shares) / 255 + 4e-6).all()
    assert attention_maps.quantise(np.array([0.0, 1.0, -1e-9, 1 + 1e-7])).tolist() == [0, 255, 0, 255]


def test_heads_that_moved_and_copy_most_are_chosen_once_each():
    kl, copying = np.zeros((2, 4, 5)), np.full((2, 4, 5), 0.1)
    for rank, (layer, head) in enumerate([(3, 1), (0, 4), (2, 2)]):
        kl[:, layer, head] = [5 - rank, 3 - rank]
    copying[0, 2, 2], copying[1, 2, 2] = 0.9, np.nan  # an article whose summary copies nothing
    capture = {"attention/kl/summary": kl, "attention/copy_score/summary": copying}
    heads = attention_maps.choose_heads(capture, asked=[(1, 3), (3, 1)])
    named = {(head["layer"], head["head"]): head["reasons"] for head in heads}
    assert (
        list(named)[:3] == [(3, 1), (0, 4), (2, 2)] and len(named) == len(heads) == 9
    )  # 8 that moved, no other copies, 1
    assert named[2, 2] == ["moved most", "copies most"] and named[3, 1] == ["moved most", "asked for"]
    assert named[1, 3] == ["asked for"] and heads[0]["kl"] == 4.0 and heads[2]["copy_score"] == 0.9
    with pytest.raises(UserError, match="no head 4.0: the model has layers 0 to 3, heads 0 to 4"):
        attention_maps.choose_heads(capture, asked=[(4, 0)])
    with pytest.raises(UserError, match="make the run again"):
        attention_maps.choose_heads({})


def test_heads_are_written_layer_dot_head():
    assert attention_maps.parse_head("11.3") == (11, 3)
    for text in ("3", "3.x", "-1.2", "1.2.3"):
        with pytest.raises(UserError, match="LAYER.HEAD"):
            attention_maps.parse_head(text)


class Words:
    """A tokenizer that shows a word's leading space only behind another word, as SentencePiece does."""

    def decode(self, ids, clean_up_tokenization_spaces):
        return " ".join(f"w{token}" for token in ids)


def test_token_texts_keep_their_spaces():
    assert attention_maps.token_texts(Words(), [5, 7, 5]) == ["w5", " w7", " w5"]


def test_maps_hold_the_rows_and_the_flow_of_both_models(tmp_path, monkeypatch):
    examples, base = tiny_examples(), tiny_model("llama")
    loaded = {"old": base, "new": changed(base)}
    monkeypatch.setattr(attention_maps.loading, "load_tokenizer", lambda name: Words())
    run, random = Run(tmp_path), np.random.default_rng(0)
    material = Material(run, examples, "old", "new", own=True, tokens_of="old", models=loaded.__getitem__)
    with pytest.raises(UserError, match="no step was captured"):
        attention_maps.of_material(material)
    run.write_step(0, {}, {f"attention/{k}/summary": random.uniform(size=(3, 2, 6)) for k in ("kl", "copy_score")})
    run.write_analysis("attention_maps", *attention_maps.of_material(material, asked=[(1, 5)]))
    info, arrays = run.read_json("attention_maps.json"), run.read_arrays("attention_maps.npz")
    assert [article["id"] for article in info["articles"]] == ["a", "b", "c"]
    assert "asked for" in next(h for h in info["heads"] if (h["layer"], h["head"]) == (1, 5))["reasons"]
    for a, example in enumerate(examples):
        length = len(example.input_ids)
        assert len(info["articles"][a]["tokens"]) == length
        for name, model in (("base", loaded["old"]), ("fine_tuned", loaded["new"])):
            rows = attention_maps.restore(arrays[f"rows/{a}/{name}"])
            model.set_attn_implementation("eager")
            with torch.no_grad(), evaluating(model):
                eager = model(input_ids=torch.tensor([example.input_ids]), output_attentions=True).attentions
            for k, head in enumerate(info["heads"]):
                for m, t in enumerate(example.queries):
                    expected = eager[head["layer"]][0, head["head"], t].numpy()
                    assert (np.abs(rows[k, m] - expected) <= np.sqrt(expected) / 255 + 1e-5).all()
            for method in attention_maps.METHODS:
                flowing = {part: arrays[f"flow/{a}/{name}/{method}/{part}"] for part in ("sources", "count", "edges")}
                assert flowing["count"].shape == (len(example.queries), 2) and flowing["sources"].shape[1] == length
                assert (
                    flowing["count"].sum() == len(flowing["edges"]) == len(arrays[f"flow/{a}/{name}/{method}/weight"])
                )
                assert attention_maps.restore(flowing["sources"]).sum(1) == pytest.approx(1, abs=0.03)
                # The first edges of each query are those of the first layer, and those of the last lead to the query.
                start = 0
                for m, t in enumerate(example.queries):
                    first, last = (int(n) for n in flowing["count"][m])
                    assert (flowing["edges"][start + first : start + first + last, 1] == t).all()
                    assert (flowing["edges"][start : start + first, 0] <= t).all()
                    start += first + last
