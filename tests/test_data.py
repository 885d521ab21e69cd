"""The seven rules of text in and tokens out, each with a test that fails when the rule is broken."""

import json

import datasets
import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from summlens.core import config as configuration
from summlens.core.errors import UserError
from summlens.data import articles, cleaning, tokens
from summlens.data.batches import ByLength, collate
from summlens.model import loading

TEMPLATE = "{article}\nTL;DR:"
ARTICLE = "A fire closed the old bridge in Harlow on Monday. TL;DR: nobody was hurt. Work starts in May."
SUMMARY = "Fire closes bridge in Harlow.\nNobody was hurt."


@pytest.fixture(scope="module")
def tokenizer():
    return loading.load_tokenizer(str(configuration.PROJECT / "data" / "model"))


@pytest.fixture(scope="module")
def encoder(tokenizer):
    return tokens.Encoder(tokenizer, TEMPLATE, window=512)


# ------------------------------------------------------------------------------- rule 1: the prompt and the target


def test_an_example_is_prompt_then_summary_then_end_of_text(tokenizer, encoder):
    example = encoder.example("a", ARTICLE, SUMMARY)
    ids = list(example.input_ids)
    assert tokenizer.decode(ids[: example.prompt_length]) == f"{ARTICLE}\nTL;DR:"
    assert tokenizer.decode(ids[example.prompt_length : -1]) == f" {SUMMARY}"
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[example.article_start : example.article_stop]) == ARTICLE


def test_the_template_can_be_another(tokenizer):
    example = tokens.Encoder(tokenizer, "News: {article}\nIn short:", 512).example("a", ARTICLE, SUMMARY)
    assert tokenizer.decode(example.input_ids[: example.prompt_length]) == f"News: {ARTICLE}\nIn short:"
    assert tokenizer.decode(example.input_ids[example.article_start : example.article_stop]) == ARTICLE


def test_queries_are_the_positions_that_predict_summary_tokens(encoder):
    example = encoder.example("a", ARTICLE, SUMMARY)
    predicted = [example.input_ids[t + 1] for t in example.queries]
    assert predicted == list(example.input_ids[example.prompt_length :])


# ------------------------------------------------------------------------------------------------ rule 2: cleaning


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("(CNN) -- A storm hit.", "A storm hit."),
        ("LONDON, England (CNN) -- A storm hit.", "A storm hit."),
        ("ST. PETERSBURG, Florida (CNN) -- A storm hit.", "A storm hit."),
        ("(CNN)A storm hit.", "A storm hit."),
        ("By . Ann Lee . PUBLISHED: . 09:16 EST, 29 May 2013 . | . UPDATED: . 10:51 EST, 29 May 2013 . A storm hit.",
         "A storm hit."),
        ("By . John Hall . and Ted Lee . A dog bit a man.", "A dog bit a man."),
        ("By . Ann Lee . Last updated at 4:32 PM on 15th February 2012 . A storm hit.", "A storm hit."),
        ("By qualifying fourth, he won. He told (CNN) so.", "By qualifying fourth, he won. He told (CNN) so."),
        ("Scroll down for video . A storm hit .", "Scroll down for video. A storm hit."),
        ("A\u00a0storm\thit\r\nthe  coast\x00\x07.", "A storm hit the coast."),
        ("e\u0301te\u0301 \u00adsoft\ufeff", "\u00e9t\u00e9 soft"),
        ("5½ miles for £3", "5½ miles for £3"),
        ("The end.<|endoftext|>Not a token.", "The end. Not a token."),
        ("שלום 👩‍👩‍👧 عالم", "שלום 👩‍👩‍👧 عالم"),
    ],
)  # fmt: skip
def test_articles_are_cleaned(raw, clean):
    assert cleaning.clean_article(raw) == clean


def test_a_summary_keeps_one_sentence_a_line():
    assert cleaning.clean_summary("A storm hit .\r\nTwo  died .\n\n It rained") == "A storm hit.\nTwo died.\nIt rained"


# -------------------------------------------------------------------------------------------------- rule 3: window


def test_a_long_article_never_cuts_the_summary(tokenizer):
    short = tokens.Encoder(tokenizer, TEMPLATE, window=60)
    whole = tokens.Encoder(tokenizer, TEMPLATE, window=512).example("a", ARTICLE, SUMMARY)
    example = short.example("a", ARTICLE * 20, SUMMARY)
    assert len(example.input_ids) == 60
    target = whole.input_ids[whole.prompt_length :]
    assert example.input_ids[example.prompt_length :] == target
    assert tokenizer.decode(example.input_ids[: example.prompt_length]).endswith("\nTL;DR:")


