"""Remedies for mixed-up images: detections stored under a neighbouring image, or in another order of the images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from boxwright.evaluation.diagnosis.boxes import Remedy, surest
from boxwright.evaluation.matching import Gathered, Integers, overlaps

LOOKED_AT = 200  # images whose detections are compared with the ground truth of every image
_PAIRS = 6_000_000  # of boxes that are compared for it
_BETTER = 0.2  # fraction of the objects that another order must match in addition, to be more than chance
_ENOUGH = 0.5  # IoU of a matching detection and object


def image_remedies(gathered: Gathered) -> Iterator[Remedy]:
    """Remedies for detections of other images, those that do not use the ground truth first."""
    count = len(gathered.sizes_hw)
    if count < 2:
        return
    for shift, words in ((1, "one image too early"), (-1, "one image too late")):
        yield _moved(f"Image ids are off by one: the detections are stored {words}", (np.arange(count) + shift) % count)
    yield _moved("Images are in reverse order: the first detections belong to the last image",
                 np.arange(count)[::-1])  # fmt: skip
    for first in (0, 1):
        as_text = np.array(sorted(range(count), key=lambda number: str(number + first)), dtype=np.int64)
        if np.array_equal(as_text, np.arange(count)):
            continue
        words = "Images are in the order of their numbers as text (1, 10, 11, ..., 2)"
        yield _moved(f"{words} in the detections, not in the ground truth", as_text)
        yield _moved(f"{words} in the ground truth, not in the detections", np.argsort(as_text))
    if _agreement(gathered, np.arange(count)) > 1 - _BETTER:  # a single image cannot be mixed up
        return
    order = _likeliest_images(gathered)
    if not _by_chance(gathered, order):
        homes = np.zeros(count, np.bool_)
        homes[order[order >= 0]] = True

        def repair(one: Gathered) -> Gathered:
            moved = order[one.images]
            return replace(one, images=moved).keeping(moved >= 0, homes[one.ground_truth_images])

        words = "Images are mixed up: detections fit the ground truth of other images"
        yield Remedy(words, repair, moves=True, partial=not homes.all())


def _moved(cause: str, order: Integers) -> Remedy:
    """Detections of image i belong to image `order[i]`."""
    return Remedy(cause, lambda one: replace(one, images=order[one.images]), moves=True)


def _by_chance(gathered: Gathered, order: Integers) -> bool:
    """Whether an equally good order would be found for unrelated boxes, or the given order is equally good.

    Among many images, one fits by chance: so the same search is done with mirrored detections.
    """
    low, high = gathered.boxes.min(0, initial=np.inf), gathered.boxes.max(0, initial=-np.inf)
    ends = np.array([low[0] + high[2], low[1] + high[3]])
    own = _agreement(gathered, order)
    if own < _agreement(gathered, np.where(order >= 0, np.arange(len(order)), -1)) + _BETTER:
        return True
    limits = []
    for axis in (0, 1):
        boxes = gathered.boxes.copy()
        boxes[:, [axis, axis + 2]] = ends[axis] - boxes[:, [axis + 2, axis]]
        decoy = replace(gathered, boxes=boxes)
        limits.append(_agreement(decoy, _likeliest_images(decoy)))
    return own < max(limits) + _BETTER


def _agreement(gathered: Gathered, order: Integers) -> float:
    """The fraction of objects matched by one of the best detections under an order of the images."""
    sure = surest(gathered)
    moved = order[gathered.images[sure]]
    sure, moved = sure[moved >= 0], moved[moved >= 0]
    homes = np.unique(order[order >= 0])
    things = np.flatnonzero(np.isin(gathered.ground_truth_images, homes))
    if not len(things) or not len(sure):
        return 0.0
    by_home = np.argsort(moved, kind="stable")
    sure, moved = sure[by_home], moved[by_home]
    start = np.searchsorted(moved, gathered.ground_truth_images[things], "left")
    counts = np.searchsorted(moved, gathered.ground_truth_images[things], "right") - start
    second = np.repeat(things, counts)
    within = np.arange(len(second)) - np.repeat(np.cumsum(counts) - counts, counts)
    close = (
        overlaps(gathered.boxes[sure[np.repeat(start, counts) + within]], gathered.ground_truth_boxes[second])
        >= _ENOUGH
    )
    return len(np.unique(second[close])) / len(things)


def _likeliest_images(gathered: Gathered) -> Integers:
    """For each of some images (N,), the image whose ground truth fits its best detections; -1 for the others.

    Each image is assigned once, the best fit first.
    """
    count = len(gathered.sizes_hw)
    sure = surest(gathered)
    per_image = np.bincount(gathered.images[sure], minlength=count)
    room = max(1, _PAIRS // max(1, len(gathered.ground_truth_boxes)))
    with_rows = np.flatnonzero(per_image)
    looked_at = with_rows[
        : max(1, min(LOOKED_AT, int(np.searchsorted(np.cumsum(per_image[with_rows]), room, "right"))))
    ]
    objects = np.bincount(gathered.ground_truth_images, minlength=count)
    agreed = np.zeros((len(looked_at), count))
    for number, image in enumerate(looked_at.tolist()):
        rows = sure[gathered.images[sure] == image]
        best = np.zeros(len(gathered.ground_truth_boxes))
        for row in rows.tolist():
            best = np.maximum(best, overlaps(gathered.boxes[[row]], gathered.ground_truth_boxes))
        close = best >= _ENOUGH
        agreed[number] = np.bincount(gathered.ground_truth_images[close], weights=best[close], minlength=count)
    fit = agreed / np.maximum(np.maximum(objects[None], per_image[looked_at][:, None]), 1)
    order = np.full(count, -1, np.int64)
    taken = np.zeros(count, np.bool_)
    rows, homes = np.nonzero(fit)
    for place in np.argsort(-fit[rows, homes], kind="stable").tolist():
        image, home = int(looked_at[rows[place]]), int(homes[place])
        if order[image] < 0 and not taken[home]:
            order[image] = home
            taken[home] = True
    rest = looked_at[order[looked_at] < 0]  # an image without a fit stays where it is, or takes a free place
    stays = ~taken[rest]
    order[rest[stays]] = rest[stays]
    taken[rest[stays]] = True
    left = rest[order[rest] < 0]
    order[left] = np.flatnonzero(~taken)[: len(left)]
    if len(looked_at) == len(with_rows):  # images without detections take the remaining places
        free = np.flatnonzero(order < 0)
        order[free] = np.setdiff1d(np.arange(count), order[order >= 0])
    return order
