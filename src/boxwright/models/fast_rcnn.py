"""Fast R-CNN: a backbone, a pyramid and the box branch, on proposals that are stored in a file.

Paper: Girshick, "Fast R-CNN", ICCV 2015. The branch stands in `box_branch.py`.

Shape legend: B = images, R = proposals, K = classes. Boxes are absolute (x1, y1, x2, y2) in network pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from boxwright.models.box_branch import BoxSettings, RegionLogits, SampledRegions, box_branch, drawn
from boxwright.models.sections import BackboneSection, PaddingCompat, TrunkSection
from boxwright.ops.select import clip_boxes
from boxwright.structures import Detections, DetectSettings, ImageBatch, PaddedDetections, Proposals, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class FastRCNNConfig:
    """What a Fast R-CNN is made of. The defaults are ResNet-50 with P2 to P5."""

    name: Literal["fast_rcnn"] = "fast_rcnn"
    """Which detector."""
    backbone: BackboneSection = BackboneSection()
    fpn: TrunkSection = TrunkSection()
    box: BoxSettings = BoxSettings()
    compat: PaddingCompat = PaddingCompat()

    def __post_init__(self) -> None:
        if self.box.pool_from == "source":
            raise ValueError("box.pool_from: stored proposals come from no level; expected size, got source")


class FastRCNNOutputs(NamedTuple):
    """Maps and proposals to detect in and, where targets were given, the sampled regions that the loss is made of."""

    levels: tuple[Tensor, ...]  # (B, C, h, w) each
    proposals: Proposals
    sizes_hw: Tensor  # (B, 2) of the images within the batch
    sampled: SampledRegions | None
    sampled_logits: RegionLogits | None


class FastRCNN(nn.Module):
    """The detector; see `DetectionModel` for what its methods promise. Proposals are given, and not learnt."""

    def __init__(self, config: FastRCNNConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.trunk = config.fpn.build(config.backbone, pooled_level=False)
        stage = config.backbone.build_stage_head() if config.box.stage_head else None
        self.box = box_branch(config.box, num_classes, self.trunk, stage)
        for name, value in (("pixel_mean", config.backbone.pixel_mean), ("pixel_std", config.backbone.pixel_std)):
            self.register_buffer(name, torch.tensor(value), persistent=False)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor

    def forward(
        self, images: ImageBatch, targets: Targets | None = None, proposals: Proposals | None = None
    ) -> FastRCNNOutputs:
        """Maps of a batch with its proposals; with targets, also logits of regions drawn to learn from."""
        if proposals is None:
            raise ValueError("Fast R-CNN finds no regions itself: give it proposals, as a file with --proposals FILE")
        levels = self.trunk(images.normalised(self.pixel_mean, self.pixel_std, self.config.compat.pad_multiple))
        proposals = replace(proposals, boxes=clip_boxes(proposals.boxes, images.sizes_hw))
        sampled, logits = None, None
        if targets is not None:
            sampled = self.box.sample(proposals, targets)
            logits = self.box(levels, sampled.boxes, sampled.level)
        return FastRCNNOutputs(tuple(levels), proposals, images.sizes_hw, sampled, logits)

    def loss(self, outputs: FastRCNNOutputs, targets: Targets) -> dict[str, Tensor]:
        """Losses "classification" and "box" of a forward pass that was given the same targets."""
        return self.box.loss(*drawn(outputs.sampled, outputs.sampled_logits))

    def detect_padded(self, outputs: FastRCNNOutputs, settings: DetectSettings) -> PaddedDetections:
        """The best detections of each image in network pixels: all its proposals classified, refined, NMS."""
        logits = self.box(outputs.levels, outputs.proposals.boxes, self.box.level_of(outputs.proposals))
        return self.box.select(outputs.proposals, logits, outputs.sizes_hw, settings)

    def detect(self, outputs: FastRCNNOutputs, images: ImageBatch, settings: DetectSettings) -> list[Detections]:
        """Detections of each image, in the coordinates of the original images."""
        return self.detect_padded(outputs, settings).restore(images)
