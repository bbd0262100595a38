"""Rare classes: how often each is seen, how often its images are to be repeated, and what its objects are to weigh.

Shape legend: N = images, K = classes. Objects that are to be ignored count for nothing here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from boxwright.data.records import Record


def images_by_class(records: Iterable[Record]) -> Counter[int]:
    """In how many images each class has an object, by label; classes without any are left out."""
    return Counter(
        label
        for record in records
        for label in {annotation.label for annotation in record.annotations if not annotation.ignore}
    )


def repeat_factors(records: Sequence[Record], threshold: float) -> list[float]:
    """How often each image (N,) is to be drawn in an epoch, 1 or more.

    The factor of a class is max(1, sqrt(threshold / f)), where f is the part of the images that show it; that of an
    image is the largest of its classes (Gupta, Dollar, Girshick, "LVIS", CVPR 2019, section on baselines).

    Raises ValueError for a threshold outside 0 to 1.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"repeat_threshold: expected 0 to 1, got {threshold}")
    of_class = {
        label: max(1.0, (threshold * len(records) / count) ** 0.5) for label, count in images_by_class(records).items()
    }
    return [
        max((of_class[item.label] for item in record.annotations if not item.ignore), default=1.0)
        for record in records
    ]  # fmt: skip


def balanced_weights(records: Iterable[Record], num_classes: int) -> tuple[float, ...]:
    """Weights (K,) that fall with the square root of the number of a class's objects; their mean over objects is 1.

    A class without objects weighs what the rarest one does.
    """
    counts = Counter(item.label for record in records for item in record.annotations if not item.ignore)
    if not counts:
        return (1.0,) * num_classes
    mean = sum(counts.values()) / sum(count**0.5 for count in counts.values())
    rarest = min(counts.values())
    return tuple(mean / counts.get(label, rarest) ** 0.5 for label in range(num_classes))
