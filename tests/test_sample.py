"""The bundled sample and model are what data/README.md says they are."""

import re
from itertools import combinations
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data.make_sample import SEED, SIZES, make_row, pretraining_text

DATA = Path(__file__).parent.parent / "data"
MODEL = DATA / "model"


def sentences(text: str) -> list[str]:
    """Split an article of the sample at sentence ends (never inside an amount such as $4.2 million)."""
    return re.split(r"(?<=[.!?])\"? (?=[\"A-Z0-9$])", text)


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict]]:
    return {split: pq.read_table(DATA / "sample" / f"{split}.parquet").to_pylist() for split in SIZES}


@pytest.fixture(scope="module")
def rows(splits) -> list[dict]:
    return [row for split in splits.values() for row in split]


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(MODEL, local_files_only=True)


def test_columns_and_sizes(splits):
    for split, size in SIZES.items():
        assert len(splits[split]) == size
        assert list(splits[split][0]) == ["article", "highlights", "id", "kind", "facts"]


def test_splits_share_no_article(splits):
    for one, other in combinations(splits, 2):
        for column in ("article", "highlights", "id"):
            assert not {row[column] for row in splits[one]} & {row[column] for row in splits[other]}


def test_many_kinds_of_event(splits):
    for split in splits.values():
        assert len({row["kind"] for row in split}) >= 12


def test_article_has_4_to_20_sentences(rows):
    counts = [len(sentences(row["article"])) for row in rows]
    assert min(counts) >= 4 and max(counts) <= 20
    assert 8 <= sum(counts) / len(counts) <= 11


def test_highlights_are_2_to_4_lines_of_one_sentence(rows):
    for row in rows:
        lines = row["highlights"].split("\n")
        assert 2 <= len(lines) <= 4
        for line in lines:
            assert line.endswith(".") and len(sentences(line)) == 1


def test_facts_are_first_mentions_in_the_article(rows):
    for row in rows:
        assert row["facts"]
        for fact in row["facts"]:
            assert row["article"][fact["start"] : fact["end"]] == fact["text"]
            assert row["article"].lower().find(fact["text"].lower()) <= fact["start"]
            told = row["highlights"][fact["highlight_start"] : fact["highlight_end"]]
            assert told.lower() == fact["text"].lower()


def test_no_template_is_left_in_the_text(rows):
    for row in rows:
        assert not re.search(r"[\[\]{}|]|  |\ba [aeio]\w|\ban (?!hour)[^aeiou18]", row["article"] + row["highlights"])


def test_lead_3_misses_most_facts(rows):
    """A summary must come from the whole article: the first three sentences hold under half of the facts."""
    shares = []
    for row in rows:
        lead = " ".join(sentences(row["article"])[:3])
        shares.append(sum(fact["text"] in lead for fact in row["facts"]) / len(row["facts"]))
    assert sum(shares) / len(shares) < 0.5


def test_generator_makes_the_shipped_rows_again(splits):
    for split, shipped in splits.items():
        for number in (0, 1, 17, len(shipped) - 1):
            assert make_row(SEED, split, number) == shipped[number]


def test_pretraining_text_is_articles_alone(rows):
    texts = [pretraining_text(SEED, number) for number in range(200)]
    assert texts[:3] == [pretraining_text(SEED, number) for number in range(3)]
    assert not any("TL;DR" in text for text in texts)
    lines = {line for row in rows for line in row["highlights"].split("\n")}
    shipped = {row["article"] for row in rows}
    for text in texts:
        assert text not in shipped
        assert not lines & set(text.split("\n"))


def test_data_is_small():
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 12e6


def test_tokenizer_decodes_exactly_and_fits_the_window(tokenizer, rows):
    for row in [*rows[:300], {"article": "naïve – “€5” \t 日本\n\n TL;DR: x  y", "highlights": ""}]:
        assert tokenizer.decode(tokenizer(row["article"])["input_ids"]) == row["article"]
    texts = [f"{row['article']}\nTL;DR: {row['highlights']}" for row in rows[:1000]]
    assert max(map(len, tokenizer(texts)["input_ids"])) < 512
    assert tokenizer.eos_token == tokenizer.bos_token == "<|endoftext|>"
    assert len(tokenizer("<|endoftext|>")["input_ids"]) == 1


def test_model_is_a_gpt2_with_the_tokenizers_vocabulary(tokenizer):
    import torch
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(MODEL, local_files_only=True, dtype=torch.float32)
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.n_positions == tokenizer.model_max_length == 512
    assert model.config.eos_token_id == tokenizer.eos_token_id
    ids = torch.tensor([tokenizer("The president announced a new policy on climate change.")["input_ids"]])
    assert model(ids, labels=ids).loss < 6.0


def test_the_model_copies(tokenizer, rows):
    """Given an article twice, the second copy is far easier: without working induction heads it is not."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(MODEL, local_files_only=True, dtype=torch.float32).eval()
    first, second = [], []
    for row in rows[-20:]:
        once = tokenizer(row["article"])["input_ids"][:240]
        ids = torch.tensor([tokenizer.eos_token_id, *once, *tokenizer("\n\n")["input_ids"], *once])
        with torch.no_grad():
            losses = cross_entropy(model(ids[None]).logits[0, :-1], ids[1:], reduction="none")
        first.append(losses[: len(once)].mean())
        second.append(losses[-len(once) + 5 :].mean())
    assert sum(second) < 0.6 * sum(first)
