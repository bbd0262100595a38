"""YOLO text labels: one row per object, `class cx cy w h` or `class x1 y1 x2 y2 ...`, as fractions of the image.

Supported: `images/{train,val}/` with `labels/{train,val}/`, `{train,valid,test}/{images,labels}/`, text files beside
images, with a data YAML (names as a list or by index) or without one (then names come from `classes.txt` or
`obj.names`, or are generated). The headers of the images are read, because fractions are of the upright image. A
polygon row gives its bounding box and the polygon.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from boxwright.data.formats.listing import split_order
from boxwright.data.formats.yolo_labels import label_files, unclaimed_labels
from boxwright.data.formats.yolo_layout import YoloLayout, find_layout
from boxwright.data.formats.yolo_rows import Row, RowKind, bad_row, box_or_outline, kind_of, read_label_file
from boxwright.data.image_io.decode import image_size
from boxwright.data.records import Annotation, LabelledFolder, Problem, Record, Split
from boxwright.structures import Classes
from boxwright.wording import counted

YOLO_LAYOUT = "YOLO (images/ and labels/ with train/ and val/, or the other way round, with or without data.yaml)"


def recognises_yolo(path: Path) -> bool:
    """Whether a path is a data YAML, or a folder in a layout that `read_yolo` supports."""
    return find_layout(path) is not None


def read_yolo(path: Path, class_names: Sequence[str] | None = None) -> LabelledFolder:
    """Read a YOLO folder or data YAML; classes keep their indices as ids, names may be given if the folder has none."""
    layout = find_layout(path)
    if layout is None:
        raise ValueError(f"{path}: no YOLO labels here")
    files = label_files([image for images in layout.images.values() for image in images])
    problems = unclaimed_labels(layout.root, layout.images, files)
    read = {file: read_label_file(file) for file in dict.fromkeys(files.values())}
    kind = kind_of((row for rows, _ in read.values() for row in rows), layout.pose_numbers)
    labels = {file: _usable(file, rows, found, kind) for file, (rows, found) in read.items()}
    first = next(chain(*(found.problems for found in labels.values()), *problems.values()), None)
    classes, note = _classes(layout, labels.values(), class_names, path, first)
    splits = {}
    for split in split_order(layout.images):
        images = layout.images[split]
        found = [problem for file in dict.fromkeys(files[p] for p in images) for problem in labels[file].problems]
        records, more = _records(layout, images, files, labels, classes)
        splits[split] = Split(split, records, classes, tuple(found + more + problems[split]))
    return LabelledFolder(layout.root, "yolo", classes, splits, layout.notes + ((note,) if note else ()))


class _Labels(NamedTuple):
    """The usable rows of a label file, each with its box or outline, and the problems of the others."""

    rows: list[tuple[Row, tuple[float, ...]]]
    problems: list[Problem]


def _usable(file: Path, rows: list[Row], problems: list[Problem], kind: RowKind) -> _Labels:
    usable = _Labels([], list(problems))
    for row in rows:
        values = box_or_outline(row, kind)
        if isinstance(values, str):
            usable.problems.append(bad_row(file, row.line, values))
        else:
            usable.rows.append((row, values))
    return usable


def _classes(
    layout: YoloLayout, labels: Iterable[_Labels], given: Sequence[str] | None, path: Path, first: Problem | None
) -> tuple[Classes, str]:
    names = layout.names
    if given:
        if names and sorted(names.values()) != sorted(given):
            raise ValueError(
                f"{path}: the classes are {', '.join(names.values())}, but these were given: {', '.join(given)}"
            )
        if names:
            index_of = {name: index for index, name in names.items()}
            return Classes(tuple(given), tuple(index_of[name] for name in given)), ""
        names = dict(enumerate(given))
    if names:
        return Classes(tuple(names.values()), tuple(names)), ""
    used = sorted({row.index for found in labels for row, _ in found.rows})
    if not used:
        reason = f"; the first problem is {first.where}: {first.message}" if first else ""
        raise ValueError(f"{path}: no label file holds a readable row, and no class names are given{reason}")
    note = (
        "no class names were found (data.yaml, classes.txt), so classes are called class0, class1, ... by their index"
    )
    return Classes(tuple(f"class{index}" for index in used), tuple(used)), note


def _records(
    layout: YoloLayout,
    images: list[Path],
    files: dict[Path, Path],
    labels_of: dict[Path, _Labels],
    classes: Classes,
) -> tuple[tuple[Record, ...], list[Problem]]:
    labels = {identity: label for label, identity in enumerate(classes.ids)}
    records: list[Record] = []
    problems: list[Problem] = []
    ids = _image_ids(layout.root, images)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        sizes = list(pool.map(_size_or_none, [image if labels_of[files[image]].rows else None for image in images]))
    for image, size in zip(images, sizes, strict=True):
        file = files[image]
        annotations = []
        rejected = len(labels_of[file].problems)
        for row, values in labels_of[file].rows:
            where = f"{file}:{row.line}"
            if row.index not in labels:
                message = (
                    f"class index {row.index} has no name; the indices of the {counted(len(labels), 'class')} are "
                )
                message += f"{classes.ids[0]} to {classes.ids[-1]}"
                problems.append(Problem("unknown-class", where, message, quarantined=True, severity="error"))
                rejected += 1
            elif size is not None:
                annotations.append(_annotation(values, labels[row.index], size, where))
        # An image that cannot be read has no size to scale by: preflight reports it.
        records.append(Record(image, ids[image], None, tuple(annotations), str(file), rejected))
    return tuple(records), problems


def _annotation(values: tuple[float, ...], label: int, size_hw: tuple[int, int], where: str) -> Annotation:
    height, width = size_hw
    if len(values) == 4:
        cx, cy, w, h = values
        box = ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)
        return Annotation(box, label, where)
    points = [value * (height if index % 2 else width) for index, value in enumerate(values)]
    columns, lines = points[0::2], points[1::2]
    return Annotation((min(columns), min(lines), max(columns), max(lines)), label, where, segmentation=[points])


def _image_ids(root: Path, images: list[Path]) -> dict[Path, str]:
    """File stems as ids, or the path below the root where two images of a split share a stem."""
    stems: dict[str, int] = {}
    for image in images:
        stems[image.stem] = stems.get(image.stem, 0) + 1
    return {image: image.stem if stems[image.stem] == 1 else _below(image, root) for image in images}


def _below(image: Path, root: Path) -> str:
    return image.relative_to(root).as_posix() if image.is_relative_to(root) else image.as_posix()


def _size_or_none(image: Path | None) -> tuple[int, int] | None:
    try:
        return image_size(image) if image is not None else None
    except (ValueError, OSError):
        return None
