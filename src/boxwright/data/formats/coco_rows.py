"""The rows of one COCO file as records: every field is converted with checks, unusable ones become problems.

Ids of images and categories may be numbers in one place and text in another; numbers may be text. An ambiguous field is
reported with file, id and field.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from boxwright.data.formats.coco_skeleton import Points, keypoints_of
from boxwright.data.formats.federated import Federation, image_name
from boxwright.data.formats.listing import ImageFinder
from boxwright.data.formats.tool_names import meant_names
from boxwright.data.records import Annotation, Problem, Record, Split
from boxwright.ops.run_lengths import rle_extent
from boxwright.reading.values import ById, flag, identity, number, numbers, polygons, whole_number
from boxwright.structures import Classes

Corners = tuple[float, float, float, float]


class CocoRows:
    """Converts the content of one file into the records of a split."""

    def __init__(self, file: Path, finder: ImageFinder, classes: Classes, id_of: ById[int]) -> None:
        self.file, self.finder, self.classes, self.id_of = file, finder, classes, id_of
        self.labels = {key: label for label, key in enumerate(classes.ids)}
        self.problems: list[Problem] = []
        self.objects: dict[int | str, list[Annotation]] = {}
        self.rejected: Counter[int | str] = Counter()

    def split(self, name: str, content: dict[str, Any]) -> Split:
        """The split that the file describes."""
        images = ById(self._images(content["images"]))
        for index, row in enumerate(content["annotations"]):
            self._annotation(index, row, images)
        federation = Federation(self.file, self.classes, self.id_of, self.problems)
        frequencies = federation.frequencies(content["categories"])
        records, paths = [], self._paths({key: image_name(row) for key, row in images.items()})
        for key, image in images.items():
            where = f"{self.file}: image id {_shown(key)}"
            path, size = paths[key], self._size(image, where)
            objects = tuple(self.objects.get(key, ()))
            known = federation.of_image(image, where)
            records.append(Record(path, key, size, objects, where, self.rejected[key], federated=known))
        return Split(name, tuple(records), self.classes, tuple(self.problems), frequencies)

    def _images(self, rows: list[Any]) -> Iterator[tuple[int | str, dict[str, Any]]]:
        seen: set[int | str] = set()
        for index, row in enumerate(rows):
            key = identity(row.get("id")) if isinstance(row, dict) else None
            if key is None or not image_name(row):
                content = _content_of(row, "id", "file_name", "coco_url")
                self._problem("bad-image", f"entry {index} of images", f'it has no "id" or no "file_name"{content}')
            elif key in seen:
                self._problem(
                    "repeated-image-id", f"image id {_shown(key)}", "the id occurs twice; the first one is used"
                )
            else:
                seen.add(key)
                yield key, row

    def _paths(self, names: dict[int | str, str]) -> dict[int | str, Path]:
        """The path of each image; where none has its name, that of the one it may mean, unless two could mean that."""
        found = {key: self.finder.find(name) for key, name in names.items()}
        meant = {
            key: next(filter(None, map(self.finder.find, meant_names(names[key]))), None)
            for key, path in found.items()
            if path is None
        }
        claims = Counter(path for path in (*found.values(), *meant.values()) if path is not None)
        paths = {}
        for key, name in names.items():
            other = meant.get(key)
            absent = self.finder.folders[0] / Path(name.replace("\\", "/")).name
            paths[key] = found[key] or (other if other is not None and claims[other] == 1 else absent)
        return paths

    def _size(self, image: dict[str, Any], where: str) -> tuple[int, int] | None:
        """Height and width as given in the file; None if they are missing or zero."""
        sides = []
        for field in ("height", "width"):
            value = image.get(field)
            side = number(value)
            if side is None and value not in (None, ""):
                message = f'"{field}" is {_shown(value)}, which is not a number; the size of the image itself is used'
                self.problems.append(Problem("bad-field", where, message))
            sides.append(int(side) if side is not None and 0 < side < 1e9 else 0)
        return (sides[0], sides[1]) if all(sides) else None

    def _annotation(self, index: int, row: Any, images: ById[dict[str, Any]]) -> None:
        if not isinstance(row, dict) or identity(row.get("image_id")) is None:
            content = _content_of(row, "image_id")
            self._problem("bad-annotation", f"entry {index} of annotations", f'it has no "image_id"{content}')
            return
        key = images.key(row["image_id"])
        place = f"annotation id {_shown(row['id'])}" if "id" in row else f"annotation id missing, entry {index}"
        place += f" (image id {_shown(row['image_id'] if key is None else key)}"
        place += f", {image_name(images[key]):.200})" if key is not None else ")"
        box = _corners(row)
        category = row.get("category_id")
        ignored = flag(row.get("iscrowd"))
        if key is None:
            self._problem("unknown-image", place, f"no image has the id {_shown(row['image_id'])}", box)
            return
        self.rejected[key] += 1
        if self.id_of.key(category) is None:
            self._problem("unknown-class", place, f"no category has the id {_shown(category)}", box)
        elif box is None:
            content = _shown(row.get("bbox"))
            self._problem("bad-box", place, f'"bbox" is not four numbers x, y, width, height: {content}')
        elif ignored is None:
            self._problem("bad-field", place, f'"iscrowd" is {_shown(row["iscrowd"])}, expected 0 or 1', box)
        else:
            self.rejected[key] -= 1
            label = self.labels.get(self.id_of[category])  # None: a class that was not asked for
            if label is not None:
                where = f"{self.file}: {place}"
                mask, area = _mask(row.get("segmentation")), self._area(row, where)
                points = self._keypoints(row, where)
                self.objects.setdefault(key, []).append(Annotation(box, label, where, ignored, mask, area, points))

    def _area(self, row: dict[str, Any], where: str) -> float | None:
        value = row.get("area")
        area = number(value)
        if area is not None and math.isfinite(area):
            return area
        if value not in (None, ""):
            message = f'"area" is {_shown(value)}, which is not a number; the area of the box is used'
            self.problems.append(Problem("bad-field", where, message))
        return None

    def _keypoints(self, row: dict[str, Any], where: str) -> Points | None:
        """The keypoints of an object in its own pixels, from COCO's, which count from the centre of a pixel."""
        skeleton, given = self.classes.skeleton, row.get("keypoints")
        if skeleton is None or not given:
            return None
        points = keypoints_of(given, len(skeleton))
        if points is None:
            message = (
                f'"keypoints" is {_shown(given)}, expected {3 * len(skeleton)} numbers: x, y and a visibility of '
                f"0, 1 or 2 for each of {', '.join(skeleton.names)}; only the box is used"
            )
            self.problems.append(Problem("bad-keypoints", where, message))
        elif not any(visible for _, _, visible in points) and any(given):
            message = (
                "every keypoint has a place and visibility 0, which means not annotated: only the box is used; write 2 "
                "for what is visible and 1 for what is hidden"
            )
            self.problems.append(Problem("bad-keypoints", where, message))
        return points

    def _problem(self, kind: str, place: str, message: str, box: Corners | None = None) -> None:
        where = f"{self.file}: {place}"
        self.problems.append(Problem(kind, where, message, box, quarantined=True, severity="error"))


