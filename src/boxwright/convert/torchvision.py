"""Torchvision's detectors: FCOS and RetinaNet, all versions of their files.

A state dict says nothing of the size that images are brought to (800 and 1333, the default), nor of the eps of its
BatchNorm: torchvision sets it to 0 where it loads its first COCO weights into RetinaNet, Faster and Mask R-CNN.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from boxwright.convert.architecture import State, merged, norms, resnet_of, tower_of
from boxwright.convert.coco_names import COCO_CLASSES, NUM_IDS
from boxwright.convert.keymap import Change, Layout, Plan, reordered
from boxwright.structures import Classes

FAMILY = "torchvision"
RESIZE = {"mode": "short_side", "size": 800, "max_size": 1333, "filter": "plain", "rounding": "down"}
FCOS = {
    "name": "fcos",
    "head": {"scale_per_level": False},
    "loss": {"box_weighting": "none"},
    "compat": {"level_range_ends": "open", "locations": "torchvision", "keep_empty": True, "pad_multiple": 32},
}
"""In what its FCOS differs from our improved variant."""
RETINANET = {
    "name": "retinanet",
    "fpn": {"extra_from": "p5"},
    "loss": {"normaliser": "image"},
    "compat": {"anchor_grid": "torchvision", "anchors_rounded": True, "keep_empty": True, "pad_multiple": 32},
}
"""In what `retinanet_resnet50_fpn` differs from ours; its anchors go by ratio, then by size."""
RETINANET_V2 = merged(
    RETINANET, {"fpn": {"extra_from": "c5"}, "head": {"norm": "gn", "bias": False}, "loss": {"box": "giou"}}
)
"""The same of `retinanet_resnet50_fpn_v2`."""
DROPPED = (r".*num_batches_tracked",)


def recognises(state: State) -> bool:
    """Whether the names are those of a one-stage detector of torchvision."""
    return "head.classification_head.cls_logits.weight" in state and "head.regression_head.bbox_reg.weight" in state


def new_names(state: State) -> dict[str, Tensor]:
    """The same entries by today's names: those of 2020 and 2021 lack a number in pyramids and heads."""
    sequential = "head.regression_head.bbox_ctrness.weight" in state  # FCOS has one long sequence to this day
    masks = "roi_heads.mask_predictor.conv5_mask.weight" in state  # Detectron2 has `mask_fcn1` to this day
    renamed = {}
    for name, value in state.items():
        name = re.sub(r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2", name)
        name = re.sub(r"rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", name)
        match = re.fullmatch(r"(roi_heads\.mask_head\.)mask_fcn(\d)\.(weight|bias)", name)
        if match and masks:
            name = f"{match[1]}{int(match[2]) - 1}.0.{match[3]}"
        match = re.fullmatch(r"(head\.\w+_head\.conv\.)(\d+)\.(weight|bias)", name)
        if match and not sequential:
            name = f"{match[1]}{int(match[2]) // 2}.0.{match[3]}"
        renamed[name] = value
    return renamed


def classes_of(count: int) -> tuple[Classes, tuple[int, ...] | None]:
    """Classes of so many sigmoid channels, and the channel of each where there are more: 91 are the ids of COCO."""
    if count == NUM_IDS:
        return COCO_CLASSES, COCO_CLASSES.ids
    return Classes(tuple(f"class {k}" for k in range(count)), tuple(range(count))), None


def backbone_of(state: State, options: dict[str, Any], eps: float | None) -> dict[str, Any]:
    """The section `backbone` of its ResNet."""
    name, widths, _ = resnet_of(state, "backbone.body.conv1.weight", "backbone.body.layer{}.", 1)
    in_1x1, chosen = bool(options.get("stride_in_1x1")), options.get("norm_eps")
    return {
        "name": name, "widths": widths, "stride_in_1x1": in_1x1, "norm_eps": eps if chosen is None else chosen,
        **norms(state, "backbone.body."),
    }  # fmt: skip


def pyramid_rows(ours: str, state_or_norm: bool) -> list[tuple[str, str]]:
    """The table of a feature pyramid; with a norm after each convolution in the v2 detectors."""
    mine, theirs = re.escape(ours), "backbone.fpn."
    rows = [
        (rf"{mine}laterals\.(\d)\.", rf"{theirs}inner_blocks.\1.0."),
        (rf"{mine}outputs\.(\d)\.", rf"{theirs}layer_blocks.\1.0."),
        (rf"{mine}extras\.0\.", f"{theirs}extra_blocks.p6."),
        (rf"{mine}extras\.1\.", f"{theirs}extra_blocks.p7."),
    ]
    if state_or_norm:
        rows += [
            (rf"{mine}lateral_norms\.(\d)\.", rf"{theirs}inner_blocks.\1.1."),
            (rf"{mine}output_norms\.(\d)\.", rf"{theirs}layer_blocks.\1.1."),
        ]
    return rows


def plan(state: State, options: dict[str, Any]) -> Plan:
    """What a one-stage file holds."""
    channels = int(state["backbone.fpn.inner_blocks.0.0.weight"].shape[0])
    if "head.regression_head.bbox_ctrness.weight" in state:
        classes, class_channels = classes_of(int(state["head.classification_head.cls_logits.weight"].shape[0]))
        widths, norm = tower_of(state, "head.classification_head.conv.")
        model = merged(FCOS, {
            "backbone": backbone_of(state, options, None), "fpn": {"channels": channels},
            "head": {"stem_channels": widths, "norm": norm}, "compat": {"class_channels": class_channels},
        })  # fmt: skip
        detect = {"score_threshold": 0.2, "nms_iou": 0.6, "candidates_per_level": 1000, "max_detections": 100}
        return Plan(
            architecture="fcos_resnet50_fpn", model=model, layout=fcos_layout(), classes=classes, resize=RESIZE,
            detect=detect,
        )  # fmt: skip
    return _retinanet(state, options, channels)


def _retinanet(state: State, options: dict[str, Any], channels: int) -> Plan:
    anchors = int(state["head.regression_head.bbox_reg.weight"].shape[0]) // 4
    if anchors != 9:
        raise ValueError(f"expected 9 anchors a cell, got {anchors}")
    num_channels = int(state["head.classification_head.cls_logits.weight"].shape[0]) // anchors
    classes, class_channels = classes_of(num_channels)
    second = "head.classification_head.conv.0.1.weight" in state
    zoo = str(options.get("file", "")).startswith("retinanet_resnet50_fpn_coco")
    widths = tuple(
        int(state[f"head.classification_head.conv.{k}.0.weight"].shape[0])
        for k in range(sum(f"head.classification_head.conv.{k}.0.weight" in state for k in range(32)))
    )
    model = merged(RETINANET_V2 if second else RETINANET, {
        "backbone": backbone_of(state, options, 0.0 if zoo else None), "fpn": {"channels": channels},
        "head": {"stem_channels": widths}, "compat": {"class_channels": class_channels},
    })  # fmt: skip
    notes = () if second or zoo else ("eps of BatchNorm 1e-5; of torchvision's COCO_V1 weights it is 0",)
    return Plan(
        architecture="retinanet_resnet50_fpn" + "_v2" * second, model=model,
        layout=retinanet_layout(num_channels, len(widths), second), classes=classes, resize=RESIZE, notes=notes,
        detect={"score_threshold": 0.05, "nms_iou": 0.5, "candidates_per_level": 1000, "max_detections": 300},
    )  # fmt: skip


def fcos_layout() -> Layout:
    """Names of `fcos_resnet50_fpn`."""
    rows = [
        (r"backbone\.body\.", "backbone.body."),
        *pyramid_rows("fpn.", False),
        (r"head\.class_tower\.", "head.classification_head.conv."),
        (r"head\.box_tower\.", "head.regression_head.conv."),
        (r"head\.class_logits\.", "head.classification_head.cls_logits."),
        (r"head\.box_distances\.", "head.regression_head.bbox_reg."),
        (r"head\.centerness\.", "head.regression_head.bbox_ctrness."),
    ]
    return Layout(family=FAMILY, rows=rows, dropped=DROPPED)


def retinanet_layout(num_channels: int, num_layers: int, second: bool) -> Layout:
    """Names of `retinanet_resnet50_fpn` and, with `second`, of `_v2`; its anchors go by ratio, ours by size."""
    rows = [(r"backbone\.body\.", "backbone.body."), *pyramid_rows("fpn.", False)]
    step = 3 if second else 2  # convolution, norm where there is one, ReLU
    for ours, theirs in (("class_tower", "classification_head"), ("box_tower", "regression_head")):
        for k in range(num_layers):
            rows.append((rf"head\.{ours}\.{step * k}\.", f"head.{theirs}.conv.{k}.0."))
            if second:
                rows.append((rf"head\.{ours}\.{step * k + 1}\.", f"head.{theirs}.conv.{k}.1."))
    changes = anchor_changes("head.classification_head.cls_logits", "head.regression_head.bbox_reg", num_channels, 3, 3)
    return Layout(family=FAMILY, rows=rows, changes=changes, dropped=DROPPED)


def anchor_changes(
    logits: str, offsets: str, num_channels: int, num_sizes: int, num_ratios: int
) -> tuple[Change, ...]:  # fmt: skip
    """The predictors of a RetinaNet whose anchors go by ratio, then by size, and whose logits by anchor, then class.

    `logits` and `offsets` are what these are called there.
    """
    # of each of our anchors (by size, then by ratio), its place among theirs
    by_size = torch.arange(num_sizes * num_ratios).reshape(num_ratios, num_sizes).T.flatten()
    sides = (4 * by_size[:, None] + torch.arange(4)).flatten()
    classes = (by_size * num_channels + torch.arange(num_channels)[:, None]).flatten()  # ours: class, then anchor
    changes = []
    for end in ("weight", "bias"):
        changes.append(reordered(f"head.class_logits.{end}", f"{logits}.{end}", classes))
        changes.append(reordered(f"head.box_offsets.{end}", f"{offsets}.{end}", sides))
    return tuple(changes)
