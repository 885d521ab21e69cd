"""Scores of every system's summaries on the same articles, with intervals and comparisons."""

import tempfile
from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
from tqdm.auto import tqdm

from summlens import names
from summlens.core.errors import UserError
from summlens.metrics import text
from summlens.stats import tests
from summlens.stats.intervals import bootstrap_interval, effect_size, paired_bootstrap


class SummaryMetric(evaluate.Metric):
    """The scores of summlens.metrics.text as a metric of the package evaluate; nothing is fetched.

    `compute(predictions=..., references=..., articles=...)` returns {score: [value of each article]}.
    """

    def __init__(self, rouge_recipe: str = "rouge_score", processes: int | None = None, **kwargs):
        self._rouge_recipe, self._processes = rouge_recipe, processes
        super().__init__(**kwargs)

    def _info(self):
        return evaluate.MetricInfo(
            description=text.__doc__,
            citation="",
            inputs_description="predictions, references, articles: one string an article each",
            features=datasets.Features(
                {name: datasets.Value("string") for name in ("predictions", "references", "articles")}
            ),
        )

    def _compute(self, predictions, references, articles):
        return text.score_all(predictions, references, articles, self._rouge_recipe, self._processes)


def evaluate_systems(
    articles: Sequence[dict],
    summaries: dict[str, Sequence[str]],
    finished: dict[str, Sequence[bool]],
    *,
    rouge_recipe: str = "rouge_score",
    seed: int = 0,
    resamples: int = 10_000,
    confidence: float = 0.95,
    settings: dict | None = None,
    group_columns: Sequence[str] = ("outlet", "kind"),
    processes: int | None = None,
    progress: bool = True,
) -> tuple[dict, list[dict]]:
    """Score systems and baselines on the same articles and compare them.

    Args:
        articles: A dicts with `id`, `article`, `highlights`, and any of `group_columns`.
        summaries: {system: A summaries}. Compared with everything else is `fine_tuned`, or where it is absent the
            first system.
        finished: {system: A flags} for the systems that generate: did the summary end by itself?
        settings: what the caller wants to have said about the generation, kept under `settings`.

    Returns:
        (content of evaluation.json, rows of predictions.jsonl). Beside `systems` and `comparisons`, evaluation.json has
        `groups` {column: {value: {articles, systems}}} for the columns that the articles have.

    Raises:
        UserError: there is no article, or the ROUGE recipe cannot be had.
    """
    if not articles:
        raise UserError("there is no article to evaluate: the test split is empty")
    for system, texts in {**summaries, **finished}.items():
        if len(texts) != len(articles):
            raise ValueError(f"{system} has {len(texts)} entries for {len(articles)} articles")
    identities = [str(row["id"]) for row in articles]
    documents = [_encodable(row["article"]) for row in articles]
    references = [_encodable(row["highlights"]) for row in articles]
    written = {system: [_encodable(summary) for summary in texts] for system, texts in summaries.items()}
    written.update(text.extractive_baselines(identities, documents, references, seed, processes))

    scores = {}
    with tempfile.TemporaryDirectory() as folder:  # evaluate wants a directory, even to work in memory
        metric = SummaryMetric(rouge_recipe, processes, cache_dir=folder, keep_in_memory=True)
        for system in tqdm(written, desc="Scoring", unit="system", disable=not progress):
            scores[system] = metric.compute(predictions=written[system], references=references, articles=documents)
            if system in finished:
                scores[system]["finished"] = [100.0 * bool(flag) for flag in finished[system]]
    own = [text.surface_scores(*pair) for pair in zip(references, documents, strict=True)]
    scores["reference"] = {name: [row[name] for row in own] for name in own[0]}

    tables = {system: np.array(list(columns.values())).T for system, columns in scores.items()}  # (A, scores)
    resampling = {"resamples": resamples, "confidence": confidence, "seed": seed}

    def intervals(chosen):
        return {
            system: {
                "label": names.system_title(system),
                "scores": _intervals(scores[system], tables[system][chosen], **resampling),
            }
            for system in scores
        }

    main = "fine_tuned" if "fine_tuned" in written else next(iter(written))
    evaluation = {
        "articles": len(articles),
        "settings": {
            "rouge_recipe": rouge_recipe,
            **text.tools(),
            **resampling,
            "interval": "percentile bootstrap over the articles; the variance between training seeds is not in it",
            "test": "approximate randomisation over the articles, two-sided",
            "effect": "Cohen's d_z of the paired differences",
            **(settings or {}),
        },
        "systems": intervals(slice(None)),
        "comparisons": [
            comparison
            for other in scores
            if other != main
            for comparison in _comparisons(main, other, scores, tables, **resampling)
        ],
        "groups": {
            column: {
                value: {"articles": len(members), "systems": intervals(members)} for value, members in values.items()
            }
            for column, values in _groups(articles, group_columns).items()
        },
    }
    rows = [
        {
            "id": identities[index],
            "article": documents[index],
            "reference": references[index],
            "summaries": {system: texts[index] for system, texts in written.items()},
            "scores": {
                system: {name: values[index] for name, values in columns.items()} for system, columns in scores.items()
            },
            "finished": {system: bool(flags[index]) for system, flags in finished.items()},
            **{column: row[column] for column in group_columns if row.get(column) is not None},
        }
        for index, row in enumerate(articles)
    ]
    return evaluation, rows


def _intervals(names, table, **resampling):
    mean, low, high = bootstrap_interval(table, **resampling)
    return {
        name: {"mean": float(mean[column]), "low": float(low[column]), "high": float(high[column])}
        for column, name in enumerate(names)
    }


def _comparisons(a, b, scores, tables, *, resamples, confidence, seed):
    """The rows of `comparisons` for two systems: every score that both have for at least one article."""
    shared = [name for name in scores[a] if name in scores[b]]
    one, other = (tables[system][:, [list(scores[system]).index(name) for name in shared]] for system in (a, b))
    interval = paired_bootstrap(one, other, resamples=resamples, confidence=confidence, seed=seed)
    p_values = tests.randomisation_test(one, other, resamples=resamples, seed=seed)
    effects = effect_size(one, other)
    return [
        {
            "a": a,
            "b": b,
            "score": name,
            **{key: float(values[column]) for key, values in interval.items()},
            "p_value": float(p_values[column]),
            "effect": float(effects[column]),
        }
        for column, name in enumerate(shared)
        if not np.isnan(p_values[column])
    ]


def _groups(articles, columns):
    """{column: {value: indices of its articles}}, for the columns that any article has a value in."""
    found = {}
    for column in columns:
        values = {}
        for index, row in enumerate(articles):
            if row.get(column) is not None:
                values.setdefault(str(row[column]), []).append(index)
        if values:
            found[column] = dict(sorted(values.items()))
    return found


def _encodable(value: str) -> str:
    """`value` without lone surrogates, which no UTF-8 file can hold."""
    return value.encode("utf-8", "replace").decode("utf-8")
