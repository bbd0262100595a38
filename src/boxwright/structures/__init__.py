"""The records that pass between folders: ground truth, detections, proposals, and batches of images and targets.

Shape legend: B = images, G = ground-truth boxes (of one image, or the padded maximum of a batch), D = detections,
R = proposals (likewise), K = classes, H W = height and width in pixels. Boxes are absolute (x1, y1, x2, y2) float32
without `+1`; labels are in [0, K). Every record is checked when it is built, so that a wrong box is reported by the
line that made it.
"""

from __future__ import annotations

from boxwright.structures.classes import Classes
from boxwright.structures.detect_settings import DetectSettings
from boxwright.structures.detection import Detection
from boxwright.structures.detections import Detections, ImageBatch, PaddedDetections
from boxwright.structures.ground_truth import GroundTruth, GroundTruthObject
from boxwright.structures.losses import Losses
from boxwright.structures.masks import CroppedMask
from boxwright.structures.panoptic import Panoptic, PanopticSegment, PanopticSettings
from boxwright.structures.proposals import Proposals
from boxwright.structures.skeleton import Skeleton
from boxwright.structures.targets import Targets

__all__ = [
    "Classes",
    "CroppedMask",
    "DetectSettings",
    "Detection",
    "Detections",
    "GroundTruth",
    "GroundTruthObject",
    "ImageBatch",
    "Losses",
    "PaddedDetections",
    "Panoptic",
    "PanopticSegment",
    "PanopticSettings",
    "Proposals",
    "Skeleton",
    "Targets",
]
