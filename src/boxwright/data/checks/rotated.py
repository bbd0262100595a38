"""Checks of rotated boxes: an area, and corners that are nearly those of a rectangle."""

from __future__ import annotations

import math

from boxwright.data.ground_truth import FLATTEST, is_flat
from boxwright.data.records import Annotation, Problem

LEAST_FILLED = 0.8
"""Of the smallest rectangle around four corners, the share that the outline through them fills at least."""


def rotated_problem(item: Annotation, name: str) -> Problem | None:
    """What is wrong with the rotated box of an object, None for one without or where nothing is."""
    if item.rotated is None:
        return None
    width, height = item.rotated[2:4]
    if is_flat(item):
        sides = f"{width:.4g} x {height:.4g} pixels, and a side of {FLATTEST} is the least"
        message = f"the corners of the {name} lie on a line: its rotated box has {sides}"
        return Problem("flat-rotated-box", item.where, message, item.box, quarantined=True)
    filled = _outlined(item) / (width * height)
    if filled < LEAST_FILLED:
        message = f"the corners of the {name} are not those of a rectangle, or not in order: their outline fills "
        message += f"{filled:.0%} of the smallest rectangle around them, which is what is learnt"
        return Problem("not-a-rectangle", item.where, message, item.box)
    return None


def _outlined(item: Annotation) -> float:
    """The area that the outline through the four corners encloses; that of the rectangle where they are not known."""
    outline = item.segmentation
    if item.rotated is None or not isinstance(outline, list) or len(outline) != 1 or len(outline[0]) != 8:
        return math.inf
    points = [*zip(outline[0][0::2], outline[0][1::2], strict=True)]
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, points[1:] + points[:1], strict=True))) / 2
