"""Remedies for mixed-up boxes: another format of the four numbers, another scale, or another origin.

A change that fixes the detections often fixes the ground truth too, so each remedy needs evidence of which side is
wrong: boxes that leave their images, or corners in the wrong order. Shape legend: D = detections, G = ground truth,
N = images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from boxwright.evaluation.matching import Floats, Gathered, Integers, match

CANVASES = (320, 416, 448, 512, 576, 608, 640, 768, 800, 960, 1024, 1280)  # sizes of square network inputs
CERTAIN = 5.0  # standard errors by which a fitted factor must differ from 1, or a shift from 0
_INSIDE = 1.05  # times the side of its image that a box may extend
_FRACTION = 2.0  # a box in pixels rarely ends before this


@dataclass(frozen=True, slots=True)
class Remedy:
    """One possible cause of a low AP, in words, and the repair of detections and ground truth.

    `moves`: detections go to other images; `partial`: the repaired set holds only some of the images.
    """

    cause: str
    repair: Callable[[Gathered], Gathered]
    moves: bool = False
    partial: bool = False


def box_remedies(gathered: Gathered) -> Iterator[Remedy]:
    """All remedies for boxes, the simplest first."""
    known = bool((gathered.sizes_hw > 0).all())
    yield from _readings(gathered, known)
    yield from _scales(gathered, known)
    shift = _shift(gathered)
    if np.abs(shift).max() > 1:
        words = f"{shift[0]:.3g} pixels in x and {shift[1]:.3g} in y"
        yield _of_detections(f"are off by {words}", lambda boxes: boxes - np.tile(shift, 2))
    if known:
        yield from _turns()


def _of_detections(words: str, change: Callable[[Floats], Floats]) -> Remedy:
    return Remedy(f"Boxes of the detections {words}", lambda one: replace(one, boxes=change(one.boxes)))


def _of_ground_truth(words: str, change: Callable[[Floats], Floats]) -> Remedy:
    return Remedy(
        f"Boxes of the ground truth {words}",
        lambda one: replace(one, ground_truth_boxes=change(one.ground_truth_boxes)),
    )


def _readings(gathered: Gathered, known: bool) -> Iterator[Remedy]:
    """Remedies for other orders and meanings of the four numbers."""
    boxes, ground_truth = gathered.boxes, gathered.ground_truth_boxes
    found_fits = known and _fits(boxes, gathered.sizes_hw[gathered.images])
    ground_truth_fits = known and _fits(ground_truth, gathered.sizes_hw[gathered.ground_truth_images])
    reversed_boxes = bool((boxes[:, 2:] < boxes[:, :2]).any())
    corners, sizes = (
        "are corners but were read as x, y, width, height",
        "are x, y, width, height but were read as corners",
    )
    centred = "are centre x, centre y, width, height but were read as"
    exchanged = "have x and y exchanged"
    readings: list[tuple[str, Callable[[Floats], Floats]]] = [
        (f"{centred} corners", _from_centre),
        (corners, _to_size),
        (f"{centred} x, y, width, height", lambda one: _from_centre(_to_size(one))),
        (exchanged, _exchanged),
        ("are x1, x2, y1, y2 but were read as x1, y1, x2, y2", lambda one: one[:, [0, 2, 1, 3]]),
        ("are y1, x1, y2, x2 but were read as x, y, width, height", lambda one: _exchanged(_to_size(one))),
        ("are y, x, height, width but were read as corners", lambda one: _exchanged(_from_size(one))),
    ]
    if reversed_boxes or ground_truth_fits:
        readings.insert(0, (sizes, _from_size))
    if found_fits and not ground_truth_fits:  # it is the ground truth whose boxes leave their images
        readings = [one for one in readings if one[0] != sizes]
    if found_fits and ground_truth_fits and not reversed_boxes:
        yield _of_ground_truth(sizes, _from_size)
    for words, change in readings:
        yield _of_detections(words, change)
    if not ground_truth_fits:  # x, y, width, height read as corners would not be valid ground truth
        yield _of_ground_truth(corners, _to_size)
        yield _of_ground_truth(exchanged, _exchanged)
    yield _of_ground_truth(f"{centred} x, y, width, height", lambda one: _from_centre(_to_size(one)))
    if known and np.abs(boxes).max(initial=0) <= _FRACTION:
        yield Remedy("Boxes of the detections are fractions of the image, not pixels", _fractions_to_pixels)
        for words, change in readings:
            both = f"Boxes of the detections are fractions of the image, not pixels, and {words}"
            yield Remedy(both, partial(_reread_fractions, change))
    if known and np.abs(ground_truth).max(initial=0) <= _FRACTION:
        yield Remedy("Boxes of the ground truth are fractions of the image, not pixels", _ground_truth_to_pixels)


def _fits(boxes: Floats, sizes_hw: Integers) -> bool:
    return bool((boxes <= _INSIDE * sizes_hw[:, [1, 0, 1, 0]]).all())


def _from_size(boxes: Floats) -> Floats:
    """Corners of boxes that are x, y, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def _to_size(boxes: Floats) -> Floats:
    """The four numbers of boxes that were read as x, y, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


def _from_centre(boxes: Floats) -> Floats:
    """Corners of boxes that are centre x, centre y, width, height."""
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)


def _exchanged(boxes: Floats) -> Floats:
    return boxes[:, [1, 0, 3, 2]]


def _sides(one: Gathered) -> Floats:
    """Width and height (N, 2) of the images, at least 1."""
    return np.maximum(one.sizes_hw[:, ::-1], 1).astype(np.float64)


def _fractions_to_pixels(one: Gathered) -> Gathered:
    return replace(one, boxes=one.boxes * np.tile(_sides(one), 2)[one.images])


def _reread_fractions(change: Callable[[Floats], Floats], one: Gathered) -> Gathered:
    return _fractions_to_pixels(replace(one, boxes=change(one.boxes)))


def _ground_truth_to_pixels(one: Gathered) -> Gathered:
    return replace(one, ground_truth_boxes=one.ground_truth_boxes * np.tile(_sides(one), 2)[one.ground_truth_images])


def _scales(gathered: Gathered, known: bool) -> Iterator[Remedy]:
    """Remedies for boxes scaled by one factor, or in the pixels of resized images, each with its own factor."""
    factor = _factor(gathered)
    across, down = (1 / factor).tolist()
    words = f"{across:.3g}" if abs(across / down - 1) < 0.02 else f"{across:.3g} in x and {down:.3g} in y"
    yield _of_detections(f"are scaled by {words} against the ground truth", lambda boxes: boxes * np.tile(factor, 2))
    if not known or len(np.unique(gathered.sizes_hw, axis=0)) == 1:
        return
    rules: tuple[tuple[str, Callable[[Floats], Floats]], ...] = (
        ("are in the pixels of a canvas of {0:.0f} x {1:.0f}, to which images were stretched", lambda sides: sides),
        ("are in the pixels of images resized to a longer side of {2:.0f}", lambda sides: _both(sides.max(1))),
        ("are in the pixels of images resized to a shorter side of {2:.0f}", lambda sides: _both(sides.min(1))),
    )  # fmt: skip
    for number, (words, rule) in enumerate(rules):
        fitted = _factor(_scaled(gathered, rule(_sides(gathered))))
        fitted = fitted if number == 0 else np.full(2, float(np.sqrt(fitted.prod())))
        text = words.format(*(1 / fitted), 1 / float(np.sqrt(fitted.prod())))
        yield Remedy(f"Boxes of the detections {text}", partial(_scaled_by_image, rule, fitted))
    reach = float(gathered.boxes.max(initial=0))
    for side in CANVASES:
        if 0.9 * side <= reach <= 1.1 * side or 0.5 * side <= reach <= side:
            yield Remedy(
                f"Boxes of the detections are in the pixels of a canvas of {side} x {side} with each image centred",
                partial(_from_canvas, side=float(side)),
            )


def _scaled_by_image(rule: Callable[[Floats], Floats], fitted: Floats, one: Gathered) -> Gathered:
    return _scaled(one, rule(_sides(one)) * fitted)


def _both(sides: Floats) -> Floats:
    return np.stack([sides, sides], 1)


def _scaled(one: Gathered, factors: Floats) -> Gathered:
    """Detections times the factors (N, 2) of their images."""
    return replace(one, boxes=one.boxes * np.tile(factors, 2)[one.images])


def _from_canvas(one: Gathered, side: float) -> Gathered:
    """Detections on a square canvas, with as much padding on either side of the image, back in its own pixels."""
    sides = _sides(one)
    scale = side / sides.max(1, keepdims=True)  # (N, 1)
    padding = (side - scale * sides) / 2
    return replace(one, boxes=(one.boxes - np.tile(padding, 2)[one.images]) / scale[one.images])


def _factor(gathered: Gathered) -> Floats:
    """The factors (2,) for x and y that map detections onto the ground truth.

    First guess: the ratio of the right and lower ends of all boxes, using as many of the best detections of each image
    as it has objects. Then refined three times on the pairs that overlap under the guess.
    """
    sure = surest(gathered)
    ends, ground_truth_ends = gathered.boxes[sure][:, 2:], gathered.ground_truth_boxes[:, 2:]
    if not len(ends) or not len(ground_truth_ends):
        return np.ones(2)
    guess = np.maximum(np.median(ground_truth_ends, 0), 1e-9) / np.maximum(np.median(ends, 0), 1e-9)
    for least in (0.1, 0.3, 0.5):
        trial = replace(gathered, boxes=gathered.boxes * np.tile(guess, 2)).keeping(sure)
        matches = match(trial, 1, least, class_agnostic=True)
        if matches.hit.any():
            near, goal = trial.boxes[matches.hit], gathered.ground_truth_boxes[matches.ground_truth[matches.hit]]
            ratio = np.maximum(goal[:, 2:], 1e-9) / np.maximum(near[:, 2:], 1e-9)  # far ends are most informative
            guess = guess * np.median(ratio, 0)
            if not _certain(np.log(ratio * guess / np.median(ratio, 0))):
                return np.ones(2)
    return np.asarray(np.maximum(guess, 1e-9))


def _certain(errors: Floats) -> bool:
    """Whether the mean of errors (P, 2) is significant in x or in y: an inaccurate detector has errors, too."""
    scatter = errors.std(0) / np.sqrt(len(errors))
    return bool((np.abs(errors.mean(0)) > CERTAIN * scatter).any())


def _shift(gathered: Gathered) -> Floats:
    """The shift (2,) of detections from the ground truth: guessed from all centres, refined on pairs that overlap."""
    sure = surest(gathered)
    if not len(sure) or not len(gathered.ground_truth_boxes):
        return np.zeros(2)
    best = np.zeros(2)
    for start in (
        np.zeros(2),
        np.median(_centres(gathered.boxes[sure]), 0) - np.median(_centres(gathered.ground_truth_boxes), 0),
    ):
        guess = start
        for least in (0.05, 0.2, 0.5):
            trial = replace(gathered, boxes=gathered.boxes - np.tile(guess, 2)).keeping(sure)
            matches = match(trial, 1, least, class_agnostic=True)
            if matches.hit.any():
                goal = gathered.ground_truth_boxes[matches.ground_truth[matches.hit]]
                errors = _centres(trial.boxes[matches.hit]) - _centres(goal)
                if not _certain(errors + guess):
                    return np.zeros(2)
                guess = guess + np.median(errors, 0)
        best = guess if _hits(gathered, sure, guess) > _hits(gathered, sure, best) else best
    return best


def _centres(boxes: Floats) -> Floats:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _hits(gathered: Gathered, sure: Integers, shift: Floats) -> int:
    trial = replace(gathered, boxes=gathered.boxes - np.tile(shift, 2)).keeping(sure)
    return int(match(trial, 1, 0.5, class_agnostic=True).hit.sum())


def surest(gathered: Gathered) -> Integers:
    """Indices of the best detections of each image, as many as it has objects."""
    wanted = np.bincount(gathered.ground_truth_images, minlength=len(gathered.sizes_hw))
    order = np.lexsort((-gathered.scores, gathered.images))
    starts = np.searchsorted(gathered.images[order], np.arange(len(wanted)))
    rank = np.arange(len(order)) - starts[gathered.images[order]]
    return np.asarray(order[rank < wanted[gathered.images[order]]])


def _turns() -> Iterator[Remedy]:
    """Remedies for images that were mirrored or rotated before detection."""

    def turned(words: str, change: Callable[[Floats, Floats, Floats], tuple[Floats, Floats, Floats, Floats]]) -> Remedy:
        def repair(one: Gathered) -> Gathered:
            width, height = _sides(one)[one.images].T
            return replace(one, boxes=np.stack(change(one.boxes.T, width, height), 1))

        return Remedy(f"Boxes of the detections {words}", repair)

    yield turned("are mirrored: x is counted from the right", lambda b, w, h: (w - b[2], b[1], w - b[0], b[3]))
    yield turned("are upside down: y is counted from the bottom", lambda b, w, h: (b[0], h - b[3], b[2], h - b[1]))
    stored = "are of images as stored, before their EXIF rotation"
    yield turned(f"{stored} (a quarter turn right)", lambda b, w, h: (w - b[3], b[0], w - b[1], b[2]))
    yield turned(f"{stored} (a quarter turn left)", lambda b, w, h: (b[1], h - b[2], b[3], h - b[0]))
    yield turned(f"{stored} (upside down)", lambda b, w, h: (w - b[2], h - b[3], w - b[0], h - b[1]))
