"""Feature pyramid (Lin et al. 2017): maps of one width from those of a backbone, and coarser ones when wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.nn.norm import Norm, make_norm

ExtraFrom = Literal["p5", "c5", "pool"]


class FeaturePyramid(nn.Module):
    """P levels (B, C, h, w) from backbone maps: 1x1 laterals, top-down nearest upsampling, 3x3 outputs.

    Args:
        in_channels: channels of the backbone maps, finest first.
        channels: width of every level.
        extra_levels: 0, 1 or 2 coarser levels by stride-2 convolutions; the second follows ReLU of the first.
        extra_from: make the first extra level from the coarsest output ("p5", as the FCOS paper found better), from
            the coarsest backbone map ("c5", RetinaNet), or take every other cell of the coarsest output ("pool", one
            level at most: P6 of the FPN paper, for proposals).
        norm: a norm after each lateral and output, whose convolutions then have no bias (torchvision's v2 detectors).

    Upsampling goes to the exact size of the finer map, so any picture size works, odd ones too.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        *,
        extra_levels: int = 0,
        extra_from: ExtraFrom = "p5",
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        most = 1 if extra_from == "pool" else 2
        if not 0 <= extra_levels <= most:
            raise ValueError(f"extra_levels: expected 0 to {most} from {extra_from}, got {extra_levels}")
        self.extra_from, self.pooled = extra_from, extra_levels if extra_from == "pool" else 0
        bias = norm == "none"
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1, bias=bias) for width in in_channels)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=bias) for _ in in_channels)
        self.lateral_norms = nn.ModuleList(make_norm(norm, channels) for _ in in_channels)
        self.output_norms = nn.ModuleList(make_norm(norm, channels) for _ in in_channels)
        first = in_channels[-1] if extra_from == "c5" else channels
        widths = [first, channels][: extra_levels - self.pooled]
        self.extras = nn.ModuleList(nn.Conv2d(width, channels, 3, stride=2, padding=1) for width in widths)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)  # as Detectron2 and torchvision: U(+-sqrt(3 / fan in))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        laterals = zip(self.laterals, self.lateral_norms, maps, strict=True)
        merged = [norm(lateral(map_)) for lateral, norm, map_ in laterals]
        for index in range(len(merged) - 2, -1, -1):
            upsampled = F.interpolate(merged[index + 1], size=merged[index].shape[-2:], mode="nearest")
            merged[index] = merged[index] + upsampled
        outputs = zip(self.outputs, self.output_norms, merged, strict=True)
        levels = [norm(output(map_)) for output, norm, map_ in outputs]
        if self.pooled:
            return [*levels, levels[-1][..., ::2, ::2]]
        coarse = maps[-1] if self.extra_from == "c5" else levels[-1]
        for index, extra in enumerate(self.extras):
            coarse = extra(F.relu(coarse) if index else coarse)
            levels.append(coarse)
        return levels
