"""The house: imports point down its floors (CONTRIBUTING.md), and the records of names agree with what is built."""

import ast
from pathlib import Path

import pytest

from summlens import names

PACKAGE = Path(__file__).parents[1] / "summlens"
# From the ground up. Rooms of one floor do not know each other.
FLOORS = (
    ("names", "stats"),
    ("core",),
    ("artifacts", "data", "metrics"),
    ("model", "figures"),
    ("capture", "report", "claims"),
    ("study",),
    ("training", "evaluation", "analysis"),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
INSIDE_ANALYSIS = {"causal": {"noise"}, "representations": {"noise"}, "noise": set()}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module and name that a file imports, dotted, also inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts
    for name in imports(path):
        package, *rest = name.split(".")
        if package == "torch" and own[0] in ("names", "stats", "artifacts", "figures", "report", "claims"):
            pytest.fail(f"{path} imports torch: a page and a figure are made from saved files alone")
        if package != "summlens" or own == ("__init__",) or rest[0] in (own[0], "__version__"):
            inside = own[0] == "analysis" and len(own) > 2 and rest[:1] == ["analysis"] and rest[1] in INSIDE_ANALYSIS
            assert not inside or rest[1] == own[1] or rest[1] in INSIDE_ANALYSIS[own[1]], f"{path} imports {name}"
            continue
        assert FLOOR[rest[0]] < FLOOR[own[0]], f"{own[0]} is not above {rest[0]}: {path} imports {name}"


def test_every_record_has_one_key_and_every_control_a_builder():
    from summlens.training import companions

    keys = list(names.compared().values())
    assert len(set(keys)) == len(keys) == len(names.compared())
    assert companions.BUILDERS.keys() == names.CONTROLS.keys()
    pictures = [control.picture for control in names.CONTROLS.values()]
    assert len(set(pictures)) == len(pictures)
    for control in names.CONTROLS:
        assert names.seed_of(control) is None and names.companion_title(control) == names.CONTROLS[control].title
    assert names.seed_of(names.seed_name(43)) == 43
    with pytest.raises(KeyError):
        names.companion_title("a control that nobody knows")


def test_divergences_are_known_by_their_records_alone():
    divergences = set(filter(names.is_divergence, names.compared()))
    assert divergences == {"heads/kl", "heads/kl_no_sink", "heads/js", "heads/js_no_sink"}
    assert names.is_divergence("divergence/cosine") and not names.is_divergence("logit_lens/loss")
    with pytest.raises(KeyError):
        names.is_divergence("heads/a_metric_without_a_record")
    assert not set(names.attention_forms(divergences=False)) & {"kl", "js"}
