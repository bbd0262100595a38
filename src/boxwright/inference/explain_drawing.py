"""The pictures of an explanation: locations, owners, centerness and class scores level by level, one box, one detection.

Everything is drawn in network pixels over the picture as it is in its file. Shape legend: P = locations on all levels.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from boxwright.inference.explain import (
    SIDES,
    Explanation,
    Lesson,
    Level,
    learners,
    most_central,
    nearest_truth,
    place,
    score_sum,
)
from boxwright.metrics.report import plain_figure
from boxwright.ops.image import resize_image
from boxwright.visualize import class_colour

DPI = 110
PANEL_INCHES = 4.6
MOST_PIXELS = 1200  # of the longer side of the picture under a panel
SIDE_COLOURS = ("#1f77ff", "#ff7f0e", "#19b34a", "#e8308c")
FOUND_COLOUR, TRUTH_COLOUR, POINT_COLOUR = "#ffe100", "#2bff88", "#ff2d2d"


def write_explanation(
    explanation: Explanation,
    folder: Path,
    *,
    box: int | None = None,
    detection: int | None = None,
    label: int | None = None,
) -> list[Path]:
    """Write the pictures of an explanation as PNG files; their paths in reading order.

    `label` chooses the class of the class maps (the best class of each location if not given); a truth box and a
    detection are drawn where their numbers are given.
    """
    lesson = explanation.lesson
    drawn = [("1_overview", _overview(explanation)), ("2_locations", _locations(explanation))]
    if lesson is not None:
        drawn.append(("3_owners", _owners(explanation, lesson)))
    drawn += [("4_centerness", _centerness(explanation)), ("5_classes", _classes(explanation, label))]
    if box is not None:
        drawn.append((f"6_box_{box}", _box(explanation, explanation.truth_box(box), box)))
    if detection is not None:
        drawn.append((f"7_detection_{detection}", _detection(explanation, detection)))
    paths = []
    for name, figure in drawn:
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=DPI)
    return paths


# ---- panels -----------------------------------------------------------------------------------------------------------


def _panels(
    explanation: Explanation, titles: Sequence[str], heading: str, rows: int = 1, *, foot: float = 0.0
) -> tuple[Any, list[Any]]:
    """A figure with one panel for each title, in so many rows (or more, where three in a row do not suffice).

    `foot` is what the panels need below them, in inches.
    """
    columns = len(titles) // rows if rows > 1 else min(len(titles), 3)
    rows = -(-len(titles) // columns)
    height, width = explanation.plan.size_hw
    panel_width = PANEL_INCHES * min(1.5, max(0.7, (width / height) ** 0.5))
    figure = plain_figure(panel_width * columns, 1)
    lines = textwrap.wrap(heading, max(40, int(panel_width * columns * 12.5)))
    title_lines = max(title.count("\n") for title in titles) + 1
    panel_height = panel_width * min(2.0, max(0.4, height / width)) + 0.1 + 0.18 * title_lines + foot
    figure.set_size_inches(panel_width * columns, panel_height * rows + 0.2 * len(lines) + 0.1)
    figure.suptitle("\n".join(lines), fontsize=11, x=0.01, ha="left", parse_math=False)
    panels = []
    for number, title in enumerate(titles):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.set_title(title, fontsize=10, parse_math=False)
        axes.set_xticks([])
        axes.set_yticks([])
        panels.append(axes)
    return figure, panels


def _show(axes: Any, explanation: Explanation, *, faded: bool = False) -> None:
    """Draw the picture itself; faded to light grey where colours on it are to speak."""
    image = explanation.image
    longer = max(image.shape[1:])
    if longer > MOST_PIXELS:
        shrunk = [max(1, round(side * MOST_PIXELS / longer)) for side in image.shape[1:]]
        image = resize_image(image, (shrunk[0], shrunk[1]))
    pixels = image.permute(1, 2, 0).numpy()
    if faded:
        grey = pixels.mean(2, keepdims=True) * 0.6 + 255 * 0.35
        pixels = grey.repeat(3, axis=2).astype(np.uint8)
    (left, top), (height, width) = explanation.plan.offset_xy, explanation.plan.picture_hw
    axes.imshow(pixels, extent=(left, left + width, top + height, top), interpolation="antialiased", zorder=0)
    axes.set_xlim(0, explanation.plan.size_hw[1])
    axes.set_ylim(explanation.plan.size_hw[0], 0)


def _zoom(axes: Any, explanation: Explanation, box: Tensor) -> None:
    """Show only the surroundings of a box."""
    x1, y1, x2, y2 = box.tolist()
    height, width = explanation.plan.size_hw
    aspect = width / height
    tall = max(y2 - y1, (x2 - x1) / aspect) * 1.7 + 12
    wide = min(tall * aspect, width)
    tall = min(tall, height)
    left = min(max((x1 + x2 - wide) / 2, 0), width - wide)
    top = min(max((y1 + y2 - tall) / 2, 0), height - tall)
    axes.set_xlim(left, left + wide)
    axes.set_ylim(top + tall, top)


def _rectangle(axes: Any, box: Tensor, colour: Any, *, dashed: bool = False, width: float = 1.8) -> None:
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = box.tolist()
    style: dict[str, Any] = {"fill": False, "linestyle": "--" if dashed else "-", "zorder": 3}
    for colour_, width_ in (("black", width + 1.2), (colour, width)):  # a dark seam shows the line on any ground
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, edgecolor=colour_, linewidth=width_, **style))


def _tag(axes: Any, x: float, y: float, text: str, colour: Any, *, size: float = 8, anchor: str = "left") -> None:
    axes.text(
        x, y, text, fontsize=size, ha=anchor, va="center", color="white", zorder=6, parse_math=False, clip_on=True,
        bbox={"boxstyle": "round,pad=0.15", "facecolor": _dark(colour), "edgecolor": "none", "alpha": 0.9},
    )  # fmt: skip


def _number(axes: Any, explanation: Explanation, box: Tensor, index: int, colour: Any) -> None:
    """The number of a box at its corner, wholly inside the picture."""
    height, width = explanation.plan.size_hw
    x, y = min(max(float(box[0]), 0.008 * width), 0.95 * width), max(float(box[1]), 0.025 * height)
    _tag(axes, x, y, str(index), colour, size=7)


def _colour(index: int) -> tuple[float, float, float]:
    red, green, blue = class_colour(index)
    return red / 255, green / 255, blue / 255


def _dark(colour: Any) -> Any:
    """The colour, darkened so that white writing stands out on it."""
    from matplotlib.colors import to_rgb

    return tuple(0.55 * part for part in to_rgb(colour))


def _dots(axes: Any, points: Tensor, stride: int, colour: Any, share: float, *, edge: str = "none") -> None:
    """Dots at points (N, 2) whose diameter is a share of their stride, as the panel is drawn now."""
    low, high = axes.get_xlim()
    inches = axes.get_position().width * axes.figure.get_size_inches()[0]
    diameter = max(1.2, min(9.0, share * stride * inches * 72 / (high - low)))
    axes.scatter(points[:, 0], points[:, 1], s=diameter**2, color=colour, edgecolors=edge, linewidths=0.4, zorder=4)


def _map(axes: Any, level: Level, values: npt.NDArray[Any]) -> None:
    """A heat map (h, w) of a level: every cell is as large as its stride, with its location in its middle."""
    rows, columns = level.size_hw
    cells = values.reshape(rows, columns)
    extent = (0, columns * level.stride, rows * level.stride, 0)
    clear = np.ma.filled(0.25 + 0.55 * cells, 0.0)  # where a value is low, the picture shows
    axes.imshow(cells, extent=extent, cmap="plasma", vmin=0, vmax=1, alpha=clear, interpolation="nearest",
                zorder=1)  # fmt: skip


def _scale(figure: Any, panels: list[Any]) -> None:
    """The scale of heat maps beside their panels."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure.colorbar(ScalarMappable(Normalize(0, 1), "plasma"), ax=panels, shrink=0.6, pad=0.01)


