"""One detected object."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from boxwright.structures.masks import CroppedMask


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """One object that a detector found: what iterating over `Detections` gives.

    `box` is x1, y1, x2, y2 in pixels of the original image, `score` in [0, 1], `label` the class index and `name` the
    class name; `mask`, where the detector finds masks, is cropped to the object, and `keypoints`, where it finds
    those, are x, y, score of each. `rotated`, of a rotated detector, is cx, cy, w, h and degrees (`box` is the upright
    hull of it).
    """

    box: tuple[float, float, float, float]
    score: float
    label: int
    name: str
    mask: CroppedMask | None = None
    keypoints: tuple[tuple[float, float, float], ...] | None = None
    rotated: tuple[float, float, float, float, float] | None = None


def five_numbers(rotated: Tensor) -> tuple[float, float, float, float, float]:
    """One rotated box (5,) as a `Detection` has it."""
    cx, cy, width, height, angle = rotated.tolist()
    return cx, cy, width, height, angle
