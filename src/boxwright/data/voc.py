"""Pascal VOC: one XML file a picture, split lists in ImageSets, in the layouts that people really have.

Understood: `Annotations/` + `JPEGImages/` with or without `ImageSets/Main/<split>.txt`, the same below `VOCdevkit/VOC2007`,
`train/ valid/ test/` folders that hold XML beside pictures, and everything in one folder. Coordinates are taken as they
stand: the standard counts pixels from 1 and includes both ends, files in the wild hold 0-based floats, and no file says
which, so none is shifted (half a pixel at most). `difficult` objects become ignore regions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from boxwright.data.listing import (
    PictureFinder,
    files_in,
    folders_in,
    is_picture,
    split_folders,
    split_name,
    split_order,
    subfolder,
)
from boxwright.data.records import Annotation, DataSet, Problem, Record, Split
from boxwright.data.voc_xml import VocFile, VocObject, read_voc_file
from boxwright.structures import Classes

LAYOUT = "Pascal VOC (Annotations/*.xml with JPEGImages/, with or without ImageSets/Main/*.txt, or XML beside pictures)"
_FLAGS = {"-1": False, "0": True, "1": True}  # 0 marks a difficult picture, which still belongs to the split


@dataclass
class _Place:
    """One folder of XML files with the folders of its pictures, and its split lists or the one split it stands for."""

    annotations: Path
    finder: PictureFinder
    split: str = "train"
    lists: dict[str, Path] = field(default_factory=dict)

    def stems(self) -> list[str]:
        return [name[:-4] for name in files_in(self.annotations) if name.lower().endswith(".xml")]


def recognises_voc(path: Path) -> bool:
    """Whether a folder holds Pascal VOC annotation files in a layout that `read_voc` understands."""
    return path.is_dir() and next(_places(path), None) is not None


def read_voc(path: Path, class_names: Sequence[str] | None = None) -> DataSet:
    """A Pascal VOC folder; classes are ordered by name unless `class_names` gives them, and have the ids 1 to K."""
    places = list(_places(path))
    notes = []
    if len(places) > 1 and not all(place.split != "train" for place in places[1:]):
        notes.append("several VOC folders are read together: " + ", ".join(str(p.annotations.parent) for p in places))
    loaded = [_load(place) for place in places]
    names = list(class_names or sorted({name for place in loaded for name in place.names()}))
    if not names:
        broken = [problem for place in loaded for problem in place.problems]
        reason = f"; the first problem is {broken[0].where}: {broken[0].message}" if broken else ""
        raise ValueError(f"{path}: no XML file here holds an object with a class name{reason}")
    classes = Classes.named(names, first_id=1)
    records: dict[str, list[Record]] = {}
    problems: dict[str, list[Problem]] = {}
    for place in loaded:
        for split, stems in place.members.items():
            rows, found = place.records(stems, classes)
            records.setdefault(split, []).extend(_unique_ids(rows, records.get(split, []), place.root.name))
            problems.setdefault(split, []).extend(found + place.split_problems.get(split, []))
    splits = {
        name: Split(name, tuple(records[name]), classes, tuple(problems[name])) for name in split_order(records)
    }
    notes += [note for place in loaded for note in place.notes]
    return DataSet(path, "voc", classes, splits, tuple(notes))


def _unique_ids(rows: list[Record], earlier: list[Record], prefix: str) -> list[Record]:
    from dataclasses import replace

    taken = {record.image_id for record in earlier}
    return [replace(row, image_id=f"{prefix}/{row.image_id}") if row.image_id in taken else row for row in rows]
