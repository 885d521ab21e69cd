"""The analyses of a run: each is listed once, with what it writes, how it is made and what is said of it.

An analysis reads `Material` and gives (info, arrays), the JSON and the arrays of its stem. To add one is to write its
function and its entry here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from summlens import artifacts
from summlens.analysis import attention_maps, controls
from summlens.analysis.causal import causal_tests
from summlens.analysis.material import Material
from summlens.analysis.representations import latent_space
from summlens.core.errors import UserError

__all__ = ["ANALYSES", "Analysis", "Done", "Material", "analyze"]


@dataclass(frozen=True)
class Analysis:
    """`stem` names its files, `made` makes what is in them, `headlines` says it in lines. `wanted` tells whether the
    material calls for it at all. What is `optional` leaves the rest standing where it cannot be made."""

    name: str
    stem: str
    made: Callable[[Material], tuple[dict, dict[str, np.ndarray]]]
    headlines: Callable[[Mapping], list[str]]
    wanted: Callable[[Material], bool] = lambda material: True
    optional: bool = True


ANALYSES = (
    Analysis(
        "representations", artifacts.LATENT_SPACE, latent_space.of_material, latent_space.headlines, optional=False
    ),
    Analysis(
        "causal tests",
        artifacts.CAUSAL,
        causal_tests.of_material,
        causal_tests.headlines,
        lambda material: material.base is not None and material.causal != "off",
    ),
    Analysis(
        "format and task",
        artifacts.CONTROL_SPLIT,
        controls.of_material,
        controls.headlines,
        lambda material: material.own,
    ),
    Analysis(
        "attention maps of the head explorer",
        artifacts.ATTENTION_MAPS,
        attention_maps.of_material,
        lambda info: [],
        lambda material: material.own and material.base is not None,
    ),
)


@dataclass
class Done:
    """Files written, and what was left out, with the reason."""

    written: list[Path]
    left_out: dict[str, str]


def analyze(material: Material, without: tuple[str, ...] = (), say: Callable[[str], None] = print) -> Done:
    """Make, write and `say` every analysis that the material calls for, but the stems in `without`."""
    done = Done([], {})
    for analysis in ANALYSES:
        if analysis.stem in without or not analysis.wanted(material):
            continue
        try:
            info, arrays = analysis.made(material)
        except UserError as reason:
            if not analysis.optional:
                raise
            done.left_out[analysis.name] = str(reason)
            continue
        done.written += material.run.write_analysis(analysis.stem, info, arrays)
        done.left_out |= info.get("left_out", {})
        for line in analysis.headlines(info):
            say(line)
    return done