# ---- figures ----------------------------------------------------------------------------------------------------------


def _overview(explanation: Explanation) -> Any:
    found, lesson = explanation.found, explanation.lesson
    titles = [f"{len(found)} detections from score {explanation.score_threshold:.2f}, best first"]
    if lesson is not None:
        titles.insert(0, f"{len(lesson.truth)} truth boxes")
    heading = "The numbers are those that --detection takes" + (
        ", and --box on the left." if lesson is not None else "."
    )
    figure, panels = _panels(explanation, titles, f"{heading} Colours are classes.", foot=0.3)
    sides = ([lesson.truth] if lesson is not None else []) + [found]  # type: ignore[list-item]
    for axes, shown in zip(panels, sides, strict=True):
        _show(axes, explanation)
        for index, (box, label) in enumerate(zip(shown.boxes, shown.labels.tolist(), strict=True)):
            colour = _colour(label)
            _rectangle(axes, box, colour, width=1.5)
            _number(axes, explanation, box, index, colour)
        present = sorted(set(shown.labels.tolist()))
        handles = [axes.plot([], [], color=_colour(k), linewidth=3, label=explanation.classes.names[k])[0]
                   for k in present[:12]]  # fmt: skip
        if handles:
            axes.legend(handles=handles, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4,
                        frameon=False)  # fmt: skip
    return figure


