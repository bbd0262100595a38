"""Detectors: one file each. `MODELS` lists them: name -> (config class, model class)."""

from __future__ import annotations

from typing import Any, NamedTuple

from boxwright.models.detection import DetectionModel, DetectSettings
from boxwright.models.fcos import FCOS, FCOSConfig

__all__ = ["MODELS", "DetectSettings", "DetectionModel", "ModelEntry"]


class ModelEntry(NamedTuple):
    """A detector's config dataclass and its class, which is called with one such config."""

    config: type[Any]
    build: type[Any]


MODELS: dict[str, ModelEntry] = {
    "fcos": ModelEntry(FCOSConfig, FCOS),
}
