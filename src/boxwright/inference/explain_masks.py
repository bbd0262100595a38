"""Predicted masks beside those of the ground truth, in the image's own pixels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from boxwright.inference.explain_panels import box_colour, open_panels, own_pixels, rectangle, show_image, zoom_to
from boxwright.structures import CroppedMask, Detections, GroundTruth
from boxwright.wording import counted

GREY = (0.55, 0.55, 0.55)
"""Of a mask that overlaps no object's."""


class Overlap(NamedTuple):
    """The ground truth whose mask a predicted one overlaps most, and by which IoU."""

    row: int
    iou: float


def mask_overlap(found: Detections, ground_truth: GroundTruth, detection: int) -> Overlap | None:
    """The mask of the ground truth that a detection's overlaps most; None where it overlaps none.

    Both in the image's own pixels.
    """
    own = found.mask(detection)
    best: Overlap | None = None
    for index in range(len(ground_truth)):
        other = ground_truth.mask(index)
        shared = _shared(own, other)
        either = int(own.bitmap.sum()) + int(other.bitmap.sum()) - shared
        if shared and (best is None or shared / either > best.iou):
            best = Overlap(index, shared / either)
    return best


def _shared(one: CroppedMask, other: CroppedMask) -> int:
    """The pixels that two masks have in common."""
    left, top = max(one.x, other.x), max(one.y, other.y)
    right = min(mask.x + mask.bitmap.shape[1] for mask in (one, other))
    bottom = min(mask.y + mask.bitmap.shape[0] for mask in (one, other))
    if right <= left or bottom <= top:
        return 0
    parts = [mask.bitmap[top - mask.y : bottom - mask.y, left - mask.x : right - mask.x] for mask in (one, other)]
    return int((parts[0].bool() & parts[1].bool()).sum())


def describe_mask(found: Detections, ground_truth: GroundTruth | None, detection: int) -> str:
    """A line on the mask of a detection."""
    pixels = int(found.mask(detection).bitmap.sum())
    line = f"  Its mask has {counted(pixels, 'pixel')}"
    if ground_truth is None or ground_truth.masks is None:
        return f"{line}."
    best = mask_overlap(found, ground_truth, detection)
    if best is None:
        return f"{line}, and overlaps no mask of the ground truth."
    return f"{line}, IoU {best.iou:.2f} with that of ground truth box {best.row}."


def draw_masks(image: Tensor, found: Detections, ground_truth: GroundTruth | None, detection: int | None) -> Any:
    """All predicted masks beside those of the ground truth; below, those of one detection and of its object.

    A predicted mask has the colour of the object whose mask it overlaps most.
    """
    height, width = int(image.shape[1]), int(image.shape[2])
    scene = own_pixels(image)
    masked = None if ground_truth is None or ground_truth.masks is None else ground_truth
    nearest = [None if masked is None else mask_overlap(found, masked, index) for index in range(len(found))]
    titles = [f"{counted(len(found), 'predicted mask')}"]
    if masked is not None:
        titles.append(f"{counted(len(masked), 'ground truth mask')}")
    closer = nearest[detection] if detection is not None else None
    if detection is not None:
        titles.append(f"detection {detection}, {found.names[detection]}, score {float(found.scores[detection]):.2f}")
        if masked is not None:
            near = (
                "no mask that it overlaps"
                if closer is None
                else f"ground truth {closer.row}, mask IoU {closer.iou:.2f}"
            )
            titles.append(near)
    heading = "Masks in the image's own pixels."
    if masked is not None:
        heading += " A predicted mask has the colour of the object that it overlaps most, or is grey."
    rows = 2 if len(titles) > 2 or (masked is None and len(titles) == 2) else 1
    figure, panels = open_panels(scene, titles, heading, rows=rows)
    shown = [found.mask(index) for index in range(len(found))]
    colours = [
        GREY if one is None and masked is not None else box_colour(index if one is None else one.row)
        for index, one in enumerate(nearest)
    ]
    show_image(panels[0], scene)
    overlay(panels[0], shown, colours, (height, width))
    at = 1
    if masked is not None:
        show_image(panels[at], scene)
        ours = [masked.mask(index) for index in range(len(masked))]
        overlay(panels[at], ours, [box_colour(index) for index in range(len(masked))], (height, width))
        at += 1
    if detection is not None:
        parts: list[tuple[CroppedMask, Tensor, Any] | None] = [
            (shown[detection], found.boxes[detection], colours[detection])
        ]
        if masked is not None:
            row = None if closer is None else closer.row
            parts.append(None if row is None else (masked.mask(row), masked.boxes[row], box_colour(row)))
        both = torch.stack([part[1] for part in parts if part is not None])
        for axes, part in zip(panels[at:], parts, strict=True):
            show_image(axes, scene)
            zoom_to(axes, scene, torch.cat([both[:, :2].amin(0), both[:, 2:].amax(0)]))
            if part is not None:
                overlay(axes, [part[0]], [part[2]], (height, width))
                rectangle(axes, part[1], part[2], width=1.4)
    return figure


def _plane(mask: CroppedMask, size_hw: tuple[int, int]) -> Tensor:
    plane = torch.zeros(size_hw, dtype=torch.bool)
    mask.draw(plane)
    return plane


def overlay(axes: Any, masks: list[CroppedMask], colours: list[Any], size_hw: tuple[int, int]) -> None:
    """Translucent masks with an outline; the first are on top."""
    canvas = np.zeros((*size_hw, 4), dtype=np.float32)
    for mask, colour in reversed(list(zip(masks, colours, strict=True))):
        inside = _plane(mask, size_hw).numpy()
        canvas[inside] = (*colour, 0.5)
        edge = np.pad(inside, 1)
        core = edge[1:-1, 1:-1] & edge[:-2, 1:-1] & edge[2:, 1:-1] & edge[1:-1, :-2] & edge[1:-1, 2:]
        canvas[inside & ~core] = (*colour, 1.0)
    axes.imshow(canvas, extent=(0, size_hw[1], size_hw[0], 0), interpolation="nearest", zorder=2)
