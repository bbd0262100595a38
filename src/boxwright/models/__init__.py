"""Detectors: one file each. `MODELS` lists them: name -> (config class, model class)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from boxwright.models.detection import DetectionModel, ModelConfig
from boxwright.models.fast_rcnn import FastRCNN, FastRCNNConfig
from boxwright.models.faster_rcnn import FasterRCNN, FasterRCNNConfig
from boxwright.models.fcos import FCOS, FCOSConfig
from boxwright.models.fcos_mask import FCOSMask, FCOSMaskConfig
from boxwright.models.keypoint_rcnn import KeypointRCNN, KeypointRCNNConfig
from boxwright.models.mask_rcnn import MaskRCNN, MaskRCNNConfig
from boxwright.models.panoptic_fpn import PanopticFPN, PanopticFPNConfig
from boxwright.models.retinanet import RetinaNet, RetinaNetConfig
from boxwright.models.rotated_faster_rcnn import RotatedFasterRCNN, RotatedFasterRCNNConfig
from boxwright.models.rpn import RPN, RPNConfig
from boxwright.models.semantic_fpn import SemanticFPN, SemanticFPNConfig
from boxwright.structures import DetectSettings

__all__ = [
    "MODELS",
    "DetectSettings",
    "DetectionModel",
    "ModelConfig",
    "ModelEntry",
    "refuse_of_objects",
    "require_objects",
]


class ModelEntry(NamedTuple):
    """A detector's config dataclass and its class, which is called with one such config and the number of classes.

    With `one_class` all classes of the data are one, "object"; with `needs_proposals` it wants stored proposals, with
    `needs_masks` it learns masks, with `needs_keypoints` keypoints, with `needs_semantic` semantic maps, with
    `needs_rotated` rotated boxes; without `detects` it finds no objects. `holds` names the detector that a model with
    masks or keypoints holds, whose sections it has.
    """

    config: type[ModelConfig]
    build: Callable[[Any, int], DetectionModel]
    one_class: bool = False
    needs_proposals: bool = False
    needs_masks: bool = False
    holds: str | None = None
    needs_keypoints: bool = False
    needs_semantic: bool = False
    detects: bool = True
    needs_rotated: bool = False


MODELS: dict[str, ModelEntry] = {
    "fcos": ModelEntry(FCOSConfig, FCOS),
    "retinanet": ModelEntry(RetinaNetConfig, RetinaNet),
    "rpn": ModelEntry(RPNConfig, RPN, one_class=True),
    "fast_rcnn": ModelEntry(FastRCNNConfig, FastRCNN, needs_proposals=True),
    "faster_rcnn": ModelEntry(FasterRCNNConfig, FasterRCNN),
    "mask_rcnn": ModelEntry(MaskRCNNConfig, MaskRCNN, needs_masks=True, holds="faster_rcnn"),
    "keypoint_rcnn": ModelEntry(KeypointRCNNConfig, KeypointRCNN, holds="faster_rcnn", needs_keypoints=True),
    "semantic_fpn": ModelEntry(SemanticFPNConfig, SemanticFPN, needs_semantic=True, detects=False),
    "panoptic_fpn": ModelEntry(
        PanopticFPNConfig, PanopticFPN, needs_masks=True, holds="mask_rcnn", needs_semantic=True
    ),
    "rotated_faster_rcnn": ModelEntry(RotatedFasterRCNNConfig, RotatedFasterRCNN, needs_rotated=True),
    "fcos_mask": ModelEntry(FCOSMaskConfig, FCOSMask, needs_masks=True, holds="fcos"),
}


def require_objects(name: str, instead: str) -> None:
    """Raise ValueError for a model, by its name, that finds no objects; `instead` says what wants them, and what to do.

    >>> require_objects("semantic_fpn", "there is nothing to track")
    Traceback (most recent call last):
    ValueError: semantic_fpn labels pixels and finds no objects: there is nothing to track
    """
    if not MODELS[name].detects:
        raise ValueError(f"{name} labels pixels and finds no objects: {instead}")


def refuse_of_objects(name: str, **given: float | None) -> None:
    """Raise ValueError for settings of detections that are `given` for a model, by its name, that finds no objects.

    >>> refuse_of_objects("semantic_fpn", score=None, nms_iou=0.5)
    Traceback (most recent call last):
    ValueError: semantic_fpn labels pixels and finds no objects: leave out --nms-iou
    """
    options = [f"--{option.replace('_', '-')}" for option, value in given.items() if value is not None]
    if options:
        require_objects(name, f"leave out {', '.join(options)}")
