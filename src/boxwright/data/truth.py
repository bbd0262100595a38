"""From a picture's annotations as read to the truth that training and evaluation use: clipped boxes, decoded masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from boxwright.data.records import Annotation, Record
from boxwright.ops.masks import decode_rle, rasterise_polygons
from boxwright.structures import CroppedMask, Truth

Box = tuple[float, float, float, float]


def truth_of(record: Record, hw: tuple[int, int], *, masks: bool = False) -> Truth:
    """What a picture of size `hw` holds: boxes clipped to it, and their masks where `masks` asks.

    Boxes that are not finite or have no area inside the picture are left out, as preflight reports them. With `masks`
    an object that has none gets an empty bitmap (1, 1) of False. Raises ValueError, naming the annotation, for a mask
    that cannot be decoded.
    """
    kept = [(item, box) for item in record.annotations if (box := clip_box(item.box, hw)) is not None]
    return Truth.of(
        [box for _, box in kept],
        [item.label for item, _ in kept],
        [item.ignore for item, _ in kept],
        [mask_of(item, hw, box) for item, box in kept] if masks else None,
    )


def clip_box(box: Box, hw: tuple[int, int]) -> Box | None:
    """The part of a box inside a picture of size `hw`, None where there is none (or the box is no box).

    >>> clip_box((-5, 10, 20, 30), (100, 10)), clip_box((4, 4, 4, 9), (10, 10)), clip_box((12, 0, 15, 5), (10, 10))
    ((0.0, 10.0, 10.0, 30.0), None, None)
    """
    if not all(map(math.isfinite, box)):
        return None
    height, width = hw
    x1, x2 = (min(max(float(value), 0.0), float(width)) for value in (box[0], box[2]))
    y1, y2 = (min(max(float(value), 0.0), float(height)) for value in (box[1], box[3]))
    # Compared in float32, as the boxes are kept: two ends may be one number there.
    ends = torch.tensor([x1, y1, x2, y2])
    return (x1, y1, x2, y2) if bool((ends[2:] > ends[:2]).all()) else None


def mask_of(item: Annotation, hw: tuple[int, int], box: Box | None = None) -> CroppedMask:
    """The mask of one object, cropped to its extent; ValueError names the annotation whose mask is damaged."""
    corner = (int(box[0]), int(box[1])) if box else (0, 0)
    try:
        mask = _decode(item.segmentation, hw)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise ValueError(f"{item.where}: the mask cannot be decoded ({error}); correct or remove it") from error
    if mask is None:
        return CroppedMask(min(corner[0], hw[1] - 1), min(corner[1], hw[0] - 1), torch.zeros(1, 1, dtype=torch.bool))
    return mask


def _decode(segmentation: Any, hw: tuple[int, int]) -> CroppedMask | None:
    """A COCO segmentation, cropped; None where it covers no pixel or there is none."""
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        size = tuple(int(side) for side in segmentation["size"])
        if size != tuple(hw):
            raise ValueError(f"it is {size[0]} x {size[1]}, the picture {hw[0]} x {hw[1]}")
        return _cropped(decode_rle(segmentation["counts"], hw), 0, 0)
    polygons = [segmentation] if isinstance(segmentation[0], int | float) else segmentation
    return _fill(polygons, hw)


def _fill(polygons: Sequence[Sequence[float]], hw: tuple[int, int]) -> CroppedMask | None:
    """Polygons filled on a canvas of their own extent, not of the picture's: large pictures hold small objects."""
    height, width = hw
    columns = [value for polygon in polygons for value in polygon[0::2]]
    rows = [value for polygon in polygons for value in polygon[1::2]]
    left, top = max(math.floor(min(columns)) - 1, 0), max(math.floor(min(rows)) - 1, 0)
    right, bottom = min(math.ceil(max(columns)) + 1, width), min(math.ceil(max(rows)) + 1, height)
    if right <= left or bottom <= top:
        return None
    moved = [[value - (top if index % 2 else left) for index, value in enumerate(polygon)] for polygon in polygons]
    return _cropped(rasterise_polygons(moved, (bottom - top, right - left)), left, top)


def _cropped(mask: Tensor, x: int, y: int) -> CroppedMask | None:
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    if not len(rows):
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    return CroppedMask(x + left, y + top, mask[top:bottom, left:right].clone())
