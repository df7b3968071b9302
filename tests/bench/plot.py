"""A plot of the figures that have several contestants: bars for medians, whiskers for quartiles.

The axes are logarithmic: contestants are a factor apart, not a difference. SVG, by hand: it is some
rectangles and lines; a plotting library would be the largest thing that the project depends on.
"""

import math
from xml.sax.saxutils import escape

from figures import FIGURES, OURS, Figure
from results import Results, Summary
from table import number

WIDTH, LABEL, VALUE = 760, 170, 90
BAR, GAP, TITLE = 16, 6, 34
COLOURS = {True: "#2f6fbb", False: "#9aa4ae"}
"""Of our bars, and of others': both to be seen on white and on black."""

STYLE = "font: 12px sans-serif; fill: #6b7480"


def to_svg(results: Results) -> str:
    """Draw a panel for each figure that has more than one contestant."""
    panels, height = [], 10
    for figure in FIGURES:
        summaries = results.summaries(figure.key)
        if len(summaries) > 1:
            panels.append(f'<g transform="translate(0 {height})">{_panel(figure, summaries)}</g>')
            height += TITLE + len(summaries) * (BAR + GAP) + GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" style="{STYLE}">\n' + "\n".join(panels) + "\n</svg>\n"
    )


def _panel(figure: Figure, summaries: dict[str, Summary]) -> str:
    scale = _Scale(summaries)
    title = escape(f"{figure.title}, {figure.unit}")
    parts = [f'<text x="8" y="18" style="font-weight: bold">{title}</text>']
    for row, (name, summary) in enumerate(summaries.items()):
        parts += _bar(name, summary, scale, TITLE - 8 + row * (BAR + GAP))
    return "".join(parts)


class _Scale:
    """Puts values on the axis: from a third of the least to the most that is drawn."""

    def __init__(self, summaries: dict[str, Summary]) -> None:
        drawn = [v for s in summaries.values() for v in (s.median, s.q1, s.q3) if v > 0]
        self._low = math.log(min(drawn, default=1) / 3)
        self._high = math.log(max(drawn, default=1))

    def __call__(self, value: float) -> float:
        """Give a value's place in pixels; 0 has none on such an axis, and is at its beginning."""
        if value <= 0:
            return LABEL
        part = (math.log(value) - self._low) / (self._high - self._low)
        return LABEL + part * (WIDTH - LABEL - VALUE)


def _bar(name: str, summary: Summary, scale: _Scale, top: int) -> list[str]:
    middle, end = top + BAR / 2, scale(summary.median)
    low, high = scale(summary.q1), scale(summary.q3)
    whisker = f"M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8"
    colour, width = COLOURS[name == OURS], f"{end - LABEL:.1f}"
    return [
        f'<text x="{LABEL - 8}" y="{top + 12}" text-anchor="end">{escape(name)}</text>',
        f'<rect x="{LABEL}" y="{top}" width="{width}" height="{BAR}" fill="{colour}"/>',
        f'<path d="{whisker}" stroke="#d08030" fill="none"/>',
        f'<text x="{max(end, high) + 6:.1f}" y="{top + 12}">{number(summary.median)}</text>',
    ]
