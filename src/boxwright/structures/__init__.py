"""The records that cross folders: what an image holds, what a detector found, and a batch of pixels.

Shape legend: B = images, G = ground-truth boxes (of one image, or the padded maximum of a batch), D = detections,
R = proposals (likewise), K = classes, H W = height and width in pixels. Boxes are absolute (x1, y1, x2, y2) float32
without `+1`; labels lie in [0, K). Every record is checked when it is built, so that a wrong box cannot travel further
than the line that made it.
"""

from __future__ import annotations

from boxwright.structures.classes import Classes
from boxwright.structures.detect_settings import DetectSettings
from boxwright.structures.detections import Detections, ImageBatch, PaddedDetections
from boxwright.structures.ground_truth import GroundTruth
from boxwright.structures.losses import Losses
from boxwright.structures.masks import CroppedMask
from boxwright.structures.proposals import Proposals
from boxwright.structures.targets import Targets

__all__ = [
    "Classes",
    "CroppedMask",
    "DetectSettings",
    "Detections",
    "GroundTruth",
    "ImageBatch",
    "Losses",
    "PaddedDetections",
    "Proposals",
    "Targets",
]
