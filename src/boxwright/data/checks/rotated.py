"""Checks of rotated boxes: whether the corners that are given for one are nearly those of a rectangle."""

from __future__ import annotations

from boxwright.data.records import Annotation, Problem
from boxwright.data.rotated_annotations import has_corners

LEAST_FILLED = 0.8
"""Of the smallest rectangle around four corners, the share that the outline through them fills at least."""


def rotated_problem(item: Annotation, name: str) -> Problem | None:
    """A finding where the corners of an object are not those of a rectangle; None where they are, or not known."""
    if item.rotated is None or not has_corners(item):
        return None
    filled = enclosed(item.segmentation[0]) / (item.rotated[2] * item.rotated[3])
    if filled >= LEAST_FILLED:
        return None
    message = f"the corners of the {name} are not those of a rectangle, or not in order: their outline fills "
    message += f"{filled:.0%} of the smallest rectangle around them, which is what is learnt"
    return Problem("not-a-rectangle", item.where, message, item.box)


def enclosed(outline: list[float]) -> float:
    """The area that an outline x1, y1, x2, y2, ... encloses; an outline that crosses itself encloses less.

    >>> enclosed([0, 0, 4, 0, 4, 3, 0, 3]), enclosed([0, 0, 4, 0, 0, 3, 4, 3])
    (12.0, 0.0)
    """
    points = [*zip(outline[0::2], outline[1::2], strict=True)]
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, points[1:] + points[:1], strict=True))) / 2
