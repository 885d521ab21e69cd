"""Generation in batches against one at a time, by hand and across processes; the comparison of systems."""

import json
import socket
import sys
from datetime import timedelta

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from summlens.core.errors import UserError
from summlens.evaluation.score import SummaryMetric, evaluate_systems
from summlens.metrics import text
from summlens.model.generation import Generated, GenerationCache, generate, generate_vllm
from summlens.stats import intervals, tests

END = 0  # the end-of-text is also what pads: masks must not come from ids
VOCABULARY = 40
NEW = 12


def model_of(kind):
    torch.manual_seed({"gpt2": 3, "llama": 0}[kind])  # seeds with which some continuations end by themselves
    ends = {"bos_token_id": END, "eos_token_id": END}
    if kind == "gpt2":
        shape = {"n_layer": 2, "n_head": 3, "n_embd": 24, "n_positions": 64, "vocab_size": VOCABULARY}
        model = GPT2LMHeadModel(GPT2Config(**shape, initializer_range=0.5, **ends))
    else:
        shape = {"num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40, "vocab_size": VOCABULARY}
        heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 64}
        model = LlamaForCausalLM(LlamaConfig(**shape, **heads, initializer_range=0.5, **ends))
    return model.eval()


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    return model_of(request.param)


@pytest.fixture(scope="module")
def prompts():
    generator = np.random.default_rng(1)
    lengths = [7, 1, 33, 12, 12, 2, 20, 5, 40]
    prompts = [generator.integers(0, VOCABULARY, length).tolist() for length in lengths]
    prompts[3][4:7] = [END, 9, END]  # the end-of-text within a prompt ends nothing
    return prompts


def continued(model, prompts, **options):
    settings = {"pad_id": END, "eos_id": END, "max_new_tokens": NEW, "batch_size": 4, "progress": False}
    return generate(model, prompts, **{**settings, **options})


@torch.no_grad()
def greedy_loop(model, prompt):
    """Greedy decoding from the definition: the whole sequence anew for every token, no cache, no padding."""
    ids = []
    while len(ids) < NEW:
        logits = model(torch.tensor([[*prompt, *ids]])).logits[0, -1].double()
        token = int(logits.argmax())
        if token == END:
            return Generated(tuple(ids), True)
        ids.append(token)
    return Generated(tuple(ids), False)


def test_batches_are_greedy_decoding_one_at_a_time(model, prompts):
    expected = [greedy_loop(model, prompt) for prompt in prompts]
    assert continued(model, prompts) == expected
    assert continued(model, prompts, batch_size=1) == expected
    assert len({result.finished for result in expected}) == 2  # some end by themselves, some are cut
    assert len({result.ids for result in expected}) > 3


def test_another_pad_id_changes_nothing(model, prompts):
    assert continued(model, prompts, pad_id=3) == [greedy_loop(model, prompt) for prompt in prompts]


