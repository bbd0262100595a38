"""The protocol of what runs a network: a batch on its device in, detections in network pixels out."""

from __future__ import annotations

from typing import Protocol

import torch

from boxwright.structures import (
    DetectSettings,
    ImageBatch,
    PaddedDetections,
    Proposals,
)


class Engine(Protocol):
    """A network that is ready to run, in torch or in another runtime."""

    device: torch.device
    bucket: int
    """Batches must be padded to sides of a multiple of this many pixels."""
    fixed_batch: bool
    """Whether every batch must hold the same number of images; a shorter one is filled up."""

    def __call__(
        self, images: ImageBatch, settings: DetectSettings, proposals: Proposals | None = None
    ) -> PaddedDetections:
        """Detections of a batch that lies on the engine's device, in network pixels.

        Proposals are for a detector that finds no regions itself (Fast R-CNN).
        """
