"""Faster R-CNN: a proposal network and a box branch on the same maps, trained together.

Papers: Ren, He, Girshick, Sun, "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks",
NeurIPS 2015; Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017. The parts stand in
`proposal_network.py` and `box_branch.py`; the presets are what references differ in.

Shape legend: B = images, R = proposals, S = sampled regions. Boxes are absolute (x1, y1, x2, y2) in network pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from boxwright.models.box_branch import PYRAMID_BOXES, BoxSettings, RegionLogits, SampledRegions, box_branch, drawn
from boxwright.models.proposal_network import (
    PYRAMID_PROPOSALS,
    AnchorOutputs,
    ProposalNetwork,
    ProposalSettings,
    check_trunk,
)
from boxwright.nn.backbones import TORCHVISION_RESNET
from boxwright.nn.box_head import StageHead
from boxwright.nn.norm import Norm
from boxwright.nn.resnet import ResNetVariant
from boxwright.nn.trunk import Trunk
from boxwright.ops.channels import channel_table, report_classes
from boxwright.structures import Detections, DetectSettings, ImageBatch, PaddedDetections, Proposals, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class FasterRCNNConfig:
    """What a Faster R-CNN is made of. The defaults are ResNet-50 with P2 to P6."""

    num_classes: int
    backbone: str = "resnet50"
    backbone_weights: str | None = None
    backbone_norm: Norm = "frozen_bn"
    backbone_variant: ResNetVariant = TORCHVISION_RESNET
    frozen_stages: int = 2
    """Stem and C2 are not trained (Detectron2's FREEZE_AT 2)."""
    levels: tuple[str, ...] = ("c2", "c3", "c4", "c5")
    """Maps of the backbone, finest first; one of them without a pyramid."""
    fpn_channels: int | None = 256
    """Width of the pyramid; null for none, as with C4 and DC5."""
    fpn_norm: Norm = "none"
    """After each convolution of the pyramid ("bn" in torchvision's v2)."""
    pooled_level: bool = True
    """P6, every other cell of P5, for the anchors of large objects."""
    rpn: ProposalSettings = PYRAMID_PROPOSALS
    box: BoxSettings = PYRAMID_BOXES
    class_channels: tuple[int, ...] | None = None
    """The output channel of each class, where a checkpoint has more of them than classes (torchvision's 91)."""
    pad_multiple: int = 1
    """Batches are padded to sides of this multiple: 32 in Detectron2 (with a pyramid) and torchvision."""
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes: expected at least 1, got {self.num_classes}")
        check_trunk(self.levels, self.fpn_channels, self.pooled_level, self.rpn)
        channel_table(self.num_classes, self.class_channels)


_ONE_LEVEL = ((32.0, 64.0, 128.0, 256.0, 512.0),)

DETECTRON2: dict[str, Any] = {
    "rpn": ProposalSettings(anchor_grid="corner", normaliser="nominal"),
    "box": BoxSettings(),
}
"""Detectron2's `faster_rcnn_R_50_FPN_1x`."""

TORCHVISION: dict[str, Any] = {
    "rpn": ProposalSettings(
        anchor_grid="torchvision", anchors_rounded=True, beta=1 / 9, min_side=0.001, train_proposals=2000
    ),
    "box": BoxSettings(pool_sampling=2, pool_aligned=False, level_slack=1e-6, beta=1 / 9, min_side=0.01),
}
"""torchvision's `fasterrcnn_resnet50_fpn`."""

C4: dict[str, Any] = {
    "levels": ("c4",),
    "fpn_channels": None,
    "pooled_level": False,
    "rpn": ProposalSettings(
        stem_channels=(1024,), anchor_sizes=_ONE_LEVEL, train_candidates=12000, test_candidates=6000,
        train_proposals=2000, test_proposals=1000,
    ),
    "box": BoxSettings(stage_head=True, pool_size=14),
}  # fmt: skip
"""The original: regions are pooled from C4, and the last stage of the ResNet is their head."""

DC5: dict[str, Any] = {
    "backbone_variant": ResNetVariant(dilated_c5=True),
    "levels": ("c5",),
    "fpn_channels": None,
    "pooled_level": False,
    "rpn": ProposalSettings(
        stem_channels=(2048,), anchor_sizes=_ONE_LEVEL, train_candidates=12000, test_candidates=6000,
        train_proposals=2000, test_proposals=1000,
    ),
}  # fmt: skip
"""One map of stride 16: C5, dilated instead of halved."""

COURSE: dict[str, Any] = {
    "backbone": "regnet_x_400mf",
    "backbone_norm": "bn",
    "frozen_stages": 0,
    "levels": ("c3", "c4", "c5"),
    "fpn_channels": 64,
    "pooled_level": False,
    "rpn": ProposalSettings(
        stem_channels=(64,), anchor_sizes=((64,), (128,), (256,)), positive_iou=0.6, low_quality=False, samples=32,
        train_candidates=400, test_candidates=400, train_proposals=100, test_proposals=100, per_level=True,
    ),
    "box": BoxSettings(
        conv_channels=(64, 64), fc_channels=(), pool_from="source", canonical_level=5, samples=32, regression="none",
        multi_label=False,
    ),
}  # fmt: skip
"""Seed 002, corrected: rows keep their order in a batch (39), offsets are left as they are (40)."""


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

    def __init__(self, config: FasterRCNNConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(
            config.backbone, config.levels, weights=config.backbone_weights, norm=config.backbone_norm,
            variant=config.backbone_variant, frozen_stages=config.frozen_stages, fpn_channels=config.fpn_channels,
            pooled_level=config.pooled_level, fpn_norm=config.fpn_norm,
        )  # fmt: skip
        self.rpn = ProposalNetwork(config.rpn, self.trunk.channels, self.trunk.strides, config.pad_multiple)
        stage = None
        if config.box.stage_head:
            stage = StageHead(
                config.backbone, config.backbone_variant, config.backbone_norm, config.backbone_weights
            )  # fmt: skip
        table = channel_table(config.num_classes, config.class_channels)
        self.box = box_branch(config.box, len(table), self.trunk, stage)
        for name, value in (
            ("pixel_mean", torch.tensor(config.pixel_mean)),
            ("pixel_std", torch.tensor(config.pixel_std)),
            ("class_of_channel", table),
            ("channel_of_class", torch.tensor(config.class_channels or range(len(table)))),
        ):
            self.register_buffer(name, value, persistent=False)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.class_of_channel: Tensor
        self.channel_of_class: Tensor

    def forward(self, images: ImageBatch, targets: Targets | None = None, proposals: None = None) -> FasterRCNNOutputs:
        """Maps and proposals of a batch; with targets, also logits of regions drawn to learn from."""
        levels = self.trunk(images.normalised(self.pixel_mean, self.pixel_std, self.config.pad_multiple))
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
        if self.config.class_channels is None:
            return found
        return PaddedDetections(
            *report_classes(found.boxes, found.scores, found.labels, found.counts, self.class_of_channel)
        )

    def detect(self, outputs: FasterRCNNOutputs, images: ImageBatch, settings: DetectSettings) -> list[Detections]:
        """Detections of each image, in the coordinates of the original images."""
        return self.detect_padded(outputs, settings).restore(images)
