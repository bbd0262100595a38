"""Class weights: some classes count more than others in a detector's classification loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from boxwright.models.detection import DetectionModel


def weigh_classes(model: DetectionModel, weights: Sequence[float] | Mapping[str, float] | str) -> None:
    """Let the rows of a classification loss that learn an object of class k count `weights[k]` times.

    Background rows, and the other losses, stay as they are. The weights are those of whoever trains: they are in no
    state dict.

    Raises ValueError for a detector that tells no classes apart, for weights that are still names, and for another
    number of them than of classes.
    """
    parts = [part for part in model.modules() if hasattr(part, "class_weights")]
    if not parts:
        raise ValueError(f"class_weights: {model.config.name} tells no classes apart; leave them out")
    if isinstance(weights, str | Mapping):
        raise ValueError(f"class_weights: expected numbers in the order of classes, got {weights}; training, which "
                         "knows names and numbers of objects, replaces them")  # fmt: skip
    if len(weights) != model.num_classes:
        raise ValueError(f"class_weights: expected {model.num_classes}, one for each class, got {len(weights)}")
    for part in parts:
        part.class_weights = torch.tensor(weights, dtype=torch.float32)  # in the place that the part has for them


def weights_by_name(weights: Mapping[str, float], names: Sequence[str]) -> tuple[float, ...]:
    """Weights in the order of class names, 1 where none is given; ValueError for a name that is no class.

    >>> weights_by_name({"rare": 3.0}, ["usual", "rare"])
    (1.0, 3.0)
    """
    unknown = [name for name in weights if name not in names]
    if unknown:
        raise ValueError(f"class_weights: no class {unknown[0]!r}; there are {', '.join(names)}")
    return tuple(weights.get(name, 1.0) for name in names)
