"""What a detector runs on: torch here, an exported file in `deploy.runtime`; both take a batch and give detections.

Shape legend: B = images, H W = size of a batch's pixels.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from boxwright.models import DetectSettings
from boxwright.nn.precision import autocast, choose_precision
from boxwright.structures import ImageBatch, PaddedDetections, Proposals

BUCKET = 64
"""With `compile`, pictures are padded to multiples of this many pixels: few shapes, each compiled once."""
COMPILED_PARTS = ("backbone", "fpn", "head")


class Engine(Protocol):
    """A network that is ready to run."""

    device: torch.device
    bucket: int
    """Batches come padded to a multiple of this many pixels."""
    fixed_batch: bool
    """Whether every batch must be of the same size; what is missing is filled up."""

    def __call__(
        self, images: ImageBatch, settings: DetectSettings, proposals: Proposals | None = None
    ) -> PaddedDetections:
        """Detections of a batch that lies on the engine's device, in network pixels.

        Proposals are for a detector that finds no regions itself (Fast R-CNN).
        """


class TorchEngine:
    """A detector of the library: channels last, inference mode, bf16 where the device computes it natively."""

    def __init__(self, model: Any, device: torch.device, *, precision: str = "auto", compile: bool = False) -> None:
        if precision not in ("auto", "fp32", "bf16", "fp16"):
            raise ValueError(f"precision: expected auto, fp32, bf16 or fp16, got {precision!r}")
        self.device = device
        self.model = model.to(device, memory_format=torch.channels_last)
        self.precision = choose_precision(precision, device)
        self.bucket, self.fixed_batch = (BUCKET, True) if compile else (1, False)
        if compile:
            compile_parts(self.model, device)

    @torch.inference_mode()
    def __call__(
        self, images: ImageBatch, settings: DetectSettings, proposals: Proposals | None = None
    ) -> PaddedDetections:
        with autocast(self.device, self.precision):
            outputs = self.model(images) if proposals is None else self.model(images, None, proposals)
            found: PaddedDetections = self.model.detect_padded(outputs, settings)
        return found


def compile_parts(model: nn.Module, device: torch.device) -> None:
    """Compile backbones, pyramids and heads below `model` for static shapes, on a GPU as CUDA graphs."""
    mode = "reduce-overhead" if device.type == "cuda" else None
    for name, part in model.named_modules():
        if name.rpartition(".")[2] in COMPILED_PARTS:
            part.compile(dynamic=False, mode=mode)
