"""Panels of an explanation: the image, and on it dots, boxes, heat maps and arrows, in network pixels."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from boxwright.evaluation.report import plain_figure
from boxwright.inference.owners import boxes_of
from boxwright.ops.box_kinds import around, corners_of
from boxwright.ops.image import ResizePlan, resize_image
from boxwright.structures import Classes, Detections, GroundTruth
from boxwright.visualize import class_colour
from boxwright.wording import counted
from boxwright.writing import printable, writing

SIDES = ("l", "t", "r", "b")
PANEL_INCHES = 4.6
MOST_PIXELS = 1200  # of the longer side of the image under a panel
SIDE_COLOURS = ("#1f77ff", "#ff7f0e", "#19b34a", "#e8308c")
POINT_COLOUR = "#ff2d2d"
FOUND_COLOUR, GROUND_TRUTH_COLOUR = "#ffe100", "#2bff88"
DPI = 110


class Scene(Protocol):
    """An image (3, H, W) uint8 as it is in its file, and how the network sees it."""

    @property
    def image(self) -> Tensor: ...

    @property
    def plan(self) -> ResizePlan: ...


class OwnPixels(NamedTuple):
    """An image that is drawn in its own pixels: a `Scene`."""

    image: Tensor
    plan: ResizePlan


def own_pixels(image: Tensor) -> OwnPixels:
    """The scene of an image (3, H, W) as it is in its file."""
    hw = (int(image.shape[1]), int(image.shape[2]))
    return OwnPixels(image, ResizePlan(hw, hw, (1.0, 1.0), (0.0, 0.0)))


class Grid(Protocol):
    """One feature map."""

    @property
    def stride(self) -> int: ...

    @property
    def size_hw(self) -> tuple[int, int]: ...


def open_panels(
    scene: Scene, titles: Sequence[str], heading: str, rows: int = 1, *, foot: float = 0.0
) -> tuple[Any, list[Any]]:
    """A figure with one panel for each title, in so many rows (or more, where three in a row do not suffice).

    `foot` is what the panels need below them, in inches.
    """
    columns = len(titles) // rows if rows > 1 else min(len(titles), 3)
    rows = -(-len(titles) // columns)
    height, width = scene.plan.size_hw
    panel_width = PANEL_INCHES * min(1.5, max(0.7, (width / height) ** 0.5))
    figure = plain_figure(panel_width * columns, 1)
    lines = textwrap.wrap(heading, max(40, int(panel_width * columns * 12.5)))
    characters = int(panel_width * 13)
    titles = ["\n".join(part for line in x.splitlines() for part in textwrap.wrap(line, characters)) for x in titles]
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


def save_figures(drawn: Sequence[tuple[str, Any]], folder: Path) -> list[Path]:
    """Write named figures as PNG files; their paths."""
    paths = []
    for name, figure in drawn:
        with writing(folder / f"{name}.png") as path:
            figure.savefig(path, dpi=DPI)
        paths.append(path)
    return paths


def draw_overview(
    scene: Scene, found: Detections, ground_truth: GroundTruth | None, classes: Classes, threshold: float
) -> Any:
    """Ground truth, if it is known, beside the detections, with the numbers of both."""
    titles = [f"{counted(len(found), 'detection')} from score {threshold:.2f}, best first"]
    sides: list[GroundTruth | Detections] = [found]
    heading = "The numbers are those that --detection takes"
    if ground_truth is not None:
        titles.insert(0, counted(len(ground_truth), "ground truth box"))
        sides.insert(0, ground_truth)
        heading += ", and --box on the left."
    figure, panels = open_panels(scene, titles, f"{heading.removesuffix('.')}. Colours are classes.", foot=0.3)
    for axes, shown in zip(panels, sides, strict=True):
        show_image(axes, scene)
        for index, (box, label) in enumerate(zip(boxes_of(shown), shown.labels.tolist(), strict=True)):
            rectangle(axes, box, box_colour(label), width=1.5)
            number_tag(axes, scene, box, index, box_colour(label))
        present = sorted(set(shown.labels.tolist()))
        handles = [legend_line(axes, classes.names[k], box_colour(k)) for k in present[:12]]
        if handles:
            axes.legend(
                handles=handles, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4, frameon=False
            )
    return figure


def show_image(axes: Any, scene: Scene, *, faded: bool = False) -> None:
    """Draw the image itself; faded to light grey where colours on it are to speak."""
    image = scene.image
    longer = max(image.shape[1:])
    if longer > MOST_PIXELS:
        shrunk = [max(1, round(side * MOST_PIXELS / longer)) for side in image.shape[1:]]
        image = resize_image(image, (shrunk[0], shrunk[1]))
    pixels = image.permute(1, 2, 0).numpy()
    if faded:
        grey = pixels.mean(2, keepdims=True) * 0.6 + 255 * 0.35
        pixels = grey.repeat(3, axis=2).astype(np.uint8)
    (left, top), (height, width) = scene.plan.offset_xy, scene.plan.image_hw
    axes.imshow(pixels, extent=(left, left + width, top + height, top), interpolation="antialiased", zorder=0)
    axes.set_xlim(0, scene.plan.size_hw[1])
    axes.set_ylim(scene.plan.size_hw[0], 0)


def zoom_to(axes: Any, scene: Scene, box: Tensor) -> None:
    """Show only the surroundings of a box (4,), or of a rotated one (5,)."""
    x1, y1, x2, y2 = around(box[None]).tolist()
    height, width = scene.plan.size_hw
    aspect = width / height
    tall = max(y2 - y1, (x2 - x1) / aspect) * 1.7 + 12
    wide = min(tall * aspect, width)
    tall = min(tall, height)
    left = min(max((x1 + x2 - wide) / 2, 0), width - wide)
    top = min(max((y1 + y2 - tall) / 2, 0), height - tall)
    axes.set_xlim(left, left + wide)
    axes.set_ylim(top + tall, top)


def rectangle(axes: Any, box: Tensor, colour: Any, *, dashed: bool = False, width: float = 1.8) -> None:
    """Draw a box (4,), or a rotated one (5,)."""
    from matplotlib.patches import Polygon

    corners = corners_of(box).numpy()
    style: dict[str, Any] = {"fill": False, "linestyle": "--" if dashed else "-", "zorder": 3}
    for colour_, width_ in (("black", width + 1.2), (colour, width)):  # a dark seam shows the line on any ground
        axes.add_patch(Polygon(corners, edgecolor=colour_, linewidth=width_, **style))


def tag(axes: Any, x: float, y: float, text: str, colour: Any, *, size: float = 8, anchor: str = "left") -> None:
    """Write a short text on a plate of the colour, darkened so that white letters stand out."""
    axes.text(
        x,
        y,
        text,
        fontsize=size,
        ha=anchor,
        va="center",
        color="white",
        zorder=6,
        parse_math=False,
        clip_on=True,
        bbox={"boxstyle": "round,pad=0.15", "facecolor": _dark(colour), "edgecolor": "none", "alpha": 0.9},
    )


def number_tag(axes: Any, scene: Scene, box: Tensor, index: int, colour: Any) -> None:
    """The number of a box at its first corner, wholly inside the image."""
    (height, width), (left, top) = scene.plan.size_hw, corners_of(box)[0].tolist()
    x, y = min(max(left, 0.008 * width), 0.95 * width), min(max(top, 0.025 * height), 0.98 * height)
    tag(axes, x, y, str(index), colour, size=7)


def legend_line(axes: Any, name: str, colour: Any, *, style: str = "-") -> Any:
    """A line for a legend; in its name a dollar sign would begin a formula, and an underscore at the start hide it."""
    text = " " + printable(name).replace("$", r"\$")
    return axes.plot([], [], color=colour, linestyle=style, linewidth=3, label=text)[0]


def box_colour(index: int) -> tuple[float, float, float]:
    """The colour of a class, or of a box by its number, for matplotlib."""
    red, green, blue = class_colour(index)
    return red / 255, green / 255, blue / 255


def _dark(colour: Any) -> Any:
    """The colour, darkened so that white writing stands out on it."""
    from matplotlib.colors import to_rgb

    return tuple(0.55 * part for part in to_rgb(colour))


def dots(axes: Any, points: Tensor, stride: int, colour: Any, share: float, *, edge: str = "none") -> None:
    """Dots at points (N, 2) whose diameter is a share of their stride, as the panel is drawn now."""
    low, high = axes.get_xlim()
    inches = axes.get_position().width * axes.figure.get_size_inches()[0]
    diameter = max(1.2, min(9.0, share * stride * inches * 72 / (high - low)))
    axes.scatter(points[:, 0], points[:, 1], s=diameter**2, color=colour, edgecolors=edge, linewidths=0.4, zorder=4)


def heat_map(axes: Any, level: Grid, values: npt.NDArray[Any]) -> None:
    """A heat map (h, w) of a level: every cell is as large as its stride, with its location in its middle."""
    rows, columns = level.size_hw
    heat_plane(axes, values.reshape(rows, columns), (rows * level.stride, columns * level.stride))


def heat_plane(axes: Any, cells: npt.NDArray[Any], size_hw: tuple[int, int]) -> None:
    """A heat map (h, w) of values from 0 to 1, stretched to this size."""
    extent = (0, size_hw[1], size_hw[0], 0)
    clear = np.ma.filled(0.05 + 0.75 * cells, 0.0)  # where a value is low, the image shows
    axes.imshow(cells, extent=extent, cmap="plasma", vmin=0, vmax=1, alpha=clear, interpolation="nearest", zorder=1)


def heat_scale(figure: Any, panels: list[Any]) -> None:
    """The scale of heat maps beside their panels."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure.colorbar(ScalarMappable(Normalize(0, 1), "plasma"), ax=panels, shrink=0.6, pad=0.01)


