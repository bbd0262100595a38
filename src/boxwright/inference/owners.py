"""Who must learn what in one image, before any prediction: the object that each location or anchor is assigned to.

Shape legend: N = locations or anchors of all levels, G = ground-truth boxes. Boxes are absolute (x1, y1, x2, y2) in
network pixels; those of a rotated detector are (cx, cy, w, h, degrees), see `ops.rotated`. The assignment is that of
the loss (`models/claims.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from boxwright.models.claims import (
    PlaceLevel,
    assigned,
    held_detector,
    is_rotated,
    place_boxes,
    place_levels,
    unit_of,
)
from boxwright.models.fcos import FCOSConfig
from boxwright.models.retinanet import RetinaNetConfig
from boxwright.models.rotated_proposal_network import RotatedProposalSettings
from boxwright.ops.box_kinds import centres_of, overlaps, size_words
from boxwright.ops.image import ResizePlan
from boxwright.ops.points import level_ranges
from boxwright.structures import Classes, Detections, GroundTruth, Targets
from boxwright.wording import counted

SHOWN = 12
"""Boxes that are listed in a sentence."""


@dataclass(frozen=True, slots=True)
class Owners:
    """One image, its places (locations or anchors), and the ground truth box that each must learn.

    `places` (N, 4) are anchors, rotated ones (N, 5), or locations as boxes without area; `owner` (N,) is a row of the
    ground truth or -1; `ignored` (N,) takes no part in the loss; `overlap` (N,) is the best IoU of an anchor with an
    object, 0 for locations.
    """

    image: Tensor
    plan: ResizePlan
    classes: Classes
    config: Any
    """Of the detector that has the places: of a mask detector the one that it holds."""
    levels: tuple[PlaceLevel, ...]
    places: Tensor
    ground_truth: GroundTruth
    owner: Tensor
    ignored: Tensor
    overlap: Tensor

    @property
    def unit(self) -> str:
        """What a place is called."""
        return unit_of(self.config)

    @property
    def points(self) -> Tensor:
        """The centres (N, 2) of the places."""
        return centres_of(self.places)

    @property
    def boxes(self) -> Tensor:
        """The ground truth boxes (G, 4), rotated (G, 5) for a rotated detector."""
        return boxes_of(self.ground_truth)

    @property
    def wanted(self) -> list[int]:
        """The ground truth boxes that are no ignored regions."""
        return [int(box) for box in (~self.ground_truth.ignore).nonzero()[:, 0]]

    def count(self, box: int, rows: slice = slice(None)) -> int:
        """How many places must learn a box: of all, or of a level's rows."""
        return int((self.owner[rows] == box).sum())

    @property
    def unowned(self) -> list[int]:
        """The ground truth boxes that no place must learn."""
        return sorted(set(self.wanted) - set(self.owner.tolist()))

    def level_of(self, place: int) -> PlaceLevel:
        """The level of a place."""
        return next(level for level in self.levels if place < level.rows.stop)


def boxes_of(objects: GroundTruth | Detections) -> Tensor:
    """The rotated boxes (N, 5) of objects that have them, which only rotated detectors give and are given, else (N, 4).

    >>> boxes_of(GroundTruth.of([[0, 0, 8, 8]], [0])).shape
    torch.Size([1, 4])
    """
    return objects.boxes if objects.rotated is None else objects.rotated


