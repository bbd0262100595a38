"""Detectron2's checkpoints (zoo pickles and training files): FCOS, RetinaNet, and the ResNets that AdelaiDet shares.

A file says nothing of what is in a config: colours (BGR), pixel mean and deviation, where a ResNet has its strides.
These are taken as the zoo has them (MSRA's R-50 and R-101: stride in the 1x1, deviation 1; X-101: in the 3x3, that of
ImageNet), said in the notes, and can be given.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from boxwright.convert.architecture import State, indices, merged, norms, resnet_of, tower_of
from boxwright.convert.coco_names import numbered_classes
from boxwright.convert.keymap import Change, Layout, Plan, flipped, reordered

FAMILY = "Detectron2"
MEAN_BGR = (103.53, 116.28, 123.675)
UNIT_STD = (1.0, 1.0, 1.0)
FAIR_STD_BGR = (57.375, 57.12, 58.395)
RESIZE = {"mode": "short_side", "size": 800, "max_size": 1333, "filter": "pillow"}
DROPPED = (r".*anchor_generator\.cell_anchors\.\d+", r".*num_batches_tracked", "pixel_mean", "pixel_std")
FCOS = {
    "name": "fcos",
    "fpn": {"extra_levels": 2, "extra_from": "p5"},
    "head": {"scale_per_level": False, "box_output": "relu"},
    "loss": {"box_weighting": "none", "normaliser": "batch_ema", "normaliser_start": 300.0},
    "compat": {"level_range_ends": "open", "clip": "after_nms", "pad_multiple": 32},
}
"""In what its FCOS differs from our improved variant."""
RETINANET = {
    "name": "retinanet",
    "loss": {"normaliser": "ema"},
    "compat": {"anchor_grid": "corner", "clip": "after_nms", "pad_multiple": 32},
}
"""In what its RetinaNet differs from our defaults."""


def backbone_rows(ours: str, theirs: str) -> list[tuple[str, str]]:
    """The table of a ResNet: beginnings of our names as expressions, and of theirs."""
    mine, rows = re.escape(ours), []
    rows += [(rf"{mine}conv1\.", f"{theirs}stem.conv1."), (rf"{mine}bn1\.", f"{theirs}stem.conv1.norm.")]
    for stage in range(2, 6):
        rows += block_rows(rf"{mine}layer{stage - 1}\.", f"{theirs}res{stage}.")
    return rows


def block_rows(mine: str, theirs: str) -> list[tuple[str, str]]:
    """The table of one stage of blocks; `mine` is an expression already."""
    return [
        (rf"{mine}(\d+)\.conv(\d)\.", rf"{theirs}\1.conv\2."),
        (rf"{mine}(\d+)\.bn(\d)\.", rf"{theirs}\1.conv\2.norm."),
        (rf"{mine}(\d+)\.downsample\.0\.", rf"{theirs}\1.shortcut."),
        (rf"{mine}(\d+)\.downsample\.1\.", rf"{theirs}\1.shortcut.norm."),
    ]


def pyramid_rows(ours: str, lowest: int, highest: int) -> list[tuple[str, str]]:
    """The table of a feature pyramid from level `lowest` to `highest` and what is made on top of it."""
    mine, rows = re.escape(ours), []
    for level in range(lowest, highest + 1):
        rows.append((rf"{mine}laterals\.{level - lowest}\.", f"backbone.fpn_lateral{level}."))
        rows.append((rf"{mine}outputs\.{level - lowest}\.", f"backbone.fpn_output{level}."))
    rows += [(rf"{mine}extras\.0\.", "backbone.top_block.p6."), (rf"{mine}extras\.1\.", "backbone.top_block.p7.")]
    return rows


def backbone_of(state: State, options: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The section `backbone` of a Detectron2 ResNet, and notes on what was taken as usual."""
    body = (
        "backbone.bottom_up." if "backbone.bottom_up.stem.conv1.weight" in state else "backbone."
    )  # without a pyramid
    name, widths, groups = resnet_of(state, f"{body}stem.conv1.weight", f"{body}res{{}}.")
    usual = groups == 1
    in_1x1 = options.get("stride_in_1x1")
    mean, std = (state.get(key) for key in ("pixel_mean", "pixel_std"))
    notes = []
    if in_1x1 is None:
        in_1x1 = usual
        notes.append(f"strides in the {'1x1' if usual else '3x3'} convolutions, as in Detectron2's zoo")
    if std is None:
        notes.append(f"pixel deviation {UNIT_STD if usual else FAIR_STD_BGR} (BGR), as in Detectron2's zoo")
    bgr_mean = MEAN_BGR if mean is None else tuple(mean.flatten().tolist())
    bgr_std = (UNIT_STD if usual else FAIR_STD_BGR) if std is None else tuple(std.flatten().tolist())
    backbone = {
        "name": name, "widths": widths, "stride_in_1x1": in_1x1, "pixel_mean": rgb(bgr_mean),
        "pixel_std": rgb(bgr_std), **norms(state, body),
    }  # fmt: skip
    return backbone, notes


