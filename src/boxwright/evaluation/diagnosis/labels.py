"""Remedies for labels, scores and duplicates: shifted ids, classes in another order, repeated rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from boxwright.evaluation.diagnosis.boxes import CERTAIN, Remedy
from boxwright.evaluation.matching import Flags, Gathered, Integers, candidate_pairs, match
from boxwright.structures import Classes

_AGREED = 0.6  # fraction of the detections of exchanged classes that must agree on the new ones
_SAME = 0.6  # IoU of two detections of one object, as in NMS


def label_remedies(gathered: Gathered, classes: Classes) -> Iterator[Remedy]:
    """Remedies for labels of detections, those that do not use the ground truth first."""
    count = len(classes)
    if count < 2:
        return
    for shift, words in ((-1, "one too high"), (1, "one too low")):
        shifted = np.arange(count) + shift
        yield _renamed(f"Labels are shifted: those of the detections are {words}", shifted)
    ids = np.array(classes.ids, dtype=np.int64)
    for base in (0, 1):
        if not np.array_equal(ids, np.arange(base, base + count)):
            words = f"Class ids of the detections count the classes from {base} without gaps"
            yield _renamed(f"{words}, those of the ground truth do not", ids - base)
    by_name = np.array(sorted(range(count), key=classes.names.__getitem__), dtype=np.int64)
    if not np.array_equal(by_name, np.arange(count)):
        yield _renamed(
            "Classes of the detections are numbered in alphabetical order, those of the ground truth are not", by_name
        )
        yield _renamed("The ground truth numbers its classes in alphabetical order, the detections do not",
                       np.argsort(by_name))  # fmt: skip
    same = _same_names(classes.names)
    if len(np.unique(same)) < count:
        late = next(label for label in range(count) if same[label] != label)
        pair = f"{classes.names[same[late]]!r} and {classes.names[late]!r}"
        yield Remedy(
            f"One class has several spellings: {pair}",
            lambda one: replace(one, labels=same[one.labels], ground_truth_labels=same[one.ground_truth_labels]),
        )
    mapping = _usual_class(gathered, count)
    if mapping is not None:
        swapped = [(old, new) for old, new in enumerate(mapping.tolist()) if old != new]
        some = ", ".join(f"{classes.names[old]!r} is {classes.names[new]!r}" for old, new in swapped[:3])
        more = f" and {len(swapped) - 3} more" if len(swapped) > 3 else ""
        yield _renamed(f"Classes are in another order: what is called {some}{more}", mapping)


def _renamed(cause: str, mapping: Integers) -> Remedy:
    """Detections of label k become `mapping[k]`; those whose new label is invalid are left out."""

    def repair(one: Gathered) -> Gathered:
        labels = mapping[one.labels]
        keep = (labels >= 0) & (labels < len(mapping))
        return replace(one, labels=labels).keeping(keep)

    return Remedy(cause, repair)


def _same_names(names: Sequence[str]) -> Integers:
    """For each class the first of the same name, ignoring case, spaces, hyphens and underscores."""
    first: dict[str, int] = {}
    plain = [name.casefold().replace("_", " ").replace("-", " ").split() for name in names]
    return np.array([first.setdefault(" ".join(words), label) for label, words in enumerate(plain)], dtype=np.int64)


def _usual_class(gathered: Gathered, num_classes: int) -> Integers | None:
    """For each label the class of the objects that its detections overlap most often.

    None if that changes nothing, if too few detections agree on it, or if two labels would become one: that is not
    another order, but a detector that cannot distinguish its classes.
    """
    matches = match(gathered, 1, class_agnostic=True)
    votes = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(votes, (gathered.labels[matches.hit], gathered.ground_truth_labels[matches.ground_truth[matches.hit]]), 1)
    voted = votes.any(1)
    mapping = np.where(voted, votes.argmax(1), np.arange(num_classes))
    known = mapping[voted]
    moved = voted & (mapping != np.arange(num_classes))
    agreed, given = int(votes.max(1)[moved].sum()), int(votes[moved].sum())
    if agreed < max(3, _AGREED * given) or len(np.unique(known)) < len(known):
        return None
    return np.asarray(mapping)


def row_remedies(gathered: Gathered) -> Iterator[Remedy]:
    """Remedies for inverted scores and for objects detected or labelled more than once."""
    if _upside_down(gathered):
        yield Remedy(
            "Scores of the detections are inverted: the lowest are the best",
            lambda one: replace(one, scores=-one.scores),
        )
    if bool((~_best_of_each(gathered)).any()):
        yield Remedy(
            "Objects are detected more than once: non-maximum suppression is missing (of detections that overlap by "
            f"more than {_SAME:g} only the best may stay)",
            lambda one: one.keeping(_best_of_each(one)),
        )
    if bool((~_first_of_equals(gathered)).any()):
        yield Remedy(
            "Objects are in the ground truth more than once",
            lambda one: one.keeping(np.ones(len(one.scores), np.bool_), _first_of_equals(one)),
        )


def _upside_down(gathered: Gathered) -> bool:
    """Whether true positives have significantly lower scores than false positives."""
    hit = match(gathered, 1, class_agnostic=True).hit
    right, wrong = gathered.scores[hit], gathered.scores[~hit]
    if min(len(right), len(wrong)) < 3:
        return False
    scatter = np.sqrt(right.var() / len(right) + wrong.var() / len(wrong))
    return bool(wrong.mean() - right.mean() > CERTAIN * scatter)


def _best_of_each(one: Gathered) -> Flags:
    """Whether each detection (D,) is kept by non-maximum suppression within its image and class."""
    themselves = replace(
        one, ground_truth_boxes=one.boxes, ground_truth_labels=one.labels, ground_truth_images=one.images,
        ground_truth_ignore=np.zeros(len(one.scores), np.bool_),
    )  # fmt: skip
    first, second, _ = candidate_pairs(themselves, _SAME)
    rank = np.empty(len(one.scores), np.int64)
    rank[one.order] = np.arange(len(rank))
    later = rank[first] < rank[second]
    first, second = first[later], second[later]
    kept = np.ones(len(one.scores), np.bool_)
    order = np.argsort(rank[first], kind="stable")
    for better, worse in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if kept[better]:
            kept[worse] = False
    return kept


def _first_of_equals(one: Gathered) -> Flags:
    """Whether each object (G,) is the first of its image, class and box."""
    rows = np.column_stack(
        [one.ground_truth_images, one.ground_truth_labels, one.ground_truth_ignore, one.ground_truth_boxes]
    )
    _, first = np.unique(rows, axis=0, return_index=True)
    flags = np.zeros(len(rows), np.bool_)
    flags[first] = True
    return flags
