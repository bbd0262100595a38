"""The way back: weights of ours in a file that torchvision or Detectron2 loads.

The same tables are read from the other side. What cannot be said in the other library's file is not written: a detector
whose settings differ from that library's would load there and find something else.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxwright.convert import detectron2, torchvision, torchvision_rcnn, two_stage
from boxwright.convert.architecture import plain
from boxwright.convert.keymap import Layout, give_weights
from boxwright.models import retinanet

LIBRARIES = ("torchvision", "detectron2")


def export_state(
    model: Mapping[str, Any], num_classes: int, weights: Mapping[str, Tensor], to: str,
    kept: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """The state dict of the same detector in `to`, "torchvision" or "detectron2".

    Args:
        model: the section `model` of its recipe, as plain data.
        num_classes: how many classes it has.
        weights: its state dict.
        kept: what a conversion from that library has kept for this.

    Raises ValueError, naming them, where settings of the detector do not exist in that library.
    """
    if to not in LIBRARIES:
        raise ValueError(f"to: expected {' or '.join(LIBRARIES)}, got {to!r}")
    layout, needed = _target(model, num_classes, weights, to)
    differing = [f"{key} {_at(model, key)!r} (there {value!r})" for key, value in needed.items()
                 if not _equal(_at(model, key), value)]  # fmt: skip
    if differing:
        raise ValueError(f"{to} has no {model['name']} like this one: {'; '.join(differing)}")
    return give_weights(weights, layout, kept)


def write_state(state: Mapping[str, Tensor], path: Path, to: str) -> None:
    """Write a state dict as that library reads it: a `.pkl` in the layout of Detectron2's zoo, or a `.pth`."""
    if path.suffix == ".pkl":
        if to != "detectron2":
            raise ValueError(f"{path}: torchvision reads .pth files")
        arrays = {name: value.numpy() for name, value in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "boxwright"}, protocol=4))
        return
    torch.save({"model": dict(state)} if to == "detectron2" else dict(state), path)


def _target(
    model: Mapping[str, Any], num_classes: int, weights: Mapping[str, Tensor], to: str
) -> tuple[Layout, dict[str, Any]]:
    """The layout of the other library's file, and the settings that its detector has."""
    name = model["name"]
    channels = model.get("class_channels")
    if name in ("fcos", "retinanet"):
        count = max(channels) + 1 if channels else num_classes
        if to == "torchvision":
            second = name == "retinanet" and model["head_norm"] == "gn"
            preset = retinanet.TORCHVISION_V2 if second else retinanet.TORCHVISION
            needed = torchvision.FCOS if name == "fcos" else {**plain(preset), "pad_multiple": 32}
            layers = len(model["stem_channels"])
            layout = (
                torchvision.fcos_layout() if name == "fcos" else torchvision.retinanet_layout(count, layers, second)
            )
            return layout, {**needed, "backbone_variant.stride_in_1x1": False}
        preset = {**plain(retinanet.DETECTRON2), "pad_multiple": 32}
        layout = detectron2.fcos_layout() if name == "fcos" else detectron2.retinanet_layout(num_classes, 9)
        return layout, {**(detectron2.FCOS if name == "fcos" else _without_backbone(preset)), "class_channels": None}
    if name in ("faster_rcnn", "mask_rcnn", "rpn"):
        prefix = "detector." if name == "mask_rcnn" else ""
        if to == "detectron2":
            stage = bool(model.get("box", {}).get("stage_head"))
            needed = {"rpn.anchor_grid": "corner", "rpn.anchors_rounded": False}
            if name != "rpn":
                needed |= {"box.pool_aligned": True, "class_channels": None, "fpn_norm": "none"}
            if name == "mask_rcnn":
                needed |= {"mask.pool_aligned": True}
            return two_stage.layout(prefix, tuple(model["levels"]), stage=stage), needed
        if name != "rpn":
            needed = {
                "rpn.anchor_grid": "torchvision", "rpn.anchors_rounded": True, "box.pool_sampling": 2,
                "box.pool_aligned": False,
            }  # fmt: skip
            count = (max(channels) + 1 if channels else num_classes) + 1
            mobile = model["backbone"].startswith("mobilenet")
            second = model["fpn_norm"] == "bn"
            layout = torchvision_rcnn.layout(prefix, count, second=second, mobile=mobile)
            return layout, {**needed, "backbone_variant.stride_in_1x1": False}
    raise ValueError(f"{to} has no detector like {name}")


def _without_backbone(preset: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in preset.items() if key not in ("backbone_variant", "pixel_std", "pixel_mean")}


def _at(model: Mapping[str, Any], key: str) -> Any:
    place: Any = model
    for part in key.split("."):
        place = place.get(part) if isinstance(place, Mapping) else getattr(place, part, None)
    return dataclasses.asdict(place) if dataclasses.is_dataclass(place) and not isinstance(place, type) else place


def _equal(one: Any, other: Any) -> bool:
    return (
        list(one) == list(other) if isinstance(one, list | tuple) and isinstance(other, list | tuple) else one == other
    )
