"""FCOS by its authors: the checkpoints of AdelaiDet and of the original repository `tianzhi0549/FCOS`.

AdelaiDet builds on Detectron2 and shares its ResNets, colours and resizing. A file of the original does not say whether
distances go through exp (the 2019 baseline) or ReLU (`imprv`), nor where its centerness sits: the variant must be
given, or stand in the file's name as in its zoo.
"""

from __future__ import annotations

from typing import Any

from boxwright.convert.architecture import State, indices, norm_fields, resnet_of, tower_of
from boxwright.convert.coco_names import numbered_classes
from boxwright.convert.detectron2 import (
    DROPPED,
    RESIZE,
    backbone_fields,
    backbone_rows,
    first_convolution,
    pyramid_rows,
    rgb,
)
from boxwright.convert.keymap import Layout, Plan, flipped, joined

ADELAIDET, ORIGINAL = "AdelaiDet", "the original FCOS"
SHARED = {"level_range_ends": "closed", "smoothing": 1.0, "class_threshold": 0.05, "pad_multiple": 32}
DETECT = {"score_threshold": 0.0, "nms_iou": 0.6, "candidates_per_level": 1000, "max_detections": 100}
BASELINE = {
    "centerness_on": "class", "center_radius": None, "box_loss": "iou", "normalise_targets": False, "box_output": "exp",
}  # fmt: skip
"""Table 3, row 5, which is what the authors' `fcos_R_50_FPN_1x` is; row 4 has no norm in the head besides."""
MEAN_BGR = (102.9801, 115.9465, 122.7717)
_HEAD = "proposal_generator.fcos_head."


def recognises(state: State) -> bool:
    """Whether the names are those of AdelaiDet's FCOS."""
    return f"{_HEAD}cls_logits.weight" in state


def plan(state: State, options: dict[str, Any]) -> Plan:
    """What a file of AdelaiDet holds."""
    fields, notes = backbone_fields(state, options)
    widths, norm = tower_of(state, f"{_HEAD}cls_tower.")
    extra = len(indices(state, r"backbone\.top_block\.p(\d)\."))
    scales = len(indices(state, rf"{_HEAD}scales\.(\d)\."))
    model = {
        "name": "fcos", **fields, **SHARED,
        "fpn_channels": int(state["backbone.fpn_lateral5.weight"].shape[0]),
        "extra_levels": extra,
        "level_bounds": (64, 128, 256, 512)[: 2 + extra],
        "stem_channels": widths,
        "head_norm": norm,
        "scale_per_level": scales > 0,
        "clip": "after_nms",
    }  # fmt: skip
    rows = [
        *backbone_rows("backbone.body.", "backbone.bottom_up."),
        *pyramid_rows("fpn.", 3, 5),
        (r"head\.class_tower\.", f"{_HEAD}cls_tower."),
        (r"head\.box_tower\.", f"{_HEAD}bbox_tower."),
        (r"head\.class_logits\.", f"{_HEAD}cls_logits."),
        (r"head\.box_distances\.", f"{_HEAD}bbox_pred."),
        (r"head\.centerness\.", f"{_HEAD}ctrness."),
    ]
    changes = [first_convolution("backbone.body.")]
    if scales:
        changes.append(joined("head.scales", (f"{_HEAD}scales.{k}.scale" for k in range(3 + extra))))
    return Plan(
        architecture="FCOS", model=model, resize=RESIZE, detect=DETECT, notes=tuple(notes),
        layout=Layout(family=ADELAIDET, rows=rows, changes=tuple(changes), dropped=DROPPED),
        classes=numbered_classes(int(state[f"{_HEAD}cls_logits.weight"].shape[0])),
    )  # fmt: skip


def recognises_original(state: State) -> bool:
    """Whether the names are those of the authors' first repository."""
    return "rpn.head.centerness.weight" in state


def plan_original(state: State, options: dict[str, Any]) -> Plan:
    """What a file of the original repository holds."""
    variant, file = options.get("variant"), str(options.get("file", "")).lower()
    if variant is None and "fcos" in file:
        variant = "improved" if "imprv" in file else "baseline" if "_r_" in file or "_x_" in file else None
    if variant not in ("baseline", "improved"):
        raise ValueError(
            'a file of the original FCOS does not say which it is: give variant="baseline" (exp, centerness beside the '
            'classes) or "improved" (the `imprv` configs)'
        )
    name, widths, groups = resnet_of(state, "backbone.body.stem.conv1.weight", "backbone.body.layer{}.", 1)
    in_1x1 = options.get("stride_in_1x1")
    stem_channels, norm = tower_of(state, "rpn.head.cls_tower.")
    model: dict[str, Any] = {
        "name": "fcos", "backbone": name, "backbone_weights": None,
        "backbone_variant": {
            "stride_in_1x1": groups == 1 if in_1x1 is None else in_1x1, "norm_eps": 0.0, "dilated_c5": False,
            "widths": widths,
        },
        **norm_fields(state, "backbone.body."),
        **SHARED,
        "fpn_channels": int(state["backbone.fpn.fpn_inner4.weight"].shape[0]),
        "extra_from": "p5",
        "stem_channels": stem_channels,
        "head_norm": norm,
        "inclusive_pixels": True,
        "pixel_mean": rgb(MEAN_BGR),
        "pixel_std": rgb((1.0, 1.0, 1.0)),
        **(BASELINE if variant == "baseline" else {}),
    }  # fmt: skip
    fpn, head = "backbone.fpn.", "rpn.head."
    rows = [
        (r"backbone\.body\.(conv1|bn1)\.", r"backbone.body.stem.\1."),
        (r"backbone\.body\.", "backbone.body."),
        *((rf"fpn\.laterals\.{k}\.", f"{fpn}fpn_inner{k + 2}.") for k in range(3)),
        *((rf"fpn\.outputs\.{k}\.", f"{fpn}fpn_layer{k + 2}.") for k in range(3)),
        *((rf"fpn\.extras\.{k}\.", f"{fpn}top_blocks.p{k + 6}.") for k in range(2)),
        (r"head\.class_tower\.", f"{head}cls_tower."),
        (r"head\.box_tower\.", f"{head}bbox_tower."),
        (r"head\.class_logits\.", f"{head}cls_logits."),
        (r"head\.box_distances\.", f"{head}bbox_pred."),
        (r"head\.centerness\.", f"{head}centerness."),
    ]
    changes = (
        flipped("backbone.body.conv1.weight", "backbone.body.stem.conv1.weight"),
        joined("head.scales", (f"{head}scales.{k}.scale" for k in range(5))),
    )
    return Plan(
        architecture=f"FCOS, {variant}", model=model, detect=DETECT, resize={**RESIZE, "rounding": "original"},
        layout=Layout(family=ORIGINAL, rows=rows, changes=changes, dropped=DROPPED),
        classes=numbered_classes(int(state[f"{head}cls_logits.weight"].shape[0])),
        notes=() if in_1x1 is not None else ("strides in the 1x1 convolutions of a ResNet, as in its zoo",),
    )  # fmt: skip
