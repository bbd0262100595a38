"""The records that cross folders: what a picture holds, what a detector found, and a batch of pixels.

Shape legend: B = images, G = ground-truth boxes (of one picture, or the padded maximum of a batch), D = detections,
R = proposals (likewise), K = classes, H W = height and width in pixels. Boxes are absolute (x1, y1, x2, y2) float32
without `+1`; labels lie in [0, K). Every record is checked when it is built, so that a wrong box cannot travel further
than the line that made it.
"""

from __future__ import annotations

from boxwright.structures.cropped_mask import CroppedMask
from boxwright.structures.pictures import Classes, Detections, ImageBatch, PaddedDetections, Proposals
from boxwright.structures.truth import Targets, Truth

__all__ = ["Classes", "CroppedMask", "Detections", "ImageBatch", "PaddedDetections", "Proposals", "Targets", "Truth"]
