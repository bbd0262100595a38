"""Semantic FPN: a backbone, a pyramid and the semantic branch; a label for each pixel, and no objects.

Paper: Kirillov, Girshick, He, Dollár, "Panoptic Feature Pyramid Networks", CVPR 2019, section 3. The branch stands in
`semantic_branch.py`.

Shape legend: B = images, S = semantic classes, h w = height and width of the finest map (stride 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from boxwright.models.sections import BackboneSection, PaddingCompat, TrunkSection
from boxwright.models.semantic_branch import SemanticBranch, SemanticSettings, check_pyramid, no_detections
from boxwright.structures import Detections, DetectSettings, ImageBatch, PaddedDetections, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class SemanticFPNConfig:
    """What a Semantic FPN is made of. The defaults are ResNet-50 with P2 to P5."""

    name: Literal["semantic_fpn"] = "semantic_fpn"
    """Which model."""
    backbone: BackboneSection = BackboneSection()
    fpn: TrunkSection = TrunkSection()
    semantic: SemanticSettings = SemanticSettings()
    compat: PaddingCompat = PaddingCompat()

    def __post_init__(self) -> None:
        check_pyramid(self.fpn)


class SemanticFPNOutputs(NamedTuple):
    """A forward pass: logits (B, S, h, w) at stride 4."""

    logits: Tensor


class SemanticFPN(nn.Module):
    """The model; see `DetectionModel` for what its methods promise. It detects nothing, and labels every pixel."""

    def __init__(self, config: SemanticFPNConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes  # of objects, which it does not look for
        self.trunk = config.fpn.build(config.backbone, pooled_level=False)
        self.semantic = SemanticBranch(config.semantic, self.trunk.channels, len(self.trunk.strides))
        for name, value in (("pixel_mean", config.backbone.pixel_mean), ("pixel_std", config.backbone.pixel_std)):
            self.register_buffer(name, torch.tensor(value), persistent=False)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor

    def forward(
        self, images: ImageBatch, targets: Targets | None = None, proposals: None = None
    ) -> SemanticFPNOutputs:  # fmt: skip
        """Logits of a batch."""
        pixels = images.normalised(self.pixel_mean, self.pixel_std, self.config.compat.pad_multiple)
        return SemanticFPNOutputs(self.semantic(self.trunk(pixels)))

    def loss(self, outputs: SemanticFPNOutputs, targets: Targets) -> dict[str, Tensor]:
        """Loss "semantic" of a forward pass."""
        return self.semantic.loss(outputs.logits, targets)

    def detect_padded(self, outputs: SemanticFPNOutputs, settings: DetectSettings) -> PaddedDetections:
        """No detections, and the logits."""
        return no_detections(outputs.logits, settings.max_detections)

    def detect(self, outputs: SemanticFPNOutputs, images: ImageBatch, settings: DetectSettings) -> list[Detections]:
        """The semantic map of each image, at the pixels of the original image, and zero boxes."""
        return self.detect_padded(outputs, settings).restore(images)
