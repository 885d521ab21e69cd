"""Which part of a model learns, as `--trainable` names it: read, and checked against a model's layers and heads."""

import random
import re
from dataclasses import dataclass
from itertools import product

from summlens.core.errors import UserError

FORMS = "all, 'layers 2,3,5', 'heads 6.8,10.5', or 'random like layers 2,3,5' (as many other ones, drawn by seed)"


@dataclass(frozen=True)
class Selection:
    """`places` of `kind` layers (layer numbers) or heads ((layer, head) pairs); of kind all there are none to name.

    With `random`, the places are not these but as many others.
    """

    kind: str
    places: tuple = ()
    random: bool = False

    def __str__(self) -> str:
        names = ",".join(map(_name, self.places))
        return f"{'random like ' * self.random}{self.kind} {names}".strip()

    def within(self, layers: int, heads: int, seed: int) -> "Selection":
        """The selection in a model of so many layers and heads a layer; random places are drawn by `seed`.

        Raises UserError for a place that the model does not have, and where there are fewer others than are named.
        """
        if self.kind == "all":
            return self
        there = list(range(layers) if self.kind == "layers" else product(range(layers), range(heads)))
        for place in self.places:
            if place not in there:
                own = f"layers 0 to {layers - 1}" + f" of heads 0 to {heads - 1}" * (self.kind == "heads")
                raise UserError(f"--trainable {str(self)!r}: there is no {_name(place)}, the model has {own}")
        if not self.random:
            return self
        others = [place for place in there if place not in self.places]
        if len(others) < len(self.places):
            raise UserError(
                f"--trainable {str(self)!r}: the model has only {len(others)} other {self.kind}: name at most "
                f"{len(there) // 2}"
            )
        return Selection(self.kind, tuple(sorted(random.Random(seed).sample(others, len(self.places)))))


def parse(text: str) -> Selection:
    """The selection that `text` names. Raises UserError where it names none."""
    if text == "all":
        return Selection("all")
    match = re.fullmatch(r"(random like )?(layers|heads) (.+)", text)
    kind, items = (match[2], re.split(r", ?", match[3])) if match else ("", [])
    item = {"layers": r"\d+", "heads": r"\d+\.\d+", "": ""}[kind]
    if not match or not all(re.fullmatch(item, one) for one in items):
        raise UserError(f"--trainable must be {FORMS}; it is {text!r}")
    places = {tuple(map(int, one.split("."))) if kind == "heads" else int(one) for one in items}
    return Selection(kind, tuple(sorted(places)), bool(match[1]))


def _name(place: int | tuple[int, int]) -> str:
    return str(place) if isinstance(place, int) else f"{place[0]}.{place[1]}"
