"""The table of scores, the paired comparisons, and the scores by group of articles."""

from summlens.figures.kit.rundata import RunData
from summlens.figures.scores import comparison, label, main_score, score_names, systems, title


def score_table(data: RunData) -> dict:
    table = systems(data)
    names = score_names(table)
    rows = [
        {"system": system, "label": label(data, system), "scores": [table[system].get(score) for score in names]}
        for system in table
    ]
    paired = []
    for other in table:
        found = [comparison(data, "fine_tuned", other, score) for score in names]  # None where nothing was compared
        if other != "fine_tuned" and any(found):
            paired.append((label(data, other), found))
    return {
        "columns": [title(score) for score in names],
        "rows": rows,
        "paired": paired,
        "articles": (data.evaluation or {}).get("articles", "?"),
        "recipe": _recipe((data.evaluation or {}).get("settings") or {}),
        "groups": [
            _group_table(data, column, values) for column, values in (data.evaluation.get("groups") or {}).items()
        ],
    }


RECIPE = {  # setting of the evaluation: how the caption names it
    "rouge_recipe": "ROUGE",
    "sentence_splitter": "sentences",
    "wordnet": "METEOR's synonyms",
    "max_new_tokens": "new tokens at most",
    "num_beams": "beams",
    "test": "p-values",
}


def _recipe(settings: dict) -> str:
    """How the scores were made, in one line; what was not saved is left out, what was not there is "none"."""
    named = [f"{name}: {settings[key] or 'none'}" for key, name in RECIPE.items() if key in settings]
    return "; ".join(named)


def _group_table(data: RunData, column: str, values: dict) -> dict:
    """The main score of every system, by the value that the articles have in `column`; the largest groups first."""
    score = main_score(data)
    names = [name for name, scores in systems(data).items() if score in scores]
    rows = [
        (value, group.get("articles"), [_saved_score(group, name, score) for name in names])
        for value, group in sorted(values.items(), key=lambda item: (-(item[1].get("articles") or 0), item[0]))
    ]
    return {"column": column, "score": title(score)[0], "systems": [label(data, name) for name in names], "rows": rows}


def _saved_score(group: dict, system: str, score: str) -> dict | None:
    return group.get("systems", {}).get(system, {}).get("scores", {}).get(score)
