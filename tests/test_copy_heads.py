"""Copy heads on the bundled sample: what the copy score points at is where the facts of a summary really come from.

The sample marks each fact's characters in article and summary. Heads are told apart by their copy score on some
articles; on others, at the queries that predict a fact's tokens, it is measured how much of their attention lies on the
fact's own source span in the article. The copy score never sees those spans: it counts every earlier occurrence of a
token.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset

from summlens.artifacts import Run
from summlens.capture import capture
from summlens.core import config as configuration
from summlens.data import tokens
from summlens.model import loading
from summlens.stats.intervals import bootstrap_interval
from summlens.study import prepare
from summlens.training import fine_tune

ROOT = Path(__file__).parents[1]
MODEL, SAMPLE = ROOT / "data" / "model", ROOT / "data" / "sample" / "test.parquet"
COPIES = 0.1  # the copy score from which a head is called a copy head; other heads have 0.01 to 0.05


@pytest.fixture(scope="module")
def articles():
    """(example, spans) of 32 articles; spans: [(queries, keys)], slices of positions, a fact each."""
    tokenizer = loading.load_tokenizer(str(MODEL))
    encoder = tokens.Encoder(tokenizer, "{article}\nTL;DR:", 512)
    found = []
    for row in load_dataset("parquet", data_files=str(SAMPLE), split="train").select(range(32)):
        example = encoder.example(row["id"], row["article"], row["highlights"])
        pieces = [tokenizer.decode([token]) for token in example.input_ids]
        ends = np.cumsum([len(piece) for piece in pieces])
        text = "".join(pieces)
        first, prompt = text.index(row["article"]), int(ends[example.prompt_length - 1])
        begins = text.index(row["highlights"], prompt)

        def positions(start, end, ends=ends):
            """The tokens that hold characters start..end - 1."""
            return slice(int(np.searchsorted(ends, start, "right")), int(np.searchsorted(ends, end, "left")) + 1)

        spans = []
        for fact in row["facts"]:
            source = positions(first + fact["start"], first + fact["end"])
            written = positions(begins + fact["highlight_start"], begins + fact["highlight_end"])
            for span in (source, written):  # one of the two may begin a sentence
                assert fact["text"].lower() in "".join(pieces[span]).lower()
            spans.append((slice(written.start - 1, written.stop - 1), source))
        found.append((example, spans))
    return found


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory):
    """The bundled model after 30 steps of 8 articles: its loss falls from 4.6 to about 1.2 nats."""
    config = configuration.preset(
        "demo", train_articles=240, validation_articles=2, test_articles=1, probe_articles=2, batch_size=8,
        warmup_steps=5, capture_steps=1000, checkpoint_steps=1000, output_dir=str(tmp_path_factory.mktemp("run")),
    )  # fmt: skip
    return fine_tune.fine_tune(prepare.prepare(config, Run(config.output_dir)), resume=False)


def mass_on_source(model, articles):
    """Attention mass on the source span at the queries that write a fact, mean over an article's facts: (A, L, H)."""
    model.set_attn_implementation("eager")
    found = []
    for example, spans in articles:
        with torch.no_grad():
            maps = model(torch.tensor([example.input_ids]), output_attentions=True).attentions
        maps = torch.cat(maps).numpy()  # (L, H, T, T)
        found.append(np.mean([maps[:, :, queries, keys].sum(-1).mean(-1) for queries, keys in spans], axis=0))
    return np.stack(found)


def test_copy_heads_look_at_the_source_of_the_fact(articles, fine_tuned):
    """The copy heads put at least 0.3 more of their mass on the true source than the rest do; fine-tuning adds to it.

    Measured on 16 held-out articles, with 95 % intervals over them; the bundled model has two copy heads, 1.0 and 1.1.
    Base: 0.49 of their mass against 0.01 in the other 22 heads, 0.47 [0.44, 0.51] more. Fine-tuned: 0.55 against 0.02,
    0.54 [0.50, 0.57] more. The copy heads gain 0.07 [0.03, 0.10].
    """
    base = loading.load_model(str(MODEL))
    ranking, held_out = [example for example, _ in articles[:16]], articles[16:]
    on_source = {}
    for name, model in (("base", base), ("fine-tuned", fine_tuned)):
        scores = capture(model, ranking, positions=("summary",))["attention/copy_score/summary"].mean(0)
        copies = scores >= COPIES
        assert copies.any(), f"the {name} model has no copy head: largest copy score {scores.max():.3f}"
        mass = mass_on_source(model, held_out)
        assert (mass.mean(0)[copies] > 0.2).all(), name
        more, low, _ = bootstrap_interval(mass[:, copies].mean(1) - mass[:, ~copies].mean(1))
        assert more > 0.3 and low > 0.25, name
        assert (mass[:, copies].mean(1) > 5 * mass[:, ~copies].mean(1)).all(), name
        on_source[name] = mass[:, copies].mean(1)
    gain, low, _ = bootstrap_interval(on_source["fine-tuned"] - on_source["base"])
    assert gain > low > 0
