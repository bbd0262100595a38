"""Drawings of who must learn what: the places of each level, and the object that each is assigned to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from boxwright.inference.explain_panels import (
    GROUND_TRUTH_COLOUR,
    POINT_COLOUR,
    Scene,
    box_colour,
    dots,
    number_tag,
    open_panels,
    rectangle,
    show_image,
    thin_box,
    thin_boxes,
    zoom_to,
)
from boxwright.inference.owners import Owners, boxes_of, learnt_words, rule_of
from boxwright.models.claims import PlaceLevel
from boxwright.ops.box_kinds import around, overlaps
from boxwright.structures import GroundTruth
from boxwright.wording import counted


def draw_places(owners: Owners) -> Any:
    """The grid of each level; of anchors those of one cell in its middle."""
    titles = []
    for level in owners.levels:
        rows, columns = level.size_hw
        each = "" if level.each == 1 else f", {level.each} at each"
        titles.append(f"{level.name}: stride {level.stride}, {columns} x {rows} cells{each}")
    if owners.unit == "location":
        heading = "Locations: each dot is a place where the network predicts classes, a box and centerness."
    else:
        heading = (
            "Anchors: at each dot stand the boxes that predictions start from; drawn are those of the cell in the "
            "middle (red). They may be larger than the image."
        )
    figure, panels = open_panels(owners, titles, heading)
    for axes, level in zip(panels, owners.levels, strict=True):
        show_image(axes, owners, faded=True)
        cells = owners.points[level.rows][:: level.each]
        dots(axes, cells, level.stride, POINT_COLOUR if level.each == 1 else "#404040", 0.2)
        if owners.unit == "anchor":
            height, width = level.size_hw
            cell = (height // 2) * width + width // 2
            start = level.rows.start + cell * level.each
            thin_boxes(axes, owners.places[start : start + level.each], POINT_COLOUR, 1.2)
            dots(axes, cells[cell][None], level.stride, POINT_COLOUR, 0.35)
    return figure


def draw_owners(owners: Owners, heading: str = "") -> Any:
    """What each place must learn, level by level: the colour of its box."""
    titles = [_title(owners, level) for level in owners.levels]
    what = "a dot has the colour of its box" if owners.unit == "location" else "matched anchors have their box's colour"
    ignored = ", crosses take no part in the loss" if bool(owners.ignored.any()) else ""
    text = f"{heading}{rule_of(owners.config)} Here {what}{ignored}; thin grey boxes are learnt on other levels."
    if owners.unowned:
        text += f" Red dashes: learnt by no {owners.unit}."
    figure, panels = open_panels(owners, titles, text)
    for axes, level in zip(panels, owners.levels, strict=True):
        show_image(axes, owners, faded=True)
        _draw_level(axes, owners, level)
    return figure


def _title(owners: Owners, level: PlaceLevel) -> str:
    return f"{level.name}: of {counted(level.rows.stop - level.rows.start, owners.unit)}, {learnt_words(owners, level)}"


def _draw_level(axes: Any, owners: Owners, level: PlaceLevel) -> None:
    owner, points = owners.owner[level.rows], owners.points[level.rows]
    ignored, anchors = owners.ignored[level.rows], owners.places[level.rows]
    dots(axes, points[:: level.each], level.stride, "#505050", 0.1)
    crosses = torch.unique(points[ignored], dim=0)  # several anchors of a cell have one centre
    axes.scatter(crosses[:, 0], crosses[:, 1], marker="x", s=14, linewidths=0.8, color="black", zorder=4)
    ground_truth = owners.ground_truth
    for index in range(len(ground_truth)):
        box, colour, mine = owners.boxes[index], box_colour(index), owner == index
        if index in owners.unowned:
            rectangle(axes, box, POINT_COLOUR, dashed=True, width=1.4)
            number_tag(axes, owners, box, index, POINT_COLOUR)
        elif not bool(mine.any()):
            axes.add_patch(thin_box(box, ignored=bool(ground_truth.ignore[index])))
        else:
            if owners.unit == "anchor":
                thin_boxes(axes, anchors[mine], colour, 0.8)
            dots(axes, points[mine], level.stride, colour, 0.45, edge="black")
            rectangle(axes, box, colour)
            number_tag(axes, owners, box, index, colour)


def draw_owned_box(owners: Owners, index: int) -> Any:
    """One ground truth box, with the places of each level that must learn it."""
    box = owners.boxes[index]
    name = owners.classes.names[int(owners.ground_truth.labels[index])]
    titles = [
        f"{level.name}: {counted(owners.count(index, level.rows), owners.unit)} must learn it"
        + (f"\nbest IoU here {float(_overlaps(owners, level, box).max()):.2f}" if owners.unit == "anchor" else "")
        for level in owners.levels
    ]
    heading = f"Ground truth box {index}, {name} (green). "
    if owners.unit == "anchor":
        heading += "Coloured: the anchors that must learn it; dashed, where a level has none: its best anchor."
    else:
        heading += "Green dots must learn it, grey dots belong to other boxes or to background."
    figure, panels = open_panels(owners, titles, heading)
    for axes, level in zip(panels, owners.levels, strict=True):
        show_image(axes, owners)
        mine, points = owners.owner[level.rows] == index, owners.points[level.rows]
        shown = box[None]
        if owners.unit == "anchor":
            ious, anchors = _overlaps(owners, level, box), owners.places[level.rows]
            chosen = anchors[mine] if bool(mine.any()) else anchors[ious.argmax()][None]
            shown = torch.cat([shown, chosen])
        zoom_to(axes, owners, around(shown))
        if len(shown) > 1:
            if bool(mine.any()):
                thin_boxes(axes, shown[1:], "#ffb000", 1.2)
            else:
                rectangle(axes, shown[1], "#ffb000", dashed=True, width=1.2)
        dots(axes, points[~mine][:: level.each], level.stride, "#8c8c8c", 0.12)
        dots(axes, points[mine], level.stride, GROUND_TRUTH_COLOUR, 0.3, edge="black")
        rectangle(axes, box, GROUND_TRUTH_COLOUR)
    return figure


def _overlaps(owners: Owners, level: PlaceLevel, box: Tensor) -> Tensor:
    return overlaps(owners.places[level.rows], box[None])[:, 0]


def draw_ground_truth(scene: Scene, ground_truth: GroundTruth, names: tuple[str, ...], heading: str) -> Any:
    """An image with its numbered ground truth boxes."""
    figure, (axes,) = open_panels(scene, [f"{counted(len(ground_truth), 'ground truth box')}"], heading)
    show_image(axes, scene)
    for index, (box, label) in enumerate(zip(boxes_of(ground_truth), ground_truth.labels.tolist(), strict=True)):
        rectangle(axes, box, box_colour(label), dashed=bool(ground_truth.ignore[index]), width=1.5)
        number_tag(axes, scene, box, index, box_colour(label))
    return figure
