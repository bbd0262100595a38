"""Starting from a trained detector: what fits is taken over, and classes are matched by name."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from boxwright.inference.loading import open_checkpoint
from boxwright.models import DetectionModel
from boxwright.models.detection import empty_state
from boxwright.structures import Classes
from boxwright.wording import counted


@torch.no_grad()
def load_weights(model: DetectionModel, classes: Classes, path: Path) -> str:
    """Load a checkpoint's weights, ours or a foreign one's, into a model that may have other classes; a log sentence.

    Tensors of one shape are copied. Where the number of classes differs, rows of classes with the same name are kept
    and the rest stay as initialised. Raises ValueError where the detector is of another kind.
    """
    checkpoint = open_checkpoint(path)
    own: dict[str, Tensor] = model.state_dict()
    old, with_classes = len(checkpoint.classes), _rows_of_a_class(model)
    channels = getattr(checkpoint.recipe.model.compat, "class_channels", None)
    rows = [
        (k, checkpoint.classes.names.index(n)) for k, n in enumerate(classes.names) if n in checkpoint.classes.names
    ]
    same_order = checkpoint.classes.names == classes.names
    left = []
    for name, tensor in own.items():
        theirs = checkpoint.weights.get(name)
        per_class = with_classes.get(name, 0)
        if theirs is not None and per_class and channels:
            theirs = _without_spare_channels(theirs, per_class, channels)
        if theirs is not None and theirs.shape == tensor.shape and (same_order or not per_class):
            tensor.copy_(theirs)
        elif theirs is not None and per_class and _fits(theirs, tensor, per_class, old, len(classes)):
            for mine, other in rows:
                tensor[mine * per_class :][:per_class] = theirs[other * per_class :][:per_class]
            tensor[len(classes) * per_class :] = theirs[old * per_class :]  # what belongs to no class: background
        else:
            left.append(name)
    if len(left) > len(own) // 2:
        raise ValueError(f"{path} holds another detector ({checkpoint.recipe.model.name}, {checkpoint.recipe.name}): "
                         f"{len(left)} of {counted(len(own), 'tensor')} do not fit, for example {left[0]}")  # fmt: skip
    kept = "" if same_order else f"; classes kept by name: {', '.join(classes.names[k] for k, _ in rows) or 'none'}"
    skipped = f"; {counted(len(left), 'tensor')} start anew" if left else ""
    return f"weights: {path}{kept}{skipped}"


def _fits(theirs: Tensor, own: Tensor, per_class: int, old: int, new: int) -> bool:
    """Whether two tensors differ by the rows of their classes only."""
    rest = len(own) - new * per_class
    return theirs.shape == (old * per_class + rest, *own.shape[1:])


def _without_spare_channels(theirs: Tensor, per_class: int, channels: tuple[int, ...]) -> Tensor:
    """The rows of the channels that are classes, in the order of the classes, and those of no channel (background)."""
    rows = [theirs[channel * per_class :][:per_class] for channel in channels]
    return torch.cat([*rows, theirs[(max(channels) + 1) * per_class :]])


def _rows_of_a_class(model: DetectionModel) -> dict[str, int]:
    """How many rows each class has in those tensors that another class would make longer; one row each as a rule.

    Classes come in order, the rows of one together, and before what belongs to none. A tensor's length alone does not
    tell: a box has four sides whether or not there are four classes.
    """
    wider = empty_state(type(model), model.config, model.num_classes + 1)
    return {
        name: len(wider[name]) - len(tensor)
        for name, tensor in model.state_dict().items()
        if wider[name].shape != tensor.shape
    }
