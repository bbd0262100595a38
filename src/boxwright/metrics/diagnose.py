"""Why AP is 0: the usual mix-ups are undone one by one, and the one that brings AP back is named.

Tried: labels (shifted by one, or permuted), box format (x, y, width, height read as corners and the other way, centre
first), scale (fractions, a constant factor, x and y exchanged), and pictures (off by one, or in another order). Where
two went wrong at once, boxes or pictures first and then labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from boxwright.metrics.curves import curves_of
from boxwright.metrics.matching import Floats, Gathered, Integers, gather, match, overlaps
from boxwright.structures import Classes, Detections, Truth

NEAR_ZERO = 0.02  # an AP50 below it calls for an explanation
CONVINCING = 0.10  # AP50 that a remedy must reach, and five times what it was, to be named as the cause
PICTURES_LOOKED_AT = 200  # for the search of exchanged pictures, whose cost grows with the square


@dataclass(frozen=True, slots=True)
class Remedy:
    """One mix-up undone: what the sentence says of it, and the set as it looks then."""

    cause: str
    repaired: Gathered


def diagnose(detections: Sequence[Detections], truths: Sequence[Truth], classes: Classes) -> tuple[str, ...]:
    """Sentences on why AP50 is near zero, with AP50 before and after the remedy; none where AP50 is not near zero.

    Detections and truth belong to the same pictures in the same order, as far as anyone knows.
    """
    gathered = gather(detections, truths)
    if gathered.truth_ignore.all():
        return ("AP is undefined: the truth holds no object that counts.",)
    if not len(gathered.scores):
        return ("AP is 0 because there are no detections: lower the score threshold, or the model has learnt nothing.",)
    count = len(classes)
    before = _ap50(gathered, count)
    if before >= NEAR_ZERO:
        return ()
    loose_before = _ap50(gathered, count, class_agnostic=True)
    if _convinces(loose_before, before):
        label = _best(_label_remedies(gathered, classes), count)
        if label and _convinces(label[1], before):
            return (_sentence(label[0].cause, before, label[1]),)
        return (
            f"Boxes are right but labels are wrong: AP50 is {before:.3f}, and {loose_before:.3f} when labels play no "
            f"part; compare the order of classes of the model with that of the data (or it has not learnt them yet).",
        )
    place = _best([*_box_remedies(gathered), *_picture_remedies(gathered)], count, class_agnostic=True)
    if place is None or not _convinces(place[1], loose_before):
        return (_nothing_found(gathered, before, loose_before),)
    remedy = place[0]
    after = _ap50(remedy.repaired, count)
    if _convinces(after, before) and after > 0.5 * place[1]:
        return (_sentence(remedy.cause, before, after),)
    label = _best(_label_remedies(remedy.repaired, classes), count)
    if label and _convinces(label[1], before):
        return (_sentence(f"{remedy.cause}, and {label[0].cause[0].lower()}{label[0].cause[1:]}", before, label[1]),)
    return (f"{_sentence(remedy.cause, loose_before, place[1])[:-1]} (class-agnostic), but labels are wrong too.",)


def _sentence(cause: str, before: float, after: float) -> str:
    return f"{cause}: AP50 is {before:.3f}, and {after:.3f} once that is undone."


def _convinces(after: float, before: float) -> bool:
    return after >= max(CONVINCING, 5 * before)


def _ap50(gathered: Gathered, num_classes: int, *, class_agnostic: bool = False) -> float:
    matches = match(gathered, 1 if class_agnostic else num_classes, class_agnostic=class_agnostic)
    known = curves_of(matches).average_precision
    return float(np.nanmean(known)) if not np.isnan(known).all() else 0.0


def _best(remedies: Sequence[Remedy], num_classes: int, *, class_agnostic: bool = False) -> tuple[Remedy, float] | None:
    """The remedy that brings the highest AP50, the first of equals, with that AP50."""
    scored = [(remedy, _ap50(remedy.repaired, num_classes, class_agnostic=class_agnostic)) for remedy in remedies]
    return max(scored, key=lambda pair: pair[1], default=None)


def _label_remedies(gathered: Gathered, classes: Classes) -> list[Remedy]:
    count = len(classes)
    remedies = []
    for shift, words in ((-1, "one too high"), (1, "one too low")):
        labels = gathered.labels + shift
        keep = (labels >= 0) & (labels < count)
        repaired = _chosen(replace(gathered, labels=labels), keep)
        remedies.append(Remedy(f"Labels are shifted: those of the detections are {words}", repaired))
    mapping = _usual_class(gathered, count)
    if mapping is not None:
        swapped = [(old, new) for old, new in enumerate(mapping.tolist()) if old != new]
        some = ", ".join(f"{classes.names[old]!r} is {classes.names[new]!r}" for old, new in swapped[:3])
        more = f" and {len(swapped) - 3} more" if len(swapped) > 3 else ""
        repaired = replace(gathered, labels=mapping[gathered.labels])
        remedies.append(Remedy(f"Classes are in another order: what is called {some}{more}", repaired))
    return remedies


def _usual_class(gathered: Gathered, num_classes: int) -> Integers | None:
    """For each label the class of the objects that its detections lie on most often; None where that moves nothing."""
    matches = match(gathered, 1, class_agnostic=True)
    votes = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(votes, (gathered.labels[matches.hit], gathered.truth_labels[matches.truth[matches.hit]]), 1)
    mapping = np.where(votes.any(1), votes.argmax(1), np.arange(num_classes))
    return None if (mapping == np.arange(num_classes)).all() else mapping


def _chosen(gathered: Gathered, keep: np.ndarray) -> Gathered:
    return replace(
        gathered,
        boxes=gathered.boxes[keep],
        scores=gathered.scores[keep],
        labels=gathered.labels[keep],
        pictures=gathered.pictures[keep],
    )


def _box_remedies(gathered: Gathered) -> list[Remedy]:
    """Other readings of the boxes. What undoes one side would often fit the other too, so each needs its sign."""
    boxes, truth = gathered.boxes, gathered.truth_boxes
    sizes = gathered.sizes_hw[:, [1, 0, 1, 0]].astype(np.float64)
    known = bool((sizes > 0).all())
    truth_fits = known and bool((truth <= 1.05 * sizes[gathered.truth_pictures]).all())
    reversed_boxes = bool((boxes[:, 2:] < boxes[:, :2]).any())
    corners = "are corners but were read as x, y, width, height"
    centred = "are centre x, centre y, width, height but were read as"
    formats = [(centred + " corners", _corners_from_centre), (corners, _corners_from_sum)]
    formats += [(centred + " x, y, width, height", _corners_from_centred_sum), ("have x and y exchanged", _exchanged)]
    if reversed_boxes or truth_fits:
        formats.insert(0, ("are x, y, width, height but were read as corners", _corners_from_size))
    remedies = [
        Remedy(f"Boxes of the detections {words}", replace(gathered, boxes=convert(boxes)))
        for words, convert in formats
    ]
    if not truth_fits:  # x, y, width, height read as corners would not have passed as truth
        for words, convert in ((corners, _corners_from_sum), ("have x and y exchanged", _exchanged)):
            remedies.append(Remedy(f"Boxes of the truth {words}", replace(gathered, truth_boxes=convert(truth))))
    words = "are fractions of the picture, not pixels"
    if known and boxes.max() <= 2:
        repaired = replace(gathered, boxes=boxes * sizes[gathered.pictures])
        remedies.append(Remedy(f"Boxes of the detections {words}", repaired))
    if known and truth.max() <= 2:
        repaired = replace(gathered, truth_boxes=truth * sizes[gathered.truth_pictures])
        remedies.append(Remedy(f"Boxes of the truth {words}", repaired))
    scale = _scale(gathered)
    across, down = (1 / scale).tolist()
    words = f"{across:.3g}" if abs(across / down - 1) < 0.02 else f"{across:.3g} in x and {down:.3g} in y"
    scaled = replace(gathered, boxes=boxes * np.tile(scale, 2))
    return [*remedies, Remedy(f"Boxes of the detections are scaled by {words} against the truth", scaled)]


def _corners_from_size(boxes: Floats) -> Floats:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def _corners_from_sum(boxes: Floats) -> Floats:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


def _corners_from_centre(boxes: Floats) -> Floats:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)


def _corners_from_centred_sum(boxes: Floats) -> Floats:
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    return boxes - np.tile(half, 2)


def _exchanged(boxes: Floats) -> Floats:
    return boxes[:, [1, 0, 3, 2]]


def _scale(gathered: Gathered) -> Floats:
    """The factors (2,) for x and y that bring detections onto the truth.

    First guess: the ratio of the far ends of all boxes, taking of each picture as many of the surest detections as it
    has objects. Then refined three times on the pairs that overlap under the guess.
    """
    sure = _surest(gathered)
    ends, truth_ends = gathered.boxes[sure][:, 2:], gathered.truth_boxes[:, 2:]
    if not len(ends):
        return np.ones(2)
    guess = np.median(truth_ends, 0) / np.maximum(np.median(ends, 0), 1e-9)
    for least in (0.1, 0.3, 0.5):
        trial = _chosen(replace(gathered, boxes=gathered.boxes * np.tile(guess, 2)), sure)
        matches = match(trial, 1, least, class_agnostic=True)
        if matches.hit.any():
            near, goal = trial.boxes[matches.hit], gathered.truth_boxes[matches.truth[matches.hit]]
            ratio = (goal.reshape(-1, 2, 2) / np.maximum(near.reshape(-1, 2, 2), 1e-9)).max(1)  # far ends say most
            guess = guess * np.median(ratio, 0)
    return np.asarray(np.maximum(guess, 1e-9))


def _surest(gathered: Gathered) -> Integers:
    """Indices of the best detections of each picture, as many as it has objects."""
    wanted = np.bincount(gathered.truth_pictures, minlength=len(gathered.sizes_hw))
    order = np.lexsort((-gathered.scores, gathered.pictures))
    starts = np.searchsorted(gathered.pictures[order], np.arange(len(wanted)))
    rank = np.arange(len(order)) - starts[gathered.pictures[order]]
    return np.asarray(order[rank < wanted[gathered.pictures[order]]])


def _picture_remedies(gathered: Gathered) -> Iterator[Remedy]:
    count = len(gathered.sizes_hw)
    if count < 2:
        return
    for shift, words in ((1, "one picture too early"), (-1, "one picture too late")):
        moved = replace(gathered, pictures=(gathered.pictures + shift) % count)
        yield Remedy(f"Picture ids are off by one: the detections are filed {words}", moved)
    order = _likeliest_pictures(gathered)
    known = order[gathered.pictures] >= 0
    moved = _chosen(replace(gathered, pictures=order[gathered.pictures]), known)
    looked_at = np.isin(gathered.truth_pictures, order[order >= 0])
    moved = replace(
        moved,
        truth_boxes=gathered.truth_boxes[looked_at],
        truth_labels=gathered.truth_labels[looked_at],
        truth_ignore=gathered.truth_ignore[looked_at],
        truth_pictures=gathered.truth_pictures[looked_at],
    )
    yield Remedy("Pictures are mixed up: detections fit the truth of other pictures", moved)


def _likeliest_pictures(gathered: Gathered) -> Integers:
    """For each of the first pictures (N,) the one whose truth its surest detections fit best; -1 for the others.

    Each picture is given away once, the best fit first; a fit is the share of objects and detections that agree.
    """
    count = len(gathered.sizes_hw)
    looked_at = min(count, PICTURES_LOOKED_AT)
    sure = _surest(gathered)
    sure = sure[gathered.pictures[sure] < looked_at]
    things = np.flatnonzero(gathered.truth_pictures < looked_at)
    agreed = np.zeros((looked_at, looked_at))
    for picture in range(looked_at):
        rows = sure[gathered.pictures[sure] == picture]
        if len(rows) and len(things):
            first, second = np.repeat(rows, len(things)), np.tile(things, len(rows))
            close = overlaps(gathered.boxes[first], gathered.truth_boxes[second]).reshape(len(rows), -1).max(0) >= 0.5
            agreed[picture] = np.bincount(gathered.truth_pictures[things][close], minlength=looked_at)
    objects = np.bincount(gathered.truth_pictures[things], minlength=looked_at)
    found = np.bincount(gathered.pictures[sure], minlength=looked_at)
    fit = agreed / np.maximum(np.maximum(objects[None], found[:, None]), 1)
    order = np.full(count, -1, np.int64)
    taken = np.zeros(looked_at, np.bool_)
    for place in np.argsort(-fit, axis=None, kind="stable").tolist():
        picture, home = divmod(place, looked_at)
        if fit[picture, home] > 0 and order[picture] < 0 and not taken[home]:
            order[picture] = home
            taken[home] = True
    return order


def _nothing_found(gathered: Gathered, before: float, loose: float) -> str:
    near = match(gathered, 1, 0.1, class_agnostic=True)
    share = near.hit.sum() / max(near.totals.sum(), 1)
    return (
        f"AP50 is {before:.3f} and none of the usual mix-ups explains it (labels, box format, scale, pictures): "
        f"class-agnostic AP50 is {loose:.3f}, and {share:.0%} of the objects have a detection that touches them "
        f"(IoU 0.1); most likely the model has not learnt yet."
    )
