"""Cityscapes's average precision of masks, as `evalInstanceLevelSemanticLabeling` of cityscapesScripts defines it.

It differs from COCO's: an object is found by a detection that overlaps it by more than the threshold; a second one is
wrong; one that finds none is left out where void pixels, groups of its class and objects below 100 pixels make up
more than the threshold of it (a group below 100 pixels is both, and counts twice); AP is the area under the curve
through all scores. Objects of an image share no pixel.

Shape legend: D = detections of a class in an image, G = its objects there, T = thresholds, S = different scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from boxwright.evaluation.coco_ap import IOU_THRESHOLDS
from boxwright.structures import Classes, CroppedMask, Detections, GroundTruth
from boxwright.wording import listed

SMALLEST = 100
"""Pixels of an object that counts."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CityscapesResult:
    """AP over ten overlaps and at 0.5, of all classes and by class name, fractions or None where there is no object."""

    ap: float | None
    ap50: float | None
    per_class: dict[str, float | None]
    per_class_ap50: dict[str, float | None]
    notes: tuple[str, ...]

    def figures(self) -> dict[str, Any]:
        """The result as one JSON object, under the usual names."""
        figures: dict[str, Any] = {"metric": "cityscapes", "kind": "masks", "AP": self.ap, "AP50": self.ap50}
        return figures | {"per_class": self.per_class, "per_class_AP50": self.per_class_ap50}


class _Pairs(NamedTuple):
    """One class in one image: scores (D,), overlaps (D, G), the ignored part of each detection (D,), and of the objects
    whether they count (G,).
    """

    scores: Floats
    overlaps: Floats
    ignored: Floats
    counting: NDArray[np.bool_]


def cityscapes_ap(
    detections: Sequence[Detections],
    ground_truths: Sequence[GroundTruth],
    classes: Classes,
    voids: Sequence[Any],
) -> CityscapesResult:
    """AP of masks against the ground truth of the same images in the same order.

    `voids`: the run-length code of each image's void pixels, None where there are none. Ignored objects are groups.
    Raises ValueError if lengths differ, or where masks are missing.
    """
    if not len(detections) == len(ground_truths) == len(voids):
        counts = f"{len(ground_truths)} and void pixels of {len(voids)}"
        raise ValueError(f"detections of {len(detections)} images, ground truth of {counts}")
    pairs: list[list[_Pairs]] = [[] for _ in classes.names]
    for index, (found, objects, void) in enumerate(zip(detections, ground_truths, voids, strict=True)):
        if (len(found) and found.masks is None) or (len(objects) and objects.masks is None):
            raise ValueError(f"image {index}: AP of Cityscapes needs masks in the ground truth and in the detections")
        for label, one in _pairs(found, objects, void).items():
            pairs[label].append(one)
    table = np.array([[_ap(of_class, threshold) for threshold in IOU_THRESHOLDS] for of_class in pairs])  # (K, T)
    known = ~np.isnan(table).any(1)
    missing = [name for name, there in zip(classes.names, known.tolist(), strict=True) if not there]
    notes = (f"Without an object of {SMALLEST} pixels, so left out of the mean: {listed(missing)}.",) if missing else ()

    def by_name(values: Floats) -> dict[str, float | None]:
        rows = zip(classes.names, values.tolist(), known.tolist(), strict=True)
        return {name: value if there else None for name, value, there in rows}

    return CityscapesResult(
        ap=float(table[known].mean()) if known.any() else None,
        ap50=float(table[known, 0].mean()) if known.any() else None,
        per_class=by_name(table.mean(1)),
        per_class_ap50=by_name(table[:, 0]),
        notes=notes,
    )


def _pairs(found: Detections, objects: GroundTruth, void: Any) -> dict[int, _Pairs]:
    """The classes of one image: each pixel is that of one object (1, 2, ...), of void (-1) or of nothing (0)."""
    plane = np.zeros(found.size_hw, dtype=np.int64)
    if void is not None:
        _paint(plane, CroppedMask.decoded(void, found.size_hw), -1)
    for number, mask in enumerate(objects.masks or (), start=1):
        _paint(plane, mask, number)
    sizes = np.bincount(plane[plane > 0], minlength=len(objects) + 1)[1:]
    shared = np.zeros((len(found), len(objects) + 2), dtype=np.int64)  # pixels of void, nothing, object 1, 2, ...
    for row in range(len(found)):
        mask = found.mask(row)
        height, width = mask.bitmap.shape
        inside = plane[mask.y : mask.y + height, mask.x : mask.x + width][mask.bitmap.cpu().numpy()]
        shared[row] = np.bincount(inside + 1, minlength=len(objects) + 2)
    areas = shared.sum(1)
    labels, scores = found.labels.cpu().numpy(), found.scores.detach().cpu().double().numpy()
    object_labels, groups = objects.labels.numpy(), objects.ignore.numpy()
    result = {}
    for label in sorted({*labels.tolist(), *object_labels.tolist()}):
        mine, theirs = (labels == label) & (areas > 0), object_labels == label
        both, area, size = shared[mine][:, 2:][:, theirs], areas[mine], sizes[theirs]
        group, small = groups[theirs], size < SMALLEST
        ignored = shared[mine, 0] + both[:, group].sum(1) + both[:, small].sum(1)
        overlaps = both / (area[:, None] + size[None] - both)
        result[label] = _Pairs(scores[mine], overlaps, ignored / area, ~group & ~small)
    return result


def _paint(plane: NDArray[np.int64], mask: CroppedMask, number: int) -> None:
    height, width = mask.bitmap.shape
    plane[mask.y : mask.y + height, mask.x : mask.x + width][mask.bitmap.numpy()] = number


def _ap(images: Sequence[_Pairs], threshold: float) -> float:
    """AP of one class at one threshold; NaN where no object counts."""
    right: list[float] = []
    wrong: list[float] = []
    missed = 0
    for one in images:
        hits = one.overlaps > threshold  # (D, G)
        for index in np.flatnonzero(one.counting):
            scores = np.sort(one.scores[hits[:, index]])
            right += scores[-1:].tolist()
            wrong += scores[:-1].tolist()
            missed += not len(scores)
        wrong += one.scores[~hits.any(1) & (one.ignored <= threshold)].tolist()
    objects = sum(int(one.counting.sum()) for one in images)
    if not objects:
        return float("nan")
    if not right:
        return 0.0
    # precision and recall of all detections from each score on, the lowest score first
    levels = np.unique(right + wrong)  # (S,)
    hits_from, wrong_from = (
        len(scores) - np.searchsorted(np.sort(scores), levels) for scores in (np.array(right), np.array(wrong))
    )
    precision = hits_from / (hits_from + wrong_from)
    recall = hits_from / (len(right) + missed)
    precision, recall = np.append(precision, precision[-1]), np.append(recall, 0.0)  # the curve begins at no recall
    around = np.concatenate([recall[:1], recall, [0.0]])
    return float(precision @ (around[:-2] - around[2:]) / 2)