def _shown(value: Any) -> str:
    """A value of a file for a message, shortened if it is long."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**30 else "a number of more than 30 digits"
    return f"{value!r:.60}" if not isinstance(value, str) or len(value) > 60 else repr(value)


def _content_of(row: Any, *fields: str) -> str:
    """The content of some fields of a row, for a message."""
    if not isinstance(row, dict):
        return f": it is {_shown(row)}"
    present = [f'"{field}" is {_shown(row[field])}' for field in fields if field in row]
    return f": {', '.join(present)}" if present else ""


def _mask(value: Any) -> Any:
    """The mask of an object in COCO's form, with text numbers converted; an invalid mask is kept for preflight."""
    if not value:
        return None
    return (polygons(value) or value) if isinstance(value, list) else value


def _corners(row: dict[str, Any]) -> Corners | None:
    """Corners of an annotation's box, or of its mask if it has no box."""
    box, mask = numbers(row.get("bbox")), row.get("segmentation")
    if box is not None and len(box) == 4:
        x, y, width, height = map(float, box)
        return x, y, x + width, y + height
    if row.get("bbox"):
        return None
    parts = polygons(mask) if isinstance(mask, list) else None
    points = list(chain.from_iterable(parts or ()))
    if len(points) >= 6:
        columns, rows = points[0::2], points[1::2]
        return float(min(columns)), float(min(rows)), float(max(columns)), float(max(rows))
    return _corners_of_code(mask) if isinstance(mask, dict) else None


def _corners_of_code(code: dict[str, Any]) -> Corners | None:
    """Corners of the box around a run-length code, None if that is damaged or covers no pixel."""
    sides = numbers(code.get("size"))
    if sides is None or len(sides) != 2:
        return None
    height, width = (whole_number(side) or 0 for side in sides)
    try:
        x, y, across, down = map(float, rle_extent(code.get("counts", ()), (height, width)))
    except (ValueError, TypeError, OverflowError):
        return None
    return (x, y, x + across, y + down) if across else None
