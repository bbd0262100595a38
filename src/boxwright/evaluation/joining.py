"""Joining detections from a file with the ground truth of the images that they refer to.

Result files refer to images and classes in different ways: by ids, file names, stems, or numbers in file names. One
interpretation is chosen for the whole file, the one that fits most rows. Rows that do not fit are counted in a warning,
and a file in which no row fits is an error, not an AP of 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from boxwright.evaluation.matching import Integers, one_pixel_kept
from boxwright.evaluation.result_files import ResultTable, read_text_rows
from boxwright.structures import Classes, CroppedMask, Detections, GroundTruth
from boxwright.wording import counted

EMPTY_MASK = CroppedMask(0, 0, torch.zeros(0, 0, dtype=torch.bool))


@dataclass(frozen=True, slots=True)
class Image:
    """How an image may be referred to: its id in the dataset and its file name; `size_hw` is (0, 0) if unknown."""

    image_id: int | str
    file_name: str
    size_hw: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Joined:
    """Detections in the order of the given images, and a sentence for each kind of mismatch."""

    detections: list[Detections]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TextGroundTruth:
    """Ground truth from text files: one entry per file, in order of name, and warnings on boxes that were left out."""

    ground_truths: list[GroundTruth]
    images: list[Image]
    classes: Classes
    warnings: tuple[str, ...]


def read_text_ground_truth(folder: Path, *, plus_one: bool = False) -> TextGroundTruth:
    """Ground truth from a folder of text files (`class x1 y1 x2 y2 [difficult]`), classes in order of name.

    plus_one: x2 and y2 are the last pixel of a box, so that one with x2 = x1 is one pixel wide, else it is invalid.
    Raises ValueError with file and line, or if the folder holds no box.
    """
    rows = read_text_rows(folder)
    if not rows:
        raise ValueError(f"{folder}: expected .txt files with rows of class x1 y1 x2 y2, found none")
    classes = Classes.named(sorted({name for _, _, name, _, _ in rows}))
    stems = sorted(file.stem for file in folder.glob("*.txt"))
    boxes: dict[str, list[tuple[list[float], int, bool]]] = {stem: [] for stem in stems}
    bad = []
    for where, stem, name, box, hard in rows:
        box = list(one_pixel_kept(box)) if plus_one else box
        narrow = np.array(box, dtype=np.float32)  # compared in float32, as it is stored: a width of 1e-9 may be 0 there
        if narrow[2] > narrow[0] and narrow[3] > narrow[1]:
            boxes[stem].append((box, classes.names.index(name), hard))
        else:
            bad.append(where)
    ground_truths = [
        GroundTruth.of(*zip(*boxes[stem], strict=True)) if boxes[stem] else GroundTruth.empty() for stem in stems
    ]
    warnings = (
        (f"{len(bad)} ground truth boxes without width or height are left out, the first in {bad[0]}.",) if bad else ()
    )
    return TextGroundTruth(ground_truths, [Image(stem, stem) for stem in stems], classes, warnings)


def join_results(table: ResultTable, images: Sequence[Image], classes: Classes) -> Joined:
    """The detections of a result file for the given images, best first, with labels of `classes`.

    Raises ValueError if no row fits an image, or none fits a class.
    """
    of_image, of_class = _image_numbers(table, images), _labels(table, classes)
    lost_images, lost_classes = of_image < 0, of_class < 0
    for lost, given, known, what in (
        (lost_images, table.images, [image.file_name for image in images], "image of the ground truth"),
        (lost_classes, table.classes, [f"{n} ({i})" for n, i in zip(classes.names, classes.ids, strict=True)], "class"),
    ):
        if len(table) and lost.all():
            raise ValueError(
                f"{table.source}: none of its {counted(len(table), 'detection')} refers to a known {what}: the file "
                f"has {_some(given)}, the ground truth {_some(known)}"
            )
    boxes = table.boxes
    if table.format == "yolo":
        boxes = _to_pixels(table, of_image, images)
    elif table.format == "dota":
        boxes = _cut(boxes, of_image, images)
    keep = np.flatnonzero(~lost_images & ~lost_classes)
    keep = keep[np.lexsort((-table.scores[keep], of_image[keep]))]
    bounds = np.searchsorted(of_image[keep], np.arange(len(images) + 1))
    detections = []
    for number, image in enumerate(images):
        rows = keep[bounds[number] : bounds[number + 1]]
        detections.append(
            Detections(
                torch.from_numpy(boxes[rows]).float(),
                torch.from_numpy(table.scores[rows]),  # float64, so that different scores stay different
                torch.from_numpy(of_class[rows]),
                image.size_hw,
                classes,
                _masks(table, rows, image),
                path=image.file_name,
                keypoints=None if table.keypoints is None else torch.from_numpy(table.keypoints[rows]).float(),
                rotated=None if table.rotated is None else torch.from_numpy(table.rotated[rows]).float(),
            )
        )
    return Joined(detections, _warnings(table, lost_images, lost_classes) + _without_mask(table))


def _masks(table: ResultTable, rows: Integers, image: Image) -> tuple[CroppedMask, ...] | None:
    """The masks of the given rows, None if the file has none; ValueError gives the row of a damaged one."""
    if table.segmentations is None:
        return None
    masks = []
    for row in rows.tolist():
        coded = table.segmentations[row]
        try:
            size_hw = image.size_hw if any(image.size_hw) else None
            masks.append(EMPTY_MASK if coded is None else CroppedMask.decoded(coded, size_hw))
        except (ValueError, TypeError, KeyError, IndexError, OverflowError, AttributeError) as error:
            raise ValueError(
                f"{table.source}: the mask of detection {row} (image {image.image_id}) cannot be decoded ({error})"
            ) from error
    return tuple(masks)


def _without_mask(table: ResultTable) -> tuple[str, ...]:
    """A warning on detections without a mask in a file of masks."""
    bare = [row for row, mask in enumerate(table.segmentations or ()) if mask is None]
    if not bare:
        return ()
    return (
        f"{table.source}: {len(bare)} of {len(table)} detections have no mask or an empty one (the first is detection "
        f"{bare[0]}): in AP of masks each counts as an empty mask.",
    )


def _image_numbers(table: ResultTable, images: Sequence[Image]) -> Integers:
    """The index (N,) of each row's image, -1 if the image is unknown."""
    names = [Path(image.file_name) for image in images]
    readings: list[list[Hashable]] = [
        [image.image_id for image in images],
        [image.file_name for image in images],
        [name.name for name in names],
        [name.stem for name in names],
        [str(image.image_id) for image in images],
        [int(name.stem) if name.stem.isdecimal() else None for name in names],  # 000005.jpg is number 5 to some tools
    ]
    spoken = [table.images, [Path(str(key)).stem for key in table.images], [str(key) for key in table.images]]
    return _best_reading([(keys, said) for said in spoken for keys in readings], len(table))


