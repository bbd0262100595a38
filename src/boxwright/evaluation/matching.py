"""Matching detections to ground truth at one IoU threshold, over any number of images at once.

Shape legend: D = detections of all images together, G = ground truth of all images together, P = pairs with enough
overlap, K = classes. Everything is numpy in float64, so that ties do not depend on a GPU or on rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boxwright.evaluation.rotated_ap import have_rotated
from boxwright.ops.rotated import rotated_area
from boxwright.ops.rotated_iou import shared_area
from boxwright.structures import Detections, GroundTruth
from boxwright.wording import counted

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

_FAR = np.float32(np.inf)
PAIRS_AT_ONCE = 2_000_000  # bounds the memory of crowded sets: 2 million pairs of boxes are about 200 MB


@dataclass(frozen=True, slots=True)
class Gathered:
    """Detections and ground truth of many images in flat arrays, each row with the index of its image.

    boxes (D, 4), scores (D,), labels (D,), images (D,); ground_truth_boxes (G, 4), ground_truth_labels (G,),
    ground_truth_ignore (G,), ground_truth_images (G,); sizes_hw (N, 2) of the N images. Where all of them have rotated
    boxes, rotated (D, 5) and ground_truth_rotated (G, 5): then these are matched, not their hulls.
    """

    boxes: Floats
    scores: Floats
    labels: Integers
    images: Integers
    ground_truth_boxes: Floats
    ground_truth_labels: Integers
    ground_truth_ignore: Flags
    ground_truth_images: Integers
    sizes_hw: Integers
    rotated: Floats | None = None
    ground_truth_rotated: Floats | None = None

    @property
    def upright(self) -> Gathered:
        """The same set, matched by upright boxes."""
        return replace(self, rotated=None, ground_truth_rotated=None)

    @property
    def order(self) -> Integers:
        """Indices (D,) of the detections, best score first; equal scores keep their order."""
        return np.argsort(-self.scores, kind="stable")

    def above(self, score: float) -> Gathered:
        """The same ground truth with the detections whose score is at least `score`."""
        return self.keeping(self.scores >= score)

    def keeping(self, detections: Flags | Integers, objects: Flags | None = None) -> Gathered:
        """The set with the given detections (flags or indices), and the given objects (all if not given)."""
        kept = replace(
            self,
            boxes=self.boxes[detections],
            scores=self.scores[detections],
            labels=self.labels[detections],
            images=self.images[detections],
            rotated=None if self.rotated is None else self.rotated[detections],
        )
        if objects is None:
            return kept
        return replace(
            kept,
            ground_truth_boxes=self.ground_truth_boxes[objects],
            ground_truth_labels=self.ground_truth_labels[objects],
            ground_truth_ignore=self.ground_truth_ignore[objects],
            ground_truth_images=self.ground_truth_images[objects],
            ground_truth_rotated=None if self.ground_truth_rotated is None else self.ground_truth_rotated[objects],
        )


@dataclass(frozen=True, slots=True)
class Matches:
    """The result of matching at one IoU threshold: each detection is a true positive, ignored, or a false positive.

    hit (D,) and ignored (D,) bool, ground truth (D,) the matched object or -1; scores, labels, images (D,) as in
    `Gathered`; totals (K,) counts the objects of each class that are not ignored; total_images (G,) and total_labels
    (G,) are their images and labels.
    """

    hit: Flags
    ignored: Flags
    ground_truth: Integers
    scores: Floats
    labels: Integers
    images: Integers
    totals: Integers
    total_images: Integers
    total_labels: Integers


def gather(detections: Sequence[Detections], ground_truths: Sequence[GroundTruth]) -> Gathered:
    """Flat arrays of the detections and the ground truth of the same images in the same order.

    Raises ValueError if the two differ in length or a score is NaN.
    """
    if len(detections) != len(ground_truths):
        raise ValueError(f"detections of {len(detections)} images but ground truth of {len(ground_truths)}")
    scores = _floats([found.scores for found in detections], ())
    if np.isnan(scores).any():
        raise ValueError(f"{counted(int(np.isnan(scores).sum()), 'detection')} with a score that is not a number")
    rotated = have_rotated(detections, ground_truths)
    return Gathered(
        boxes=_floats([found.boxes for found in detections], (4,)),
        scores=scores,
        labels=_integers([found.labels for found in detections]),
        images=np.repeat(np.arange(len(detections)), [len(found) for found in detections]),
        ground_truth_boxes=_floats([ground_truth.boxes for ground_truth in ground_truths], (4,)),
        ground_truth_labels=_integers([ground_truth.labels for ground_truth in ground_truths]),
        ground_truth_ignore=_integers([ground_truth.ignore for ground_truth in ground_truths]).astype(np.bool_),
        ground_truth_images=np.repeat(
            np.arange(len(ground_truths)), [len(ground_truth) for ground_truth in ground_truths]
        ),
        sizes_hw=np.array([found.size_hw for found in detections], dtype=np.int64).reshape(-1, 2),
        rotated=_rotated(detections) if rotated else None,
        ground_truth_rotated=_rotated(ground_truths) if rotated else None,
    )


def _rotated(several: Sequence[Detections] | Sequence[GroundTruth]) -> Floats:
    return _floats([one.rotated for one in several if one.rotated is not None], (5,))


def _floats(parts: list[Tensor], tail: tuple[int, ...]) -> Floats:
    joined = torch.cat([part.detach().cpu().double() for part in parts]) if parts else torch.zeros(0, *tail)
    return np.asarray(joined.numpy(), dtype=np.float64).reshape(-1, *tail)


def _integers(parts: list[Tensor]) -> Integers:
    joined = torch.cat([part.detach().cpu().long() for part in parts]) if parts else torch.zeros(0)
    return np.asarray(joined.numpy(), dtype=np.int64)


def overlaps(
    boxes: Floats, ground_truth_boxes: Floats, crowd: Flags | None = None, *, plus_one: bool = False
) -> Floats:
    """Intersection over union (P,) of boxes (P, 4) row by row; over the first box's own area where `crowd` (P,).

    plus_one: a box includes its right and lower pixel, as in the VOC development kit. Not `ops.boxes.pairwise_iou`:
    that is float32, knows neither crowds nor this pixel, and would compare the objects of all images.

    >>> overlaps(np.array([[0.0, 0, 1, 1]]), np.array([[1.0, 0, 2, 1]]), plus_one=True).tolist()
    [0.3333333333333333]
    """
    extra = 1.0 if plus_one else 0.0
    corner = np.maximum(boxes[:, :2], ground_truth_boxes[:, :2])
    sides = np.clip(np.minimum(boxes[:, 2:], ground_truth_boxes[:, 2:]) - corner + extra, 0, None)
    inside = sides[:, 0] * sides[:, 1]
    area = np.clip(boxes[:, 2:] - boxes[:, :2] + extra, 0, None).prod(1)
    ground_truth_area = np.clip(ground_truth_boxes[:, 2:] - ground_truth_boxes[:, :2] + extra, 0, None).prod(1)
    whole = area + ground_truth_area - inside
    if crowd is not None:
        whole = np.where(crowd, area, whole)
    return np.asarray(np.divide(inside, whole, out=np.zeros_like(inside), where=whole > 0))


def one_pixel_kept(box: Sequence[float]) -> tuple[float, float, float, float]:
    """A box (x1, y1, x2, y2) with inclusive last pixels (x2 = x1 is one pixel wide) as `GroundTruth` can hold it.

    Such a side becomes the smallest step of float32, which `whole_pixels` reverts.

    >>> x1, y1, x2, y2 = one_pixel_kept([5, 5, 5, 9])
    >>> x2 > x1, y2, whole_pixels(np.array([[x1, y1, x2, y2]])).tolist()
    (True, 9.0, [[5.0, 5.0, 5.0, 9.0]])
    """
    corner, far = np.array(box[:2], dtype=np.float32), np.array(box[2:], dtype=np.float32)
    x1, y1, x2, y2 = map(float, (*corner, *np.where(corner == far, np.nextafter(corner, _FAR), far)))
    return x1, y1, x2, y2


def whole_pixels(boxes: Floats) -> Floats:
    """Boxes (G, 4) with the change of `one_pixel_kept` reverted."""
    corner = boxes[:, :2].astype(np.float32)
    step = np.nextafter(corner, _FAR)
    return np.concatenate([boxes[:, :2], np.where(boxes[:, 2:] <= step, boxes[:, :2], boxes[:, 2:])], 1)


def rotated_overlaps(rotated: Floats, ground_truth_rotated: Floats, crowd: Flags | None = None) -> Floats:
    """Intersection over union (P,) of rotated boxes (P, 5) row by row; over the first box's area where `crowd` (P,).

    >>> rotated_overlaps(np.array([[5.0, 5, 4, 2, 0]]), np.array([[5.0, 5, 4, 2, 90]])).round(4).tolist()
    [0.3333]
    """
    first, second = torch.from_numpy(rotated), torch.from_numpy(ground_truth_rotated)
    inside = shared_area(first, second).numpy()
    area = rotated_area(first).numpy()
    whole = area + rotated_area(second).numpy() - inside
    if crowd is not None:
        whole = np.where(crowd, area, whole)
    return np.asarray(np.divide(inside, whole, out=np.zeros_like(inside), where=whole > 0))


def candidate_pairs(
    gathered: Gathered, iou: float, *, class_agnostic: bool = False, plus_one: bool = False, crowd: bool = True
) -> tuple[Integers, Integers, Floats]:
    """All pairs of a detection and an object of one image (and class) with an IoU of at least `iou`: indices, IoU (P,).

    crowd: overlap with an ignored object is relative to the area of the detection alone (COCO's rule). Rotated boxes
    have no last pixel: `plus_one` is for upright ones.
    """
    ground_truth_boxes = whole_pixels(gathered.ground_truth_boxes) if plus_one else gathered.ground_truth_boxes
    first: list[Integers] = []
    second: list[Integers] = []
    values: list[Floats] = []
    for found, ground_truth in _same_place(gathered, class_agnostic):
        flags = gathered.ground_truth_ignore[ground_truth] if crowd else None
        if gathered.rotated is not None and gathered.ground_truth_rotated is not None:
            value = rotated_overlaps(gathered.rotated[found], gathered.ground_truth_rotated[ground_truth], flags)
        else:
            value = overlaps(gathered.boxes[found], ground_truth_boxes[ground_truth], flags, plus_one=plus_one)
        keep = value >= min(iou, 1 - 1e-10)
        first.append(found[keep])
        second.append(ground_truth[keep])
        values.append(value[keep])
    if not first:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    return np.concatenate(first), np.concatenate(second), np.concatenate(values)


def _same_place(gathered: Gathered, class_agnostic: bool) -> Iterator[tuple[Integers, Integers]]:
    """All pairs (detection, object) of one image and class, in chunks of bounded size."""
    base = 1 + max(gathered.labels.max(initial=0), gathered.ground_truth_labels.max(initial=0))
    places = gathered.images * base + (0 if class_agnostic else gathered.labels)
    ground_truth_places = gathered.ground_truth_images * base + (0 if class_agnostic else gathered.ground_truth_labels)
    by_place = np.argsort(ground_truth_places, kind="stable")
    start = np.searchsorted(ground_truth_places[by_place], places, "left")
    counts = np.searchsorted(ground_truth_places[by_place], places, "right") - start
    portions = np.cumsum(counts) // PAIRS_AT_ONCE
    for portion in np.unique(portions[counts > 0]):
        rows = np.flatnonzero((portions == portion) & (counts > 0))
        found = np.repeat(rows, counts[rows])
        ends = np.cumsum(counts[rows])
        within = np.arange(len(found)) - np.repeat(ends - counts[rows], counts[rows])
        yield found, by_place[np.repeat(start[rows], counts[rows]) + within]


def match(
    gathered: Gathered, num_classes: int, iou: float = 0.5, *, class_agnostic: bool = False, plus_one: bool = False
) -> Matches:
    """Match detections to objects at this IoU threshold, by COCO's rule.

    In order of score, each detection takes the unmatched object of its class that it overlaps most. One without such an
    object that overlaps an ignored object is ignored (any number of detections may match one); the rest are false
    positives. class_agnostic: labels are not compared, and everything counts as class 0. plus_one: as in `overlaps`.
    """
    return match_at(gathered, num_classes, (iou,), class_agnostic=class_agnostic, plus_one=plus_one)[0]


def match_at(
    gathered: Gathered,
    num_classes: int,
    ious: Sequence[float],
    *,
    class_agnostic: bool = False,
    plus_one: bool = False,
) -> list[Matches]:
    """The results of `match` at each of several IoU thresholds; overlaps are computed once."""
    labels = np.zeros_like(gathered.labels) if class_agnostic else gathered.labels
    ground_truth_labels = (
        np.zeros_like(gathered.ground_truth_labels) if class_agnostic else gathered.ground_truth_labels
    )
    pairs = candidate_pairs(gathered, min(ious), class_agnostic=class_agnostic, plus_one=plus_one)
    rank = np.empty(len(gathered.scores), np.int64)
    rank[gathered.order] = np.arange(len(rank))
    # The last key is the primary one. Of equal overlaps the later object wins, as in pycocotools.
    order = np.lexsort((-pairs[1], -pairs[2], gathered.ground_truth_ignore[pairs[1]], rank[pairs[0]]))
    found, ground_truth, value = pairs[0][order], pairs[1][order], pairs[2][order]
    wanted = ~gathered.ground_truth_ignore
    results = []
    for iou in ious:
        enough = value >= min(iou, 1 - 1e-10)
        owner, ignored = _owners(gathered, found[enough], ground_truth[enough])
        results.append(
            Matches(
                hit=owner >= 0,
                ignored=ignored,
                ground_truth=owner,
                scores=gathered.scores,
                labels=labels,
                images=gathered.images,
                totals=np.bincount(ground_truth_labels[wanted], minlength=num_classes),
                total_images=gathered.ground_truth_images[wanted],
                total_labels=ground_truth_labels[wanted],
            )
        )
    return results


def _owners(gathered: Gathered, found: Integers, ground_truth: Integers) -> tuple[Integers, Flags]:
    """The object (D,) matched by each detection, or -1, and whether it is ignored; pairs (P,) in order of rank."""
    owner = np.full(len(gathered.scores), -1, np.int64)
    ignored = np.zeros(len(gathered.scores), np.bool_)
    taken = set[int]()
    settled = set[int]()
    ignore = gathered.ground_truth_ignore.tolist()
    for detection, thing in zip(found.tolist(), ground_truth.tolist(), strict=True):
        if detection in settled or thing in taken:
            continue
        settled.add(detection)
        if ignore[thing]:
            ignored[detection] = True
        else:
            taken.add(thing)
            owner[detection] = thing
    return owner, ignored


def confusion_matrix(
    detections: Sequence[Detections],
    ground_truths: Sequence[GroundTruth],
    num_classes: int,
    *,
    score_threshold: float = 0.25,
    iou: float = 0.5,
) -> Integers:
    """Counts (K + 1, K + 1): row = predicted class, column = true class, the last of each = background.

    Pairs are matched regardless of class, the greatest overlap first (of equal overlaps the higher score). The last row
    counts missed objects, the last column detections without an object. Ignored objects, and detections that overlap
    only these, are left out.
    """
    kept = gather(detections, ground_truths).above(score_threshold)
    found, ground_truth, value = candidate_pairs(kept, iou, class_agnostic=True)
    on_ignored = np.zeros(len(kept.scores), np.bool_)
    on_ignored[found[kept.ground_truth_ignore[ground_truth]]] = True
    solid = ~kept.ground_truth_ignore[ground_truth]
    found, ground_truth, value = found[solid], ground_truth[solid], value[solid]
    partner = np.full(len(kept.scores), -1, np.int64)
    taken = np.zeros(len(kept.ground_truth_labels), np.bool_)
    order = np.lexsort((-kept.scores[found], -value))
    for detection, thing in zip(found[order].tolist(), ground_truth[order].tolist(), strict=True):
        if partner[detection] < 0 and not taken[thing]:
            partner[detection] = thing
            taken[thing] = True
    paired, missed = partner >= 0, ~taken & ~kept.ground_truth_ignore
    lonely = ~paired & ~on_ignored
    predicted = np.concatenate([kept.labels[paired], kept.labels[lonely], np.full(missed.sum(), num_classes)])
    actual = [
        kept.ground_truth_labels[partner[paired]],
        np.full(lonely.sum(), num_classes),
        kept.ground_truth_labels[missed],
    ]
    cells = predicted * (num_classes + 1) + np.concatenate(actual)
    return np.bincount(cells, minlength=(num_classes + 1) ** 2).reshape(num_classes + 1, num_classes + 1)
