"""Starting from a trained detector: what fits is taken over, part by part, and classes are matched by name.

A backbone is taken as a whole, or nothing is: the parts that stand on another one's features would know nothing. Levels
of a pyramid are found by their stride, whichever others there are. Heads go to detectors of their kind, whose pyramid
was taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from boxwright.checkpoint import Checkpoint
from boxwright.models import MODELS, DetectionModel
from boxwright.models.detection import empty_state
from boxwright.structures import Classes
from boxwright.wording import counted, listed

KINDS = {
    "fcos_mask": "fcos", "rpn": "two stages", "fast_rcnn": "two stages", "faster_rcnn": "two stages",
    "mask_rcnn": "two stages", "keypoint_rcnn": "two stages", "panoptic_fpn": "two stages",
}  # fmt: skip
"""Detectors whose heads are made alike, by a common name; any other is a kind of its own."""
PARTS = {
    "backbone": "backbone",
    "fpn": "pyramid",
    "rpn": "proposal network",
    "box": "box branch",
    "mask": "mask branch",
    "semantic": "semantic branch",
    "keypoint": "keypoint branch",
}
"""What the first word of a tensor's name stands for; any other belongs to the head."""
OF_LOSSES = ("mean_positives",)
"""Running means that a loss keeps: taken over where they fit, but no part of the network."""


@dataclass
class _Tally:
    """Tensors and numbers that were kept and that are new, by the part of the network that they belong to."""

    kept: dict[str, list[int]] = field(default_factory=dict)
    new: dict[str, list[int]] = field(default_factory=dict)

    def add(self, part: str, kept: bool, numbers: int) -> None:
        (self.kept if kept else self.new).setdefault(part, []).append(numbers)

    def sentence(self) -> str:
        """Both, each with its parts and counts."""
        return f"kept {_counts(self.kept, self.new)}" + (f"; new {_counts(self.new, self.kept)}" if self.new else "")


def _counts(parts: Mapping[str, list[int]], others: Mapping[str, list[int]]) -> str:
    names = [f"{'part of the ' if part in others else ''}{part}" for part in parts]
    words = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    tensors, numbers = sum(map(len, parts.values())), sum(map(sum, parts.values()))
    amount = f"{numbers / 1e6:.1f} million" if numbers >= 50_000 else f"{numbers:,}"
    return f"{words} ({counted(tensors, 'tensor')}, {amount} numbers)"


@torch.no_grad()
def load_weights(model: DetectionModel, classes: Classes, checkpoint: Checkpoint, source: str) -> str:
    """Load a checkpoint's weights into a model that may have other classes or other parts; a log sentence.

    Where the classes differ, rows of those with the same name are kept and the rest stay as initialised, at the prior.
    Raises ValueError where the backbone is another one: then nothing would be kept.
    """
    own: dict[str, Tensor] = model.state_dict()
    config: Any = model.config
    partners = _partners(own, config, checkpoint)
    _check_backbone(own, partners, config, checkpoint, source)
    old, with_classes = len(checkpoint.classes), _rows_of_a_class(model)
    channels = getattr(checkpoint.recipe.model.compat, "class_channels", None)
    rows = [
        (k, checkpoint.classes.names.index(n)) for k, n in enumerate(classes.names) if n in checkpoint.classes.names
    ]
    same_order, by_rows = checkpoint.classes.names == classes.names, False
    tally = _Tally()
    for name, tensor in own.items():
        theirs, part, per_class = partners.get(name), _part(name), with_classes.get(name, 0)
        if theirs is not None and per_class and channels:
            theirs = _without_spare_channels(theirs, per_class, channels)
        if theirs is not None and "semantic.head.predictor." in name:
            kept = _keep_labels(tensor, theirs, classes.semantic_names, checkpoint.classes.semantic_names)
        elif theirs is not None and theirs.shape == tensor.shape and (same_order or not per_class):
            tensor.copy_(theirs)
            kept = True
        elif theirs is not None and per_class and _fits(theirs, tensor, per_class, old, len(classes)):
            for mine, other in rows:
                tensor[mine * per_class :][:per_class] = theirs[other * per_class :][:per_class]
            tensor[len(classes) * per_class :] = theirs[old * per_class :]  # what belongs to no class: background
            by_rows = True
            continue
        else:
            kept = False
        if name.rsplit(".", 1)[-1] not in (*OF_LOSSES, "num_batches_tracked"):
            tally.add(part, kept, tensor.numel())
    found = {k for k, _ in rows}
    sentence = f"weights: {source} ({_called(checkpoint)}): {tally.sentence()}"
    if by_rows:
        names = listed(classes.names[k] for k in sorted(found))
        sentence += f"; rows of classes kept by name: {names or 'none'}"
        anew = [name for k, name in enumerate(classes.names) if k not in found]
        sentence += f"; new: {listed(anew)}" if anew else ""
    return sentence


