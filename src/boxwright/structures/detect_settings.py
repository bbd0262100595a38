"""How raw predictions become detections."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectSettings:
    """How raw predictions become detections."""

    score_threshold: float = 0.05
    nms_iou: float = 0.6
    candidates_per_level: int = 1000
    max_detections: int = 100
