"""The keypoints of COCO files: their names and lines in the categories, and the numbers of one object."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from boxwright.reading.values import numbers, whole_number
from boxwright.structures import Skeleton

Points: TypeAlias = tuple[tuple[float, float, float], ...]


def read_skeleton(files: Sequence[tuple[Path, dict[str, Any]]], notes: list[str]) -> Skeleton | None:
    """The keypoints that the categories of some files name, None if they name none.

    Names that are no list of different texts, and categories that differ, become a note, and there are no keypoints; a
    line that joins no two keypoints is left out with a note.
    """
    found: Skeleton | None = None
    for file, content in files:
        for row in content["categories"]:
            names = row.get("keypoints") if isinstance(row, dict) else None
            if not names:
                continue
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                notes.append(f'{file}: "keypoints" of a category is no list of names; keypoints are left out')
                return None
            if len(set(names)) != len(names):
                notes.append(f'{file}: "keypoints" of a category names one twice; keypoints are left out')
                return None
            if found is not None and found.names != tuple(names):
                notes.append(
                    f"{file}: categories with different keypoints ({', '.join(found.names)}; {', '.join(names)}) are "
                    "not supported; keypoints are left out"
                )
                return None
            if found is None:
                found = Skeleton(tuple(names), _lines(row.get("skeleton"), len(names), file, notes))
    return found


def _lines(value: Any, count: int, file: Path, notes: list[str]) -> tuple[tuple[int, int], ...]:
    """Lines as pairs of numbers counted from 0; COCO counts from 1."""
    lines: list[tuple[int, int]] = []
    for pair in value if isinstance(value, list) else ():
        ends = [whole_number(end) for end in pair] if isinstance(pair, list) else []
        first, second = ends if len(ends) == 2 else (None, None)
        if first is None or second is None or not 1 <= min(first, second) <= max(first, second) <= count:
            notes.append(f'{file}: "skeleton" joins {pair!r:.40}, expected two numbers from 1 to {count}; left out')
        else:
            lines.append((first - 1, second - 1))
    return tuple(lines)


def keypoints_of(value: Any, count: int) -> Points | None:
    """The keypoints of one object, None if they are not `count` times x, y and a visibility of 0, 1 or 2.

    Half a pixel is added to x and y, since COCO's count from the centre of a pixel; one of visibility 0 is (0, 0, 0).

    >>> keypoints_of([3, 4, 2, 9, 9, 0], 2)
    ((3.5, 4.5, 2.0), (0.0, 0.0, 0.0))
    """
    flat = numbers(value)
    if flat is None or len(flat) != 3 * count:
        return None
    rows = [tuple(map(float, flat[start : start + 3])) for start in range(0, len(flat), 3)]
    if not all(visible in (0, 1, 2) and math.isfinite(x) and math.isfinite(y) for x, y, visible in rows):
        return None
    return tuple((x + 0.5, y + 0.5, visible) if visible else (0.0, 0.0, 0.0) for x, y, visible in rows)
