"""Mistakes of a detector by kind, and the images with the worst of each.

The kinds are those of TIDE (Bolya et al. 2020), with every detection and every object in one kind at most.
Shape legend: D = detections above the score threshold, G = ground truth, of all images together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from boxwright.evaluation.matching import Floats, Gathered, Integers, candidate_pairs, gather, match
from boxwright.structures import Detections, GroundTruth

NEAR = 0.1
"""A detection that overlaps no object by this IoU is on background."""
MISSED, FALSE, MISPLACED, CONFUSED, TWICE = "missed", "false", "badly placed", "wrong class", "duplicate"
KINDS = {
    MISSED: "objects that no detection of their class finds or nearly finds",
    FALSE: "detections on background",
    MISPLACED: "detections of the right class that overlap their object too little",
    CONFUSED: "detections that cover an object of another class",
    TWICE: "further detections of an object that is found already",
}


@dataclass(frozen=True, slots=True)
class Mistakes:
    """Every detection and object above the threshold, judged.

    `of_detection` (D,) and `of_object` (G,) hold a kind, or "" for a right detection, a found object, and what is
    ignored; an object whose only mistake is that of its detection has the kind of that detection. `partner` (D,) is the
    object that a detection is about, or -1.
    """

    gathered: Gathered
    of_detection: tuple[str, ...]
    of_object: tuple[str, ...]
    partner: Integers
    score: float
    iou: float

    def counts(self) -> dict[str, int]:
        """How many of each kind: objects of `missed`, detections of the others."""
        return {
            kind: (self.of_object if kind == MISSED else self.of_detection).count(kind) for kind in KINDS
        }  # fmt: skip

    def worst_images(self, kind: str, most: int) -> list[int]:
        """Indices of the images with the gravest mistakes of a kind, the worst first.

        Missed objects count one each, detections by their score: a sure mistake is a grave one.
        """
        weight = np.zeros(len(self.gathered.sizes_hw))
        if kind == MISSED:
            np.add.at(weight, self.gathered.ground_truth_images[[one == kind for one in self.of_object]], 1.0)
        else:
            rows = np.array([one == kind for one in self.of_detection], dtype=np.bool_)
            np.add.at(weight, self.gathered.images[rows], self.gathered.scores[rows])
        order = np.argsort(-weight, kind="stable")
        return [int(image) for image in order[:most] if weight[image] > 0]


def find_mistakes(
    detections: Sequence[Detections],
    ground_truths: Sequence[GroundTruth],
    num_classes: int,
    *,
    score: float,
    iou: float = 0.5,
) -> Mistakes:
    """Judge the detections whose score is at least `score` by COCO's matching at the overlap `iou`."""
    kept = gather(detections, ground_truths).above(score)
    matches = match(kept, num_classes, iou)
    found, objects, overlap = candidate_pairs(kept, NEAR, class_agnostic=True)
    solid = ~kept.ground_truth_ignore[objects]
    found, objects, overlap = found[solid], objects[solid], overlap[solid]
    same = kept.labels[found] == kept.ground_truth_labels[objects]
    own, own_iou = _nearest(found[same], objects[same], overlap[same], len(kept.scores))
    other, other_iou = _nearest(found[~same], objects[~same], overlap[~same], len(kept.scores))
    kinds, partner = [], np.asarray(matches.ground_truth).copy()
    of_object = np.where(kept.ground_truth_ignore, "", MISSED).tolist()
    for row in np.flatnonzero(matches.hit).tolist():
        of_object[int(partner[row])] = ""
    for row in range(len(kept.scores)):
        if matches.hit[row] or matches.ignored[row]:
            kinds.append("")
            continue
        if own_iou[row] >= iou:
            kind, partner[row] = TWICE, own[row]
        elif other_iou[row] >= iou:
            kind, partner[row] = CONFUSED, other[row]
        elif own_iou[row] >= NEAR:
            kind, partner[row] = MISPLACED, own[row]
        else:
            kind = FALSE
        kinds.append(kind)
        if kind in (CONFUSED, MISPLACED) and of_object[int(partner[row])] == MISSED:
            of_object[int(partner[row])] = kind
    return Mistakes(kept, tuple(kinds), tuple(of_object), partner, score, iou)


def _nearest(found: Integers, objects: Integers, overlap: Floats, count: int) -> tuple[Integers, Floats]:
    """For each of `count` detections the object with the greatest overlap among the pairs, or -1, and that overlap."""
    nearest, greatest = np.full(count, -1, np.int64), np.zeros(count)
    for row in np.argsort(overlap, kind="stable").tolist():
        nearest[found[row]], greatest[found[row]] = objects[row], overlap[row]
    return nearest, greatest