def _labels(table: ResultTable, classes: Classes) -> Integers:
    """The label (N,) of each row, -1 if the class is unknown."""
    if table.format == "yolo":
        return _best_reading([(list(range(len(classes))), table.classes)], len(table))
    readings: list[list[Hashable]] = [list(classes.ids), list(classes.names), [str(key) for key in classes.ids]]
    folded = [str(key).strip().casefold() for key in table.classes]
    choices: list[tuple[Sequence[Hashable], Sequence[Hashable]]] = [(keys, table.classes) for keys in readings]
    choices.append(([name.casefold() for name in classes.names], folded))
    choices.append(([str(key) for key in classes.ids], folded))
    return _best_reading(choices, len(table))


def _best_reading(choices: Iterable[tuple[Sequence[Hashable], Sequence[Hashable]]], count: int) -> Integers:
    """Indices (N,) of the rows' keys among the known ones, by the first interpretation that fits most rows."""
    best = np.full(count, -1, np.int64)
    for keys, said in choices:
        times = Counter(keys)  # a key shared by two images is ambiguous
        index = {key: number for number, key in enumerate(keys) if times[key] == 1 and key is not None}
        numbers = np.array([index.get(word, -1) for word in said], dtype=np.int64)
        if (numbers >= 0).sum() > (best >= 0).sum():
            best = numbers
    return best


def _to_pixels(table: ResultTable, of_image: Integers, images: Sequence[Image]) -> np.ndarray:
    sizes = np.array([image.size_hw for image in images], dtype=np.float64).reshape(-1, 2)
    used = np.unique(of_image[of_image >= 0])
    if (sizes[used] <= 0).any():
        name = images[int(used[(sizes[used] <= 0).any(1)][0])].file_name
        raise ValueError(f"{table.source}: boxes are fractions, but the size of image {name} is not known")
    return table.boxes * sizes[of_image][:, [1, 0, 1, 0]]


def _cut(boxes: np.ndarray, of_image: Integers, images: Sequence[Image]) -> np.ndarray:
    """Hulls (N, 4) cut to their images, where the size of these is known."""
    sizes = np.array([image.size_hw if any(image.size_hw) else (np.inf, np.inf) for image in images]).reshape(-1, 2)
    cut: np.ndarray = np.clip(boxes, 0.0, sizes[of_image][:, [1, 0, 1, 0]])
    return cut


def _warnings(table: ResultTable, lost_images: np.ndarray, lost_classes: np.ndarray) -> tuple[str, ...]:
    warnings = []
    for lost, given, what in ((lost_images, table.images, "images"), (lost_classes, table.classes, "classes")):
        if lost.any():
            names = [given[index] for index in np.flatnonzero(lost)]
            warnings.append(
                f"{table.source}: {int(lost.sum())} of {len(table)} detections refer to {what} that are not "
                f"in the ground truth and are left out: {_some(names)}."
            )
    return tuple(warnings)


def _some(names: Iterable[Hashable]) -> str:
    """The first few different names."""
    different = list(dict.fromkeys(str(name) for name in names))
    return ", ".join(different[:5]) + (f" and {len(different) - 5} more" if len(different) > 5 else "")
