"""What is no decoder-only language model is refused in one line, before anything is trained."""

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from summlens.core.config import PROJECT
from summlens.core.errors import UserError
from summlens.model import loading

BUNDLED = str(PROJECT / "data" / "model")


def tiny_gpt2(**overrides):
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 32, "vocab_size": 40}
    return GPT2LMHeadModel(GPT2Config(**{**shape, "bos_token_id": 0, "eos_token_id": 0, **overrides}))


def test_the_bundled_model_loads_in_float32_and_eval_mode():
    model, tokenizer = loading.load_model(BUNDLED), loading.load_tokenizer(BUNDLED)
    assert isinstance(model, GPT2LMHeadModel) and not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    loading.check_pair(model, tokenizer, "bundled")
    assert tokenizer.decode(tokenizer("It’s 5½ – “£3m”\nnaïve 👍")["input_ids"]) == "It’s 5½ – “£3m”\nnaïve 👍"


def test_the_fused_activation_is_gpt2s_own(tmp_path):
    """In values and in gradients; what is saved again names the model's own function."""
    torch.manual_seed(0)
    own = tiny_gpt2(n_layer=2, initializer_range=0.5).eval()
    own.save_pretrained(tmp_path)
    loaded = loading.load_model(str(tmp_path))
    assert [type(block.mlp.act) for block in loaded.transformer.h] == [torch.nn.GELU] * 2
    ids = torch.arange(24).reshape(2, 12)
    for model in (own, loaded):
        model(input_ids=ids, labels=ids).loss.backward()
    torch.testing.assert_close(loaded(input_ids=ids).logits, own(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
    for (name, mine), other in zip(loaded.named_parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-5, msg=name)
    assert loaded.config.activation_function == "gelu_new"


def test_an_encoder_decoder_model_is_refused(tmp_path):
    config = T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="encoder-decoder model"):
        loading.load_model(str(tmp_path))


def test_a_model_that_sees_later_tokens_is_refused(tmp_path):
    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    BertLMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="sees later tokens"):
        loading.load_model(str(tmp_path))


def test_weights_that_are_not_numbers_are_named(tmp_path):
    model = tiny_gpt2()
    model.transformer.h[0].mlp.c_fc.weight.data[0, 0] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"transformer\.h\.0\.mlp\.c_fc\.weight"):
        loading.load_model(str(tmp_path))


def test_a_truncated_model_file_is_one_line(tmp_path):
    tiny_gpt2().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(UserError, match="could not be loaded") as caught:
        loading.load_model(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_missing_weights_are_not_replaced_by_random_ones(tmp_path):
    tiny_gpt2().save_pretrained(tmp_path)
    tiny_gpt2(n_layer=2).config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="lacks"):
        loading.load_model(str(tmp_path))


def test_a_directory_without_a_model_and_an_unknown_name_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no config\.json"):
        loading.load_model(str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="could not be loaded") as caught:
        loading.load_tokenizer("nobody/nothing-of-this-name")
    assert "\n" not in str(caught.value)


def test_a_tokenizer_with_more_ids_than_the_model_is_refused():
    with pytest.raises(UserError, match="embeds only 40"):
        loading.check_pair(tiny_gpt2(), loading.load_tokenizer(BUNDLED), "tiny")


def test_precision_on_a_cpu():
    cpu = torch.device("cpu")
    assert loading.training_dtype("auto", cpu) == torch.float32
    assert loading.training_dtype("bf16", cpu) == torch.bfloat16
    with pytest.raises(UserError, match="fp16 needs a CUDA GPU"):
        loading.training_dtype("fp16", cpu)
