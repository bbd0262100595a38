"""DOTA: a text file for each image, a rotated object a line: `x1 y1 x2 y2 x3 y3 x4 y4 class difficult`, in pixels.

    train/images/P0001.png  train/labelTxt/P0001.txt   or   images/train/P0001.png  labelTxt/train/P0001.txt

The lines at the top of a file (`imagesource:...`, `gsd:...`) are left out, as are images without a file. The rotated
box of an object is the one of least area around its corners; its side w lies along the first edge. The corners stay its
outline, so that a model with masks can learn it. A difficult object is ignored: it counts neither in loss nor in
evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from boxwright.data.formats.listing import files_in, folders_in, images_below, split_folders, subfolder
from boxwright.data.formats.yolo_rows import bad_row, text_of
from boxwright.data.records import Annotation, LabelledFolder, Problem, Record, Split
from boxwright.ops.rotated import rotated_around, rotated_hull
from boxwright.reading.values import number
from boxwright.reading.xml_text import regular_bytes
from boxwright.structures import Classes
from boxwright.wording import counted, listed

DOTA_LAYOUT = (
    "DOTA ({train,val}/images/ with {train,val}/labelTxt/*.txt, or images/ and labelTxt/ with train/ and val/)"
)
_HEADER = ("imagesource", "gsd", "acquisition")
_EXPECTED = "expected x1 y1 x2 y2 x3 y3 x4 y4 class difficult"


class _Place(NamedTuple):
    """Where the images of a split are, and their text files."""

    images: Path
    labels: Path


class _Row(NamedTuple):
    """One object: the file's line, its corners x1, y1, ..., x4, y4, its class, and whether it is difficult."""

    line: int
    corners: tuple[float, ...]
    name: str
    difficult: bool


def recognises_dota(path: Path) -> bool:
    """Whether a folder has images and, beside them, a folder labelTxt."""
    return path.is_dir() and bool(_places(path))


def read_dota(path: Path, class_names: Sequence[str] | None = None) -> LabelledFolder:
    """Read such a folder. Classes are in the order of their names, or in that of `class_names`, which must name all."""
    read = {split: _files(place) for split, place in _places(path).items()}
    rows = [row for files in read.values() for found, _ in files.values() for row in found]
    names = sorted({row.name for row in rows})
    if class_names:
        unknown = [name for name in names if name not in class_names]
        if unknown:
            raise ValueError(f"{path}: the classes are {', '.join(names)}, but {', '.join(class_names)} were given")
        names = list(class_names)
    if not names:
        first = next((bad for files in read.values() for _, found in files.values() for bad in found), None)
        reason = f"; the first problem is {first.where}: {first.message}" if first else ""
        raise ValueError(f"{path}: no line of labelTxt/ has an object ({_EXPECTED}){reason}")
    classes = Classes.named(names)
    splits = {split: _split(split, place, read[split], classes) for split, place in _places(path).items()}
    return LabelledFolder(path, "dota", classes, splits)


def _places(root: Path) -> dict[str, _Place]:
    """Images and text files by split."""
    images, labels = subfolder(root, "images"), _labels_in(root)
    if images is not None and labels is not None:
        of_images, of_labels = split_folders(images), split_folders(labels)
        both = {name: _Place(of_images[name], of_labels[name]) for name in of_images if name in of_labels}
        return both or {"train": _Place(images, labels)}
    found = {}
    for split, folder in split_folders(root).items():
        labels = _labels_in(folder)
        if labels is not None:
            found[split] = _Place(subfolder(folder, "images") or folder, labels)
    return found


def _labels_in(folder: Path) -> Path | None:
    """`labelTxt`, or the newest of `labelTxt-v1.0`, `labelTxt-v1.5`, ...; the files may lie in another inside."""
    names = [name for name in folders_in(folder) if name.lower().startswith("labeltxt")]
    if not names:
        return None
    plain = [name for name in names if name.lower() == "labeltxt"]
    found = folder / (plain or sorted(names))[-1]
    inner = [name for name in folders_in(found) if name.lower().startswith("labeltxt")]
    return found / inner[0] if inner and not files_in(found) else found


