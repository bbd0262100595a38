"""Mask head: from the pooled map of a region to the logits of one class's mask, at twice its side.

Shape legend: R = regions, C = channels of the map, s = its side, K = classes. Source: Mask R-CNN (He et al. 2017),
figure 4, right.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.nn.norm import Norm, make_norm


class MaskHead(nn.Module):
    """3x3 convolutions, a 2x2 transposed convolution of stride 2, and a 1x1 convolution with one channel a class.

    A norm stands after each 3x3 convolution, which then has no bias (torchvision's v2).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        conv_channels: Sequence[int],
        upsampled_channels: int,
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in conv_channels:
            layers.append(nn.Conv2d(in_channels, width, 3, padding=1, bias=norm == "none"))
            layers += [*([] if norm == "none" else [make_norm(norm, width)]), nn.ReLU(inplace=True)]
            in_channels = width
        self.convolutions = nn.Sequential(*layers)
        self.upsampled = nn.ConvTranspose2d(in_channels, upsampled_channels, 2, stride=2)
        self.predictor = nn.Conv2d(upsampled_channels, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.predictor.weight, std=0.001)

    def forward(self, pooled: Tensor, channels: Tensor) -> Tensor:
        """Logits (R, 2 s, 2 s) of each region (R, C, s, s) for its own channel (R,).

        The other channels are never computed: with many classes they would cost more than the rest of the head.
        """
        features = F.relu(self.upsampled(self.convolutions(pooled)))
        weight = self.predictor.weight[:, :, 0, 0][channels]  # (R, C)
        logits: Tensor = torch.bmm(weight[:, None], features.flatten(2)).reshape(-1, *features.shape[2:])
        if self.predictor.bias is not None:
            logits = logits + self.predictor.bias[channels][:, None, None]
        return logits.float()
