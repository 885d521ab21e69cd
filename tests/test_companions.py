"""Controls and other seeds: what they are trained on, that they disturb nothing, and that they can be interrupted."""

import dataclasses
import hashlib
from collections import Counter

import datasets
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from test_distributed import files, in_two_processes, without_dropout
from test_training import make_study, make_trainer

from summlens import names
from summlens.artifacts import Run
from summlens.core.config import PROJECT, parse_command_line, preset
from summlens.core.errors import UserError
from summlens.data import batches, tokens
from summlens.model import loading, trainable
from summlens.study.prepare import prepare
from summlens.study.record import open_run
from summlens.training import checkpoints, companions
from summlens.training import fine_tune as fine_tune_module
from summlens.training.fine_tune import Progress

WINDOW = 40


@pytest.fixture(scope="module")
def tokenizer():
    return loading.load_tokenizer(str(PROJECT / "data" / "model"))


@pytest.fixture
def study(tmp_path):
    """As in the tests of training, with a stand-in for the tokenizer that is saved beside a model."""
    return dataclasses.replace(make_study(tmp_path / "run", max_steps=8), tokenizer=SavedAsNothing())


class SavedAsNothing:
    def save_pretrained(self, folder):
        pass


def study_of_articles(tokenizer, folder, texts, template="{article}\nTL;DR:"):
    """A study with real text: (article, summary) pairs in a window in which some articles are cut."""
    rows = datasets.Dataset.from_dict(
        {
            "id": [f"id{index}" for index in range(len(texts))],
            "article": [article for article, _ in texts],
            "highlights": [summary for _, summary in texts],
            "outlet": ["The Herald"] * len(texts),
        }
    )
    encoder = tokens.Encoder(tokenizer, template, WINDOW)
    study = make_study(folder)
    splits = {"train": rows, "validation": rows, "test": rows}
    return dataclasses.replace(
        study, splits=splits, tokenizer=tokenizer, encoder=encoder, train=tokens.encode(rows, encoder, "training")
    )


def texts(count):
    """Articles of growing length, each with a summary of its own; the third summary does not fit the window."""
    pairs = [(f"Town {n} has news. " * (1 + n % 7), f"News {n} from town. " * (1 + n % 3)) for n in range(count)]
    pairs[2] = (pairs[2][0], "Far too long a summary. " * 40)
    return pairs


# ------------------------------------------------------------------------------------------------ shuffled pairs


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "words",
    [
        [str(n) for n in range(50)],
        ["a", "b"],
        ["a"] * 4 + ["b"] * 2 + ["c"] * 2,  # half of them equal: just avoidable
        ["b", "a", "c", "a", "d", "a", "b"],
    ],
)
def test_no_place_keeps_its_text_nor_gets_an_equal_one(words, seed):
    order = companions.derangement(words, seed)
    assert sorted(order) == list(range(len(words)))
    assert all(words[other] != words[index] for index, other in enumerate(order))


@pytest.mark.parametrize("words", [["a"] * 5, ["a"] * 5 + ["b"], ["a", "a"]])
def test_where_equal_texts_cannot_be_avoided_no_place_keeps_its_own(words):
    order = companions.derangement(words, 0)
    assert sorted(order) == list(range(len(words)))
    assert all(other != index for index, other in enumerate(order))


def test_the_pairs_depend_on_the_seed():
    words = [str(n) for n in range(50)]
    first, again, other = (companions.derangement(words, seed) for seed in (1, 1, 2))
    assert list(first) == list(again)
    assert np.mean(first == other) < 0.2


def test_every_article_has_somebody_elses_summary_and_every_summary_is_used_once(tokenizer, tmp_path):
    study = study_of_articles(tokenizer, tmp_path, texts(20))
    _, pairs = companions.shuffled_pairs(study)
    assert len(pairs) == len(study.train) == 19  # the summary that does not fit is left out with its article

    def target(one):
        return one.input_ids[one.prompt_length :]

    assert Counter(map(target, pairs)) == Counter(map(target, study.train))
    whole = {row["id"]: tokenizer(row["article"])["input_ids"] for row in study.splits["train"]}
    cut = 0
    for own, other in zip(study.train, pairs, strict=True):
        assert own.id == other.id
        assert target(own) != target(other)
        room = WINDOW - len(target(other)) - (other.prompt_length - other.article_stop)
        article = whole[other.id][:room]
        assert list(other.input_ids[other.article_start : other.article_stop]) == article
        cut += len(article) < len(whole[other.id])
    assert 0 < cut < 19