def rgb(bgr: tuple[float, ...]) -> tuple[float, ...]:
    """Numbers for BGR in 0 to 255 as ours for RGB in 0 to 1."""
    return tuple(value / 255 for value in reversed(bgr))


def first_convolution(ours: str, theirs: str = "backbone.bottom_up.stem.conv1.weight") -> Change:
    """The convolution that sees the colours."""
    return flipped(f"{ours}conv1.weight", theirs)


def recognises(state: State) -> bool:
    """Whether the names are those of a one-stage detector of Detectron2."""
    return "head.cls_score.weight" in state and "backbone.bottom_up.stem.conv1.weight" in state


def plan(state: State, options: dict[str, Any]) -> Plan:
    """What a one-stage file holds."""
    backbone, notes = backbone_of(state, options)
    widths, norm = tower_of(state, "head.cls_subnet.")
    levels = indices(state, r"backbone\.fpn_lateral(\d)\.")
    channels = int(state["backbone.fpn_lateral5.weight"].shape[0])
    shared = {
        "backbone": backbone, "fpn": {"channels": channels}, "head": {"stem_channels": widths, "norm": norm}
    }  # fmt: skip
    if levels != [3, 4, 5]:
        raise ValueError(f"expected a pyramid from P3 to P5, got levels {levels}")
    if "head.ctrness.weight" in state:
        model = merged(FCOS, shared)
        classes = numbered_classes(int(state["head.cls_score.weight"].shape[0]))
        detect = {"score_threshold": 0.2, "nms_iou": 0.6, "candidates_per_level": 1000, "max_detections": 100}
        return Plan(
            architecture="FCOS", model=model, layout=fcos_layout(), classes=classes, resize=RESIZE, detect=detect,
            notes=tuple(notes),
        )  # fmt: skip
    extra_from = "c5" if state["backbone.top_block.p6.weight"].shape[1] != channels else "p5"
    model = merged(RETINANET, shared, {"fpn": {"extra_from": extra_from}})
    anchors = int(state["head.bbox_pred.weight"].shape[0]) // 4
    if anchors != 9:
        raise ValueError(f"expected 9 anchors a cell, got {anchors}")
    num_classes = int(state["head.cls_score.weight"].shape[0]) // anchors
    detect = {"score_threshold": 0.05, "nms_iou": 0.5, "candidates_per_level": 1000, "max_detections": 100}
    return Plan(
        architecture="RetinaNet", model=model, layout=retinanet_layout(num_classes, anchors),
        classes=numbered_classes(num_classes), resize=RESIZE, detect=detect, notes=tuple(notes),
    )  # fmt: skip


def fcos_layout() -> Layout:
    """Names of `modeling/meta_arch/fcos.py`."""
    rows = [
        *backbone_rows("backbone.body.", "backbone.bottom_up."),
        *pyramid_rows("fpn.", 3, 5),
        (r"head\.class_tower\.", "head.cls_subnet."),
        (r"head\.box_tower\.", "head.bbox_subnet."),
        (r"head\.class_logits\.", "head.cls_score."),
        (r"head\.box_distances\.", "head.bbox_pred."),
        (r"head\.centerness\.", "head.ctrness."),
    ]
    return Layout(family=FAMILY, rows=rows, changes=(first_convolution("backbone.body."),), dropped=DROPPED)


def retinanet_layout(num_classes: int, num_anchors: int) -> Layout:
    """Names of `modeling/meta_arch/retinanet.py`; its logits go by anchor, then class, ours by class, then anchor."""
    rows = [
        *backbone_rows("backbone.body.", "backbone.bottom_up."),
        *pyramid_rows("fpn.", 3, 5),
        (r"head\.class_tower\.", "head.cls_subnet."),
        (r"head\.box_tower\.", "head.bbox_subnet."),
        (r"head\.box_offsets\.", "head.bbox_pred."),
    ]
    order = class_first(num_classes, num_anchors)
    changes = [reordered(f"head.class_logits.{end}", f"head.cls_score.{end}", order) for end in ("weight", "bias")]
    return Layout(
        family=FAMILY, rows=rows, changes=(first_convolution("backbone.body."), *changes), dropped=DROPPED
    )  # fmt: skip


def class_first(num_classes: int, num_anchors: int) -> Tensor:
    """For each of our rows (class, anchor) the row (anchor, class) of the references."""
    return torch.arange(num_classes * num_anchors).reshape(num_anchors, num_classes).T.flatten()
