"""Line charts as SVG text, in colours of the page's style sheet, so that they follow light and dark.

Shape legend: N = points of a line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from boxwright.evaluation.matching import Floats

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 40
COLOURS = 8


@dataclass(frozen=True, slots=True)
class Line:
    """A line of N points; `colour` is 1 to 8, 0 the ink of the page, -1 a faint grey; None in `y` breaks it."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: int = 0
    dashed: bool = False
    points: bool = False


def line_chart(
    lines: Sequence[Line],
    *,
    label: str,
    across: str,
    up: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    mark: float | None = None,
) -> str:
    """A chart with its legend as HTML; `label` is what a screen reader says of it, `mark` a vertical line."""
    lines = [line for line in lines if any(value is not None for value in line.y)]
    if not lines:
        return '<p class="quiet">Nothing to draw.</p>'
    xs = [value for line in lines for value in line.x]
    ys = [value for line in lines for value in line.y if value is not None]
    x_low, x_high = x_range or (min(xs), max(xs))
    y_low, y_high = y_range or (min(0.0, min(ys)), max(ys) * 1.05)
    x_high, y_high = max(x_high, x_low + 1e-9), max(y_high, y_low + 1e-9)

    def place(x: float, y: float) -> tuple[float, float]:
        right = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        return right, HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in ticks(y_low, y_high):
        _, y = place(x_low, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in ticks(x_low, x_high):
        x, _ = place(tick, y_low)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(across)}</text>')
    parts.append(
        f'<text transform="translate(11 {(HEIGHT - BOTTOM + TOP) / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(up)}</text>"
    )
    if mark is not None:
        x, _ = place(mark, y_low)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    for line in lines:
        parts.append(_path(line, [place(x, y) if y is not None else None for x, y in zip(line.x, line.y, strict=True)]))
    svg = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
    return f"{svg}{''.join(parts)}</svg>{_legend(lines)}"


def _path(line: Line, points: Sequence[tuple[float, float] | None]) -> str:
    steps, dots, pen = [], [], "M"
    for point in points:
        if point is None:
            pen = "M"
            continue
        steps.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
        dots.append(f'<circle class="{_colour(line)} dot" cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="3"/>')
        pen = "L"
    dash = " dashed" if line.dashed else ""
    path = f'<path class="line {_colour(line)}{dash}" d="{"".join(steps)}"/>'
    return path + ("".join(dots) if line.points or len(dots) == 1 else "")


def _colour(line: Line) -> str:
    return "faint" if line.colour < 0 else "ink" if line.colour == 0 else f"c{(line.colour - 1) % COLOURS + 1}"


def _legend(lines: Sequence[Line]) -> str:
    named = [line for line in lines if line.name]
    rows = "".join(
        f'<li><svg class="key" viewBox="0 0 24 8" aria-hidden="true"><path class="line {_colour(line)}'
        f'{" dashed" if line.dashed else ""}" d="M1 4L23 4"/></svg>{escape(line.name)}</li>'
        for line in named
    )
    return f'<ul class="legend">{rows}</ul>' if named else ""


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `wanted` of them.

    >>> ticks(0, 1), ticks(0, 133)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0, 50, 100])
    """
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) if step < 1 else int(number * step) for number in range(first, last + 1)]


def thinned(
    x: Sequence[float] | Floats, y: Sequence[float] | Floats, most: int = 200
) -> tuple[list[float], list[float]]:
    """At most about `most` of the points of a line, with its first and last."""
    step = max(1, -(-len(x) // most))
    rows = sorted({*range(0, len(x), step), len(x) - 1}) if len(x) else []
    return [float(x[row]) for row in rows], [float(y[row]) for row in rows]
