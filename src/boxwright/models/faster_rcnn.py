"""Faster R-CNN: a proposal network and a box branch on the same maps, trained together.

Papers: Ren, He, Girshick, Sun, "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks",
NeurIPS 2015; Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017. The parts stand in
`proposal_network.py` and `box_branch.py`.

Shape legend: B = images, R = proposals, S = sampled regions. Boxes are absolute (x1, y1, x2, y2) in network pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from boxwright.models.box_branch import BoxSettings, RegionLogits, SampledRegions, box_branch, drawn
from boxwright.models.proposal_network import (
    AnchorOutputs,
    ProposalNetwork,
    ProposalSettings,
    check_anchors,
)
from boxwright.models.sections import BackboneSection, ChannelCompat, TrunkSection
from boxwright.ops.channels import channel_table, report_classes
from boxwright.structures import Detections, DetectSettings, ImageBatch, PaddedDetections, Proposals, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class FasterRCNNConfig:
    """What a Faster R-CNN is made of. The defaults are ResNet-50 with P2 to P6."""

    name: Literal["faster_rcnn"] = "faster_rcnn"
    """Which detector."""
    backbone: BackboneSection = BackboneSection()
    fpn: TrunkSection = TrunkSection()
    rpn: ProposalSettings = ProposalSettings()
    box: BoxSettings = BoxSettings()
    compat: ChannelCompat = ChannelCompat()

    def __post_init__(self) -> None:
        check_anchors(self.fpn, self.rpn.pooled_level, self.rpn.anchor_sizes)


class FasterRCNNOutputs(NamedTuple):
    """One forward pass: proposals to detect in and, where targets were given, the sampled regions to learn from."""

    levels: tuple[Tensor, ...]  # (B, C, h, w) each; regions are pooled from the finer ones
    anchors: AnchorOutputs
    proposals: Proposals  # not sampled, and without ground truth among them
    sizes_hw: Tensor  # (B, 2) of the images within the batch
    sampled: SampledRegions | None
    sampled_logits: RegionLogits | None


class FasterRCNN(nn.Module):
    """The detector; see `DetectionModel` for what its methods promise."""

    def __init__(self, config: FasterRCNNConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        table = channel_table(num_classes, config.compat.class_channels)
        self.trunk = config.fpn.build(config.backbone, pooled_level=config.rpn.pooled_level)
        self.rpn = ProposalNetwork(config.rpn, self.trunk.channels, self.trunk.strides, config.compat.pad_multiple)
        stage = config.backbone.build_stage_head() if config.box.stage_head else None
        self.box = box_branch(config.box, len(table), self.trunk, stage)
        for name, value in (
            ("pixel_mean", torch.tensor(config.backbone.pixel_mean)),
            ("pixel_std", torch.tensor(config.backbone.pixel_std)),
            ("class_of_channel", table),
            ("channel_of_class", torch.tensor(config.compat.class_channels or range(len(table)))),
        ):
            self.register_buffer(name, value, persistent=False)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.class_of_channel: Tensor
        self.channel_of_class: Tensor

    def forward(self, images: ImageBatch, targets: Targets | None = None, proposals: None = None) -> FasterRCNNOutputs:
        """Maps and proposals of a batch; with targets, also logits of regions drawn to learn from."""
        levels = self.trunk(images.normalised(self.pixel_mean, self.pixel_std, self.config.compat.pad_multiple))
        anchors = self.rpn(levels, images, targets)
        rpn = self.config.rpn
        found = self.rpn.propose(
            anchors,
            rpn.train_candidates if self.training else rpn.test_candidates,
            rpn.train_proposals if self.training else rpn.test_proposals,
            rpn.nms_iou,
            per_level=rpn.per_level,
        )
        sampled, logits = None, None
        if targets is not None:
            sampled = self.box.sample(found, replace(targets, labels=self.channel_of_class[targets.labels]))
            logits = self.box(levels, sampled.boxes, sampled.level)
        return FasterRCNNOutputs(tuple(levels), anchors, found, images.sizes_hw, sampled, logits)

    def loss(self, outputs: FasterRCNNOutputs, targets: Targets) -> dict[str, Tensor]:
        """Losses "objectness", "proposal_box", "classification" and "box" of a forward pass given the same targets."""
        return {**self.rpn.loss(outputs.anchors), **self.box.loss(*drawn(outputs.sampled, outputs.sampled_logits))}

    def detect_padded(self, outputs: FasterRCNNOutputs, settings: DetectSettings) -> PaddedDetections:
        """The best detections of each image in network pixels: all its proposals classified, refined, NMS."""
        logits = self.box(outputs.levels, outputs.proposals.boxes, self.box.level_of(outputs.proposals))
        found = self.box.select(outputs.proposals, logits, outputs.sizes_hw, settings)
        if self.config.compat.class_channels is None:
            return found
        return PaddedDetections(
            *report_classes(found.boxes, found.scores, found.labels, found.counts, self.class_of_channel)
        )

    def detect(self, outputs: FasterRCNNOutputs, images: ImageBatch, settings: DetectSettings) -> list[Detections]:
        """Detections of each image, in the coordinates of the original images."""
        return self.detect_padded(outputs, settings).restore(images)