def test_beam_search_in_batches_is_beam_search_alone(model, prompts):
    alone = continued(model, prompts, num_beams=3, batch_size=1)
    assert continued(model, prompts, num_beams=3) == alone
    assert alone != continued(model, prompts)

    @torch.no_grad()
    def log_likelihood(prompt, result):
        ids = [*result.ids, END] if result.finished else result.ids
        rows = model(torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(-1)
        return sum(float(rows[len(prompt) - 1 + place, token]) for place, token in enumerate(ids)) / len(ids)

    greedy = continued(model, prompts)
    found, first = (np.mean([*map(log_likelihood, prompts, results)]) for results in (alone, greedy))
    assert found > first  # it searches for what is likelier


def test_left_padding_changes_no_logit(model, prompts):
    """What generation rests on: padded on the left under the mask, a prompt has the logits it has alone."""
    width = max(map(len, prompts))
    ids = torch.tensor([[END] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        padded = model(ids, attention_mask=mask, position_ids=positions).logits[:, -1]
        alone = torch.stack([model(torch.tensor([prompt])).logits[0, -1] for prompt in prompts])
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)


def test_the_models_own_sampling_settings_are_neither_used_nor_lost(prompts):
    model = model_of("gpt2")
    expected = continued(model, prompts)
    model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=3.0, max_length=3)
    own = model.generation_config
    model.train()  # dropout must be off while generating, and on again afterwards
    assert continued(model, prompts) == expected
    assert model.generation_config is own and model.training


def test_summary_is_found_by_position_not_by_text():
    """The model copies: after any token t it writes t + 1. The article itself holds the prompt's `TL;DR:` tokens."""

    class Successor(GPT2LMHeadModel):
        def forward(self, input_ids=None, **options):
            output = super().forward(input_ids=input_ids, **options)
            following = torch.nn.functional.one_hot((input_ids + 1) % VOCABULARY, VOCABULARY)
            output.logits = following[:, -output.logits.shape[1] :].float()
            return output

    torch.manual_seed(0)
    successor = Successor(GPT2Config(n_layer=1, n_head=1, n_embd=8, n_positions=64, vocab_size=VOCABULARY)).eval()
    tldr = [30, 31]
    prompt = [5, *tldr, 6, 7, *tldr]
    results = continued(successor, [prompt, [2]], max_new_tokens=3)
    assert results == [Generated((32, 33, 34), False), Generated((3, 4, 5), False)]
    assert continued(successor, [[VOCABULARY - 3]])[0] == Generated((VOCABULARY - 2, VOCABULARY - 1), True)


def test_what_cannot_be_continued_is_one_line(model):
    with pytest.raises(UserError, match="60 tokens and 12 new tokens do not fit the model's window of 64"):
        continued(model, [[1] * 60])
    with pytest.raises(UserError, match="empty"):
        continued(model, [[1], []])
    assert continued(model, []) == []
    assert continued(model, [[1] * 52])[0].ids == greedy_loop(model, [1] * 52).ids  # exactly the window


def test_vllm_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="pip install"):
        generate_vllm("somewhere", [[1]], eos_id=END, max_new_tokens=2)


# Resuming ------------------------------------------------------------------------------------------------------------


def test_interrupted_generation_goes_on_where_it_stopped(prompts, tmp_path, monkeypatch):
    model = model_of("gpt2")
    names = [f"article-{index}" for index in range(len(prompts))]
    expected = continued(model, prompts)
    path = tmp_path / "cache" / "generated.jsonl"
    calls = []
    original = model.generate

    def interrupted(*arguments, **options):
        calls.append(len(options["input_ids"]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(model, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        continued(model, prompts, ids=names, cache=GenerationCache(path, "weights-1"))
    assert calls == [4, 4, 1]
    cache = GenerationCache(path, "weights-1")
    assert len(cache) == 8
    assert continued(model, prompts, ids=names, cache=cache) == expected
    assert calls == [4, 4, 1, 1]  # only what was missing
    assert continued(model, prompts, ids=names, cache=GenerationCache(path, "weights-1")) == expected
    assert len(calls) == 4
    # other weights, other summaries
    assert len(GenerationCache(path, "weights-2")) == 0


def test_cache_survives_a_damaged_line(tmp_path):
    path = tmp_path / "generated.jsonl"
    first, second = Generated((1, 2), True), Generated((), False)
    GenerationCache(path, "f").add({"a": first, "ü": second})
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 3])  # the disk was full, the power went
    cache = GenerationCache(path, "f")
    assert (len(cache), cache.get("a"), cache.get("ü"), cache.get("b")) == (2, first, second, None)
    cache.add({"b": first})
    again = GenerationCache(path, "f")
    assert (len(again), again.get("b")) == (3, first)


def _share(rank, port, prompts, path):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", timedelta(minutes=2), rank=rank, world_size=2
    )
    try:
        names = [str(index) for index in range(len(prompts))]
        return continued(model_of("gpt2"), prompts, ids=names, cache=GenerationCache(path, "f"), batch_size=2)
    finally:
        torch.distributed.destroy_process_group()


def _other_process(_, *arguments):
    results = _share(1, *arguments)
    arguments[-1].with_name("other.json").write_text(json.dumps([result.ids for result in results]))


