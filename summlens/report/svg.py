"""Drawings and sentences as they stand in the page: a matplotlib SVG that follows light and dark, prose with links."""

import re

from markupsafe import Markup, escape

from summlens.figures.kit.style import ACCENT, GRID, INK, MUTED, PAPER


def inline_svg(svg: str, name: str) -> Markup:
    """A matplotlib SVG as part of the page: ids unique to `name`, and inks that follow the page's light or dark."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'<g id="(?:figure|axes|patch|matplotlib\.axis|xtick|ytick|line2d|text|\w+)_\d+"', "<g", svg)
    seen: set[str] = set()  # two colour bars with one scale are one image, written twice under one id
    svg = re.sub(r' id="([^"]*)"', lambda m: "" if m[1] in seen else seen.add(m[1]) or f' id="{name}-{m[1]}"', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    for ink, variable in ((INK, "ink"), (MUTED, "muted"), (GRID, "grid"), (PAPER, "paper"), (ACCENT, "accent")):
        svg = svg.replace(f"fill: {ink}", f"fill: var(--{variable})").replace(
            f"stroke: {ink}", f"stroke: var(--{variable})"
        )
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)  # the page's own font
    svg = _smaller(svg)
    # The width in points is kept as bounds, so that text has one size in all figures and narrow screens scroll.
    points = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
    bounds = f"max-width: {1.45 * points:.0f}px; min-width: {points:.0f}px"
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return Markup(svg.replace("<svg", f'<svg aria-hidden="true" focusable="false" style="{bounds}"', 1))


def _smaller(svg: str) -> str:
    """The same drawing in fewer characters: a hundredth of a point is enough, and nobody reads the indentation."""
    svg = svg.replace("font-family: 'DejaVu Sans', sans-serif; ", "")  # the style sheet names the page's own
    svg = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", svg)
    svg = re.sub(r' (d|x|y|transform)="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), svg)
    svg = re.sub(r"\s*\n\s*", " ", svg).replace("> <", "><")
    while "<g></g>" in svg or "<g/>" in svg:
        svg = svg.replace("<g></g>", "").replace("<g/>", "")
    return svg


def prose(text: str, known: set[str]) -> Markup:
    """`text` with every "head 3.1" of the head table linked, true minus signs, and no line break before % or a head."""

    def link(match: re.Match) -> str:
        anchor = match[2].replace(".", "-")
        word = match[1].replace(" ", "\u00a0")
        return f'{word}<a href="#head-{anchor}">{match[2]}</a>' if match[2] in known else word + match[2]

    linked = re.sub(r"([Hh]ead )(\d+\.\d+)\b", link, str(escape(text)))
    return Markup(re.sub(r"(?<![\w-])-(?=\d+\.)", "−", linked).replace(" %", "\u00a0%"))
