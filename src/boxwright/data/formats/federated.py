"""What LVIS adds to a COCO file: which classes were looked for in an image, and how often each is seen.

LVIS has 1203 classes and does not look for all of them in every image (Gupta, Dollar, Girshick, "LVIS", CVPR 2019,
section 3): an image has the fields `neg_category_ids` (classes that it does not show) and
`not_exhaustive_category_ids` (classes of which only some objects are annotated), a category its `frequency`. Any COCO
file with these fields is read so. Images are named by `coco_url` where there is no `file_name` (LVIS v1).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from boxwright.data.records import Federated, Problem
from boxwright.reading.values import ById, whole_number
from boxwright.structures import Classes
from boxwright.wording import listed

ABSENT, INCOMPLETE = "neg_category_ids", "not_exhaustive_category_ids"
FREQUENCIES = ("r", "c", "f")
"""In up to 10, up to 100, and more training images."""


def image_name(row: dict[str, Any]) -> str:
    """The name of an image: its `file_name`, or the folder and file at the end of its `coco_url`; empty without both.

    >>> image_name({"coco_url": "http://images.cocodataset.org/train2017/000000391895.jpg"})
    'train2017/000000391895.jpg'
    """
    name, address = row.get("file_name"), row.get("coco_url")
    if isinstance(name, str) and name:
        return name
    if not isinstance(address, str):
        return ""
    try:
        return "/".join(urlsplit(address).path.split("/")[-2:]).strip("/")
    except ValueError:  # such as an unfinished IPv6 address
        return ""


class Federation:
    """Reads these fields of one file; ids that it cannot use are appended to `problems`."""

    def __init__(self, file: Path, classes: Classes, id_of: ById[int], problems: list[Problem]) -> None:
        self.file, self.problems = file, problems
        labels = {key: label for label, key in enumerate(classes.ids)}
        self.label_of = {key: labels.get(value) for key, value in id_of.items()}  # None: a class not asked for
        self.id_of, self.classes = id_of, classes

    def of_image(self, row: dict[str, Any], where: str) -> Federated | None:
        """What an image says of classes, None where it has neither field."""
        if ABSENT not in row and INCOMPLETE not in row:
            return None
        return Federated(self._labels(row, ABSENT, where), self._labels(row, INCOMPLETE, where))

    def _labels(self, row: dict[str, Any], field: str, where: str) -> frozenset[int]:
        given = row.get(field)
        if not isinstance(given, list):
            if field in row:
                self._told("bad-field", where, f'"{field}" is {given!r:.60}, expected a list of category ids')
            return frozenset()
        keys = [(value, self.id_of.key(value)) for value in given]
        unknown = [value for value, key in keys if key is None]
        if unknown:
            self._told("unknown-class", where, f'"{field}" has ids that no category has: {listed(unknown, 5)}')
        return frozenset(label for _, key in keys if key is not None and (label := self.label_of[key]) is not None)

    def _told(self, kind: str, where: str, message: str) -> None:
        self.problems.append(Problem(kind, where, f"{message}; nothing is known of these classes in the image"))

    def frequencies(self, categories: Sequence[Any]) -> tuple[str, ...]:
        """The frequency of each class, by label; empty where no category has one.

        Raises ValueError where only some classes have one, or it is none of r, c and f.
        """
        given = {
            whole_number(row.get("id")): row.get("frequency")
            for row in categories if isinstance(row, dict) and row.get("frequency") is not None
        }  # fmt: skip
        if not given:
            return ()
        for name, key in zip(self.classes.names, self.classes.ids, strict=True):
            if given.get(key) not in FREQUENCIES:
                state = f"is {given[key]!r:.40}" if key in given else "is missing, and other categories have one"
                raise ValueError(
                    f'{self.file}: "frequency" of category {name!r:.80} (id {key}) {state}; expected "r", "c" or "f" '
                    "for each category, as in LVIS, or for none"
                )
        return tuple(str(given[key]) for key in self.classes.ids)
