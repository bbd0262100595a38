"""YOLO text labels: one row an object, `class cx cy w h` or `class x1 y1 x2 y2 ...`, as fractions of the picture.

Understood: `images/{train,val}/` with `labels/{train,val}/`, `{train,valid,test}/{images,labels}/`, text files beside
pictures, with a data YAML (names as a list or by index) or without one (then `classes.txt` or `obj.names`, or names are
made up). The pictures' headers are read, because fractions are of the upright picture. A polygon row gives its box and
the polygon.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from boxwright.data.listing import split_order
from boxwright.data.pictures import image_size
from boxwright.data.records import Annotation, DataSet, Problem, Record, Split
from boxwright.data.yolo_layout import YoloLayout, find_layout, label_files
from boxwright.structures import Classes

YOLO_LAYOUT = "YOLO (images/ and labels/ with train/ and val/, or the other way round, with or without data.yaml)"
_TOLERANCE = 0.01  # labelling tools round: a box may end this fraction of the picture outside it


@dataclass(frozen=True, slots=True)
class _Row:
    """One readable row: class index, the line, and either a box (cx, cy, w, h) or the points of a polygon."""

    line: int
    index: int
    values: tuple[float, ...]


def recognises_yolo(path: Path) -> bool:
    """Whether a path is a data YAML, or a folder in a layout that `read_yolo` understands."""
    return find_layout(path) is not None


def read_yolo(path: Path, class_names: Sequence[str] | None = None) -> DataSet:
    """A YOLO folder or data YAML; classes keep their indices as ids, names may be given where the folder has none."""
    layout = find_layout(path)
    if layout is None:
        raise ValueError(f"{path}: no YOLO labels here")
    keypoints = layout.has_keypoints
    rows: dict[Path, list[_Row]] = {}
    problems: dict[str, list[Problem]] = {split: [] for split in layout.pictures}
    files = label_files([picture for pictures in layout.pictures.values() for picture in pictures])
    for split, pictures in layout.pictures.items():
        for picture in pictures:
            rows[picture], found = read_label_file(files[picture], keypoints)
            problems[split].extend(found)
    classes, note = _classes(layout, rows, class_names, path)
    splits = {}
    for split in split_order(layout.pictures):
        records, found = _records(layout, layout.pictures[split], files, rows, classes)
        splits[split] = Split(split, records, classes, tuple(problems[split] + found))
    return DataSet(layout.root, "yolo", classes, splits, (note,) if note else ())


def read_label_file(file: Path, keypoints: bool = False) -> tuple[list[_Row], list[Problem]]:
    """The readable rows of a label file and one problem for each of the others; no file means no objects."""
    rows: list[_Row] = []
    problems: list[Problem] = []
    if not file.is_file():
        return rows, problems
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        words = line.split()
        if words:
            parsed = _parse(words, number, keypoints)
            if isinstance(parsed, str):
                problems.append(Problem("bad-row", f"{file}:{number}", parsed, quarantined=True, severity="error"))
            else:
                rows.append(parsed)
    return rows, problems


def _parse(words: list[str], number: int, keypoints: bool) -> _Row | str:
    try:
        values = [float(word) for word in words]
    except ValueError:
        word = next(word for word in words if not _is_number(word))
        return f"{word!r:.40} is not a number; expected: class cx cy w h"
    if keypoints:
        values = values[:5]
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        return f"{len(values)} numbers; expected 5 (class cx cy w h) or a class and three or more points"
    if not all(map(math.isfinite, values)):
        return "a number is not finite"
    if values[0] != int(values[0]) or values[0] < 0:
        return f"{words[0]} is no class index (0, 1, 2, ...)"
    lowest, highest = min(values[1:]), max(values[1:])
    if lowest < -_TOLERANCE or (len(values) == 5 and min(values[3:]) < 0):
        return f"{lowest:g} is negative; expected fractions of the picture in [0, 1]"
    if highest > 1 + _TOLERANCE:
        return f"{highest:g} is above 1; expected fractions of the picture in [0, 1], not pixels"
    return _Row(number, int(values[0]), tuple(values[1:]))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _classes(
    layout: YoloLayout, rows: dict[Path, list[_Row]], given: Sequence[str] | None, path: Path
) -> tuple[Classes, str]:
    names = layout.names
    if given:
        if names and sorted(names.values()) != sorted(given):
            raise ValueError(f"{path}: the classes here are {', '.join(names.values())}, but given: {', '.join(given)}")
        if names:
            index_of = {name: index for index, name in names.items()}
            return Classes(tuple(given), tuple(index_of[name] for name in given)), ""
        names = dict(enumerate(given))
    if names:
        return Classes(tuple(names.values()), tuple(names)), ""
    used = sorted({row.index for found in rows.values() for row in found})
    if not used:
        raise ValueError(f"{path}: no label file holds a readable row, and no class names are given")
    note = (
        "no class names were found (data.yaml, classes.txt), so classes are called class0, class1, ... by their index"
    )
    return Classes(tuple(f"class{index}" for index in used), tuple(used)), note


def _records(
    layout: YoloLayout,
    pictures: list[Path],
    files: dict[Path, Path],
    rows: dict[Path, list[_Row]],
    classes: Classes,
) -> tuple[tuple[Record, ...], list[Problem]]:
    labels = {identity: label for label, identity in enumerate(classes.ids)}
    records: list[Record] = []
    problems: list[Problem] = []
    ids = _image_ids(layout.root, pictures)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        sizes = list(pool.map(_size_or_none, [picture if rows[picture] else None for picture in pictures]))
    for picture, size in zip(pictures, sizes, strict=True):
        file = files[picture]
        annotations = []
        for row in rows[picture]:
            where = f"{file}:{row.line}"
            if row.index not in labels:
                message = f"class index {row.index} has no name; the {len(labels)} classes have the indices "
                message += f"{classes.ids[0]} to {classes.ids[-1]}"
                problems.append(Problem("unknown-class", where, message, quarantined=True, severity="error"))
            elif size is not None:
                annotations.append(_annotation(row, labels[row.index], size, where))
        # A picture that cannot be read has no size to scale by: it is named by preflight.
        records.append(Record(picture, ids[picture], None, tuple(annotations), str(file)))
    return tuple(records), problems


def _annotation(row: _Row, label: int, size_hw: tuple[int, int], where: str) -> Annotation:
    height, width = size_hw
    if len(row.values) == 4:
        cx, cy, w, h = row.values
        box = ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)
        return Annotation(box, label, where)
    points = [value * (height if index % 2 else width) for index, value in enumerate(row.values)]
    columns, lines = points[0::2], points[1::2]
    return Annotation((min(columns), min(lines), max(columns), max(lines)), label, where, segmentation=[points])


def _image_ids(root: Path, pictures: list[Path]) -> dict[Path, str]:
    """File stems as ids, or the path below the root where two pictures of a split share a stem."""
    stems: dict[str, int] = {}
    for picture in pictures:
        stems[picture.stem] = stems.get(picture.stem, 0) + 1
    return {picture: picture.stem if stems[picture.stem] == 1 else _below(picture, root) for picture in pictures}


def _below(picture: Path, root: Path) -> str:
    return picture.relative_to(root).as_posix() if picture.is_relative_to(root) else picture.as_posix()


def _size_or_none(picture: Path | None) -> tuple[int, int] | None:
    try:
        return image_size(picture) if picture is not None else None
    except (ValueError, OSError):
        return None
