"""The contract of a detector."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from boxwright.structures import Detections, DetectSettings, ImageBatch, PaddedDetections, Targets


class DetectionModel(Protocol):
    """A detector. Return types do not depend on training mode, and nothing but `loss` reads ground truth."""

    training: bool

    def __call__(self, images: ImageBatch, targets: Targets | None = None, proposals: Any = None) -> Any:
        """Raw predictions for a batch."""

    def loss(self, outputs: Any, targets: Targets) -> dict[str, Tensor]:
        """Named scalars that are all trained on, safe with zero boxes on any rank.

        `structures.Losses`, where there is a floor of one of them to tell as well.
        """

    def detect_padded(self, outputs: Any, settings: DetectSettings) -> PaddedDetections:
        """Detections at fixed ranks in network pixels, which can be exported."""

    def detect(self, outputs: Any, images: ImageBatch, settings: DetectSettings) -> list[Detections]:
        """Detections of each image in the pixels of the original."""
