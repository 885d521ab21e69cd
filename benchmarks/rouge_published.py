"""The scorer against published figures: SimCLS's outputs on all 11,490 test articles of CNN/DailyMail.

    python benchmarks/rouge_published.py [--data ../shared/data] [--processes 2]

Reads DIR/simcls_test_outputs.jsonl.gz (`hyp`, `ref`: lower-cased and tokenised) and scores it with both recipes. The
last line is JSON; `max_abs_difference`, in points, is over the figures that are known for all the articles: ROUGE-1 and
ROUGE-2 with Porter stemming, and the three of the paper (Liu & Liu, 2021, table 1), which were made by ROUGE-1.5.5.
`max_abs_difference_from_package` is, over 200 articles and all four scores, the one from rouge_score itself.
"""

import argparse
import gzip
import json
import re
import sys
import time
from pathlib import Path

from joblib import Parallel, delayed
from rouge_score.rouge_scorer import RougeScorer

sys.path.insert(0, str(Path(__file__).parents[1]))

from summlens.core.errors import UserError
from summlens.metrics import text

KNOWN = {
    "rouge_score": {"rouge1": 46.36, "rouge2": 22.07},
    "1.5.5": {"rouge1": 46.67, "rouge2": 22.15, "rougeLsum": 43.54},
}
SENTENCE_END = re.compile(r"(?<= [.!?]) ")


def total(recipe, rows):
    """Sums over the rows of every ROUGE score."""
    scorer = text.Scorer(recipe)
    scores = [scorer.rouge(SENTENCE_END.split(row["hyp"]), SENTENCE_END.split(row["ref"])) for row in rows]
    return {name: sum(score[name] for score in scores) for name in scores[0]}


def difference_from_package(rows):
    ours, theirs = text.Scorer(), RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    largest = 0.0
    for row in rows:
        hypothesis, reference = SENTENCE_END.split(row["hyp"]), SENTENCE_END.split(row["ref"])
        expected = theirs.score("\n".join(reference), "\n".join(hypothesis))
        for name, value in ours.rouge(hypothesis, reference).items():
            largest = max(largest, abs(value - 100 * expected[name].fmeasure))
    return largest


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="directory of the published outputs")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    path = options.data / "simcls_test_outputs.jsonl.gz"
    if not path.is_file():
        print(f"{path} is not there: nothing to compare with")
        print(json.dumps({"skipped": f"no {path.name} in {options.data}"}))
        return
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]

    measured, differences = {}, []
    for recipe, known in KNOWN.items():
        try:
            text.Scorer(recipe)
        except UserError as error:
            print(f"{recipe}: left out. {error}")
            continue
        started = time.perf_counter()
        parts = Parallel(n_jobs=options.processes)(
            delayed(total)(recipe, rows[start :: options.processes]) for start in range(options.processes)
        )
        measured[recipe] = {name: sum(part[name] for part in parts) / len(rows) for name in parts[0]}
        print(f"{recipe}: {len(rows)} articles in {time.perf_counter() - started:.0f} s")
        for name, value in known.items():
            differences.append(abs(measured[recipe][name] - value))
            print(f"  {name:<10} {measured[recipe][name]:7.3f}   known {value:.2f}")
    result = {
        "articles": len(rows),
        "max_abs_difference": round(max(differences), 4),
        "max_abs_difference_from_package": difference_from_package(rows[:200]),
        "measured": measured,
        "known": KNOWN,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
