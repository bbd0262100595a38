"""How raw predictions are turned into detections."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectSettings:
    """How raw predictions are turned into detections."""

    score_threshold: float = 0.05
    """Detections have higher scores."""
    nms_iou: float = 0.6
    """IoU above which NMS drops the weaker of two boxes of a class."""
    candidates_per_level: int = 1000
    """Candidates of each pyramid level that NMS sees at most, the best ones."""
    max_detections: int = 100
    """Detections per image at most."""
