"""AdelaiDet's FCOS, the code of its authors. It builds on Detectron2 and shares its ResNets, colours and resizing."""

from __future__ import annotations

from typing import Any

from boxwright.convert.architecture import State, indices, merged, tower_of
from boxwright.convert.coco_names import numbered_classes
from boxwright.convert.detectron2 import (
    DROPPED,
    RESIZE,
    backbone_of,
    backbone_rows,
    first_convolution,
    pyramid_rows,
)
from boxwright.convert.keymap import Layout, Plan, joined

FAMILY = "AdelaiDet"
COMPAT = {"level_range_ends": "closed", "smoothing": 1.0, "class_threshold": 0.05, "pad_multiple": 32}
"""Rules that it shares with the authors' first repository."""
DETECT = {"score_threshold": 0.0, "nms_iou": 0.6, "candidates_per_level": 1000, "max_detections": 100}
_HEAD = "proposal_generator.fcos_head."


def recognises(state: State) -> bool:
    """Whether the names are those of AdelaiDet's FCOS."""
    return f"{_HEAD}cls_logits.weight" in state


def plan(state: State, options: dict[str, Any]) -> Plan:
    """What a file of AdelaiDet holds."""
    backbone, notes = backbone_of(state, options)
    widths, norm = tower_of(state, f"{_HEAD}cls_tower.")
    extra = len(indices(state, r"backbone\.top_block\.p(\d)\."))
    scales = len(indices(state, rf"{_HEAD}scales\.(\d)\."))
    model = {
        "name": "fcos",
        "backbone": backbone,
        "fpn": {"channels": int(state["backbone.fpn_lateral5.weight"].shape[0]), "extra_levels": extra},
        "head": {"stem_channels": widths, "norm": norm, "scale_per_level": scales > 0},
        "assignment": {"level_bounds": (64, 128, 256, 512)[: 2 + extra]},
        "compat": merged(COMPAT, {"clip": "after_nms"}),
    }
    return Plan(
        architecture="FCOS", model=model, resize=RESIZE, detect=DETECT, notes=tuple(notes),
        layout=layout(3 + extra, scales=scales > 0),
        classes=numbered_classes(int(state[f"{_HEAD}cls_logits.weight"].shape[0])),
    )  # fmt: skip


def layout(num_levels: int, *, scales: bool) -> Layout:
    """Names of `FCOS`, with or without a factor for each level (`USE_SCALE`)."""
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
        changes.append(joined("head.scales", (f"{_HEAD}scales.{k}.scale" for k in range(num_levels))))
    return Layout(family=FAMILY, rows=rows, changes=tuple(changes), dropped=DROPPED)