def owners_of(
    config: Any, image: Tensor, plan: ResizePlan, classes: Classes, ground_truth: GroundTruth,
    size_hw: tuple[int, int] | None = None,
) -> Owners | None:  # fmt: skip
    """The owners in an image with its ground truth in network pixels; None for a detector without places (Fast R-CNN).

    `size_hw` is the image's own size within a padded batch, where `plan.size_hw` is that of the batch.
    """
    held = held_detector(config)
    if held is None:
        return None
    if not is_rotated(held):
        ground_truth = replace(ground_truth, rotated=None)
    targets, own = Targets.of([ground_truth]), torch.tensor([size_hw or plan.size_hw])
    found = assigned(held, plan.size_hw, targets, own)
    places = place_boxes(held, plan.size_hw)
    overlap = torch.zeros(len(places))
    objects = boxes_of(ground_truth)[~ground_truth.ignore]
    if not isinstance(held, FCOSConfig) and len(objects):
        overlap = overlaps(places, objects).amax(1)
    return Owners(
        image, plan, classes, held, place_levels(held, plan.size_hw), places, ground_truth, found.owner[0],
        found.ignored[0], overlap,
    )  # fmt: skip


def iou_bounds(config: Any) -> tuple[float, float]:
    """The overlaps below which an anchor is background and from which on it must learn an object."""
    rule = config.assignment if isinstance(config, RetinaNetConfig) else config.rpn
    return rule.negative_iou, rule.positive_iou


def rule_of(config: Any) -> str:
    """Which places must learn an object, in a sentence."""
    if isinstance(config, FCOSConfig):
        radius = config.assignment.center_radius
        near = "" if radius is None else f", nearer than {radius:g} strides to its centre"
        return (
            f"A location must learn a box if it lies inside{near}, and the box's size suits the location's level; of "
            "several such boxes the smallest."
        )
    low, high = iou_bounds(config)
    best = " Each object has at least its best anchors, however poor."
    if not isinstance(config, RetinaNetConfig) and not isinstance(config.rpn, RotatedProposalSettings):
        least = config.rpn.low_quality_iou
        best = best if config.rpn.low_quality and least == 0 else ""
        if config.rpn.low_quality and least > 0:
            best = f" Each object has its best anchors, from IoU {least:g} on."
    between = f", and from {low:g} to {high:g} it is ignored" if low < high else ""
    return f"An anchor must learn the box that it overlaps most, if by IoU {high:g} or more{between}.{best}"


def describe_owners(owners: Owners) -> list[str]:
    """Lines on an image: what each level has and must learn, and the objects that nothing must learn."""
    lines = [rule_of(owners.config)]
    lines += [f"{level.name}: {level_words(owners, level)}." for level in owners.levels]
    counts = sorted(owners.count(box) for box in owners.wanted)
    ignored = len(owners.ground_truth) - len(counts)
    regions = f" and {counted(ignored, 'ignored region')}" if ignored else ""
    lines.append(f"Ground truth: {counted(len(counts), 'object')}{regions}.")
    if len(counts) > 1:
        spread = f"from {counts[0]} to {counts[-1]} {owners.unit}s, {counts[len(counts) // 2]} in the median"
        lines.append(f"Of the {owners.unit}s that must learn it each object has {spread}.")
    if owners.unowned:
        lost = ", ".join(_named(owners, box) for box in owners.unowned[:SHOWN])
        more = f" and {len(owners.unowned) - SHOWN} more" if len(owners.unowned) > SHOWN else ""
        lines.append(f"No {owners.unit} must learn these ground truth boxes: {lost}{more}.")
    poor = poorly_covered(owners)
    if poor:
        high = iou_bounds(owners.config)[1]
        lines.append(
            f"No anchor overlaps these ground truth boxes by IoU {high:g} or more: {', '.join(map(str, poor[:SHOWN]))}"
            f"{' ...' if len(poor) > SHOWN else ''}; anchors of other sizes or shapes would suit them better."
        )
    return lines


def level_words(owners: Owners, level: PlaceLevel) -> str:
    """A level's grid and what it must learn."""
    rows, columns = level.size_hw
    if isinstance(owners.config, FCOSConfig):
        low, high = level_ranges(owners.config.assignment.level_bounds)[owners.levels.index(level)]
        reach = f"{low:g} or more" if high == float("inf") else f"{low:g} to {high:g}"
        places = f"{columns} x {rows} locations, for objects whose farthest side is {reach} pixels away"
    else:
        places = f"{columns} x {rows} cells of {counted(level.each, 'anchor')}"
    return f"stride {level.stride}, {places}; {learnt_words(owners, level)}"