def test_shuffled_pairs_need_a_second_article(tmp_path):
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text('{"article": "A b.", "highlights": "C."}')
    config = preset("demo", dataset=str(tmp_path), control="shuffled-pairs")
    with pytest.raises(UserError, match="--control shuffled-pairs needs two training articles"):
        prepare(config, Run(tmp_path / "run"))


# ------------------------------------------------------------------------------------------------ language model


@pytest.mark.parametrize("template", ["{article}\nTL;DR:", "News: {article}\nTL;DR:"])
def test_targets_of_the_language_model_are_exactly_the_articles_tokens(tokenizer, tmp_path, template):
    study = study_of_articles(tokenizer, tmp_path, texts(6), template)
    alone = companions.articles_alone(study.train)
    assert len(alone) == len(study.train)
    labels = batches.collate(list(alone))["labels"]
    for own, row in zip(study.train, labels, strict=True):
        article = list(own.input_ids[own.article_start : own.article_stop])
        unpredictable = 0 if own.article_start else 1  # the first token of a sequence
        assert row[row != tokens.IGNORED].tolist() == article[unpredictable:]


def test_the_language_models_forward_passes_hold_no_more_logits_than_fit():
    config = preset("demo", batch_size=16, accumulation=2)
    assert companions.smaller_passes(config, 512, 4000) == config
    smaller = companions.smaller_passes(config, 1024, 50_257)
    assert (smaller.batch_size, smaller.accumulation) == (2, 16)
    assert 14 * 2 * 1024 * 50_257 <= companions.LOGITS_AT_ONCE < 14 * 4 * 1024 * 50_257
    odd = companions.smaller_passes(dataclasses.replace(config, batch_size=6), 8192, 262_144)
    assert (odd.batch_size, odd.accumulation) == (1, 12)


# ------------------------------------------------------------------------------------------------ training