def _locations(explanation: Explanation) -> Any:
    titles = [f"{x.name}: stride {x.stride}, {x.size_hw[1]} x {x.size_hw[0]} locations\n"
              f"for boxes whose farthest side is {x.reach} pixels away" for x in explanation.levels]  # fmt: skip
    heading = ("Locations: each dot is a place where the network predicts classes, a box and centerness. One dot "
               "stands in the middle of each cell of a feature map, one stride from the next.")  # fmt: skip
    figure, panels = _panels(explanation, titles, heading)
    for axes, level in zip(panels, explanation.levels, strict=True):
        _show(axes, explanation, faded=True)
        _dots(axes, explanation.locations[level.rows], level.stride, POINT_COLOUR, 0.3)
    return figure


def _owners(explanation: Explanation, lesson: Lesson) -> Any:
    titles = []
    for level in explanation.levels:
        owner = lesson.owner[level.rows]
        ignored = int(lesson.ignored[level.rows].sum())
        titles.append(f"{level.name}: of {len(owner)} locations, {learners(owner)}"
                      + (f"; {ignored} are ignored (x)" if ignored else ""))  # fmt: skip
    radius = explanation.config.center_radius
    near = "" if radius is None else f", nearer than {radius:g} strides to its centre"
    heading = (f"Which box each location must learn: a dot has the colour of its box. It lies inside "
               f"that box{near}, and the box's size suits its level; of several such boxes the smallest wins. Grey dots "
               "are background.")  # fmt: skip
    figure, panels = _panels(explanation, titles, heading)
    for axes, level in zip(panels, explanation.levels, strict=True):
        _show(axes, explanation, faded=True)
        owner, points = lesson.owner[level.rows], explanation.locations[level.rows]
        _dots(axes, points[owner < 0], level.stride, "#707070", 0.12)
        ignored = points[lesson.ignored[level.rows]]
        axes.scatter(ignored[:, 0], ignored[:, 1], marker="x", s=14, linewidths=0.8, color="black", zorder=4)
        for index in range(len(lesson.truth)):
            mine = points[owner == index]
            box, colour = lesson.truth.boxes[index], _colour(index)
            if not len(mine):
                axes.add_patch(_thin(box, ignored=bool(lesson.truth.ignore[index])))
                continue
            _rectangle(axes, box, colour)
            _dots(axes, mine, level.stride, colour, 0.55, edge="black")
            _number(axes, explanation, box, index, colour)
    return figure


def _thin(box: Tensor, *, ignored: bool) -> Any:
    """A truth box that no location of this level learns."""
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = box.tolist()
    return Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="#606060", linewidth=0.7,
                     linestyle="--" if ignored else "-", zorder=2)  # fmt: skip


def _centerness(explanation: Explanation) -> Any:
    lesson, levels = explanation.lesson, explanation.levels
    titles = [f"{x.name}: predicted" for x in levels]
    if lesson is not None:
        titles = [f"{x.name}: target" for x in levels] + titles
    heading = ("Centerness: 1 in the middle of a box, 0 at its border. It is learnt inside boxes only, so what is "
               "predicted outside means nothing; there the class scores are low.")  # fmt: skip
    figure, panels = _panels(explanation, titles, heading, rows=1 if lesson is None else 2)
    for number, axes in enumerate(panels):
        level = levels[number % len(levels)]
        target = lesson is not None and number < len(levels)
        _show(axes, explanation, faded=True)
        values = (lesson.centerness if target and lesson is not None else explanation.centerness)[level.rows].numpy()
        _map(axes, level, np.ma.masked_less(values, 0))
        for box in lesson.truth.boxes if lesson is not None else ():
            axes.add_patch(_thin(box, ignored=False))
    _scale(figure, panels)
    return figure


