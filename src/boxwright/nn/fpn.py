"""Feature pyramid (Lin et al. 2017): maps of one width at strides 8 to 32, and coarser ones to 128 when wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """P levels (B, C, h, w) from backbone maps: 1x1 laterals, top-down nearest upsampling, 3x3 outputs.

    Args:
        in_channels: channels of the backbone maps, finest first.
        channels: width of every level.
        extra_levels: 0, 1 or 2 coarser levels by stride-2 convolutions; the second follows ReLU of the first.
        extra_from: make the first extra level from the coarsest output ("p5", as the FCOS paper found better) or from
            the coarsest backbone map ("c5", RetinaNet).

    Upsampling goes to the exact size of the finer map, so any picture size works, odd ones too.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        *,
        extra_levels: int = 0,
        extra_from: Literal["p5", "c5"] = "p5",
    ) -> None:
        super().__init__()
        if extra_levels not in (0, 1, 2):
            raise ValueError(f"extra_levels: expected 0, 1 or 2, got {extra_levels}")
        self.extra_from = extra_from
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        first = channels if extra_from == "p5" else in_channels[-1]
        widths = [first, channels][:extra_levels]
        self.extras = nn.ModuleList(nn.Conv2d(width, channels, 3, stride=2, padding=1) for width in widths)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)  # as Detectron2 and torchvision: U(+-sqrt(3 / fan in))
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        merged = [lateral(map_) for lateral, map_ in zip(self.laterals, maps, strict=True)]
        for index in range(len(merged) - 2, -1, -1):
            upsampled = F.interpolate(merged[index + 1], size=merged[index].shape[-2:], mode="nearest")
            merged[index] = merged[index] + upsampled
        levels = [output(map_) for output, map_ in zip(self.outputs, merged, strict=True)]
        coarse = levels[-1] if self.extra_from == "p5" else maps[-1]
        for index, extra in enumerate(self.extras):
            coarse = extra(F.relu(coarse) if index else coarse)
            levels.append(coarse)
        return levels
