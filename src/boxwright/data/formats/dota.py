"""DOTA: rotated objects as four corners in text files, `labelTxt/NAME.txt` for `images/NAME.png`.

Supported: `{train,val}/{images,labelTxt}/` (so are DOTA's own archives unpacked), `{images,labelTxt}/{train,val}/`, and
one pair of folders without splits. A row is `x1 y1 x2 y2 x3 y3 x4 y4 class difficult`, in pixels; the lines
`imagesource:...` and `gsd:...` at the beginning of a file are no objects. Objects that are difficult become ignore
regions. The rotated box of an object is the smallest rectangle around its corners; they stay its outline too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from boxwright.data.formats.listing import ImageFinder, files_in, is_image, split_folders, split_order, subfolder
from boxwright.data.formats.yolo_rows import text_of
from boxwright.data.records import Annotation, LabelledFolder, Problem, Record, Split
from boxwright.ops.rotated import rotated_around, rotated_hull
from boxwright.reading.values import number
from boxwright.reading.xml_text import regular_bytes
from boxwright.structures import Classes
from boxwright.wording import counted

DOTA_LAYOUT = "DOTA (labelTxt/*.txt with images/, below train/ and val/ or the other way round)"
FOLDERS = ("labeltxt", "labeltxt-v1.0", "labeltxt-v1.5", "labeltxt-v2.0")
_HEADERS = ("imagesource:", "gsd:")
_EXPECTED = "expected x1 y1 x2 y2 x3 y3 x4 y4 class difficult"


class _Place(NamedTuple):
    """One split: its folder of text files, and where its images are."""

    labels: Path
    images: Path


@dataclass(frozen=True, slots=True)
class CornerRow:
    """One row: its line in the file, eight numbers, the name of its class, and whether it is difficult."""

    line: int
    corners: tuple[float, ...]
    name: str
    difficult: bool


def recognises_dota(path: Path) -> bool:
    """Whether a folder has `labelTxt` folders with text files."""
    return any(name.lower().endswith(".txt") for place in _places(path).values() for name in files_in(place.labels))


def _places(path: Path) -> dict[str, _Place]:
    """The splits of a folder, by name; one pair of folders is "train"."""
    if not path.is_dir():
        return {}
    labels, images = subfolder(path, *FOLDERS), subfolder(path, "images")
    if labels is not None:
        splits = split_folders(labels)
        beside = split_folders(images) if images else {}
        if splits:
            return {name: _Place(folder, beside.get(name, images or path)) for name, folder in splits.items()}
        return {"train": _Place(labels, images or path)}
    found = {}
    for name, folder in split_folders(path).items():
        own = subfolder(folder, *FOLDERS)
        if own is not None:
            found[name] = _Place(own, subfolder(folder, "images") or folder)
    return found


def read_dota(path: Path, class_names: Sequence[str] | None = None) -> LabelledFolder:
    """Read a DOTA folder; classes are ordered by name unless `class_names` gives them; their ids are 1 to K.

    An image without a text file is left out with a finding, since its objects are not known (DOTA withholds those of
    its test images). Rows that cannot be read, and those of classes that `class_names` lacks, are findings too.
    """
    places = _places(path)
    read = {
        split: {name[:-4]: read_corners(place.labels / name) for name in files_in(place.labels) if _is_text(name)}
        for split, place in places.items()
    }
    names = sorted({row.name for files in read.values() for rows, _ in files.values() for row in rows})
    if not names and not class_names:
        first = next((found[0] for files in read.values() for _, found in files.values() if found), None)
        reason = f"; the first problem is {first.where}: {first.message}" if first else ""
        raise ValueError(f"{path}: no text file of labelTxt has a readable object{reason}")
    classes = Classes.named(tuple(class_names or names), first_id=1)
    splits = {name: _split(name, path, places[name], read[name], classes) for name in split_order(places)}
    return LabelledFolder(path, "dota", classes, splits)


def _is_text(name: str) -> bool:
    return name.lower().endswith(".txt")


def read_corners(file: Path) -> tuple[list[CornerRow], list[Problem]]:
    """The rows of a DOTA text file, and a problem for each line that is none."""
    try:
        text = text_of(regular_bytes(file))
    except OSError as error:
        message = f"the label file cannot be read ({error.strerror or error}); its image is left out"
        return [], [Problem("unreadable-annotation", str(file), message, quarantined=True, severity="error")]
    rows: list[CornerRow] = []
    problems: list[Problem] = []
    for line, content in enumerate(text.splitlines(), 1):
        words = content.split()
        if not words or content.strip().lower().startswith(_HEADERS):
            continue
        parsed = _parsed(words, line)
        if isinstance(parsed, str):
            problems.append(Problem("bad-row", f"{file}:{line}", parsed, quarantined=True, severity="error"))
        else:
            rows.append(parsed)
    return rows, problems


def _parsed(words: list[str], line: int) -> CornerRow | str:
    """One row of a file, or why it is none. Names may have spaces, and the last number may be missing."""
    if len(words) < 9:
        return f"{counted(len(words), 'value')}; {_EXPECTED}"
    values = [number(word) for word in words[:8]]
    for word, value in zip(words, values, strict=False):
        if value is None:
            return f"{word!r:.40} is not a number; {_EXPECTED}"
        if not math.isfinite(value):
            return "a number is not finite"
    flag = words[-1] if len(words) > 9 else "0"
    if flag not in ("0", "1", "2"):
        return f"difficult is {flag!r:.40}; expected 0 or 1 as the last value"
    name = " ".join(words[8:-1] if len(words) > 9 else words[8:])
    return CornerRow(line, tuple(value for value in values if value is not None), name, flag != "0")


def _split(
    name: str, root: Path, place: _Place, read: dict[str, tuple[list[CornerRow], list[Problem]]], classes: Classes
) -> Split:
    finder = ImageFinder([place.images, place.labels.parent], root, name)
    labels = {known: label for label, known in enumerate(classes.names)}
    records: list[Record] = []
    problems: list[Problem] = []
    for stem, (rows, found) in read.items():
        file = place.labels / f"{stem}.txt"
        unknown = [row for row in rows if row.name not in labels]
        problems += found
        problems += [_unknown(file, row, classes) for row in unknown]
        known = [row for row in rows if row.name in labels]
        annotations = tuple(
            Annotation(box, labels[row.name], f"{file}:{row.line}", row.difficult, [[*row.corners]], rotated=rotated)
            for row, (rotated, box) in zip(known, rectangles([row.corners for row in known]), strict=True)
        )
        image = finder.find_stem(stem) or finder.find_below(stem) or place.images / f"{stem}.png"
        records.append(Record(image, stem, None, annotations, str(file), len(found) + len(unknown)))
    lonely = sorted(
        stem for file in files_in(place.images) if is_image(file) and (stem := os.path.splitext(file)[0]) not in read
    )
    if lonely:
        message = f"{counted(len(lonely), 'image')} without a text file in {place.labels.name}: left out, such as "
        problems.append(Problem("image-without-annotation", str(place.images), message + lonely[0]))
    return Split(name, tuple(records), classes, tuple(problems))


def _unknown(file: Path, row: CornerRow, classes: Classes) -> Problem:
    message = f"class {row.name!r:.60} is none of the given classes {', '.join(classes.names)}"
    return Problem("unknown-class", f"{file}:{row.line}", message, quarantined=True, severity="error")


Rotated = tuple[float, float, float, float, float]
Hull = tuple[float, float, float, float]


def rectangles(corners: Sequence[Sequence[float]]) -> list[tuple[Rotated, Hull]]:
    """The smallest rotated box around each four corners x1 y1 ... x4 y4, and the upright hull of it.

    >>> rectangles([(3, 4, 7, 4, 7, 6, 3, 6)])[0][1]
    (3.0, 4.0, 7.0, 6.0)
    """
    found = rotated_around(torch.tensor(corners, dtype=torch.float64).reshape(-1, 4, 2))
    pairs = zip(found.float().tolist(), rotated_hull(found).float().tolist(), strict=True)
    return [((cx, cy, w, h, angle), (x1, y1, x2, y2)) for (cx, cy, w, h, angle), (x1, y1, x2, y2) in pairs]
