"""The contract of a detector, and how raw predictions become detections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from boxwright.structures import Detections, ImageBatch, PaddedDetections, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectSettings:
    """How raw predictions become detections."""

    score_threshold: float = 0.05
    nms_iou: float = 0.6
    candidates_per_level: int = 1000
    max_detections: int = 100


class DetectionModel(Protocol):
    """A detector. Return types do not depend on training mode, and nothing but `loss` reads truth."""

    training: bool

    def __call__(self, images: ImageBatch, targets: Targets | None = None, proposals: Any = None) -> Any:
        """Raw predictions for a batch."""

    def loss(self, outputs: Any, targets: Targets) -> dict[str, Tensor]:
        """Named scalars, safe with zero boxes on any rank; names with "_floor" are for reading, not for training."""

    def detect_padded(self, outputs: Any, settings: DetectSettings) -> PaddedDetections:
        """Detections at fixed ranks in network pixels, which can be exported."""

    def detect(self, outputs: Any, images: ImageBatch, settings: DetectSettings) -> list[Detections]:
        """Detections of each picture in the pixels of the original."""
