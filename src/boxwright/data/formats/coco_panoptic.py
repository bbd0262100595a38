"""COCO panoptic: one JSON file a split with the segments of each image, and a folder of PNG files with their pixels.

    annotations/panoptic_train2017.json   annotations/panoptic_train2017/000000000009.png   train2017/000000000009.jpg

The colour of a pixel is the id of its segment, R + 256 G + 256^2 B, and 0 is none (Kirillov et al., "Panoptic
segmentation", CVPR 2019; the format of panopticapi). Segments of a category with `isthing` 1 become objects with a mask
and a box, the others the label of their pixels; a segment with `iscrowd` is an ignore region, or of no label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from boxwright.data.formats.coco import by_split, image_folders, is_panoptic_name, load_coco, root_of, split_of
from boxwright.data.formats.coco_categories import join_categories, read_categories
from boxwright.data.formats.coco_rows import CocoRows
from boxwright.data.formats.listing import ImageFinder, files_in, split_order, subfolder
from boxwright.data.formats.numbered_pixels import LabelPixels, ObjectPixels, numbered_pixels
from boxwright.data.records import LabelledFolder, Problem, Split
from boxwright.reading.values import ById, flag, identity, numbers, whole_number
from boxwright.structures import Classes
from boxwright.structures.classes import IGNORED

PANOPTIC_LAYOUT = "COCO panoptic (annotations/panoptic_train2017.json with panoptic_train2017/*.png and train2017/)"


class _Segment(NamedTuple):
    """One segment: the number of its pixels, its category, and its row in the file."""

    number: int
    category: int
    crowd: bool
    row: dict[str, Any]


class _Annotated(NamedTuple):
    """One row of `annotations`: the id of its image, its PNG file, and its segments."""

    image_id: int | str
    file: Path
    segments: list[_Segment]


def recognises_panoptic(path: Path) -> bool:
    """Whether a path is a file called panoptic*.json, or a folder that has one, also in `annotations/`."""
    if path.is_file():
        return _is_panoptic(path.name)
    return bool(_files(path))


def read_panoptic(path: Path, class_names: Sequence[str] | None = None) -> LabelledFolder:
    """Read a COCO panoptic folder, or one of its files with the others beside it, which are the other splits.

    Classes and stuff are ordered by category id unless `class_names` names some of them in another order; those that it
    does not name are left out, stuff only where it names any. Raises ValueError with one sentence.
    """
    root = root_of(path) if path.is_file() else path
    found = (
        _files(root) if path.is_dir() else [path.parent / name for name in files_in(path.parent) if _is_panoptic(name)]
    )
    files = by_split(found) if len(found) > 1 else {split_of(found[0]): found[0]}
    contents = {split: load_coco(file) for split, file in files.items()}
    notes: list[str] = []
    rows = {split: _with_categories(content) for split, content in contents.items()}
    names, ids_of_file = join_categories(
        [(file, read_categories(rows[split], file, notes)) for split, file in files.items()], notes
    )
    things = _things([(files[split], content) for split, content in contents.items()])
    classes = _classes(names, things, class_names, path)
    splits = {}
    for split in split_order(files):
        reading = _Reading(files[split], root, split, classes, ids_of_file[files[split]], things)
        splits[split] = reading.split(contents.pop(split))
    return LabelledFolder(root, "panoptic", classes, splits, tuple(dict.fromkeys(notes)))


def _is_panoptic(name: str) -> bool:
    return is_panoptic_name(name) and name.lower().endswith(".json")


def _files(root: Path) -> list[Path]:
    """The panoptic files of a folder, in `annotations/` or directly in it."""
    for folder in (subfolder(root, "annotations"), root):
        names = [name for name in files_in(folder) if _is_panoptic(name)] if folder is not None else []
        if folder is not None and names:
            return [folder / name for name in names if (folder / name).is_file()]
    return []


def _id_of(row: Any) -> int | str | None:
    return identity(row.get("id")) if isinstance(row, dict) else None


def _segments_of(row: Any) -> list[Any]:
    segments = row.get("segments_info") if isinstance(row, dict) else None
    return segments if isinstance(segments, list) else []


def _with_categories(content: dict[str, Any]) -> dict[str, Any]:
    """The content with its segments as annotations, by which unused categories are known."""
    return content | {"annotations": [segment for row in content["annotations"] for segment in _segments_of(row)]}


def _things(files: list[tuple[Path, dict[str, Any]]]) -> dict[int, bool]:
    """For each category id whether its segments are objects; ValueError where a file does not say, or files differ."""
    found: dict[int, bool] = {}
    for file, content in files:
        for row in content["categories"]:
            key, thing = whole_number(row["id"]), flag(row.get("isthing"))
            assert key is not None  # as checked with the names
            if "isthing" not in row or thing is None:
                state = f"is {row['isthing']!r:.40}" if "isthing" in row else "is missing"
                raise ValueError(
                    f'{file}: "isthing" of category id {key} {state}; expected 1 for a class of objects and 0 for one '
                    "of stuff, as in COCO panoptic"
                )
            if found.setdefault(key, thing) != thing:
                raise ValueError(f'{file}: "isthing" of category id {key} differs between the files of the dataset')
    return found


def _classes(names: dict[int, str], things: dict[int, bool], wanted: Sequence[str] | None, path: Path) -> Classes:
    id_of = {name: key for key, name in names.items()}
    unknown = [name for name in wanted or () if name not in id_of]
    if unknown:
        raise ValueError(f"{path}: no category named {unknown[0]!r}; the files have {', '.join(id_of)}")
    ordered = [id_of[name] for name in wanted] if wanted else list(names)
    objects = [key for key in ordered if things[key]]
    stuff = [key for key in ordered if not things[key]] or [key for key in names if not things[key]]
    return Classes(
        tuple(names[key] for key in objects), tuple(objects), None, tuple(names[key] for key in stuff), tuple(stuff)
    )


class _Reading:
    """Reads one file; what it cannot use is appended to `problems`."""

    def __init__(
        self, file: Path, root: Path, split: str, classes: Classes, id_of: ById[int], things: dict[int, bool]
    ) -> None:
        self.file, self.root, self.name, self.classes, self.id_of, self.things = (
            file,
            root,
            split,
            classes,
            id_of,
            things,
        )
        self.problems: list[Problem] = []
        self.pixels = ImageFinder([file.parent / file.stem, root / file.stem, root / "panoptic" / file.stem])
        names = classes.semantic_names
        first = len(names) - len(classes.stuff)
        self.label_of = {key: first + index for index, key in enumerate(classes.stuff_ids)}
        self.label_of |= dict.fromkeys(classes.ids, 0) if classes.stuff else {}

    def split(self, content: dict[str, Any]) -> Split:
        """The split that the file describes."""
        # images are not searched for everywhere: a missing one would be found as the PNG file of its segments
        folders = [one for one in image_folders(self.root, self.file, self.name) if one not in self.pixels.folders]
        finder = ImageFinder(folders)
        known = ById((key, None) for row in content["images"] if (key := _id_of(row)) is not None)
        annotated = {one.image_id: one for one in self._annotated(content["annotations"], known)}
        objects = [row for one in annotated.values() for row in self._objects(one)]
        split = CocoRows(self.file, finder, self.classes, self.id_of).split(
            self.name, content | {"annotations": objects}
        )
        of_image = ById(annotated.items())
        records = []
        for record in split.records:
            key = of_image.key(record.image_id)
            record = record if key is None else replace(record, semantic=self._labels(annotated[key]))
            records.append(record)
        return replace(split, records=tuple(records), problems=(*split.problems, *self.problems))

    def _annotated(self, rows: list[Any], known: ById[None]) -> Iterator[_Annotated]:
        """The rows of `annotations` that can be used."""
        seen: set[int | str] = set()
        for index, row in enumerate(rows):
            place = f"entry {index} of annotations"
            key = identity(row.get("image_id")) if isinstance(row, dict) else None
            name = row.get("file_name") if isinstance(row, dict) else None
            if key is None or not isinstance(name, str) or not name or not isinstance(row.get("segments_info"), list):
                message = 'it has no "image_id", no "file_name" of a PNG file or no list of "segments_info"'
                self._told("bad-annotation", place, message)
            elif known.key(key) is None:
                self._told("unknown-image", place, f"no image has the id {key!r:.60}")
            elif key in seen:
                self._told("repeated-image-id", place, f"image id {key!r:.60} has segments twice; the first are used")
            else:
                seen.add(key)
                file = self.pixels.find(name) or self.pixels.folders[0] / Path(name.replace("\\", "/")).name
                yield _Annotated(key, file, list(self._segments(row, f"image id {key!r:.60} ({name:.200})")))

    def _segments(self, row: dict[str, Any], place: str) -> Iterator[_Segment]:
        seen: set[int] = set()
        for index, segment in enumerate(row["segments_info"]):
            number = whole_number(segment.get("id")) if isinstance(segment, dict) else None
            crowd = flag(segment.get("iscrowd")) if isinstance(segment, dict) else None
            where = f"segment {index if number is None else f'id {number}'} of {place}"
            category = None if number is None else self.id_of.key(segment.get("category_id"))
            if number is None or not 0 < number < 1 << 24:
                self._told("bad-segment", where, f'its "id" is no number from 1 to 2^24 - 1: {segment!r:.80}')
            elif number in seen:
                self._told("bad-segment", where, "the id occurs twice in the image; the first one is used")
            elif category is None:
                message = f"no category has the id {segment.get('category_id')!r:.60}; its pixels are not learnt"
                self._told("unknown-class", where, message)
            elif crowd is None:
                self._told("bad-field", where, f'"iscrowd" is {segment["iscrowd"]!r:.60}, expected 0 or 1')
            else:
                seen.add(number)
                yield _Segment(number, self.id_of[category], crowd, segment)

    def _objects(self, one: _Annotated) -> Iterator[dict[str, Any]]:
        """The segments that are objects, as COCO's rows."""
        for number, category, crowd, row in one.segments:
            if self.things[category]:
                box = numbers(row.get("bbox"))
                box = box if box is not None and len(box) == 4 else _box(one.file, number)
                yield {
                    "id": number, "image_id": one.image_id, "category_id": category, "iscrowd": crowd, "bbox": box,
                    "area": row.get("area"), "segmentation": ObjectPixels(one.file, number, colours=True),
                }  # fmt: skip

    def _labels(self, one: _Annotated) -> LabelPixels | None:
        """The labels of the pixels of an image, None without stuff; a crowd of stuff counts for nothing."""
        if not self.label_of:
            return None
        pairs = [
            (number, IGNORED if crowd and not self.things[category] else self.label_of.get(category, IGNORED))
            for number, category, crowd, _ in one.segments
        ]
        return LabelPixels(one.file, tuple(pairs), colours=True)

    def _told(self, kind: str, place: str, message: str) -> None:
        self.problems.append(Problem(kind, f"{self.file}: {place}", message, quarantined=True, severity="error"))


def _box(file: Path, number: int) -> list[float] | None:
    """The box x, y, width, height around the pixels of a segment; None if it has none, or the file cannot be read."""
    try:
        plane = numbered_pixels(file, colours=True) == number
    except (ValueError, OSError):
        return None
    rows, columns = np.flatnonzero(plane.any(1)), np.flatnonzero(plane.any(0))
    if not len(rows):
        return None
    x, y = int(columns[0]), int(rows[0])
    return [float(x), float(y), float(columns[-1] + 1 - x), float(rows[-1] + 1 - y)]