def _files(place: _Place) -> dict[Path, tuple[list[_Row], list[Problem]]]:
    """The rows of each text file, and a problem for each line that is none; by the file's path below its folder."""
    texts = [place.labels / name for name in files_in(place.labels) if name.lower().endswith(".txt")]
    texts += [
        place.labels / folder / name
        for folder in folders_in(place.labels) for name in files_in(place.labels / folder)
        if name.lower().endswith(".txt")
    ]  # fmt: skip
    return {file: _rows(file) for file in texts}


def _rows(file: Path) -> tuple[list[_Row], list[Problem]]:
    rows: list[_Row] = []
    problems: list[Problem] = []
    try:
        text = text_of(regular_bytes(file))
    except OSError as error:
        message = f"the label file cannot be read ({error.strerror or error}); its image is left out"
        return rows, [Problem("unreadable-annotation", str(file), message, quarantined=True, severity="error")]
    for line_number, line in enumerate(text.splitlines(), 1):
        words = line.replace(",", " ").split()
        if not words or line.lower().startswith(_HEADER):
            continue
        corners = [number(word) for word in words[:8]]
        flag = words[9] if len(words) > 9 else "0"
        if len(words) not in (9, 10) or flag not in ("0", "1", "2"):
            problems.append(bad_row(file, line_number, f"{counted(len(words), 'word')}: {_EXPECTED}, got {line!r:.80}"))
        elif any(value is None or not math.isfinite(value) for value in corners):
            problems.append(bad_row(file, line_number, f"a corner is no finite number: {_EXPECTED}, got {line!r:.80}"))
        else:
            known = tuple(float(value) for value in corners if value is not None)
            rows.append(_Row(line_number, known, words[8], flag != "0"))
    return rows, problems


def _split(
    name: str, place: _Place, files: dict[Path, tuple[list[_Row], list[Problem]]], classes: Classes
) -> Split:  # fmt: skip
    label_of = {class_name: label for label, class_name in enumerate(classes.names)}
    by_place = {(file.parent.relative_to(place.labels), file.stem): file for file in files}
    records: list[Record] = []
    problems: list[Problem] = []
    alone: list[str] = []
    used: set[Path] = set()
    for image in images_below(place.images):
        inside = image.parent.relative_to(place.images)
        file = by_place.get((inside, image.stem)) or by_place.get((Path(), image.stem))
        if file is None:
            alone.append(image.name)
            continue
        used.add(file)
        rows, found = files[file]
        problems += found
        if any(problem.kind == "unreadable-annotation" for problem in found):
            continue
        identity = image.stem if inside == Path() else (inside / image.stem).as_posix()
        objects = _annotations(rows, label_of, file)
        records.append(Record(image, identity, None, objects, str(file), rejected=len(found)))
    if alone:
        message = f"{counted(len(alone), 'image')} of {name} without a text file: left out, {listed(alone, 3)}"
        problems.append(Problem("image-without-labels", str(place.images), message))
    left = [file.name for file in files if file not in used]
    if left:
        message = f"{counted(len(left), 'text file')} of {name} without an image: not used, {listed(left, 3)}"
        problems.append(Problem("labels-without-image", str(place.labels), message))
    return Split(name, tuple(records), classes, tuple(problems))


def _annotations(rows: Sequence[_Row], label_of: dict[str, int], file: Path) -> tuple[Annotation, ...]:
    """The objects of a file; `box` is the upright hull of the rotated box."""
    if not rows:
        return ()
    rotated = rotated_around(torch.tensor([row.corners for row in rows], dtype=torch.float64).reshape(-1, 4, 2))
    boxes, turned = rotated_hull(rotated).tolist(), rotated.tolist()
    return tuple(
        Annotation(
            tuple(box),
            label_of[row.name],
            f"{file}:{row.line}",
            row.difficult,
            [list(row.corners)],
            rotated=tuple(angled),
        )
        for row, box, angled in zip(rows, boxes, turned, strict=True)
    )
