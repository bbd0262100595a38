"""Curves over the score: precision, recall and F1, the threshold with the best F1, and the confidence interval of AP50.

Shape legend: D = detections of all images together, K = classes, S = score thresholds, R = recall levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from boxwright.evaluation.matching import Flags, Floats, Matches, gather, match
from boxwright.structures import Detections, GroundTruth

SCORES = np.linspace(0.0, 1.0, 1001)  # thresholds of the curves, 0.001 apart
RECALLS = np.linspace(0.0, 1.0, 101)  # COCO's recall levels


@dataclass(frozen=True, slots=True)
class Curves:
    """Precision, recall and F1 (K, S) of each class over the score thresholds `scores` (S,), and precision by recall.

    A threshold keeps the detections whose score is at least as high. Above the highest score precision is 1 by
    convention. `precision_by_recall` (K, R) is the envelope at the recall levels `recalls` (R,), and its mean is the
    class's AP (K,) at the overlap `iou`. Rows of classes without ground truth are NaN.
    """

    iou: float
    scores: Floats
    precision: Floats
    recall: Floats
    f1: Floats
    recalls: Floats
    precision_by_recall: Floats
    average_precision: Floats


@dataclass(frozen=True, slots=True)
class BestThreshold:
    """The score threshold with the best F1, averaged over the classes with ground truth; all values are fractions."""

    score: float
    f1: float
    precision: float
    recall: float


def score_curves(
    detections: Sequence[Detections],
    ground_truths: Sequence[GroundTruth],
    num_classes: int,
    *,
    iou: float = 0.5,
    plus_one: bool = False,
) -> Curves:
    """The curves of a set of images at one overlap, class by class, matched by COCO's rule."""
    return curves_of(match(gather(detections, ground_truths), num_classes, iou, plus_one=plus_one), iou)


def curves_of(matches: Matches, iou: float = 0.5) -> Curves:
    """The curves of detections that are already matched."""
    num_classes = len(matches.totals)
    precision, recall, f1 = (np.full((num_classes, len(SCORES)), np.nan) for _ in range(3))
    envelope = np.full((num_classes, len(RECALLS)), np.nan)
    for label in np.flatnonzero(matches.totals):
        rows = (matches.labels == label) & ~matches.ignored
        scores, hits = matches.scores[rows], matches.hit[rows]
        order = np.argsort(-scores, kind="stable")
        scores, found = scores[order], np.cumsum(hits[order])
        kept = np.searchsorted(-scores, -SCORES, side="right")  # detections with score >= threshold
        right = np.concatenate([[0], found])[kept]
        total = matches.totals[label]
        precision[label] = np.where(kept > 0, right / np.maximum(kept, 1), 1.0)
        recall[label] = right / total
        f1[label] = 2 * right / (kept + total)
        envelope[label] = _envelope(found, total)
    return Curves(iou, SCORES, precision, recall, f1, RECALLS, envelope, envelope.mean(1))


def _envelope(found: Floats, total: int) -> Floats:
    """The best precision (R,) at each of COCO's recall levels or beyond; `found` (D,) counts hits in score order."""
    precision = found / np.arange(1, len(found) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(found / total, RECALLS, side="left")
    return np.append(precision, 0.0)[at]


def mean_ap(matches: Matches) -> float:
    """AP of matched detections, mean over the classes with ground truth; 0 without ground truth."""
    figures = []
    order = np.argsort(-matches.scores, kind="stable")
    order = order[~matches.ignored[order]]
    order = order[np.argsort(matches.labels[order], kind="stable")]
    labels = matches.labels[order]
    for label in np.flatnonzero(matches.totals).tolist():
        rows = order[np.searchsorted(labels, label, "left") : np.searchsorted(labels, label, "right")]
        figures.append(float(_envelope(np.cumsum(matches.hit[rows]), matches.totals[label]).mean()))
    return sum(figures) / len(figures) if figures else 0.0


def mean_over_classes(values: Floats) -> Floats:
    """The mean (S,) of (K, S) over the classes with ground truth (rows without NaN); zeros without any."""
    known = values[~np.isnan(values).any(1)]
    return np.asarray(known.mean(0)) if len(known) else np.zeros(values.shape[1])


def kept_any(curves: Curves) -> Flags:
    """Whether (K, S) a class has any detection at a threshold, so that its precision is defined."""
    return np.asarray(~((curves.precision == 1) & (curves.recall == 0)))  # one true positive alone would give recall


def best_threshold(curves: Curves) -> BestThreshold | None:
    """The threshold with the best F1, mean over classes with equal weight; None without any true positive.

    Of a plateau the middle is taken, which leaves most room on both sides. Precision is the mean over the classes that
    have detections left.
    """
    f1 = mean_over_classes(curves.f1)
    if f1.max() <= 0:
        return None
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    first = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)[0]
    index = int(first[len(first) // 2])
    precision = np.nanmean(curves.precision[kept_any(curves)[:, index], index])
    recall = mean_over_classes(curves.recall)[index]
    return BestThreshold(float(curves.scores[index]), float(f1[index]), float(precision), float(recall))


def bootstrap_ap(matches: Matches, *, samples: int = 200, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Bootstrap confidence interval of the mean AP at confidence `level`.

    Images are resampled with replacement; matching is not repeated, since it is done per image. The interval is shifted
    to the AP itself, because an image drawn twice raises the precision envelope slightly. (0, 0) without ground truth.
    If the intervals of two models overlap much, these images do not tell which one is better.
    """
    images = 1 + int(max(matches.images.max(initial=0), matches.total_images.max(initial=0)))
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(images, np.full(images, 1 / images), size=samples)  # (samples, N)
    figures = np.full((samples, len(matches.totals)), np.nan)
    for label in np.flatnonzero(matches.totals):
        rows = np.flatnonzero((matches.labels == label) & ~matches.ignored)
        rows = rows[np.argsort(-matches.scores[rows], kind="stable")]
        homes = matches.total_images[matches.total_labels == label]
        for sample in range(samples):
            times = draws[sample]
            total = int(times[homes].sum())
            if total:
                copies = np.repeat(matches.hit[rows], times[matches.images[rows]])
                figures[sample, label] = _envelope(np.cumsum(copies), total).mean()
    known = figures[~np.isnan(figures).all(1)]
    if not len(known):
        return 0.0, 0.0
    redrawn = np.nanmean(known, axis=1)
    figure = float(np.nanmean(curves_of(matches).average_precision))
    edges = np.quantile(redrawn, [(1 - level) / 2, (1 + level) / 2]) + figure - redrawn.mean()
    low, high = np.clip(edges, 0.0, 1.0)
    return float(low), float(high)
