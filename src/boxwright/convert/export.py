"""The way back: weights of ours in a file that torchvision, Detectron2, AdelaiDet, MMDetection or the course loads.

The same tables are read from the other side. What cannot be said in the other library's file is folded into weights
where that is exact (`folding.py`), and refused otherwise (`recipes/compat.py`): a detector whose settings differ from
that library's would load there and find something else.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from boxwright.convert import (
    adelaidet,
    course,
    course_two_stage,
    detectron2,
    mmdetection,
    mmdetection_rcnn,
    semantic,
    torchvision,
    torchvision_rcnn,
    two_stage,
)
from boxwright.convert.folding import anchors_at_corners, pixel_entries, unit_pixels
from boxwright.convert.keymap import Layout, give_weights
from boxwright.convert.mmdetection_text import fed_bgr
from boxwright.recipes.compat import LIBRARIES, advice, at, differing, reason
from boxwright.writing import writing

__all__ = ["ADAPTED", "LIBRARIES", "Exported", "export", "export_state", "write_state"]

ADAPTED = frozenset({
    "compat.pad_multiple", "compat.clip", "compat.keep_empty", "compat.class_threshold", "compat.scoring",
    "compat.shrink_limited", "rpn.shrink_limited", "box.shrink_limited", "rpn.min_side", "box.min_side",
    "box.level_slack", "mask.level_slack", "keypoint.level_slack", "mask.paste",
})  # fmt: skip
"""Rules of detection that no weight was made for: they may be taken as the other library has them, if asked for."""
ROTATED_CONFIG = (
    "its config needs MODEL.PROPOSAL_GENERATOR.NAME RRPN, MODEL.ANCHOR_GENERATOR.NAME RotatedAnchorGenerator, "
    "MODEL.ROI_HEADS.NAME RROIHeads, MODEL.ROI_BOX_HEAD.POOLER_TYPE ROIAlignRotated and MODEL.RPN.BBOX_REG_WEIGHTS "
    "(1, 1, 1, 1, 1)"
)
_GRIDS = ("compat.anchor_grid", "rpn.anchor_grid")


class Exported(NamedTuple):
    """A state dict of another library, and what differs from our detector or must stand in that library's config."""

    state: dict[str, Tensor]
    notes: tuple[str, ...]


def export(
    model: Mapping[str, Any], num_classes: int, weights: Mapping[str, Tensor], to: str,
    kept: Mapping[str, Tensor] | None = None, *, adapt: bool = False,
) -> Exported:  # fmt: skip
    """The same detector in `to`, one of `LIBRARIES`.

    Args:
        model: the section `model` of its recipe, as plain data.
        num_classes: how many classes it has.
        weights: its state dict.
        kept: what a conversion from that library has kept for this.
        adapt: take the other library's rules where they differ in `ADAPTED`, and note them.

    Raises ValueError, naming them, where settings of the detector do not exist in that library.
    """
    if to not in LIBRARIES:
        raise ValueError(f"to: expected {' or '.join(LIBRARIES)}, got {to!r}")
    found = differing(to, model)
    for grid in (key for key in _GRIDS if key in found and found[key] == ("centre", "corner")):
        folded = anchors_at_corners(weights, model)
        if folded is not None:
            weights = folded
            del found[grid]
    notes: list[str] = []
    if adapt:
        taken = {key: found.pop(key) for key in [key for key in found if key in ADAPTED]}
        notes += [
            f"{key} is {there!r} there, {own!r} here: detections may differ" for key, (own, there) in taken.items()
        ]
    if found:
        more = "" if set(found) - ADAPTED else "; --adapt takes that library's rules instead, and its detections differ"
        raise ValueError(reason(to, model, found) + advice(to, model, found) + more)
    extra: dict[str, Tensor] = {}
    if to in ("detectron2", "adelaidet"):
        weights = unit_pixels(weights, model)
        extra, told = pixel_entries(model)
        notes += told
        if not at(model, "backbone.stride_in_1x1"):
            notes.append("its config needs MODEL.RESNETS.STRIDE_IN_1X1 False, and reading it here --no-stride-in-1x1")
    if model["name"] == "rotated_faster_rcnn":
        notes.append(ROTATED_CONFIG)
    notes += [
        f"{key} is {_plain(at(model, key))}, which its config must say (usual: {_plain(usual)})"
        for key, usual in _usual(model).items()
        if to not in ("mmdetection", "course") and at(model, key) is not None
        and _plain(at(model, key)) != _plain(usual)
    ]  # fmt: skip
    return Exported({**give_weights(weights, _layout(model, num_classes, to), kept), **extra}, tuple(notes))


