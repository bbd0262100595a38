"""Keypoint head: from the pooled map of a region to one heatmap a keypoint, at four times its side.

Shape legend: R = regions, C = channels of the map, s = its side, K = keypoints. Source: Mask R-CNN (He et al. 2017),
section 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class KeypointHead(nn.Module):
    """3x3 convolutions with ReLU, a 4x4 transposed convolution of stride 2, and bilinear upsampling by 2."""

    def __init__(self, in_channels: int, num_keypoints: int, conv_channels: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in conv_channels:
            layers += [nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            in_channels = width
        self.convolutions = nn.Sequential(*layers)
        self.predictor = nn.ConvTranspose2d(in_channels, num_keypoints, 4, stride=2, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Heatmaps (R, K, 4 s, 4 s), logits, of pooled maps (R, C, s, s)."""
        logits = self.predictor(self.convolutions(pooled)).float()
        return F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)
