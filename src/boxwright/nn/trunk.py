"""The trunk of a two-stage detector: a backbone and, usually, a feature pyramid; maps that regions are pooled from."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from boxwright.nn.backbones import TORCHVISION_RESNET, Backbone, FeaturePyramid
from boxwright.nn.norm import Norm
from boxwright.nn.resnet import ResNetVariant


class Trunk(nn.Module):
    """Maps (B, C, h, w) from normalised pixels, finest first; `strides` and `channels` say what they are.

    Args:
        backbone, levels, weights, norm, frozen_stages, variant: as in `Backbone`.
        fpn_channels: width of the pyramid's levels; None for the backbone's one map as it is (C4, DC5).
        pooled_level: one level more (P6) for large proposals: every other cell of the coarsest.
        fpn_norm: as in `FeaturePyramid`.
    """

    def __init__(
        self,
        backbone: str,
        levels: Sequence[str],
        *,
        weights: str | None = None,
        norm: Norm = "frozen_bn",
        frozen_stages: int = 2,
        variant: ResNetVariant = TORCHVISION_RESNET,
        fpn_channels: int | None = 256,
        pooled_level: bool = True,
        fpn_norm: Norm = "none",
    ) -> None:
        super().__init__()
        if fpn_channels is None and len(levels) != 1:
            raise ValueError(f"levels: expected one without a pyramid (fpn_channels: null), got {list(levels)}")
        self.backbone = Backbone(
            backbone, levels, weights=weights, norm=norm, frozen_stages=frozen_stages, variant=variant
        )
        self.fpn: FeaturePyramid | None = None
        self.strides, self.channels = list(self.backbone.strides), self.backbone.channels[-1]
        self.num_pooled = len(levels)
        """How many of the maps, from the finest on, regions are pooled from."""
        if fpn_channels is not None:
            self.fpn = FeaturePyramid(
                self.backbone.channels, fpn_channels, extra_levels=int(pooled_level), extra_from="pool", norm=fpn_norm
            )
            self.strides = self.strides + [2 * self.strides[-1]] * pooled_level
            self.channels = fpn_channels

    def forward(self, pixels: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.backbone(pixels)
        return maps if self.fpn is None else self.fpn(maps)
