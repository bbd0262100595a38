"""Box heads: from the pooled map of a region to the vector that its class and box are predicted from.

Shape legend: R = regions, C = channels of the map, s = its side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.nn.norm import Norm, make_norm, replace_batch_norm
from boxwright.nn.resnet import ResNetVariant, resnet_stage, stage_widths


class BoxHead(nn.Module):
    """3x3 convolutions, then fully connected layers, each with ReLU: (R, C, s, s) to (R, `channels`).

    A norm stands after each convolution, which then has no bias (torchvision's v2). Without fully connected layers the
    convolutions' map is flattened as it is (the course).
    """

    def __init__(
        self, in_channels: int, size: int, conv_channels: Sequence[int], fc_channels: Sequence[int], norm: Norm = "none"
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in conv_channels:
            convolution = nn.Conv2d(in_channels, width, 3, padding=1, bias=norm == "none")
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
            layers += [convolution, *([] if norm == "none" else [make_norm(norm, width)]), nn.ReLU(inplace=True)]
            in_channels = width
        self.convolutions = nn.Sequential(*layers)
        self.channels = in_channels * size**2
        self.layers = nn.ModuleList()
        for width in fc_channels:
            layer = nn.Linear(self.channels, width)
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
            self.layers.append(layer)
            self.channels = width

    def forward(self, pooled: Tensor) -> Tensor:
        vector: Tensor = self.convolutions(pooled).flatten(1)
        for layer in self.layers:
            vector = F.relu(layer(vector))
        return vector


class StageHead(nn.Module):
    """The last stage of a ResNet over each region and the mean over its map: (R, C, s, s) to (R, `channels`).

    It is the head of detectors on C4, whose backbone ends before that stage (Faster R-CNN, section 3.2).
    """

    def __init__(self, backbone: str, variant: ResNetVariant, norm: Norm) -> None:
        super().__init__()
        self.stage = resnet_stage(backbone, 5, variant)
        replace_batch_norm(self.stage, norm)
        self.channels = stage_widths(backbone, variant)[1][-1]

    def forward(self, pooled: Tensor) -> Tensor:
        return self.maps(pooled).mean((2, 3))

    def maps(self, pooled: Tensor) -> Tensor:
        """The stage's maps (R, `channels`, s / 2, s / 2), which a mask head is applied to."""
        found: Tensor = self.stage(pooled)
        return found
