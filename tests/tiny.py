"""Tiny random models of several architectures, and probe examples of unequal lengths, for the tests of captures."""

import copy

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from summlens.data.tokens import Example

VOCABULARY = 24
_SHAPE = {"num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40, "vocab_size": VOCABULARY}
_GROUPED = {**_SHAPE, "num_attention_heads": 6, "num_key_value_heads": 2, "attention_dropout": 0.2}
_TOKENS = {"bos_token_id": None, "eos_token_id": None}
BUILDERS = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            n_layer=2,
            n_head=3,
            n_embd=24,
            vocab_size=VOCABULARY,
            n_positions=64,
            attn_pdrop=0.3,
            resid_pdrop=0.3,
            embd_pdrop=0.3,
            **_TOKENS,
        )
    ),
    "gpt_neox": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(**_SHAPE, num_attention_heads=3, attention_dropout=0.3, hidden_dropout=0.3, **_TOKENS)
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_GROUPED, **_TOKENS)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_GROUPED, **_TOKENS)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**_GROUPED, head_dim=12, pad_token_id=0, **_TOKENS)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **_GROUPED,
            head_dim=12,
            query_pre_attn_scalar=5,
            sliding_window=20,
            pad_token_id=0,
            **_TOKENS,
            layer_types=["sliding_attention", "full_attention"],
        )
    ),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            num_hidden_layers=2,
            hidden_size=24,
            ffn_dim=40,
            vocab_size=VOCABULARY,
            num_attention_heads=3,
            max_position_embeddings=64,
            word_embed_proj_dim=24,
            dropout=0.3,
            attention_dropout=0.3,
            pad_token_id=0,
            **_TOKENS,
        )
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_GROUPED, head_dim=12, **_TOKENS)),
}


def tiny_model(kind: str, seed: int = 0, attention: str = "sdpa"):
    """A random model of 2 layers and 3 (grouped keys: 6 on 2) heads, in train mode, with weights large enough that
    its attention is far from uniform."""
    torch.manual_seed(seed)
    model = BUILDERS[kind]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * (0.25 if parameter.ndim > 1 else 0.1) + (parameter == 1))
    model.set_attn_implementation(attention)
    return model.train()


def changed(model, seed: int = 1, scale: float = 0.05):
    """A copy with every weight moved a little: what a fine-tuned model is to its base."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return other


def tiny_examples() -> list[Example]:
    """Lengths 13, 20 and 7; the article begins at 0, 2 and 1, and its tokens recur in some of the summaries."""
    generator = torch.Generator().manual_seed(5)

    def one(name, prompt, target, start, stop):
        ids = torch.randint(1, VOCABULARY, (prompt + target,), generator=generator).tolist()
        ids[prompt] = ids[start + 1]  # the first summary token occurs in the article
        return Example(name, tuple(ids), prompt, start, stop)

    return [one("a", 9, 4, 0, 7), one("b", 14, 6, 2, 12), one("c", 5, 2, 1, 3)]