def thin_box(box: Tensor, *, ignored: bool) -> Any:
    """A ground truth box that no location of this level learns."""
    from matplotlib.patches import Polygon

    return Polygon(
        corners_of(box).numpy(),
        fill=False,
        edgecolor="#606060",
        linewidth=0.7,
        linestyle="--" if ignored else "-",
        zorder=2,
    )


def thin_boxes(axes: Any, boxes: Tensor, colour: Any, width: float) -> None:
    """Many boxes (N, 4), or rotated ones (N, 5), as thin lines, of which hundreds may lie over each other."""
    from matplotlib.collections import LineCollection

    corners = corners_of(boxes.double())
    outlines = torch.cat([corners, corners[:, :1]], dim=1).numpy()  # (N, 5, 2)
    faint = max(0.25, min(1.0, 12 / max(1, len(boxes))))
    axes.add_collection(LineCollection(list(outlines), colors=[colour], linewidths=width, alpha=faint, zorder=3))


def arrows(axes: Any, scene: Scene, point: Tensor, distances: Tensor) -> None:
    """The distances l, t, r, b of a location (2,) as arrows to the sides of its box, each with its length.

    What reaches out of the image is drawn to its border.
    """
    x, y = point.tolist()
    left, top, right, bottom = distances.tolist()
    height, width = scene.plan.size_hw
    ends = ((max(x - left, 0), y), (x, max(y - top, 0)), (min(x + right, width), y), (x, min(y + bottom, height)))
    for side, end, distance, colour in zip(SIDES, ends, distances.tolist(), SIDE_COLOURS, strict=True):
        arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", xy=end, xytext=(x, y), arrowprops=arrow, zorder=5)
        tag(axes, (x + end[0]) / 2, (y + end[1]) / 2, f"{side} {distance:.1f}", colour, anchor="center")
    axes.scatter([x], [y], s=36, color=POINT_COLOUR, edgecolors="white", linewidths=0.8, zorder=7)
