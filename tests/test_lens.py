"""The logit lens against a slow float64 loop, and against the model itself after its last layer."""

import math

import pytest
import torch
from tiny import BUILDERS, tiny_examples, tiny_model
from torch import nn
from torch.nn import functional

from summlens.analysis.representations.represent import represent
from summlens.metrics import lens
from summlens.metrics.lens import logit_lens


def parts():
    torch.manual_seed(0)
    norm, unembedding = nn.LayerNorm(6), nn.Linear(6, 11, bias=False)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return torch.randn(3, 5, 6) * 3, torch.tensor([4, 0, 10, 4, 7]), norm, unembedding


def test_loss_and_rank_follow_their_definitions():
    residuals, targets, norm, unembedding = parts()
    loss, rank = logit_lens(residuals, targets, norm, unembedding)
    gain, shift, matrix = (p.detach().double() for p in (norm.weight, norm.bias, unembedding.weight))
    for layer in range(3):
        for position in range(5):
            x = residuals[layer, position].double()
            x = (x - x.mean()) / math.sqrt(x.var(unbiased=False) + norm.eps) * gain + shift
            logits = [float(row @ x) for row in matrix]
            target = logits[targets[position]]
            assert loss[layer, position].item() == pytest.approx(
                math.log(sum(math.exp(v) for v in logits)) - target, abs=1e-5
            )
            assert rank[layer, position] == 1 + sum(v > target for v in logits)


def test_chunks_change_nothing(monkeypatch):
    whole = logit_lens(*parts())
    monkeypatch.setattr(lens, "_CHUNK", 2 * 11)
    for a, b in zip(whole, logit_lens(*parts()), strict=True):
        torch.testing.assert_close(a, b)


def test_equal_logits_share_the_best_rank():
    loss, rank = logit_lens(torch.zeros(1, 2, 4), torch.tensor([3, 0]), nn.Identity(), nn.Linear(4, 5, bias=False))
    assert rank.tolist() == [[1, 1]]
    torch.testing.assert_close(loss, torch.full((1, 2), math.log(5)))


@pytest.mark.parametrize("kind", BUILDERS)
def test_the_last_layer_gives_the_models_own_loss_and_rank(kind):
    model = tiny_model(kind)
    made = represent(model, tiny_examples(), kind)
    model.eval()
    for row, example in enumerate(tiny_examples()):
        ids = torch.tensor([example.input_ids])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, example.prompt_length - 1 : -1].double()
        targets = ids[0, example.prompt_length :]
        assert made.loss[row, -1] == pytest.approx(functional.cross_entropy(logits, targets).item(), abs=1e-5)
        larger = (logits > logits.gather(1, targets[:, None])).sum(dim=1) + 1
        assert made.rank[row, -1] == larger.double().mean().item()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_earlier_layers_are_the_library_hidden_states_through_norm_and_unembedding(kind):
    model = tiny_model(kind)
    made = represent(model, tiny_examples(), kind)
    model.eval()
    example = tiny_examples()[1]
    ids = torch.tensor([example.input_ids])
    queries = slice(example.prompt_length - 1, -1)
    norm = model.transformer.ln_f if kind == "gpt2" else model.model.norm
    with torch.no_grad():
        hidden = model(input_ids=ids, output_hidden_states=True).hidden_states
        for layer in range(2):
            torch.testing.assert_close(torch.tensor(made.vectors[1, layer]).float(), hidden[layer][0, queries].mean(0))
            loss = functional.cross_entropy(
                model.lm_head(norm(hidden[layer][0, queries])), ids[0, example.prompt_length :]
            )
            assert made.loss[1, layer] == pytest.approx(loss.item(), abs=1e-5)
