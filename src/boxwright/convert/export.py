"""The way back: weights of ours in a file that torchvision, Detectron2 or MMDetection loads.

The same tables are read from the other side. What cannot be said in the other library's file is not written: a detector
whose settings differ from that library's would load there and find something else.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxwright.convert import detectron2, mmdetection, mmdetection_rcnn, torchvision, torchvision_rcnn, two_stage
from boxwright.convert.keymap import Layout, give_weights
from boxwright.writing import writing

LIBRARIES = ("torchvision", "detectron2", "mmdetection")


def export_state(
    model: Mapping[str, Any], num_classes: int, weights: Mapping[str, Tensor], to: str,
    kept: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """The state dict of the same detector in `to`, one of `LIBRARIES`.

    Args:
        model: the section `model` of its recipe, as plain data.
        num_classes: how many classes it has.
        weights: its state dict.
        kept: what a conversion from that library has kept for this.

    Raises ValueError, naming them, where settings of the detector do not exist in that library.
    """
    if to not in LIBRARIES:
        raise ValueError(f"to: expected {' or '.join(LIBRARIES)}, got {to!r}")
    if to == "mmdetection":
        layout, needed = _mmdetection(model, num_classes)
    else:
        layout, needed = _target(model, num_classes, to)
    differing = [f"{key} {_at(model, key)!r} (there {value!r})" for key, value in needed.items()
                 if not _equal(_at(model, key), value)]  # fmt: skip
    if differing:
        raise ValueError(f"{to} has no {model['name']} like this one: {'; '.join(differing)}")
    return give_weights(weights, layout, kept)


def write_state(state: Mapping[str, Tensor], path: Path, to: str) -> None:
    """Write a state dict as that library reads it: a `.pkl` in the layout of Detectron2's zoo, or a `.pth`."""
    if path.suffix == ".pkl":
        if to != "detectron2":
            raise ValueError(f"{path}: {to} reads .pth files")
        arrays = {name: value.numpy() for name, value in state.items()}
        with writing(path):
            path.write_bytes(pickle.dumps({"model": arrays, "__author__": "boxwright"}, protocol=4))
        return
    with writing(path):
        around = {"detectron2": {"model": dict(state)}, "mmdetection": {"meta": {}, "state_dict": dict(state)}}
        torch.save(around.get(to, dict(state)), path)


_FCOS = {
    "fpn.extra_levels": 2, "fpn.extra_from": "p5", "head.centerness_on": "box", "head.normalise_targets": True,
    "head.box_output": "relu", "head.scale_per_level": False, "head.norm": "gn", "compat.inclusive_pixels": False,
}  # fmt: skip
"""What the FCOS of both libraries computes from the same weights; how it is trained is another matter."""


def _mmdetection(model: Mapping[str, Any], num_classes: int) -> tuple[Layout, dict[str, Any]]:
    """The layout of MMDetection's file, and the settings that its detector has.

    Its config says which colours it feeds: BGR where pixels are not divided by their deviation, else RGB.
    """
    name, backbone = model["name"], model["backbone"]
    if name not in ("fcos", "retinanet", "faster_rcnn", "mask_rcnn"):
        raise ValueError(f"mmdetection has no detector like {name}")
    bgr = max(backbone["pixel_std"]) < 1.5 / 255
    needed: dict[str, Any] = {"compat.class_channels": None, "backbone.dilated_c5": False}
    if name in ("fcos", "retinanet"):
        widths, norm = tuple(model["head"]["stem_channels"]), model["head"]["norm"]
        needed |= {"fpn.extra_levels": 2}
    if name == "fcos":
        needed |= {
            "fpn.extra_from": "p5", "head.scale_per_level": True, "compat.locations": "centre",
            "compat.inclusive_pixels": False,
            "head.box_output": "relu" if model["head"]["normalise_targets"] else "exp",
        }  # fmt: skip
        return mmdetection.fcos_layout(widths, norm, bgr), needed
    if name == "retinanet":
        needed |= {"compat.anchor_grid": "corner", "compat.anchors_rounded": False, "compat.extra_relu": False}
        anchors = model["anchors"]
        counts = (len(anchors["scales"]), len(anchors["ratios"]))
        return mmdetection.retinanet_layout(num_classes, widths, norm, *counts, bgr), needed
    needed |= {
        "fpn.levels": ["c2", "c3", "c4", "c5"], "fpn.norm": "none", "rpn.pooled_level": True,
        "rpn.anchor_grid": "corner", "rpn.anchors_rounded": False, "rpn.stem_norm": "none", "box.stage_head": False,
        "box.norm": "none",
    }  # fmt: skip
    needed |= {f"{part}.pool_aligned": True for part in ("box", "mask") if part in model}
    return mmdetection_rcnn.layout("detector." if name == "mask_rcnn" else "", bgr), needed


def _target(model: Mapping[str, Any], num_classes: int, to: str) -> tuple[Layout, dict[str, Any]]:
    """The layout of the other library's file, and the settings that its detector has."""
    name, there = model["name"], to == "torchvision"
    if name not in ("fcos", "retinanet", "faster_rcnn", "mask_rcnn", *(() if there else ("rpn", "fast_rcnn"))):
        raise ValueError(f"{to} has no detector like {name}")
    channels = model["compat"].get("class_channels")
    count = max(channels) + 1 if channels else num_classes
    needed: dict[str, Any] = {} if there else {"compat.class_channels": None, "backbone.norm_eps": None}
    if name == "retinanet":
        needed["compat.extra_relu"] = True
    if there:
        needed["backbone.stride_in_1x1"] = False
    if name == "fcos":
        needed |= {**_FCOS, "compat.locations": "torchvision" if there else "centre"}
        return torchvision.fcos_layout() if there else detectron2.fcos_layout(), needed
    if name == "retinanet":
        second = there and model["head"]["norm"] == "gn"
        needed |= {
            "compat.anchor_grid": "torchvision" if there else "corner", "compat.anchors_rounded": there,
            "head.bias": not second,
        }  # fmt: skip
        if there:
            return torchvision.retinanet_layout(count, len(model["head"]["stem_channels"]), second), needed
        return detectron2.retinanet_layout(count, 9), needed
    prefix = "detector." if name == "mask_rcnn" else ""
    parts = [part for part in ("box", "mask") if part in model]
    needed |= {f"{part}.pool_aligned": not there for part in parts}
    if "rpn" in model:
        needed |= {"rpn.anchor_grid": "torchvision" if there else "corner", "rpn.anchors_rounded": there}
        needed |= {"rpn.stem_norm": "none"}
    if there:
        mobile, second = model["backbone"]["name"].startswith("mobilenet"), model["fpn"]["norm"] == "bn"
        needed |= {f"{part}.pool_sampling": 2 for part in parts}
        return torchvision_rcnn.layout(prefix, count + 1, second=second, mobile=mobile), needed
    stage = bool(model.get("box", {}).get("stage_head"))
    return two_stage.layout(prefix, tuple(model["fpn"]["levels"]), stage=stage), needed


def _at(model: Mapping[str, Any], key: str) -> Any:
    place: Any = model
    for part in key.split("."):
        place = place.get(part) if isinstance(place, Mapping) else None
    return place


def _equal(one: Any, other: Any) -> bool:
    return (
        list(one) == list(other) if isinstance(one, list | tuple) and isinstance(other, list | tuple) else one == other
    )
