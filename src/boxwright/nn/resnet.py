"""ResNets in the variants of the references: stride in the 1x1, other widths, a dilated last stage, and C5 as a head.

Keys are torchvision's (`conv1`, `bn1`, `layer1.0.conv1`, `layer1.0.downsample.0`), so ImageNet weights load by name.
Sources: He et al. 2016, table 1; Xie et al. 2017 (groups); Detectron2's `modeling/backbone/resnet.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = {
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
    "resnext50_32x4d": (3, 4, 6, 3),
    "resnext101_32x8d": (3, 4, 23, 3),
    "resnext101_64x4d": (3, 4, 23, 3),
}
"""Blocks of the four stages, by torchvision's names."""
BASIC = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
"""The same for networks with two 3x3 convolutions a block instead of a bottleneck."""
_GROUPS = {"resnext50_32x4d": (32, 4), "resnext101_32x8d": (32, 8), "resnext101_64x4d": (64, 4)}


@dataclass(frozen=True, kw_only=True, slots=True)
class ResNetVariant:
    """How a backbone differs from torchvision's; all but `norm_eps` is for ResNets only.

    Their meaning is given in `models/sections.py: BackboneSection`.
    """

    stride_in_1x1: bool = False
    norm_eps: float | None = None
    dilated_c5: bool = False
    widths: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.widths is not None and min(self.widths) < 1:
            raise ValueError(f"widths: expected four numbers above 0, got {self.widths}")
        if self.norm_eps is not None and self.norm_eps < 0:
            raise ValueError(f"norm_eps: expected at least 0, got {self.norm_eps}")

    @property
    def needs_own_network(self) -> bool:
        """Whether torchvision's network cannot be built this way."""
        return self.stride_in_1x1 or self.dilated_c5 or self.widths is not None


def stage_widths(name: str, variant: ResNetVariant) -> tuple[int, list[int], list[int], int]:
    """Channels of the stem, of the four stages, of their 3x3 convolutions, and groups.

    >>> stage_widths("resnext101_32x8d", ResNetVariant())
    (64, [256, 512, 1024, 2048], [256, 512, 1024, 2048], 32)
    """
    if name not in BLOCKS | BASIC:
        raise ValueError(
            f"backbone: widths, stride_in_1x1 and dilated_c5 are only for {', '.join(BLOCKS | BASIC)}, not for {name}"
        )
    groups, width = _GROUPS.get(name, (1, 64))
    stem, first, width, groups = variant.widths or (64, 64 if name in BASIC else 256, width, groups)
    if name in BASIC and (first != width or groups != 1 or variant.stride_in_1x1):
        raise ValueError(
            f"backbone {name}: it has no 1x1 convolution and no groups, so widths are (stem, C2, C2, 1) and "
            f"stride_in_1x1 is false; got {variant.widths}"
        )
    return stem, [first * 2**k for k in range(4)], [width * groups * 2**k for k in range(4)], groups


def _batch_norm(channels: int, eps: float) -> nn.BatchNorm2d:
    """BatchNorm with this eps; set afterwards, since some versions of torch refuse 0, which a frozen norm may have."""
    norm = nn.BatchNorm2d(channels)
    norm.eps = eps
    return norm


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 around a shortcut, which is a convolution where shapes differ."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        *,
        stride: int,
        groups: int,
        stride_in_1x1: bool,
        dilation: int,
        norm_eps: float,
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride=first, bias=False)
        self.bn1 = _batch_norm(width, norm_eps)
        self.conv2 = nn.Conv2d(
            width, width, 3, stride=second, padding=dilation, dilation=dilation, groups=groups, bias=False
        )
        self.bn2 = _batch_norm(width, norm_eps)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = _batch_norm(out_channels, norm_eps)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, _batch_norm(out_channels, norm_eps))

    def forward(self, images: Tensor) -> Tensor:
        shortcut = images if self.downsample is None else self.downsample(images)
        map_ = self.relu(self.bn1(self.conv1(images)))
        map_ = self.relu(self.bn2(self.conv2(map_)))
        summed: Tensor = self.bn3(self.conv3(map_)) + shortcut
        return F.relu(summed, inplace=True)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is a convolution where shapes differ."""

    def __init__(self, in_channels: int, width: int, *, stride: int, dilation: int, norm_eps: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = _batch_norm(width, norm_eps)
        self.conv2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = _batch_norm(width, norm_eps)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != width:
            shortcut = nn.Conv2d(in_channels, width, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, _batch_norm(width, norm_eps))

    def forward(self, images: Tensor) -> Tensor:
        shortcut = images if self.downsample is None else self.downsample(images)
        summed: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(images))))) + shortcut
        return F.relu(summed, inplace=True)


def resnet_stage(name: str, stage: int, variant: ResNetVariant) -> nn.Sequential:
    """The blocks of one stage (2 gives C2, 5 gives C5), as a part of the backbone or as the head of a C4 detector."""
    stem, outs, widths, groups = stage_widths(name, variant)
    index = stage - 2
    dilated = stage == 5 and variant.dilated_c5
    in_channels = stem if index == 0 else outs[index - 1]
    norm_eps = 1e-5 if variant.norm_eps is None else variant.norm_eps
    blocks: list[nn.Module] = []
    for block in range((BLOCKS | BASIC)[name][index]):
        stride = 1 if block or stage == 2 or dilated else 2
        dilation = 2 if dilated else 1
        if name in BASIC:
            blocks.append(BasicBlock(in_channels, outs[index], stride=stride, dilation=dilation, norm_eps=norm_eps))
        else:
            blocks.append(
                Bottleneck(
                    in_channels,
                    widths[index],
                    outs[index],
                    stride=stride,
                    groups=groups,
                    dilation=dilation,
                    stride_in_1x1=variant.stride_in_1x1,
                    norm_eps=norm_eps,
                )
            )
        in_channels = outs[index]
    init_resnet(blocks)
    return nn.Sequential(*blocks)


def init_resnet(parts: Sequence[nn.Module]) -> None:
    """Initialise every convolution as torchvision does (He et al. 2015)."""
    for part in parts:
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class ResNet(nn.Module):
    """Maps of the wanted levels, by name, from images (B, 3, H, W); stages after the last of them are not built."""

    def __init__(self, name: str, levels: Sequence[str], variant: ResNetVariant) -> None:
        super().__init__()
        stem, *_ = stage_widths(name, variant)
        self.levels = tuple(levels)
        self.conv1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = _batch_norm(stem, 1e-5 if variant.norm_eps is None else variant.norm_eps)
        init_resnet([self.conv1])
        self.stages = range(2, 1 + max(int(level[1]) for level in levels))
        for stage in self.stages:
            self.add_module(f"layer{stage - 1}", resnet_stage(name, stage, variant))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        map_ = F.relu(self.bn1(self.conv1(images)), inplace=True)
        map_ = F.max_pool2d(map_, 3, stride=2, padding=1)
        maps = {}
        for stage in self.stages:
            map_ = self.get_submodule(f"layer{stage - 1}")(map_)
            maps[f"c{stage}"] = map_
        return {level: maps[level] for level in self.levels}
