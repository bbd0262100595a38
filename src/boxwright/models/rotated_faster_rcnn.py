"""Rotated Faster R-CNN: a Faster R-CNN whose anchors, proposals and detections have an angle.

Paper: Ma et al., "Arbitrary-Oriented Scene Text Detection via Rotation Proposals", IEEE Transactions on Multimedia
2018; the numbers are those of Detectron2's `RRPN` and `RROIHeads`. It is `faster_rcnn.py` on parts of its own:
`rotated_proposal_network.py` and `rotated_box_branch.py`.

Shape legend: B = images, R = proposals, S = sampled regions. Boxes are (cx, cy, w, h, degrees) in network pixels, see
`ops.rotated`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from boxwright.models.box_branch import drawn
from boxwright.models.faster_rcnn import FasterRCNNOutputs
from boxwright.models.proposal_network import check_anchors
from boxwright.models.rotated_box_branch import RotatedBoxBranch, RotatedBoxSettings
from boxwright.models.rotated_proposal_network import RotatedProposalNetwork, RotatedProposalSettings
from boxwright.models.sections import BackboneSection, PaddingCompat, TrunkSection
from boxwright.structures import Detections, DetectSettings, ImageBatch, PaddedDetections, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class RotatedFasterRCNNConfig:
    """What a rotated Faster R-CNN is made of. The defaults are ResNet-50 with P2 to P6."""

    name: Literal["rotated_faster_rcnn"] = "rotated_faster_rcnn"
    """Which detector."""
    backbone: BackboneSection = BackboneSection()
    fpn: TrunkSection = TrunkSection()
    rpn: RotatedProposalSettings = RotatedProposalSettings()
    box: RotatedBoxSettings = RotatedBoxSettings()
    compat: PaddingCompat = PaddingCompat()

    def __post_init__(self) -> None:
        check_anchors(self.fpn, self.rpn.pooled_level, self.rpn.anchor_sizes)


class RotatedFasterRCNN(nn.Module):
    """The detector; see `DetectionModel` for what its methods promise. Its detections have `rotated` boxes."""

    def __init__(self, config: RotatedFasterRCNNConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.trunk = config.fpn.build(config.backbone, pooled_level=config.rpn.pooled_level)
        self.rpn = RotatedProposalNetwork(config.rpn, self.trunk.channels, self.trunk.strides)
        pooled_strides = self.trunk.strides[: self.trunk.num_pooled]
        self.box = RotatedBoxBranch(config.box, num_classes, self.trunk.channels, pooled_strides)
        for name, value in (("pixel_mean", config.backbone.pixel_mean), ("pixel_std", config.backbone.pixel_std)):
            self.register_buffer(name, torch.tensor(value), persistent=False)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor

    def forward(self, images: ImageBatch, targets: Targets | None = None, proposals: None = None) -> FasterRCNNOutputs:
        """Maps and proposals of a batch; with targets, also logits of regions drawn to learn from."""
        levels = self.trunk(images.normalised(self.pixel_mean, self.pixel_std, self.config.compat.pad_multiple))
        anchors = self.rpn(levels, images, targets)
        rpn = self.config.rpn
        found = self.rpn.propose(
            anchors,
            rpn.train_candidates if self.training else rpn.test_candidates,
            rpn.train_proposals if self.training else rpn.test_proposals,
        )
        sampled, logits = None, None
        if targets is not None:
            sampled = self.box.sample(found, targets)
            logits = self.box(levels, sampled.boxes)
        return FasterRCNNOutputs(tuple(levels), anchors, found, images.sizes_hw, sampled, logits)

    def loss(self, outputs: FasterRCNNOutputs, targets: Targets) -> dict[str, Tensor]:
        """Losses "objectness", "proposal_box", "classification" and "box" of a forward pass given the same targets."""
        return {**self.rpn.loss(outputs.anchors), **self.box.loss(*drawn(outputs.sampled, outputs.sampled_logits))}

    def detect_padded(self, outputs: FasterRCNNOutputs, settings: DetectSettings) -> PaddedDetections:
        """The best detections of each image in network pixels: all its proposals classified, refined, NMS."""
        logits = self.box(outputs.levels, outputs.proposals.boxes)
        return self.box.select(outputs.proposals, logits, outputs.sizes_hw, settings)

    def detect(self, outputs: FasterRCNNOutputs, images: ImageBatch, settings: DetectSettings) -> list[Detections]:
        """Detections of each image with their rotated boxes, in the coordinates of the original images."""
        return self.detect_padded(outputs, settings).restore(images)