def test_a_prompt_leaves_room_for_what_will_be_generated(encoder):
    prompt, start, stop = encoder.prompt(ARTICLE * 50, room=100)
    assert len(prompt) == 412
    assert (start, stop) == (0, 412 - len(encoder.prompt("", 100)[0]))


def test_a_summary_that_cannot_fit_is_refused_in_one_line(tokenizer):
    with pytest.raises(UserError, match="window of 12 tokens"):
        tokens.Encoder(tokenizer, TEMPLATE, window=12).example("a", ARTICLE, SUMMARY)


def test_a_second_run_finds_its_tokens_again(tmp_path, monkeypatch):
    """Also where its tokenizer, a new object, has been used for something else meanwhile."""
    path, made = tmp_path / "articles.jsonl", []
    path.write_text("".join(json.dumps({"id": str(n), "article": ARTICLE, "highlights": SUMMARY}) + "\n" for n in "ab"))
    plain = tokens.Encoder.example
    monkeypatch.setattr(tokens.Encoder, "example", lambda *given: made.append(1) or plain(*given))

    def run(window):
        rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
        tokenizer = loading.load_tokenizer(str(configuration.PROJECT / "data/model"))
        tokenizer(ARTICLE, truncation=True, max_length=len(made) + 3)
        return list(tokens.encode(rows, tokens.Encoder(tokenizer, TEMPLATE, window), "training"))

    first = run(200)
    assert len(made) == 2
    assert run(200) == first and len(made) == 2
    run(201)  # other tokens may come of another window
    assert len(made) == 4


def test_rows_whose_summary_cannot_fit_are_left_out_and_counted(tokenizer, caplog):
    rows = [
        {"id": "a", "article": ARTICLE, "highlights": SUMMARY * 30},
        {"id": "b", "article": ARTICLE, "highlights": SUMMARY},
    ]
    encoder = tokens.Encoder(tokenizer, TEMPLATE, window=100)
    encoded = tokens.encode(datasets.Dataset.from_list(rows), encoder, "training")
    assert list(encoded) == [encoder.example("b", ARTICLE, SUMMARY)]
    assert tokens.lengths(encoded).tolist() == tokens.lengths(list(encoded)).tolist() == [len(encoded[0].input_ids)]
    assert "1 summaries do not fit" in caplog.text


# ---------------------------------------------------------------------------------------------------- rule 4: loss


def examples(encoder):
    summaries = [SUMMARY, "x", "One much longer summary of the fire, of the bridge and of the work in May."]
    return [encoder.example(str(n), ARTICLE * (n + 1), text) for n, text in enumerate(summaries)]


def test_labels_cover_summary_and_end_of_text_and_nothing_else(tokenizer, encoder):
    batch = collate(examples(encoder))
    for row, example in enumerate(examples(encoder)):
        labels = batch["labels"][row].tolist()
        target = list(example.input_ids[example.prompt_length :])
        assert [label for label in labels if label != tokens.IGNORED] == target
        assert labels[example.prompt_length : len(example.input_ids)] == target
        assert target[-1] == tokenizer.eos_token_id  # end-of-text counts, although padding has the same id (0)
    assert tokenizer.eos_token_id == 0 and (batch["input_ids"] == 0).sum() > 3


# ------------------------------------------------------------------------------------------------- rule 5: batches


def test_a_batch_is_as_long_as_its_longest_example(encoder):
    batch = collate(examples(encoder))
    assert batch["input_ids"].shape[1] == max(len(example.input_ids) for example in examples(encoder)) < 512


def test_right_padding_without_a_mask_changes_no_real_logit(tokenizer, encoder):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=3, n_embd=48, vocab_size=len(tokenizer))).eval()
    padded = model(input_ids=collate(examples(encoder))["input_ids"]).logits
    for row, example in enumerate(examples(encoder)):
        alone = model(input_ids=torch.tensor([example.input_ids])).logits[0]
        torch.testing.assert_close(padded[row, : len(alone)], alone, rtol=1e-5, atol=1e-6)


def test_batches_by_length_hold_every_article_once_with_little_padding():
    lengths = np.random.default_rng(0).integers(10, 500, size=403)
    sampler = ByLength(lengths, batch=8, seed=1)
    order = list(sampler)
    assert sorted(order) == list(range(403))
    batches = [lengths[order[at : at + 8]] for at in range(0, 403, 8)]
    padding = sum(len(batch) * batch.max() - batch.sum() for batch in batches)
    shuffled = np.random.default_rng(1).permutation(lengths)
    random_padding = sum(len(b) * b.max() - b.sum() for b in (shuffled[at : at + 8] for at in range(0, 403, 8)))
    assert padding < random_padding / 5
    means = np.array([batch.mean() for batch in batches[:-1]])
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.4  # lengths do not drift over the epoch


