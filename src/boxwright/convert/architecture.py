"""What the shapes of a file say about its network: depth and widths of a ResNet, layers of a tower, levels, norms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from boxwright.nn.resnet import BLOCKS, ResNetVariant, stage_widths
from boxwright.recipes import dump_recipe, load_recipe

State = Mapping[str, Tensor]


def indices(state: State, pattern: str) -> list[int]:
    """The numbers that stand in the one group of a pattern, over all names that it matches from their beginning."""
    return sorted({int(match[1]) for name in state if (match := re.match(pattern, name))})


def resnet_of(state: State, stem: str, stages: str, first: int = 2) -> tuple[str, tuple[int, ...] | None, int]:
    """Name, unusual widths and groups of a ResNet of bottlenecks, from the names and shapes of its convolutions.

    `stem` is the key of the first convolution; `stages` is what a block's name begins with, with "{}" for the number of
    its stage, which counts from `first` (`backbone.bottom_up.res{}.` from 2, `backbone.body.layer{}.` from 1).
    """
    numbers = range(first, first + 4)
    depths = [len(indices(state, re.escape(stages.format(stage)) + r"(\d+)\.conv1")) for stage in numbers]
    built = tuple(depth for depth in depths if depth)
    block = stages.format(first) + "0."
    if f"{block}conv3.weight" not in state or len(built) < 3:
        raise ValueError("its backbone is no ResNet of bottlenecks, which are all that is known here")
    grouped = state[f"{block}conv2.weight"]
    groups = int(grouped.shape[0] // grouped.shape[1])
    widths = (
        int(state[stem].shape[0]), int(state[f"{block}conv3.weight"].shape[0]), int(grouped.shape[1]), groups,
    )  # fmt: skip
    of_depth = [name for name, blocks in BLOCKS.items() if blocks[: len(built)] == built]
    for name in of_depth:
        stem_width, outs, middles, usual = stage_widths(name, ResNetVariant())
        if widths == (stem_width, outs[0], middles[0] // usual, usual):
            return name, None, groups
    for name in of_depth:
        if name.startswith("resnet"):
            return name, widths, groups
    raise ValueError(f"a ResNet with {built} blocks in its stages is not known here")


def tower_of(state: State, prefix: str) -> tuple[tuple[int, ...], str]:
    """Widths of a tower's convolutions (`prefix`, a number, "weight", with 4 dimensions) and the norm between them."""
    widths, norm = [], "none"
    for index in indices(state, re.escape(prefix) + r"(\d+)\."):
        weight = state.get(f"{prefix}{index}.weight")
        if weight is not None and weight.dim() == 4:
            widths.append(int(weight.shape[0]))
        elif f"{prefix}{index}.0.running_mean" in state:
            norm = "level_bn"
        elif weight is not None:
            norm = "bn" if f"{prefix}{index}.running_mean" in state else "gn"
    return tuple(widths), norm


def norms(state: State, prefix: str, frozen: int = 2) -> dict[str, Any]:
    """Whether the backbone's statistics moved (BatchNorm counts its batches) or were frozen."""
    moving = any(name.startswith(prefix) and name.endswith("num_batches_tracked") for name in state)
    return {"norm": "bn", "frozen_stages": 0} if moving else {"norm": "frozen_bn", "frozen_stages": frozen}


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings laid over each other, the last on top.

    >>> merged({"fpn": {"channels": 256, "extra_levels": 2}}, {"fpn": {"channels": 64}})
    {'fpn': {'channels': 64, 'extra_levels': 2}}
    """
    whole: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            whole[key] = merged(whole.get(key, {}), value) if isinstance(value, Mapping) else value
    return whole


def model_of(recipe: str) -> dict[str, Any]:
    """The section `model` of a recipe of ours that a family of files follows, without pretrained weights."""
    return merged(dump_recipe(load_recipe(recipe))["model"], {"backbone": {"weights": None}})
