"""Rows of YOLO label files: boxes and polygons, distinguished from rows that only look like them.

| numbers | what it is |
|---|---|
| 5 | `class cx cy w h` |
| 6 | a box with a score or a track id: refused |
| 7 | a triangle; but refused if all fit as boxes with a score and a track id and no other row is a polygon |
| 9, 11, ... | `class x1 y1 x2 y2 ...`; but refused if all have one length and fit as a box with keypoints |

The boxes of poses are read if the data YAML has `kpt_shape`.
"""

from __future__ import annotations

import codecs
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from boxwright.data.records import Problem
from boxwright.reading.values import number
from boxwright.reading.xml_text import regular_bytes

_TOLERANCE = 0.01  # labelling tools round: a box may end this fraction of the image outside it
_CLIPPED = 0.05  # and what a detector finds is seldom farther outside than this
_EXPECTED = "expected 5 (class cx cy w h) or a class and three or more points"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of finite numbers: its line, class index, and other numbers."""

    line: int
    index: int
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RowKind:
    """What the rows of a dataset are: poses with a number of keypoint values, polygons, or what looks like poses."""

    pose_numbers: int | None = None
    polygons: bool = False
    looks_like_poses: str = ""


def read_label_file(file: Path) -> tuple[list[Row], list[Problem]]:
    """The rows of a label file and one problem for each invalid line; a missing file means no objects."""
    rows: list[Row] = []
    problems: list[Problem] = []
    if not os.path.lexists(file):
        return rows, problems
    try:
        text = text_of(regular_bytes(file))
    except OSError as error:
        message = f"the label file cannot be read ({error.strerror or error}); its image is left out"
        problems.append(Problem("unreadable-annotation", str(file), message, quarantined=True, severity="error"))
        return rows, problems
    for line_number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if words:
            parsed = _parse(words, line, line_number)
            if isinstance(parsed, str):
                problems.append(bad_row(file, line_number, parsed))
            else:
                rows.append(parsed)
    return rows, problems


def text_of(data: bytes) -> str:
    """The text of a label file: UTF-8, or UTF-16 with a byte order mark, as Windows PowerShell writes."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig", "replace")


def bad_row(file: Path, line: int, message: str) -> Problem:
    """The problem of a row that cannot be used."""
    return Problem("bad-row", f"{file}:{line}", message, quarantined=True, severity="error")


def _parse(words: list[str], line: str, line_number: int) -> Row | str:
    try:
        values = [float(word) for word in words]
        strange = "_" in line or not line.isascii()  # which float() accepts, and no other reader
    except ValueError:
        strange = True
    if strange:
        wrong = next((word for word in words if number(word) is None), "")
        return f"{wrong!r:.40} is not a number; expected: class cx cy w h"
    if len(values) < 5:
        return f"{len(values)} number{'' if len(values) == 1 else 's'}; {_EXPECTED}"
    if not all(map(math.isfinite, values)):
        return "a number is not finite"
    if values[0] != int(values[0]) or not 0 <= values[0] < 1e9:
        return f"{words[0]:.40} is not a class index (0, 1, 2, ...)"
    return Row(line_number, int(values[0]), tuple(values[1:]))


def kind_of(rows: Iterable[Row], pose_numbers: int | None) -> RowKind:
    """What the rows of a whole dataset are; `pose_numbers` comes from the YAML's `kpt_shape`."""
    if pose_numbers is not None:
        return RowKind(pose_numbers)
    long = [row.values for row in rows if len(row.values) >= 6]
    lengths = {len(values) for values in long}
    for per_point in (2, 3):
        if len(lengths) == 1 and _are_poses(long, per_point):
            count = (lengths.pop() - 4) // per_point
            return RowKind(looks_like_poses=f"kpt_shape: [{count}, {per_point}]")
    triangles = [values for values in long if len(values) == 6]
    no_boxes = sum(not _is_box(values, _CLIPPED) for values in triangles) > 0.1 * len(triangles)
    return RowKind(polygons=no_boxes or any(length >= 8 and length % 2 == 0 for length in lengths))


def _are_poses(rows: Sequence[tuple[float, ...]], per_point: int) -> bool:
    """Whether rows of one length all fit as a box with keypoints in it, and not better as corners of outlines."""
    rest = len(rows[0]) - 4
    if rest < 3 or rest % per_point:
        return False
    if sum(_is_pose(values, per_point) for values in rows) < 0.9 * len(rows):
        return False
    # An outline often starts along a row or column, so that its first two corners share a coordinate.
    square = sum(values[0] == values[2] or values[1] == values[3] for values in rows)
    return per_point == 3 or square <= 0.1 * len(rows)


def _is_pose(values: tuple[float, ...], per_point: int) -> bool:
    if not _is_box(values, _TOLERANCE):
        return False
    x, y, width, height = values[:4]
    points = [values[start : start + per_point] for start in range(4, len(values), per_point)]
    if per_point == 3 and not all(point[2] in (0, 1, 2) for point in points):
        return False
    seen = [point for point in points if any(point[:2]) and (per_point == 2 or point[2] > 0)]
    inside = sum(abs(point[0] - x) <= 0.75 * width and abs(point[1] - y) <= 0.75 * height for point in seen)
    return inside >= 0.8 * len(seen)


def _is_box(values: tuple[float, ...], tolerance: float) -> bool:
    """Whether the first four numbers fit as centre and size of a box inside its image."""
    x, y, width, height = values[:4]
    reach = max(abs(x - 0.5) + width / 2, abs(y - 0.5) + height / 2)
    return width > 0 and height > 0 and reach <= 0.5 + tolerance


def box_or_outline(row: Row, kind: RowKind) -> tuple[float, ...] | str:
    """The four numbers of a row's box or the points of its polygon, or why it is neither."""
    values = row.values
    count = len(values) + 1
    if kind.pose_numbers is not None:
        if len(values) > 4 and kind.pose_numbers and len(values) != 4 + kind.pose_numbers:
            return f"{count} numbers; expected {5 + kind.pose_numbers}: class cx cy w h and the keypoints of kpt_shape"
        values = values[:4]
    elif len(values) > 4:
        fault = _no_outline(count, kind)
        if fault:
            return fault
    lowest, highest = min(values), max(values)
    if lowest < -_TOLERANCE or (len(values) == 4 and min(values[2:]) < 0):
        return f"{lowest:g} is negative; expected fractions of the image in [0, 1]"
    if highest > 1 + _TOLERANCE:
        return f"{highest:g} is above 1; expected fractions of the image in [0, 1], not pixels"
    return values


def _no_outline(count: int, kind: RowKind) -> str:
    """Why a row of more than five numbers is not a polygon, "" if it is one."""
    if count == 6:
        return "6 numbers; expected 5 (class cx cy w h): remove a score or a track id, which is not part of a label"
    if kind.looks_like_poses:
        return (
            f"{count} numbers, which fit as a box with keypoints: give a data.yaml with {kind.looks_like_poses}, and "
            "the boxes are read"
        )
    if count % 2 == 0:
        return f"{count} numbers; {_EXPECTED}"
    if count == 7 and not kind.polygons:
        return (
            "7 numbers; expected 5 (class cx cy w h): remove a score and a track id; if this is a triangle, "
            "write its last point twice"
        )
    return ""
