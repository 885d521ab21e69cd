"""Seconds for 10,000 bootstrap resamples, and for as many random sign assignments, over 11,490 articles and 4 scores.

python benchmarks/bootstrap.py          (last line JSON)
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from summlens.stats.intervals import bootstrap_interval
from summlens.stats.tests import randomisation_test

ARTICLES, SCORES, RESAMPLES = 11_490, 4, 10_000


def seconds(function, *arguments):
    started = time.perf_counter()
    function(*arguments, resamples=RESAMPLES)
    return round(time.perf_counter() - started, 2)


a, b = np.random.default_rng(0).random((2, ARTICLES, SCORES))
print(
    json.dumps(
        {
            "articles": ARTICLES,
            "scores": SCORES,
            "resamples": RESAMPLES,
            "bootstrap_seconds": seconds(bootstrap_interval, a),
            "randomisation_seconds": seconds(randomisation_test, a, b),
        }
    )
)
