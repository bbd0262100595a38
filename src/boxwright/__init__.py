"""boxwright: object detectors to read, train on your own images, trust and ship."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from boxwright.inference.predictor import Detector
    from boxwright.structures import Classes, Detections, GroundTruth, ImageBatch, Targets
    from boxwright.training.run import train

_HOMES = {
    "Detector": "boxwright.inference.predictor",
    "train": "boxwright.training.run",
    "Classes": "boxwright.structures",
    "Detections": "boxwright.structures",
    "ImageBatch": "boxwright.structures",
    "Targets": "boxwright.structures",
    "GroundTruth": "boxwright.structures",
}
__all__ = ["Classes", "Detections", "Detector", "GroundTruth", "ImageBatch", "Targets", "__version__", "train"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that `import boxwright` stays quick (no torch)."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'boxwright' has no attribute {name!r}")