def test_two_processes_share_the_articles(prompts, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = tmp_path / "generated.jsonl"
    threads = torch.get_num_threads()
    other = torch.multiprocessing.spawn(_other_process, (port, prompts, path), nprocs=1, join=False)
    results = _share(0, port, prompts, path)
    torch.set_num_threads(threads)
    other.join()
    assert results == continued(model_of("gpt2"), prompts)
    assert json.loads((tmp_path / "other.json").read_text()) == [list(result.ids) for result in results]
    parts = {file.name: file.read_text().splitlines() for file in tmp_path.glob("generated.jsonl*")}
    assert {name: len(lines) for name, lines in parts.items()} == {"generated.jsonl": 5, "generated.jsonl.rank1": 4}
    written = sorted(int(json.loads(line)["id"]) for lines in parts.values() for line in lines)
    assert written == list(range(len(prompts)))  # once each
    assert len(GenerationCache(path, "f")) == len(prompts)  # a single process goes on with both files


# Comparison ----------------------------------------------------------------------------------------------------------

ARTICLES = [
    {
        "id": f"{index}",
        "article": f"Team {index} from Paris won the cup on Monday. The {index + 3} players of coach Lee cheered. "
        "It rained in the town. The mayor gave a speech. Nobody was hurt.",
        "highlights": f"Team {index} won the cup .\nThe {index + 3} players cheered .",
        "kind": "sport" if index % 3 else "weather",
        "outlet": None,
    }
    for index in range(7)
]
GOOD = [f"Team {index} won the cup.\nThe {index + 3} players cheered in Rome." for index in range(7)]
POOR = ["", "It rained.", "The cup \ud800 was won.", "Team Team Team Team", "Nobody", "The mayor", "\x00 🎉"]


@pytest.fixture(scope="module")
def evaluated():
    finished = {"zero_shot": [False] * 6 + [True], "fine_tuned": [True] * 7}
    return evaluate_systems(
        ARTICLES,
        {"zero_shot": POOR, "fine_tuned": GOOD, "shuffled-pairs": POOR[::-1]},
        finished,
        resamples=500,
        seed=3,
        settings={"num_beams": 1},
        progress=False,
    )


def test_evaluation_holds_every_system_with_intervals(evaluated):
    evaluation, _ = evaluated
    assert evaluation["articles"] == 7
    systems = evaluation["systems"]
    assert list(systems) == ["zero_shot", "fine_tuned", "shuffled-pairs", "lead3", "random3", "oracle", "reference"]
    assert [systems[name]["label"] for name in ("zero_shot", "shuffled-pairs", "lead3")] == [
        "Zero-shot",
        "Shuffled-pairs control",
        "Lead-3",
    ]
    meteor = text.Scorer().meteor_name
    for name, system in systems.items():
        assert ({"rouge1", "rouge2", "rougeL", "rougeLsum", meteor} <= set(system["scores"])) == (name != "reference")
        assert ("finished" in system["scores"]) == (name in ("zero_shot", "fine_tuned"))
        for score in ("length", "compression", "novel_bigrams", "repetition", "unsupported"):
            assert set(system["scores"][score]) == {"mean", "low", "high"}
    assert systems["zero_shot"]["scores"]["finished"]["mean"] == pytest.approx(100 / 7)
    assert systems["oracle"]["scores"]["rouge1"]["mean"] > systems["random3"]["scores"]["rouge1"]["mean"]
    settings = evaluation["settings"]
    assert (settings["num_beams"], settings["seed"], settings["resamples"]) == (1, 3, 500)
    assert {"rouge_recipe", "sentence_splitter", "wordnet"} <= set(settings)


def test_numbers_can_be_made_again_from_the_rows(evaluated):
    evaluation, rows = evaluated
    resampling = {"resamples": 500, "seed": 3}

    def column(system, score):
        return np.array([row["scores"][system][score] for row in rows])

    for system, content in evaluation["systems"].items():
        for score, interval in content["scores"].items():
            expected = intervals.bootstrap_interval(column(system, score), **resampling)
            assert list(interval.values()) == pytest.approx(list(expected), nan_ok=True)
    assert {entry["a"] for entry in evaluation["comparisons"]} == {"fine_tuned"}
    pairs = [(entry["b"], entry["score"]) for entry in evaluation["comparisons"]]
    assert len(set(pairs)) == len(pairs)
    assert {b for b, _ in pairs} == {"zero_shot", "shuffled-pairs", "lead3", "random3", "oracle", "reference"}
    assert ("zero_shot", "finished") in pairs and ("lead3", "finished") not in pairs
    assert ("reference", "length") in pairs and ("reference", "rouge1") not in pairs
    for entry in evaluation["comparisons"]:
        a, b = column("fine_tuned", entry["score"]), column(entry["b"], entry["score"])
        expected = intervals.paired_bootstrap(a, b, **resampling)
        assert {key: entry[key] for key in expected} == pytest.approx(expected, nan_ok=True)
        assert entry["difference"] == pytest.approx(np.nanmean(a - b))
        assert entry["p_value"] == pytest.approx(tests.randomisation_test(a, b, **resampling))
        assert entry["effect"] == pytest.approx(intervals.effect_size(a, b), nan_ok=True)


def test_rows_keep_texts_scores_and_groups(evaluated):
    _, rows = evaluated
    scorer = text.Scorer()
    for row, article, good, poor in zip(rows, ARTICLES, GOOD, POOR, strict=True):
        assert (row["id"], row["article"], row["reference"]) == (
            article["id"],
            article["article"],
            article["highlights"],
        )
        assert set(row["summaries"]) == {"zero_shot", "fine_tuned", "shuffled-pairs", "lead3", "random3", "oracle"}
        assert row["summaries"]["fine_tuned"] == good
        assert row["summaries"]["zero_shot"] == poor.replace("\ud800", "?")
        assert row["finished"] == {"zero_shot": row["id"] == "6", "fine_tuned": True}
        assert row["kind"] == article["kind"] and "outlet" not in row
        expected = scorer.score(good, article["highlights"], article["article"])
        assert row["scores"]["fine_tuned"] == pytest.approx({**expected, "finished": 100.0}, nan_ok=True)
        json.dumps(row, ensure_ascii=False).encode()


def test_groups_hold_their_own_articles(evaluated):
    evaluation, rows = evaluated
    assert list(evaluation["groups"]) == ["kind"]
    groups = evaluation["groups"]["kind"]
    assert {value: group["articles"] for value, group in groups.items()} == {"sport": 4, "weather": 3}
    lengths = [row["scores"]["fine_tuned"]["rouge1"] for row in rows if row["kind"] == "weather"]
    assert groups["weather"]["systems"]["fine_tuned"]["scores"]["rouge1"]["mean"] == pytest.approx(np.mean(lengths))


def test_bad_input_of_the_comparison():
    with pytest.raises(UserError, match="no article"):
        evaluate_systems([], {"zero_shot": []}, {})
    with pytest.raises(ValueError, match="zero_shot has 1 entries for 7 articles"):
        evaluate_systems(ARTICLES, {"zero_shot": ["a"]}, {})
    empty = [{"id": 1, "article": "", "highlights": ""}]
    evaluation, rows = evaluate_systems(empty, {"zero_shot": [""]}, {}, resamples=10, progress=False)
    assert evaluation["systems"]["zero_shot"]["scores"]["rouge1"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert evaluation["groups"] == {} and rows[0]["id"] == "1"
    assert {entry["a"] for entry in evaluation["comparisons"]} == {"zero_shot"}


def test_metric_of_the_package_evaluate(tmp_path):
    columns = {
        "predictions": GOOD,
        "references": [row["highlights"] for row in ARTICLES],
        "articles": [row["article"] for row in ARTICLES],
    }
    metric = SummaryMetric(cache_dir=str(tmp_path))
    scores = metric.compute(**columns)
    expected = text.score_all(*columns.values())
    assert scores.keys() == expected.keys()
    for name, values in scores.items():
        assert values == pytest.approx(expected[name], nan_ok=True)
    assert len(scores["rouge1"]) == 7
    assert not list(tmp_path.rglob("*.arrow"))