def _classes(explanation: Explanation, label: int | None) -> Any:
    levels = explanation.levels
    what = "best class" if label is None else explanation.classes.names[label]
    titles = [f"{x.name}: class score, {what}" for x in levels] + [f"{x.name}: final score, {what}" for x in levels]
    heading = ("Class scores, and final scores = sqrt(class score x centerness), which rank the detections: centerness "
               "takes away from locations far from the middle of their object.")  # fmt: skip
    figure, panels = _panels(explanation, titles, heading, rows=2)
    for number, axes in enumerate(panels):
        level = levels[number % len(levels)]
        scores = explanation.class_scores if number < len(levels) else explanation.scores
        chosen = scores.amax(1) if label is None else scores[:, label]
        _show(axes, explanation, faded=True)
        _map(axes, level, chosen[level.rows].numpy())
    _scale(figure, panels)
    return figure


def _box(explanation: Explanation, lesson: Lesson, index: int) -> Any:
    box, name = lesson.truth.boxes[index], explanation.classes.names[int(lesson.truth.labels[index])]
    counts = [int((lesson.owner[level.rows] == index).sum()) for level in explanation.levels]
    titles = [f"{x.name}: {count} locations learn it\n(this level is for a farthest side {x.reach} pixels away)"
              for x, count in zip(explanation.levels, counts, strict=True)]  # fmt: skip
    central = most_central(lesson, index) if sum(counts) else None
    heading = f"Truth box {index}, {name}. Green dots must learn it, grey dots belong to other boxes or to background."
    if central is not None:
        heading += (f" Arrows: the four distances in network pixels from its most central location, "
                    f"{place(explanation, central)}; centerness target {float(lesson.centerness[central]):.2f}.")  # fmt: skip
    figure, panels = _panels(explanation, titles, heading)
    for axes, level in zip(panels, explanation.levels, strict=True):
        _show(axes, explanation)
        _zoom(axes, explanation, box)
        _rectangle(axes, box, TRUTH_COLOUR)
        points, mine = explanation.locations[level.rows], lesson.owner[level.rows] == index
        _dots(axes, points[~mine], level.stride, "#8c8c8c", 0.16)
        _dots(axes, points[mine], level.stride, TRUTH_COLOUR, 0.4, edge="black")
        if central is not None and explanation.level_of(central) is level:
            _arrows(axes, explanation.locations[central], lesson.distances[central])
    return figure


def _detection(explanation: Explanation, index: int) -> Any:
    found = explanation.found
    location = int(explanation.source[index])
    box, level = found.boxes[index], explanation.level_of(location)
    heading = f"Detection {index}, {found.names[index]}: {score_sum(explanation, index)}, "
    heading += f"from {place(explanation, location)}."
    nearest = nearest_truth(explanation, index)
    if nearest:
        heading += f" {nearest[1]}"
    titles = [f"the locations of {level.name}, and the one that speaks (red)", "its four distances in network pixels"]
    figure, panels = _panels(explanation, titles, heading)
    for number, axes in enumerate(panels):
        _show(axes, explanation)
        if number:
            _zoom(axes, explanation, box)
        if nearest and explanation.lesson is not None:
            _rectangle(axes, explanation.lesson.truth.boxes[nearest[0]], TRUTH_COLOUR, dashed=True, width=1.4)
        _rectangle(axes, box, FOUND_COLOUR)
        _dots(axes, explanation.locations[level.rows], level.stride, "#8c8c8c", 0.14)
        _dots(axes, explanation.locations[location][None], level.stride, POINT_COLOUR, 0.5)
    _arrows(panels[1], explanation.locations[location], explanation.distances[location])
    handles = [panels[0].plot([], [], color=FOUND_COLOUR, linewidth=3, label="detection")[0]]
    if nearest:
        handles.append(panels[0].plot([], [], color=TRUTH_COLOUR, linestyle="--", linewidth=2, label="truth")[0])
    panels[0].legend(handles=handles, fontsize=8, loc="lower left", facecolor="#404040", labelcolor="white")
    return figure


def _arrows(axes: Any, point: Tensor, distances: Tensor) -> None:
    """The distances l, t, r, b of a location as arrows to the sides of its box, each with its length."""
    x, y = point.tolist()
    left, top, right, bottom = distances.tolist()
    ends = ((x - left, y), (x, y - top), (x + right, y), (x, y + bottom))
    for side, end, distance, colour in zip(SIDES, ends, distances.tolist(), SIDE_COLOURS, strict=True):
        arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", xy=end, xytext=(x, y), arrowprops=arrow, zorder=5)
        _tag(axes, (x + end[0]) / 2, (y + end[1]) / 2, f"{side} {distance:.1f}", colour, anchor="center")
    axes.scatter([x], [y], s=36, color=POINT_COLOUR, edgecolors="white", linewidths=0.8, zorder=7)
