"""Semantic head: from the levels of a feature pyramid to one map of class logits at the finest level's stride.

Shape legend: B = images, C = channels of the pyramid, S = semantic classes, h w = height and width of a level. Source:
Kirillov, Girshick, He, Dollár, "Panoptic Feature Pyramid Networks", CVPR 2019, section 3 and figure 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.nn.norm import Norm, make_norm


class SemanticHead(nn.Module):
    """Each level is brought to the finest one's size in steps of two, all are added up, and a 1x1 convolution follows.

    A step is a 3x3 convolution, a norm, ReLU and bilinear upsampling by 2; level k takes k of them, and the finest one
    a convolution without upsampling.

    Args:
        num_levels: of the pyramid, finest first, each of half the size of the one before.
        channels: width of the convolutions.
        norm: after each 3x3 convolution, which then has no bias.
    """

    def __init__(self, in_channels: int, num_classes: int, num_levels: int, channels: int, norm: Norm) -> None:
        super().__init__()
        self.towers = nn.ModuleList()
        for level in range(num_levels):
            widths = [in_channels, *[channels] * max(1, level)]
            self.towers.append(nn.ModuleList(_step(width, after, norm) for width, after in pairwise(widths)))
        self.predictor = nn.Conv2d(channels, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Logits (B, S, h, w) float32 of levels (B, C, h, w), (B, C, h / 2, w / 2), ..."""
        total: Tensor | None = None
        for level, (map_, tower) in enumerate(zip(levels, self.towers, strict=True)):
            assert isinstance(tower, nn.ModuleList)
            for count, step in enumerate(tower):
                map_ = step(map_)
                if level:  # a level of odd size was rounded up: what is too much goes at the right and lower edge
                    height, width = levels[level - count - 1].shape[2:]
                    map_ = F.interpolate(map_, scale_factor=2.0, mode="bilinear", align_corners=False)
                    map_ = map_[:, :, :height, :width]
            total = map_ if total is None else total + map_
        logits: Tensor = self.predictor(total)
        return logits.float()


def _step(in_channels: int, channels: int, norm: Norm) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, channels, 3, padding=1, bias=norm == "none")
    return nn.Sequential(convolution, make_norm(norm, channels), nn.ReLU(inplace=True))
