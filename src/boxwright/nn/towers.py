"""Towers: the stacks of 3x3 convolutions that dense heads share over all pyramid levels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from boxwright.nn.norm import Norm, make_norm


def conv_tower(in_channels: int, widths: Sequence[int], norm: Norm = "none", *, bias: bool = True) -> nn.Sequential:
    """3x3 convolution, norm and ReLU for every width; weights N(0, 0.01), biases 0 (RetinaNet, section 4.1).

    `bias` False takes the biases out where a norm follows, as torchvision does in some heads.
    """
    layers: list[nn.Module] = []
    for width in widths:
        convolution = nn.Conv2d(in_channels, width, 3, padding=1, bias=bias or norm == "none")
        layers.append(convolution)
        if norm != "none":
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
