"""Towers: the stacks of 3x3 convolutions that dense heads share over all pyramid levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from boxwright.nn.norm import Norm, make_norm


class LevelNorm(nn.ModuleList):
    """BatchNorm with statistics and scales of its own for each pyramid level, within a tower that they share."""

    def __init__(self, channels: int, num_levels: int) -> None:
        super().__init__(nn.BatchNorm2d(channels) for _ in range(num_levels))


def through_tower(tower: nn.Sequential, level: Tensor, index: int) -> Tensor:
    """A tower applied to the map of level `index`, also where its norms differ from level to level."""
    for layer in tower:
        level = layer[index](level) if isinstance(layer, LevelNorm) else layer(level)
    return level


def conv_tower(
    in_channels: int,
    widths: Sequence[int],
    norm: Norm | Literal["level_bn"] = "none",
    *,
    bias: bool = True,
    num_levels: int = 1,
) -> nn.Sequential:
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
    tower = nn.Sequential(*layers)
    init_dense(tower)
    return tower


def init_dense(module: nn.Module, std: float = 0.01) -> None:
    """Draw every convolution below `module` from N(0, std) and zero its bias."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
