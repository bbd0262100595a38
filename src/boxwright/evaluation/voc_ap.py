"""Pascal VOC average precision: one IoU threshold, the whole precision-recall curve or eleven points of it.

The rule (VOC development kit, Everingham et al. 2010, section 4.2): in order of score, a detection is assigned to the
object of its class that it overlaps most. If that is unmatched it is a true positive, if it is already matched a false
positive, and if it is ignored (difficult) it does not count. Under COCO's rule a detection may match its second-best
object.
Shape legend: D = detections of one class over all images, in order of score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from boxwright.evaluation.matching import Flags, Floats, Gathered, Integers, candidate_pairs, gather
from boxwright.structures import Classes, Detections, GroundTruth


@dataclass(frozen=True, slots=True)
class VocClass:
    """One class's result: AP (None without ground truth), number of objects, and precision, recall, scores (D,)."""

    ap: float | None
    objects: int
    precision: Floats
    recall: Floats
    scores: Floats


@dataclass(frozen=True, slots=True)
class VocResult:
    """AP of every class and its mean over the classes with ground truth; fractions, None if undefined."""

    mean_ap: float | None
    classes: dict[str, VocClass]
    iou: float
    eleven_point: bool
    plus_one: bool
    notes: tuple[str, ...]

    @property
    def per_class(self) -> dict[str, float | None]:
        """AP by class name."""
        return {name: result.ap for name, result in self.classes.items()}

    def figures(self) -> dict[str, Any]:
        """The result as one JSON object."""
        figures: dict[str, Any] = {"metric": "voc", "mAP": self.mean_ap, "per_class": self.per_class}
        return figures | {"iou": self.iou, "eleven_point": self.eleven_point, "plus_one": self.plus_one}


def voc_ap(
    detections: Sequence[Detections],
    ground_truths: Sequence[GroundTruth],
    classes: Classes,
    *,
    iou: float = 0.5,
    eleven_point: bool = False,
    plus_one: bool = False,
) -> VocResult:
    """VOC AP of detections against the ground truth of the same images in the same order.

    eleven_point: mean precision at recall 0, 0.1, ..., 1 (VOC 2007) instead of the area under the curve (from 2010).
    plus_one: boxes include their right and lower pixel, as in the VOC kit, whose boxes are integers.
    Where detections and ground truth all have rotated boxes, the overlap is theirs: DOTA's AP of oriented boxes, whose
    kit is this rule at an overlap of 0.5.
    Classes without ground truth are left out of the mean and listed in `notes`.
    """
    gathered = gather(detections, ground_truths)
    order = gathered.order
    claim, overlap = _claims(gathered, plus_one)
    counts = _first_claims(claim, overlap >= iou, order)
    difficult = (
        (overlap >= iou) & gathered.ground_truth_ignore[claim] if len(gathered.ground_truth_ignore) else counts & False
    )
    results: dict[str, VocClass] = {}
    for label, name in enumerate(classes.names):
        objects = int(((gathered.ground_truth_labels == label) & ~gathered.ground_truth_ignore).sum())
        rows = order[(gathered.labels[order] == label) & ~difficult[order]]
        found = np.cumsum(counts[rows])
        precision = found / np.arange(1, len(rows) + 1)
        recall = found / max(objects, 1)
        average = _eleven_point if eleven_point else _all_point
        ap = average(found, precision, objects) if objects else None
        results[name] = VocClass(ap, objects, precision, recall, gathered.scores[rows])
    known = [result.ap for result in results.values() if result.ap is not None]
    mean_ap = sum(known) / len(known) if known else None
    notes = _notes(results, len(gathered.scores))
    if gathered.rotated is not None:
        notes = (*notes, "The overlap is that of rotated boxes, as in DOTA.")
    return VocResult(mean_ap, results, iou, eleven_point, plus_one, notes)


def _claims(gathered: Gathered, plus_one: bool) -> tuple[Integers, Floats]:
    """The object (D,) of its class that each detection overlaps most (the first of equal ones), and the IoU (D,)."""
    found, ground_truth, value = candidate_pairs(gathered, 1e-9, plus_one=plus_one, crowd=False)
    order = np.lexsort((ground_truth, -value, found))
    found, ground_truth, value = found[order], ground_truth[order], value[order]
    rows, first = np.unique(found, return_index=True)
    claim = np.zeros(len(gathered.scores), np.int64)
    overlap = np.zeros(len(gathered.scores))
    claim[rows], overlap[rows] = ground_truth[first], value[first]
    return claim, overlap


def _first_claims(claim: Integers, enough: Flags, order: Integers) -> Flags:
    """Whether each detection (D,) has the highest score of those assigned to its object."""
    rows = order[enough[order]]
    _, first = np.unique(claim[rows], return_index=True)
    hits = np.zeros(len(claim), np.bool_)
    hits[rows[first]] = True
    return hits


def _all_point(found: Integers, precision: Floats, objects: int) -> float:
    """The area under the precision envelope, with a step at every true positive."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(found, prepend=0) / objects
    return float((envelope * steps).sum())


def _eleven_point(found: Integers, precision: Floats, objects: int) -> float:
    """The mean of the highest precision at recall >= 0, 0.1, ..., 1.

    Compared as integers: the usual `arange(0, 1.1, 0.1)` contains 0.30000000000000004 and misses a recall of 0.3.
    """
    best = [precision[found * 10 >= tenth * objects].max(initial=0.0) for tenth in range(11)]
    return float(np.mean(best))


def _notes(results: dict[str, VocClass], num_detections: int) -> tuple[str, ...]:
    absent = [name for name, result in results.items() if not result.objects]
    notes = []
    if len(absent) == len(results):
        notes.append("No ground truth at all: AP is undefined.")
    elif absent:
        notes.append(f"Without ground truth, so left out of the mean: {', '.join(absent)}.")
    if not num_detections:
        notes.append("No detections at all.")
    return tuple(notes)