def _usual(model: Mapping[str, Any]) -> dict[str, Any]:
    """What the configs of Detectron2 and torchvision say where nothing is said; a file does not tell it."""
    single = "rpn" in model and len(model["rpn"]["anchor_sizes"]) == 1
    sides = [32, 64, 128, 256, 512]
    return {
        "anchors.sizes": sides, "anchors.scales": [1, 2 ** (1 / 3), 2 ** (2 / 3)], "anchors.ratios": [0.5, 1, 2],
        "rpn.anchor_sizes": [sides] if single else [[side] for side in sides], "rpn.anchor_ratios": [0.5, 1, 2],
        "rpn.anchor_angles": [-90, 0, 90],
        "rpn.nms_iou": 0.7, "rpn.test_candidates": 6000 if single else 1000, "rpn.test_proposals": 1000,
        "box.pool_size": 14 if at(model, "box.stage_head") else 7, "box.offset_weights": [10, 10, 5, 5],
        "mask.pool_size": 14, "keypoint.pool_size": 14, "semantic.num_classes": 54, "semantic.channels": 128,
        "semantic.norm": "gn", "panoptic.min_score": 0.5, "panoptic.max_overlap": 0.5, "panoptic.min_stuff_area": 4096,
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """Numbers as they are shown, for comparing those of YAML, tuples and formulas."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if isinstance(value, str) else float(f"{value:.6g}")


def export_state(
    model: Mapping[str, Any], num_classes: int, weights: Mapping[str, Tensor], to: str,
    kept: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """The state dict that `export` gives."""
    return export(model, num_classes, weights, to, kept).state


def write_state(
    state: Mapping[str, Tensor], path: Path, to: str, meta: Mapping[str, Any] | None = None
) -> None:  # fmt: skip
    """Write a state dict as that library reads it: a `.pkl` in the layout of Detectron2's zoo, or a `.pth`.

    `meta` stands beside the weights in a file for MMDetection.
    """
    if path.suffix == ".pkl":
        if to != "detectron2":
            raise ValueError(f"{path}: {to} reads .pth files")
        arrays = {name: value.numpy() for name, value in state.items()}
        with writing(path):
            path.write_bytes(pickle.dumps({"model": arrays, "__author__": "boxwright"}, protocol=4))
        return
    with writing(path):
        in_model = {"model": dict(state)}
        around = {
            "detectron2": in_model, "adelaidet": in_model,
            "mmdetection": {"meta": dict(meta or {}), "state_dict": dict(state)},
        }  # fmt: skip
        torch.save(around.get(to, dict(state)), path)


def _layout(model: Mapping[str, Any], num_classes: int, to: str) -> Layout:
    """The layout of the other library's file."""
    name = model["name"]
    channels = model["compat"].get("class_channels")
    count = max(channels) + 1 if channels else num_classes
    held = {"mask_rcnn": "detector.", "keypoint_rcnn": "detector.", "panoptic_fpn": "instances.detector."}
    prefix = held.get(name, "")
    if to == "course":
        style = "003" if at(model, "head.centerness_on") == "class" else "001"
        if name == "fcos":
            return course.layout(style)
        return course_two_stage.layout(style, num_classes, len(model["box"]["conv_channels"]))
    if to == "adelaidet":
        return adelaidet.layout(3 + model["fpn"]["extra_levels"], scales=model["head"]["scale_per_level"])
    if to == "mmdetection":
        return _mmdetection(model, num_classes, prefix)
    if name == "fcos":
        return torchvision.fcos_layout() if to == "torchvision" else detectron2.fcos_layout()
    if name == "retinanet":
        head, anchors = model["head"], model["anchors"]
        if to == "torchvision":
            return torchvision.retinanet_layout(count, len(head["stem_channels"]), head["norm"] == "gn")
        return detectron2.retinanet_layout(count, len(anchors["scales"]) * len(anchors["ratios"]))
    if name == "semantic_fpn":
        return semantic.layout()
    if to == "torchvision":
        mobile, second = str(model["backbone"]["name"]).startswith("mobilenet"), model["fpn"]["norm"] == "bn"
        return torchvision_rcnn.layout(prefix, count + 1, second=second, mobile=mobile)
    return two_stage.layout(
        prefix, tuple(model["fpn"]["levels"]), stage=bool(model.get("box", {}).get("stage_head"))
    )  # fmt: skip


def _mmdetection(model: Mapping[str, Any], num_classes: int, prefix: str) -> Layout:
    """MMDetection's; its config says which colours it feeds: BGR where pixels are not divided by their deviation."""
    bgr = fed_bgr(model["backbone"]["pixel_std"])
    if model["name"] == "fcos":
        return mmdetection.fcos_layout(tuple(model["head"]["stem_channels"]), model["head"]["norm"], bgr)
    if model["name"] == "retinanet":
        widths, norm, anchors = tuple(model["head"]["stem_channels"]), model["head"]["norm"], model["anchors"]
        return mmdetection.retinanet_layout(
            num_classes, widths, norm, len(anchors["scales"]), len(anchors["ratios"]), bgr
        )
    return mmdetection_rcnn.layout(prefix, bgr)
