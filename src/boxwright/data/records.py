"""What the readers return: images with their annotations as they are in the files, before anything is decoded.

A reader keeps everything, including errors: `preflight` checks it, and `ground_truth.ground_truth_of` leaves out
invalid boxes. Boxes are absolute (x1, y1, x2, y2) in the pixels of the upright image (after EXIF rotation).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from boxwright.structures import Classes


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotated object as read: `label` in [0, K), `where` gives file and line or id for reports.

    `segmentation` is a COCO polygon list or run-length dict, or `numbered_pixels.ObjectPixels`, not yet decoded.
    `keypoints` are x, y, visibility (0 not annotated, 1 hidden, 2 visible) of each keypoint of `Classes.skeleton`.
    `rotated` is cx, cy, w, h, degrees counter-clockwise as seen, in [-180, 180); `box` is then its upright hull, or the
    box around an ellipse in it.
    """

    box: tuple[float, float, float, float]
    label: int
    where: str
    ignore: bool = False
    segmentation: Any = None
    area: float | None = None
    keypoints: tuple[tuple[float, float, float], ...] | None = None
    rotated: tuple[float, float, float, float, float] | None = None


class TileOf(NamedTuple):
    """A tile of an image: its window (x1, y1, x2, y2), and the height and width of the whole image."""

    window: tuple[int, int, int, int]
    image_hw: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Federated:
    """What LVIS says of one image beside its objects, by label; of other classes without an object nothing is known.

    `absent`: classes that have no object in the image. `incomplete`: classes of which not all objects are annotated.
    """

    absent: frozenset[int] = frozenset()
    incomplete: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Record:
    """One image: its file, its id in the dataset, the size given in the annotation file, and its objects.

    After preflight `stated_hw` is the actual size of the image, after EXIF rotation. `rejected` counts the objects that
    the reader could not use. With `tile` the record is a part of its image: `stated_hw` is the size of that part, and
    the annotations are those that are seen there, still in the pixels of the whole image. `federated`: what is known of
    the classes where not every one was looked for in every image (LVIS); `void`: the run-length code of the pixels that
    count for nothing (Cityscapes); `semantic`: where the label of every pixel stands, not yet decoded
    (`formats.numbered_pixels.LabelPixels`).
    """

    path: Path
    image_id: int | str
    stated_hw: tuple[int, int] | None
    annotations: tuple[Annotation, ...]
    where: str
    rejected: int = 0
    tile: TileOf | None = None
    federated: Federated | None = None
    void: Any = None
    semantic: Any = None


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding of a reader or of preflight.

    kind: short slug such as "zero-area-box"; where: file:line or file, id; quarantined: its box (or image) is left out
    of training and evaluation.
    """

    kind: str
    where: str
    message: str
    box: tuple[float, float, float, float] | None = None
    quarantined: bool = False
    severity: str = "warning"  # "error", "warning" or "note"


@dataclass(frozen=True, slots=True)
class Split:
    """One split of a dataset: its name, its images, its classes, and the reader's findings.

    `frequencies` is, for each class of LVIS, "r", "c" or "f": rare, common or frequent in its training images.
    """

    name: str
    records: tuple[Record, ...]
    classes: Classes
    problems: tuple[Problem, ...] = ()
    frequencies: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def with_records(self, records: tuple[Record, ...], problems: tuple[Problem, ...] = ()) -> Split:
        """The same split with other images and additional findings."""
        return replace(self, records=records, problems=self.problems + problems)


@dataclass(frozen=True, slots=True)
class LabelledFolder:
    """A folder of labelled images as read: its format, classes, and splits by name.

    `format`: "voc", "cvat", "cityscapes", "lvis", "coco", "panoptic", "dota", "yolo", "semantic", "lists" or
    "shapes".

    `notes` are sentences on automatic decisions, such as a validation split that was made.
    """

    root: Path
    format: str
    classes: Classes
    splits: dict[str, Split]
    notes: tuple[str, ...] = field(default=())
