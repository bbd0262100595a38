"""The trunk of a two-stage detector: a backbone and, usually, a feature pyramid; maps that regions are pooled from."""

from __future__ import annotations

from torch import Tensor, nn

from boxwright.nn.backbones import Backbone, FeaturePyramid
from boxwright.nn.norm import Norm


class Trunk(nn.Module):
    """Maps (B, C, h, w) from normalised pixels, finest first; `strides` and `channels` say what they are.

    Args:
        backbone: gives the maps, finest first.
        channels: width of the pyramid's levels; None for the backbone's one map as it is (C4, DC5).
        pooled_level: a level more, every other cell of the coarsest, for large proposals (P6).
        norm: as in `FeaturePyramid`.
    """

    def __init__(self, backbone: Backbone, *, channels: int | None, pooled_level: bool, norm: Norm = "none") -> None:
        super().__init__()
        self.backbone = backbone
        self.fpn: FeaturePyramid | None = None
        self.strides, self.channels = list(backbone.strides), backbone.channels[-1]
        self.num_pooled = len(backbone.levels)
        """How many of the maps, from the finest, regions are pooled from."""
        if channels is not None:
            self.fpn = FeaturePyramid(
                backbone.channels, channels, extra_levels=int(pooled_level), extra_from="pool", norm=norm
            )
            self.strides = self.strides + [2 * self.strides[-1]] * pooled_level
            self.channels = channels

    def forward(self, pixels: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.backbone(pixels)
        return maps if self.fpn is None else self.fpn(maps)
