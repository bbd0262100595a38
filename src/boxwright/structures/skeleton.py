"""What the keypoints of an object are called, which ones are joined by a line, and which one is another's mirror image."""

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
    def mirrored(self) -> tuple[int, ...]:
        """Which keypoint each one becomes in a mirrored image: left and right in the names exchanged."""
        place = {name: index for index, name in enumerate(self.names)}
        return tuple(
            place.get(_SIDES.sub(lambda side: _OTHER[side[0]], name), index) for index, name in enumerate(self.names)
        )
