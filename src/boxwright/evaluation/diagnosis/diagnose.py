"""Why AP is low: remedies for common mistakes are tried, and one that raises AP by more than 0.1 is reported.

Remedies concern the format, scale and position of boxes (`box_remedies`); labels, scores and duplicates
(`label_remedies`); and the assignment to images (`image_remedies`). For two mistakes at once, a remedy for boxes or
images is combined with one for labels. Large sets are searched on a sample; the reported AP is that of the whole set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from boxwright.evaluation.coco_ap import IOU_THRESHOLDS
from boxwright.evaluation.curves import mean_ap
from boxwright.evaluation.diagnosis.boxes import Remedy, box_remedies
from boxwright.evaluation.diagnosis.images import image_remedies
from boxwright.evaluation.diagnosis.labels import label_remedies, row_remedies
from boxwright.evaluation.matching import Flags, Gathered, gather, match, match_at
from boxwright.structures import Classes, Detections, GroundTruth

NEAR_ZERO = 0.02  # an AP50 below it is explained, whether there is a remedy or not
GAIN = 0.1  # gain of AP or AP50 that a remedy needs to be reported as the cause
ALIKE = 0.02  # of remedies that differ by less than this the first is reported
SAMPLE_OBJECTS, SAMPLE_DETECTIONS, STRETCHES = 1500, 10_000, 8


class Figures(NamedTuple):
    """AP at an overlap of 0.5, and over COCO's ten overlaps."""

    ap50: float
    ap: float

    def gain(self, before: Figures) -> float:
        """The larger gain of the two metrics over another score."""
        return max(self.ap50 - before.ap50, self.ap - before.ap)


def diagnose(
    detections: Sequence[Detections], ground_truths: Sequence[GroundTruth], classes: Classes
) -> tuple[str, ...]:
    """Sentences on why AP is low, with AP before and after the remedy; none if no remedy raises it by 0.1.

    Detections and ground truth are meant to belong to the same images in the same order.
    """
    gathered = gather(detections, ground_truths).upright  # remedies move upright boxes
    gathered = gathered.keeping(np.isfinite(gathered.boxes).all(1) & np.isfinite(gathered.scores))
    if gathered.ground_truth_ignore.all():
        return ("AP is undefined: the ground truth holds no object that counts.",)
    if not len(gathered.scores):
        return ("AP is 0 as there are no detections: lower the score threshold, or the model has learned nothing.",)
    search = _Search(gathered, classes)
    before = search.figures(gathered)
    if before.ap > 1 - GAIN:
        return ()
    places = [*box_remedies(search.small), *image_remedies(gathered)]
    chosen = search.best([*places, *label_remedies(search.small, classes), *row_remedies(search.small)])
    both = search.both(places)
    if both is not None and (chosen is None or both[1].gain(chosen[1]) > GAIN):
        chosen = both
    if chosen is not None and chosen[1].gain(before) > GAIN:
        return (_sentence(*chosen, search, before),)
    return () if before.ap50 >= NEAR_ZERO else (_nothing_found(search, before),)


class _Search:
    """Remedies tried on a sample of the images of a set."""

    def __init__(self, gathered: Gathered, classes: Classes) -> None:
        self.gathered, self.classes, self.chosen = gathered, classes, _sample(gathered)
        self.small = self._within(gathered)

    def _within(self, one: Gathered) -> Gathered:
        return one.keeping(self.chosen[one.images], self.chosen[one.ground_truth_images])

    def figures(self, one: Gathered, *, class_agnostic: bool = False, partial: bool = False) -> Figures:
        """AP50 and AP on the sample (on all images if the set is partial)."""
        one = one if partial else self._within(one)
        count = 1 if class_agnostic else len(self.classes)
        by_overlap = [mean_ap(one) for one in match_at(one, count, IOU_THRESHOLDS, class_agnostic=class_agnostic)]
        return Figures(by_overlap[0], sum(by_overlap) / len(by_overlap))

    def best(self, remedies: Iterable[Remedy], *, class_agnostic: bool = False) -> tuple[Remedy, Figures] | None:
        """The remedy with the highest AP, the first of similar ones, and its score."""
        scored = []
        for remedy in remedies:
            repaired = remedy.repair(self.gathered if remedy.moves else self.small)
            figures = self.figures(repaired, class_agnostic=class_agnostic, partial=remedy.partial)
            scored.append((remedy, figures))
        highest = max((sum(figures) for _, figures in scored), default=0.0)
        return next((pair for pair in scored if sum(pair[1]) >= highest - ALIKE), None)

    def both(self, places: Sequence[Remedy]) -> tuple[Remedy, Figures] | None:
        """The best remedy of boxes or images combined with the best one of labels; None unless both help."""
        before = self.figures(self.gathered, class_agnostic=True)
        place = self.best(places, class_agnostic=True)
        if place is None or place[1].gain(before) <= GAIN:
            return None
        first = place[0]
        placed = first.repair(self.gathered if first.moves else self.small)
        pairs = [_after(first, label) for label in label_remedies(placed, self.classes)]
        return self.best(pairs)


def _after(first: Remedy, second: Remedy) -> Remedy:
    """One remedy after another."""
    cause = f"{first.cause}, and {second.cause[0].lower()}{second.cause[1:]}"
    return Remedy(cause, lambda one: second.repair(first.repair(one)), first.moves, first.partial)


def _sample(gathered: Gathered) -> Flags:
    """The images (N,) of the sample: all of a small set, else runs of neighbours from all parts of it."""
    count = len(gathered.sizes_hw)
    objects = np.bincount(gathered.ground_truth_images, minlength=count)
    found = np.bincount(gathered.images, minlength=count)
    share = min(1.0, SAMPLE_OBJECTS / max(1, objects.sum()), SAMPLE_DETECTIONS / max(1, found.sum()))
    if share == 1:
        return np.ones(count, np.bool_)
    length = max(1, int(count * share / STRETCHES))
    starts = np.linspace(0, max(0, count - length), STRETCHES).astype(np.int64)
    chosen = np.zeros(count, np.bool_)
    for start in starts.tolist():
        chosen[start : start + length] = True
    return chosen


def _sentence(remedy: Remedy, after: Figures, search: _Search, before: Figures) -> str:
    """The cause with AP before and after the remedy, or AP50 of the whole set."""
    if after.ap50 - before.ap50 <= GAIN:
        return f"{remedy.cause}: AP is {before.ap:.3f}, and {after.ap:.3f} once that is corrected."
    count = len(search.classes)
    whole = [mean_ap(match(one, count)) for one in (search.gathered, remedy.repair(search.gathered))]
    return f"{remedy.cause}: AP50 is {whole[0]:.3f}, and {whole[1]:.3f} once that is corrected."


def _nothing_found(search: _Search, before: Figures) -> str:
    """A sentence on an AP near zero that no remedy raises."""
    gathered = search.gathered
    loose = search.figures(gathered, class_agnostic=True).ap50
    if loose >= max(GAIN, 5 * before.ap50):
        return (
            f"Boxes are right but labels are wrong: AP50 is {before.ap50:.3f}, and {loose:.3f} when labels are "
            f"ignored; compare the order of classes of the model and the data (or the model has not learned them yet)."
        )
    near = match(gathered, 1, 0.1, class_agnostic=True)
    share = near.hit.sum() / max(near.totals.sum(), 1)
    return (
        f"AP50 is {before.ap50:.3f} and none of the common mistakes explains it (labels, box format, scale, images): "
        f"class-agnostic AP50 is {loose:.3f}, and {share:.0%} of the objects have a detection that touches them "
        f"(IoU 0.1); most likely the model has not learned yet."
    )
