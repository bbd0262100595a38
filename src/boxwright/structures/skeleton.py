"""The keypoints of an object: what they are called, which ones a line joins, and which ones a mirror exchanges."""

from __future__ import annotations

import re
from dataclasses import dataclass

from boxwright.wording import counted

_SIDES = re.compile(r"left|right")
_OTHER = {"left": "right", "right": "left"}


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Names of the K keypoints in order, and lines between them as pairs of their numbers, counted from 0.

    >>> body = Skeleton(("nose", "left_eye", "right_eye"), ((0, 1), (0, 2)))
    >>> len(body), body.mirrored
    (3, (0, 2, 1))
    """

    names: tuple[str, ...]
    lines: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError(f"keypoints: expected names that differ, got {list(self.names)}")
        for line in self.lines:
            if not all(0 <= end < len(self.names) for end in line):
                raise ValueError(f"skeleton: a line {line} of {counted(len(self.names), 'keypoint')}, counted from 0")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sigmas(self) -> tuple[float, ...]:
        """How exactly each keypoint is to be found (COCO's object keypoint similarity): COCO's own for its person."""
        return COCO_SIGMAS if self.names == COCO_PERSON.names else (SIGMA,) * len(self)

    @property
    def mirrored(self) -> tuple[int, ...]:
        """Which keypoint each one becomes in a mirrored image: left and right in the names exchanged."""
        place = {name: index for index, name in enumerate(self.names)}
        return tuple(
            place.get(_SIDES.sub(lambda side: _OTHER[side[0]], name), index) for index, name in enumerate(self.names)
        )


COCO_PERSON = Skeleton(
    (
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
        "right_ankle",
    ),
    (
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
        (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
)  # fmt: skip
"""The keypoints of a person in COCO, in its order."""
COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
    0.089,
)  # fmt: skip
"""Standard deviations of annotators, as a part of the root of the object's area (pycocotools)."""
SIGMA = 0.05
"""Of keypoints that are not COCO's: half a similarity is lost at 0.118 of the root of the object's area."""
