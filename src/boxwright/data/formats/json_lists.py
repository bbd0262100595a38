"""The JSON lists of the course's detection exercise: one file a split, a list of images, each with its objects.

    [["VOCdevkit/VOC2007/JPEGImages/000012.jpg", [{"name": "car", "xyxy": [156, 97, 351, 270]}]], ...]

Paths are relative to the folder of the list, and may begin with "./here/", as in the published files. Boxes are
(x1, y1, x2, y2) in pixels, as in VOC's XML and not shifted. Nothing is said of size, difficulty or masks.
The notebook only names the files (`voc07_train.json`); the layout is that which the course's loader reads.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from boxwright.data.formats.listing import ImageFinder, files_in, split_in_name, split_name, split_order
from boxwright.data.records import Annotation, LabelledFolder, Problem, Record, Split
from boxwright.reading.values import numbers
from boxwright.structures import Classes

LISTS_LAYOUT = "JSON lists of a course (voc07_train.json, voc07_val.json: [[image path, [{name, xyxy}]], ...])"
_START = re.compile(rb'(\xef\xbb\xbf)?\s*\[\s*\[\s*"')
_PEEK = 4096  # bytes: a list of images begins in them
_HERE = "./here/"


def recognises_lists(path: Path) -> bool:
    """Whether a path is such a file, or a folder that has one directly in it."""
    return _is_list(path) if path.is_file() else bool(_files(path))


def read_lists(path: Path, class_names: Sequence[str] | None = None) -> LabelledFolder:
    """Read a list, or all lists of a folder; classes are ordered by name unless `class_names` gives them, ids 1 to K.

    Raises ValueError for a file that is no such list, or where two files stand for one split.
    """
    files = {_split_of(path): path} if path.is_file() else _files(path)
    root = path.parent if path.is_file() else path
    contents = {split: _load(file) for split, file in files.items()}
    names = {
        item["name"]
        for rows in contents.values() for row in rows if _is_row(row) for item in row[1] if _named(item)
    }  # fmt: skip
    if class_names:
        unknown = [name for name in class_names if name not in names]
        if unknown:
            raise ValueError(f"{path}: no object is called {unknown[0]!r}; the lists have {', '.join(sorted(names))}")
    classes = Classes.named(class_names or sorted(names), first_id=1)
    splits = {split: _split(split, files[split], root, contents[split], classes) for split in split_order(files)}
    return LabelledFolder(root, "lists", classes, splits)


def _files(folder: Path) -> dict[str, Path]:
    """The lists of a folder by split."""
    found: dict[str, Path] = {}
    for name in files_in(folder) if folder.is_dir() else ():
        file = folder / name
        if not name.lower().endswith(".json") or not _is_list(file):
            continue
        split = _split_of(file)
        if split in found:
            raise ValueError(f"{folder}: {found[split].name} and {name} both stand for {split}; name one file")
        found[split] = file
    return found


def _is_list(file: Path) -> bool:
    if file.suffix.lower() != ".json" or not file.is_file():  # such as a pipe
        return False
    with file.open("rb") as handle:
        return _START.match(handle.read(_PEEK)) is not None


def _split_of(file: Path) -> str:
    return split_in_name(file.stem) or split_name(file.parent.name) or "train"


def _load(file: Path) -> list[Any]:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, not UTF-8, or a number of 5,000 digits
        raise ValueError(f"{file}: this is not valid JSON ({error!s:.200})") from error
    if not isinstance(content, list):
        raise ValueError(f"{file}: expected a list of images, each [path, objects], got {type(content).__name__}")
    return content


def _is_row(row: Any) -> bool:
    """Whether this is an image with its objects: [path, objects]."""
    return isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) and isinstance(row[1], list)


def _named(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("name"), str) and bool(item["name"])


def _split(split: str, file: Path, root: Path, rows: list[Any], classes: Classes) -> Split:
    finder = ImageFinder([root], root, split)
    labels = {name: label for label, name in enumerate(classes.names)}
    records: list[Record] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    stems = Counter(Path(name).stem for name in {row[0].removeprefix(_HERE) for row in rows if _is_row(row)})

    def told(kind: str, where: str, message: str) -> None:
        problems.append(Problem(kind, where, message, quarantined=True, severity="error"))

    for index, row in enumerate(rows):
        where = f"{file}: entry {index}"
        if not _is_row(row):
            told("bad-image", where, f"expected [path, list of objects], got {row!r:.80}")
            continue
        name = row[0].removeprefix(_HERE)
        where = f"{where} ({name:.200})"
        if name in seen:
            told("duplicate-image", where, "the image is listed twice; the first entry is used")
            continue
        seen.add(name)
        annotations, rejected = [], 0
        for number, item in enumerate(row[1]):
            place = f"{where}, object {number}"
            box = numbers(item.get("xyxy")) if isinstance(item, dict) else None
            if not _named(item):
                told("bad-annotation", place, f'it has no "name": {item!r:.80}')
            elif box is None or len(box) != 4:
                told("bad-box", place, f'"xyxy" is not four numbers x1, y1, x2, y2: {item.get("xyxy")!r:.60}')
            else:
                if item["name"] in labels:  # else a class that was not asked for
                    x1, y1, x2, y2 = map(float, box)
                    annotations.append(Annotation((x1, y1, x2, y2), labels[item["name"]], place))
                continue
            rejected += 1
        stem, path = Path(name).stem, finder.find(name) or root / name
        records.append(Record(path, stem if stems[stem] == 1 else name, None, tuple(annotations), where, rejected))
    return Split(split, tuple(records), classes, tuple(problems))
