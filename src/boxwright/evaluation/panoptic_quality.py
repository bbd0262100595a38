"""Panoptic quality: how well segments of objects and of stuff are found and outlined (Kirillov et al., CVPR 2019).

A predicted and a true segment of one class match where their intersection over union is above 0.5; as segments do not
overlap, no segment has two matches. Then, by equation 1,

    PQ = sum of IoU over matches / (TP + FP / 2 + FN / 2) = SQ * RQ,

SQ the mean IoU of matches and RQ the F1 of finding. Pixels of nothing ("void") in the ground truth count for nothing:
they are left out of unions, and a segment that lies in them, or in a crowd of its class, by more than half is no false
positive (section 4.2, and panopticapi). Crowds are not to be found.

Shape legend: H W = size of the image, C = classes, N = segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from boxwright.data.segments import Segments

MATCHED = 0.5
"""IoU above which two segments match, and share of a segment above which it lies in what counts for nothing."""


@dataclass(frozen=True, slots=True)
class PanopticCounts:
    """Sums over images, by class (C,): IoU of matches float64, matches, unmatched predictions, unmatched segments."""

    iou: Tensor
    matched: Tensor
    false_positives: Tensor
    missed: Tensor

    @classmethod
    def none(cls, num_classes: int) -> PanopticCounts:
        """Those of no image."""
        zeros = torch.zeros(num_classes, dtype=torch.int64)
        return cls(torch.zeros(num_classes, dtype=torch.float64), zeros, zeros, zeros)

    def __add__(self, other: PanopticCounts) -> PanopticCounts:
        return PanopticCounts(
            self.iou + other.iou, self.matched + other.matched, self.false_positives + other.false_positives,
            self.missed + other.missed,
        )  # fmt: skip


class SegmentMatches(NamedTuple):
    """Which of M predicted segments match which of N true ones, and by which IoU (N, M); which predicted ones (M,) are
    wrong, and which true ones (N,) are missed.
    """

    iou: Tensor
    match: Tensor  # (N, M)
    wrong: Tensor
    missed: Tensor


def match_segments(found: Segments, ground_truth: Segments) -> SegmentMatches:
    """The matches of one image; both maps have 0 for nothing and n for the n-th segment.

    Raises ValueError for maps of different sizes.
    """
    if found.map.shape != ground_truth.map.shape:
        sizes = f"predicted {tuple(found.map.shape)}, ground truth {tuple(ground_truth.map.shape)}"
        raise ValueError(f"panoptic maps: {sizes}")
    columns = len(found.labels) + 1
    pairs = ground_truth.map.flatten().long() * columns + found.map.flatten().long()
    shared = torch.bincount(pairs, minlength=(len(ground_truth.labels) + 1) * columns).reshape(-1, columns).double()
    own, predicted = torch.tensor(ground_truth.labels, dtype=torch.int64), torch.tensor(found.labels, dtype=torch.int64)
    crowd = torch.tensor(ground_truth.crowd, dtype=torch.bool)
    both = shared[1:, 1:]  # (N true, N predicted)
    void = shared[0, 1:]  # of each predicted segment
    area_true, area_found = shared[1:].sum(1), shared[:, 1:].sum(0)
    same = own[:, None] == predicted
    union = area_true[:, None] + area_found - both - void
    iou = both / union.clamp(min=1)
    match = same & ~crowd[:, None] & (iou > MATCHED)
    in_crowds = (both * (same & crowd[:, None])).sum(0)
    excused = void + in_crowds > MATCHED * area_found
    there = area_found > 0
    return SegmentMatches(iou, match, there & ~match.any(0) & ~excused, ~crowd & ~match.any(1))


def panoptic_counts(found: Segments, ground_truth: Segments, num_classes: int) -> PanopticCounts:
    """The counts of one image; both maps have 0 for nothing and n for the n-th segment.

    Raises ValueError for maps of different sizes.
    """
    iou, match, wrong, missed = match_segments(found, ground_truth)
    own, predicted = torch.tensor(ground_truth.labels, dtype=torch.int64), torch.tensor(found.labels, dtype=torch.int64)

    def per_class(labels: Tensor, chosen: Tensor) -> Tensor:
        return torch.bincount(labels[chosen], minlength=num_classes)

    rows, _ = match.nonzero(as_tuple=True)
    sums = torch.zeros(num_classes, dtype=torch.float64).index_add_(0, own[rows], iou[match])
    return PanopticCounts(sums, per_class(own, match.any(1)), per_class(predicted, wrong), per_class(own, missed))


@dataclass(frozen=True, slots=True)
class Quality:
    """PQ, SQ and RQ, means over classes, fractions in [0, 1], or None where no class has a segment."""

    pq: float | None
    sq: float | None
    rq: float | None
    num_classes: int


@dataclass(frozen=True, slots=True)
class PanopticResult:
    """Panoptic quality over all classes, over those of objects, over stuff, and of each class.

    A class that has neither true nor predicted segments is undefined and takes no part in means.
    """

    all: Quality
    things: Quality
    stuff: Quality
    per_class: dict[str, Quality]
    segments: dict[str, int]
    """True segments of each class, without crowds."""

    def figures(self) -> dict[str, Any]:
        """The figures under their usual names, for one JSON object."""
        figures: dict[str, Any] = {}
        for ending, quality in (("", self.all), ("_things", self.things), ("_stuff", self.stuff)):
            figures |= {f"PQ{ending}": quality.pq, f"SQ{ending}": quality.sq, f"RQ{ending}": quality.rq}
        return figures | {"per_class_PQ": {name: quality.pq for name, quality in self.per_class.items()}}


def panoptic_quality(counts: PanopticCounts, names: Sequence[str], stuff: Sequence[str]) -> PanopticResult:
    """The figures of counts over the classes of objects `names`, then `stuff`."""
    matched = counts.matched.double()
    found = matched + (counts.false_positives + counts.missed).double() / 2
    known = found > 0
    pq, sq, rq = counts.iou / found.clamp(min=0.5), counts.iou / matched.clamp(min=1), matched / found.clamp(min=0.5)

    def mean(rows: slice) -> Quality:
        chosen = known[rows]
        number = int(chosen.sum())
        if not number:
            return Quality(None, None, None, 0)
        means = [float(values[rows][chosen].mean()) for values in (pq, sq, rq)]
        return Quality(means[0], means[1], means[2], number)

    first = len(names)
    every = (*names, *stuff)
    return PanopticResult(
        all=mean(slice(None)),
        things=mean(slice(first)),
        stuff=mean(slice(first, None)),
        per_class={name: mean(slice(k, k + 1)) for k, name in enumerate(every)},
        segments=dict(zip(every, (counts.matched + counts.missed).tolist(), strict=True)),
    )
