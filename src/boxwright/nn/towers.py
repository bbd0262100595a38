"""Towers: the stacks of 3x3 convolutions that dense heads share over all pyramid levels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Literal

from torch import Tensor, nn

from boxwright.nn.group_norm import GroupNorm
from boxwright.nn.norm import Norm, make_norm
from boxwright.nn.rectify import passes_on, rectified


class LevelNorm(nn.ModuleList):
    """BatchNorm with statistics and scales of its own for each pyramid level, within a tower that they share."""

    def __init__(self, channels: int, num_levels: int) -> None:
        super().__init__(nn.BatchNorm2d(channels) for _ in range(num_levels))


class Tower(nn.Sequential):
    """Layers one after the other; a convolution or group norm and the ReLU after it in one pass on a GPU."""

    def forward(self, input: Tensor) -> Tensor:
        return through_tower(self, input)


def through_tower(tower: nn.Sequential, level: Tensor, index: int = 0) -> Tensor:
    """A tower applied to the map of level `index`, also where its norms differ from level to level."""
    layers = [layer[index] if isinstance(layer, LevelNorm) else layer for layer in tower]
    layers = [layer for layer in layers if not passes_on(layer)]
    for layer, following in zip_longest(layers, layers[1:]):
        if isinstance(layer, nn.ReLU):
            continue  # it is taken with the layer before
        if not isinstance(following, nn.ReLU):
            level = layer(level)
        elif isinstance(layer, GroupNorm):
            level = layer.of(level, rectifies=True)
        else:
            level = rectified(layer, level)
    return level


def conv_tower(
    in_channels: int,
    widths: Sequence[int],
    norm: Norm | Literal["level_bn"] = "none",
    *,
    bias: bool = True,
    num_levels: int = 1,
) -> Tower:
    """3x3 convolution, norm and ReLU for every width; weights N(0, 0.01), biases 0 (RetinaNet, section 4.1).

    `bias` False leaves out the biases of convolutions that a norm follows, as torchvision does in some heads.
    "level_bn" is BatchNorm for each of `num_levels` levels (AdelaiDet); such a tower is called by `through_tower`.
    """
    layers: list[nn.Module] = []
    for width in widths:
        convolution = nn.Conv2d(in_channels, width, 3, padding=1, bias=bias or norm == "none")
        layers.append(convolution)
        if norm == "level_bn":
            layers.append(LevelNorm(width, num_levels))
        elif norm != "none":
            layers.append(make_norm(norm, width))
        layers.append(nn.ReLU(inplace=True))
        in_channels = width
    tower = Tower(*layers)
    init_dense(tower)
    return tower


def init_dense(module: nn.Module, std: float = 0.01) -> None:
    """Draw every convolution below `module` from N(0, std) and zero its bias."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