def _keep_labels(tensor: Tensor, theirs: Tensor, names: Sequence[str], known: Sequence[str]) -> bool:
    """Copy the rows of those labels of a semantic map that the checkpoint knows by name; whether there are any."""
    rows = [(row, known.index(name)) for row, name in enumerate(names) if name in known]
    if theirs.shape[1:] != tensor.shape[1:] or len(theirs) != len(known) or len(tensor) != len(names):
        return False
    for row, other in rows:
        tensor[row] = theirs[other]
    return bool(rows)


def _called(checkpoint: Checkpoint) -> str:
    """What a checkpoint's detector is called: by its library, or by its recipe."""
    origin = checkpoint.origin or {}
    if "family" in origin:
        return f"{origin['family']}: {origin['architecture']}"
    return checkpoint.recipe.name or checkpoint.recipe.model.name


def _plain(name: str) -> str:
    """A tensor's name without the parts that only hold others; the last stage as a head (C4) is the backbone's."""
    name = name.removeprefix("instances.").removeprefix("detector.").removeprefix("trunk.")
    return name.replace("box.head.stage.", "backbone.body.layer4.", 1) if name.startswith("box.head.stage.") else name


def _part(name: str) -> str:
    return PARTS.get(_plain(name).partition(".")[0], "head")


def _partners(own: Mapping[str, Tensor], config: Any, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """For each of our tensors that of the checkpoint which is the same part of a network; none where it has none."""
    theirs = {_plain(name): value for name, value in checkpoint.weights.items()}
    other: Any = checkpoint.recipe.model
    alike = _kind(config.name) == _kind(other.name)
    levels, their_levels = _levels(config.fpn), _levels(other.fpn)
    extras_alike = getattr(config.fpn, "extra_from", None) == getattr(other.fpn, "extra_from", None)
    found = {}
    for name in own:
        plain = _plain(name)
        part = _part(name)
        if part == "pyramid":
            match = re.match(r"fpn\.(laterals|outputs|lateral_norms|output_norms)\.(\d+)", plain)
            if match:
                level = levels[int(match[2])]
                if level not in their_levels:
                    continue
                plain = f"fpn.{match[1]}.{their_levels.index(level)}{plain[match.end() :]}"
            elif not extras_alike:
                continue
        elif part not in ("backbone", "mask branch", "keypoint branch", "semantic branch") and not alike:
            continue
        if plain in theirs:
            found[name] = theirs[plain]
    pyramid = [name for name in own if _part(name) == "pyramid"]
    if pyramid and not any(name in found and found[name].shape == own[name].shape for name in pyramid):
        return {name: value for name, value in found.items() if _part(name) == "backbone"}
    return found


def _kind(name: str) -> str:
    return KINDS.get(name, name)


def _levels(fpn: Any) -> tuple[str, ...]:
    """The maps of the backbone that a pyramid stands on, finest first."""
    own = getattr(fpn, "levels", None)
    if own is not None:
        return tuple(own)
    return ("c2", "c3", "c4", "c5") if getattr(fpn, "with_p2", False) else ("c3", "c4", "c5")


def _check_backbone(
    own: Mapping[str, Tensor], partners: Mapping[str, Tensor], config: Any, checkpoint: Checkpoint, source: str
) -> None:
    """Raise ValueError where not all of the backbone can be taken."""
    names = [name for name in own if _part(name) == "backbone" and not name.endswith("num_batches_tracked")]
    left = [name for name in names if name not in partners or partners[name].shape != own[name].shape]
    if not left:
        return
    one, other = _network(checkpoint.recipe.model.backbone), _network(config.backbone)
    difference = f"its backbone is {one}, the recipe's is {other}"
    if one == other:
        difference = f"the backbones differ, for example in {_plain(left[0])}"
    raise ValueError(
        f"{source} ({_called(checkpoint)}): nothing would be kept: {difference} ({len(left)} of "
        f"{counted(len(names), 'tensor')} do not fit); leave out the recipe to train the network of the file, or name "
        "the same backbone"
    )


def _network(backbone: Any) -> str:
    return f"{backbone.name}" + (f" with widths {list(backbone.widths)}" if backbone.widths else "")


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
    wider = empty_state(MODELS[model.config.name].build, model.config, model.num_classes + 1)
    return {
        name: len(wider[name]) - len(tensor)
        for name, tensor in model.state_dict().items()
        if wider[name].shape != tensor.shape
    }
