"""Whether some classes of a training split are so rare that repeating their images or weighing them would help."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from boxwright.data.class_balance import balanced_weights, images_by_class, repeat_factors
from boxwright.data.records import Problem, Split

RARE_IMAGES = 4.0
"""The median class is in this many times as many images as the rarest one: its images would be drawn twice as often."""
RARE_OBJECTS = 20.0
"""The commonest class has this many times as many objects as the rarest one."""


def balance_problems(split: Split, root: Path) -> Iterator[Problem]:
    """A note on the images of rare classes, and one on their objects, each with the setting that evens them out."""
    names = split.classes.names
    images = images_by_class(split.records)
    if len(images) < 2:
        return
    ranked = sorted(images, key=lambda label: (images[label], label))
    rarest, middle = ranked[0], ranked[len(ranked) // 2]
    if images[middle] >= RARE_IMAGES * images[rarest]:
        threshold = float(f"{images[middle] / len(split):.2g}")
        factors = repeat_factors(split.records, threshold)
        message = (
            f"{split.name}: {names[rarest]} is in {images[rarest]} of {len(split)} images, the median class "
            f"{names[middle]} in {images[middle]}; data.repeat_threshold={threshold:g} draws images of rarer classes "
            f"up to {max(factors):.1f} times an epoch, which has {sum(factors):.0f} images then"
        )
        yield Problem("class-imbalance", str(root), message, severity="note")
    objects = Counter(item.label for record in split.records for item in record.annotations if not item.ignore)
    ranked = sorted(objects, key=lambda label: (objects[label], label))
    few, many = ranked[0], ranked[-1]
    if objects[many] >= RARE_OBJECTS * objects[few]:
        weights = balanced_weights(split.records, len(names))
        message = (
            f"{split.name}: {names[few]} has {objects[few]} objects, {names[many]} {objects[many]}; "
            f"class_weights=balanced weighs them {weights[few]:.2g} and {weights[many]:.2g} in the classification loss"
        )
        yield Problem("class-imbalance", str(root), message, severity="note")
