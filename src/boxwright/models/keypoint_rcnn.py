"""Keypoint R-CNN: a Faster R-CNN and a keypoint branch on the same maps, trained together.

Paper: He, Gkioxari, Dollár, Girshick, "Mask R-CNN", ICCV 2017, section 5. The detector stands in `faster_rcnn.py`, the
branch in `keypoint_branch.py`; keypoints are learnt in the positive regions of the box branch's sample and predicted in
final detections.

Shape legend: B = images, R = regions, K = keypoints. Boxes are absolute (x1, y1, x2, y2) in network pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor, nn

from boxwright.models.box_branch import BoxSettings
from boxwright.models.faster_rcnn import FasterRCNN, FasterRCNNConfig, FasterRCNNOutputs
from boxwright.models.keypoint_branch import KeypointBranch, KeypointRegions, KeypointSettings
from boxwright.models.proposal_network import ProposalSettings
from boxwright.models.sections import BackboneSection, ChannelCompat, TrunkSection
from boxwright.structures import Detections, DetectSettings, ImageBatch, PaddedDetections, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class KeypointRCNNConfig:
    """What a Keypoint R-CNN is made of: the sections of its Faster R-CNN, and its keypoint branch."""

    name: Literal["keypoint_rcnn"] = "keypoint_rcnn"
    """Which detector."""
    backbone: BackboneSection = BackboneSection()
    fpn: TrunkSection = TrunkSection()
    rpn: ProposalSettings = ProposalSettings()
    box: BoxSettings = BoxSettings()
    keypoint: KeypointSettings = KeypointSettings()
    compat: ChannelCompat = ChannelCompat()

    def __post_init__(self) -> None:
        _ = self.detector  # whose sections must go together
        if self.box.stage_head:
            raise ValueError("box.stage_head: keypoints are pooled from the maps themselves; use a head of layers")

    @property
    def detector(self) -> FasterRCNNConfig:
        """The config of the Faster R-CNN that it holds."""
        return FasterRCNNConfig(
            backbone=self.backbone, fpn=self.fpn, rpn=self.rpn, box=self.box, compat=self.compat
        )  # fmt: skip


class KeypointRCNNOutputs(NamedTuple):
    """A forward pass of the detector and, where ground truth was given, regions whose keypoints are learnt."""

    detector: FasterRCNNOutputs
    keypoint_regions: KeypointRegions | None


class KeypointRCNN(nn.Module):
    """The detector; see `DetectionModel` for what its methods promise."""

    def __init__(self, config: KeypointRCNNConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.detector = FasterRCNN(config.detector, num_classes)
        trunk = self.detector.trunk
        self.keypoint = KeypointBranch(config.keypoint, trunk.channels, trunk.strides[: trunk.num_pooled])

    def forward(
        self, images: ImageBatch, targets: Targets | None = None, proposals: None = None
    ) -> KeypointRCNNOutputs:
        """Maps and proposals of a batch; with targets, also heatmaps of regions drawn to learn from."""
        outputs = self.detector(images, targets)
        regions = None
        if targets is not None:
            sampled = outputs.sampled
            regions = self.keypoint.learn(outputs.levels, sampled.boxes, sampled.owner, targets)
        return KeypointRCNNOutputs(outputs, regions)

    def loss(self, outputs: KeypointRCNNOutputs, targets: Targets) -> dict[str, Tensor]:
        """The detector's losses and "keypoint", of a forward pass that was given the same targets."""
        losses: dict[str, Tensor] = self.detector.loss(outputs.detector, targets)
        assert outputs.keypoint_regions is not None  # the detector has seen to it
        return losses | self.keypoint.loss(outputs.keypoint_regions)

    def detect_padded(self, outputs: KeypointRCNNOutputs, settings: DetectSettings) -> PaddedDetections:
        """The best detections of each image in network pixels, and the heatmaps over each."""
        found = self.detector.detect_padded(outputs.detector, settings)
        return self.keypoint.add_heatmaps(found, outputs.detector.levels)

    def detect(self, outputs: KeypointRCNNOutputs, images: ImageBatch, settings: DetectSettings) -> list[Detections]:
        """Detections of each image with their keypoints, in the coordinates of the original images."""
        return self.detect_padded(outputs, settings).restore(images)
