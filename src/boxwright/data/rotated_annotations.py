"""The rotated box that an annotation stands for."""

from __future__ import annotations

import math

import torch

from boxwright.data.records import Annotation
from boxwright.ops.rotated import rotated_around

FLATTEST = 0.01
"""Pixels: a rotated box with a shorter side has no area; its corners lie on a line."""


def is_flat(item: Annotation) -> bool:
    """Whether an object has a rotated box without area, or with a number that is not finite."""
    if item.rotated is None:
        return False
    return not all(map(math.isfinite, item.rotated)) or min(item.rotated[2:4]) < FLATTEST


def has_corners(item: Annotation) -> bool:
    """Whether the outline of an object is one polygon of four corners, as that of a rotated box in YOLO's files."""
    polygons = item.segmentation
    return isinstance(polygons, list) and len(polygons) == 1 and isinstance(polygons[0], list) and len(polygons[0]) == 8


def rotated_of(item: Annotation, box: tuple[float, float, float, float]) -> tuple[float, ...]:
    """The rotated box of an object: its own, the one around four corners, or its upright box `box`."""
    if item.rotated is not None:
        return item.rotated
    if has_corners(item):
        around: list[float] = rotated_around(torch.tensor(item.segmentation[0]).reshape(4, 2)).tolist()
        if min(around[2:4]) >= FLATTEST:
            return tuple(around)
    x1, y1, x2, y2 = box
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0.0