def contents(run, but=()):
    """A hash of every file below a run, by name, without those below a folder of `but`."""
    return {
        str(path.relative_to(run.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.root.rglob("*")
        if path.is_file() and not set(but) & set(path.parts)
    }


def weights(run):
    return load_file(run.model_outputs / "model.safetensors")


def test_a_control_has_the_articles_of_the_runs_steps_and_the_runs_probe_set(tokenizer, tmp_path):
    study = study_of_articles(tokenizer, tmp_path, texts(20))
    expected = list(make_trainer(study)._get_train_sampler())
    for name in ("shuffled-pairs", "language-model"):
        control = companions.companion_of(study, name)
        assert list(make_trainer(control)._get_train_sampler()) == expected
        assert [control.train[index].id for index in range(19)] == [study.train[index].id for index in range(19)]
        assert control.probe is study.probe and control.validation is study.validation and control.base is study.base
    other = companions.companion_of(study, "seed-43")
    assert list(make_trainer(other)._get_train_sampler()) != expected
    assert other.train is study.train and other.probe is study.probe
    assert other.config == dataclasses.replace(study.config, seed=43)
    part = dataclasses.replace(study, config=dataclasses.replace(study.config, trainable="random like heads 0.1"))
    drawn = companions.companion_of(part, "seed-43").config.trainable
    assert drawn == str(trainable.selection(part.config, study.base)) != part.config.trainable


def test_companions_are_trained_beside_the_run_which_stays_as_it_is(study, tmp_path):
    checkpoints.save_model(fine_tune_module.fine_tune(study), study.tokenizer, study.run)
    before, base = contents(study.run), {name: weight.clone() for name, weight in study.base.state_dict().items()}
    config = dataclasses.replace(study.config, control="language-model", seeds=2)
    companions.train(dataclasses.replace(study, config=config))

    assert contents(study.run, but=["companions"]) == before
    for name, weight in study.base.state_dict().items():
        assert torch.equal(weight, base[name]), name
    assert companions.trained(study.run) == {
        name: study.run.model_outputs / "companions" / name for name in ("language-model", "seed-43")
    }
    for name in study.run.companions():
        run = study.run.companion(name)
        assert run.steps() == study.run.steps() == [0, 4, 8]
        first, last = run.read_step(0), run.read_step(8)
        for key, array in study.run.read_step(0).arrays.items():
            np.testing.assert_array_equal(first.arrays[key], array, err_msg=key)  # one base, one probe set
        assert last.arrays["attention/kl/summary"].min() > 0
        assert [entry["step"] for entry in last.info["log"]] == [5, 6, 7, 8]
        assert len(list(run.logs.glob("*tfevents*"))) == 1
        assert not run.checkpoints.exists()
        record = run.read_json("run.json")
        assert (record["state"], record["name"], record["what"]) == ("trained", name, names.companion_what(name))
    runs = [study.run, *map(study.run.companion, study.run.companions())]
    ends = [weights(run)["transformer.wte.weight"] for run in runs]
    assert all(np.abs(ends[a] - ends[b]).max() > 1e-3 for a, b in ((0, 1), (0, 2), (1, 2)))

    alone = make_study(tmp_path / "seed 43", seed=43, max_steps=8)
    checkpoints.save_model(fine_tune_module.fine_tune(alone), SavedAsNothing(), alone.run)
    for name, weight in weights(alone.run).items():
        np.testing.assert_array_equal(weights(study.run.companion("seed-43"))[name], weight, err_msg=name)


def test_an_interrupted_companion_goes_on_and_ends_as_an_uninterrupted_one(study, tmp_path, monkeypatch):
    """The second of two is stopped between two checkpoints; the first is not trained again."""
    config = dataclasses.replace(study.config, control="language-model", seeds=2)
    whole = dataclasses.replace(study, config=config)
    stopped = dataclasses.replace(
        make_study(tmp_path / "stopped", max_steps=8), config=config, tokenizer=study.tokenizer
    )
    companions.train(whole)

    class Stop(Progress):
        def on_step_end(self, args, state, control, **_):
            if "seed-43" in args.output_dir and state.global_step == 5:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fine_tune_module, "Progress", Stop)
        companions.train(stopped)
    assert stopped.run.companions() == ["language-model"]
    begun = []
    fine_tune = fine_tune_module.fine_tune
    monkeypatch.setattr(
        fine_tune_module, "fine_tune", lambda study, **o: (begun.append(study.run), fine_tune(study, **o))[1]
    )
    companions.train(stopped)
    assert [run.metrics.name for run in begun] == ["seed-43"]
    for name in ("language-model", "seed-43"):
        mine, other = (one.run.companion(name) for one in (whole, stopped))
        assert mine.steps() == other.steps()
        for key, weight in weights(mine).items():
            np.testing.assert_array_equal(weights(other)[key], weight, err_msg=f"{name} {key}")
        for step in mine.steps():
            assert mine.read_step(step).info == other.read_step(step).info
    companions.train(stopped)
    assert len(begun) == 1


def test_two_processes_train_a_companion_as_one_does(tmp_path):
    options = {"accumulation": 4, "learning_rate": 1e-3, "max_steps": 5, "control": "language-model"}
    one, two = (
        dataclasses.replace(without_dropout(make_study(tmp_path / name, **options)), tokenizer=SavedAsNothing())
        for name in ("one", "two")
    )
    companions.train(one)

    def work():
        companions.train(two)
        return sorted(companions.trained(two.run))

    assert in_two_processes(work) == [["language-model"]] * 2
    assert files(two.run) == files(one.run)
    mine, other = (study.run.companion("language-model") for study in (one, two))
    for name, weight in weights(mine).items():
        np.testing.assert_allclose(weights(other)[name], weight, rtol=0, atol=2e-5, err_msg=name)


# ------------------------------------------------------------------------------------------------ configuration


def test_names_of_the_companions_follow_from_the_configuration():
    config, _ = parse_command_line(["--control", "shuffled-pairs, language-model", "--seeds", "3", "--seed", "7"])
    assert config.companions == ["shuffled-pairs", "language-model", "seed-8", "seed-9"]
    assert preset("demo").companions == []
    assert names.companion_title("seed-9") == "Fine-tuned, seed 9"
    assert names.companion_title("shuffled-pairs") == "Shuffled-pairs control"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--control", "shufled"], "--control shufled is unknown: there are shuffled-pairs and language-model"),
        (["--seeds", "0"], "--seeds must be above zero, it is 0"),
    ],
)
def test_a_control_that_is_not_there_is_one_line(arguments, message):
    with pytest.raises(UserError) as refused:
        parse_command_line(arguments)
    assert str(refused.value) == message


def test_a_run_gets_a_control_on_resume_and_is_warned_when_it_loses_one(study, caplog):
    def recorded(**values):
        study.run.write_json("run.json", {"state": "trained", "config": values})

    config = dataclasses.asdict(study.config)
    recorded(**{name: value for name, value in config.items() if name not in ("control", "seeds")})  # an older run
    more = dataclasses.replace(study.config, control="shuffled-pairs", seeds=2)
    assert open_run(more, resume=True).root == study.run.root
    assert not caplog.records
    recorded(**dataclasses.asdict(more))
    study.run.companion("seed-43").write_json("run.json", {"state": "trained"})
    open_run(study.config, resume=True)
    assert [record.getMessage() for record in caplog.records] == [
        "shuffled-pairs, which this run was to be compared with, is not trained without its option"
    ]