def learnt_words(owners: Owners, level: PlaceLevel) -> str:
    """How many places of a level must learn how many objects, and how many are ignored."""
    owner = owners.owner[level.rows]
    boxes, count = len(set(owner[owner >= 0].tolist())), int((owner >= 0).sum())
    ignored = int(owners.ignored[level.rows].sum())
    learnt = f"{count} must learn {counted(boxes, 'object')}" if boxes else "none must learn an object"
    return learnt + (f", {ignored} ignored" if ignored else "")


def poorly_covered(owners: Owners) -> list[int]:
    """The ground truth boxes that no anchor overlaps as much as positive anchors should, but have some nevertheless."""
    if isinstance(owners.config, FCOSConfig) or not len(owners.ground_truth):
        return []
    best = overlaps(owners.places, owners.boxes).amax(0)
    high, lost = iou_bounds(owners.config)[1], owners.unowned
    return [box for box in owners.wanted if float(best[box]) < high and box not in lost]


def describe_owned_box(owners: Owners, index: int) -> list[str]:
    """Lines on one ground truth box: the places of each level that must learn it, and the best overlap."""
    lines = [f"Ground truth box {_named(owners, index)} network pixels."]
    if owners.ground_truth.ignore[index]:
        return [*lines, f"  It is an ignored region: no {owners.unit} learns it, and what lies in it does not count."]
    per_level = ", ".join(f"{level.name} {owners.count(index, level.rows)}" for level in owners.levels)
    lines.append(f"  {owners.unit.capitalize()}s that must learn it: {per_level}.")
    if not isinstance(owners.config, FCOSConfig):
        overlap = overlaps(owners.places, owners.boxes[index][None])[:, 0]
        best = int(overlap.argmax())
        lines.append(
            f"  Its best anchor is of {owners.level_of(best).name}, {pixels_words(owners.places[best])}: IoU "
            f"{float(overlap[best]):.2f}."
        )
    return lines


def _named(owners: Owners, box: int) -> str:
    name = owners.classes.names[int(owners.ground_truth.labels[box])]
    return f"{box} ({name}, {size_words(owners.boxes[box])})"


def pixels_words(box: Tensor) -> str:
    """The size of an anchor or a proposal, and how it is turned, if it is."""
    size, turn, angle = size_words(box).partition(" turned")
    return f"{size} pixels{turn}{angle}"


def describe_batch(batch: Sequence[Owners]) -> list[str]:
    """Lines on several images together: the places and objects of each level, and how many objects have none."""
    first, unit = batch[0], batch[0].unit
    lines = [rule_of(first.config)]
    objects = sum(len(one.wanted) for one in batch)
    for index, level in enumerate(first.levels):
        parts = [(one, one.levels[index]) for one in batch]
        places = sum(part.rows.stop - part.rows.start for _, part in parts)
        owned = sum(int((one.owner[part.rows] >= 0).sum()) for one, part in parts)
        here = sum(len({*one.owner[part.rows].tolist()} - {-1}) for one, part in parts)
        ignored = sum(int(one.ignored[part.rows].sum()) for one, part in parts)
        lines.append(
            f"{level.name}: stride {level.stride}, {places} {unit}s; {owned} must learn {counted(here, 'object')} "
            f"({here / max(1, objects):.0%} of all), {ignored} ignored."
        )
    lost = sum(len(one.unowned) for one in batch)
    lines.append(
        f"{lost} of {counted(objects, 'object')} in these {counted(len(batch), 'image')} must be learnt by no {unit}."
    )
    poor = sum(len(poorly_covered(one)) for one in batch)
    if poor:
        high = iou_bounds(first.config)[1]
        lines.append(f"{poor} of them have only anchors that overlap them by less than IoU {high:g}.")
    return lines
