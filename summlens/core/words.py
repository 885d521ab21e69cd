"""Numbers and lists as they stand in a sentence."""

from collections.abc import Sequence


def quoted(value: float, low: float, high: float, digits: int = 3) -> str:
    """A number with its interval: 0.123 [0.100, 0.150]."""
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def percent(found: dict) -> str:
    """{share, low, high} in %: 12 % [10, 15]."""
    return f"{100 * found['share']:.0f} % [{100 * found['low']:.0f}, {100 * found['high']:.0f}]"


def listed(names: Sequence[str]) -> str:
    """The names as one says them: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