def test_each_epoch_has_its_own_order_and_the_same_one_again():
    sampler = ByLength(range(50, 150), batch=4, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)
    assert list(sampler) == first != second


# --------------------------------------------------------------------- rule 6: positions, never a search for TL;DR:


def test_an_article_that_contains_the_prompt_words_is_only_an_article(tokenizer, encoder):
    example = encoder.example("a", ARTICLE, SUMMARY)
    assert tokenizer.decode(example.input_ids).count("TL;DR:") == 2
    assert encoder.text(example.input_ids[example.prompt_length :]) == SUMMARY


def test_a_special_token_written_in_an_article_is_not_a_command(tokenizer, encoder):
    prompt, _, _ = encoder.prompt("before <|endoftext|> after", room=10)
    assert tokenizer.eos_token_id not in prompt


# ------------------------------------------------------------------------------------------------------- loading


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows(count, **extra):
    return [
        {"id": f"n{n}", "article": f"Article number {n} says so.", "highlights": f"Number {n}.", **extra}
        for n in range(count)
    ]


def load(dataset, **overrides):
    return articles.load_articles(configuration.preset("demo", dataset=dataset, **overrides))


def test_one_file_is_split_by_seed_without_overlap(tmp_path):
    splits = load(write(tmp_path / "news.jsonl", rows(40)))
    ids = [set(splits[name]["id"]) for name in ("train", "validation", "test")]
    assert [len(part) for part in ids] == [32, 4, 4]
    assert set.union(*ids) == {f"n{n}" for n in range(40)}


def test_a_directory_of_named_splits_is_read_as_named(tmp_path):
    for name, count in (("train", 5), ("validation", 3), ("test", 2)):
        write(tmp_path / f"cnn_{name}.jsonl", rows(count, outlet="cnn"))
    splits = load(str(tmp_path))
    assert {name: len(split) for name, split in splits.items()} == {"train": 5, "validation": 3, "test": 2}
    assert splits["test"]["outlet"] == ["cnn", "cnn"]


def test_csv_with_other_column_names(tmp_path):
    lines = ["text,abstract"] + [f"Long text {n}.,Short {n}." for n in range(30)]
    (tmp_path / "news.csv").write_text("\n".join(lines))
    splits = load(str(tmp_path / "news.csv"), article_column="text", summary_column="abstract")
    assert len(splits["train"]) == 24
    assert splits["train"][0]["id"].isdigit()


def test_rows_without_text_are_left_out_and_counted(tmp_path, caplog):
    bad = [{"id": "e", "article": "  ", "highlights": "x"}, {"id": "f", "article": "x", "highlights": None}]
    for name in ("train", "validation", "test"):
        write(tmp_path / f"{name}.jsonl", rows(4) + bad)
    assert len(load(str(tmp_path))["train"]) == 4
    assert "train: 2 rows without article or summary left out" in caplog.text


def test_an_article_in_training_and_test_is_reported(tmp_path, caplog):
    for name in ("train", "validation", "test"):
        write(tmp_path / f"{name}.jsonl", rows(4))
    load(str(tmp_path))
    assert "4 of the 4 test articles are also in the training split" in caplog.text


def test_a_smaller_number_of_articles_is_drawn_by_seed(tmp_path):
    path = write(tmp_path / "news.jsonl", rows(400))
    first, again, other = (load(path, train_articles=30, seed=seed)["train"]["id"] for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 30


def test_the_fingerprint_follows_the_text(tmp_path):
    path = write(tmp_path / "news.jsonl", rows(40))
    same = articles.fingerprint(load(path))
    assert same == articles.fingerprint(load(path))
    changed = write(tmp_path / "other.jsonl", [*rows(39), {"id": "n39", "article": "Another.", "highlights": "X."}])
    assert same != articles.fingerprint(load(changed))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"id": 1, "text": "x", "highlights": "y"}] * 30, "no column 'article'.*--article-column"),
        ([{"id": 1, "article": ["x"], "highlights": "y"}] * 30, "holds list, not text"),
        ([{"id": 1, "article": "", "highlights": "y"}] * 30, "is empty"),
        ([{"id": 1, "article": "x", "highlights": "y"}] * 2, "at least three"),
    ],
)
def test_bad_rows_are_one_clear_line(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        load(write(tmp_path / "news.jsonl", content))


def test_bad_files_are_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="is not there"):
        load(str(tmp_path / "absent.jsonl"))
    (tmp_path / "broken.jsonl").write_text('{"article": "x", "highl')
    with pytest.raises(UserError, match="cannot be read"):
        load(str(tmp_path / "broken.jsonl"))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError):
        load(str(tmp_path / "empty.jsonl"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="holds no"):
        load(str(tmp_path / "folder"))
