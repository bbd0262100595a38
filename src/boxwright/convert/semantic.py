"""Detectron2's semantic head: alone in the files of its Semantic FPN, and beside the detector of its Panoptic FPN."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from boxwright.convert.architecture import State, indices
from boxwright.convert.coco_names import COCO_STUFF
from boxwright.convert.detectron2 import (
    DROPPED,
    FAMILY,
    RESIZE,
    backbone_of,
    backbone_rows,
    first_convolution,
    pyramid_rows,
)
from boxwright.convert.keymap import Layout, Plan, Rows
from boxwright.structures import Classes

_HEAD = "sem_seg_head."
LEVELS = ("c2", "c3", "c4", "c5")


def recognises(state: State) -> bool:
    """Whether the names are those of a Semantic FPN of Detectron2."""
    alone = not any(name.startswith(("proposal_generator.", "roi_heads.")) for name in state)
    return alone and f"{_HEAD}predictor.weight" in state and f"{_HEAD}p2.0.weight" in state


def plan(state: State, options: dict[str, Any]) -> Plan:
    """What a file of a Semantic FPN holds."""
    backbone, notes = backbone_of(state, options)
    levels = indices(state, r"backbone\.fpn_lateral(\d)\.")
    if levels != [2, 3, 4, 5]:
        raise ValueError(f"expected a pyramid from P2 to P5, got levels {levels}")
    semantic = semantic_of(state)
    model = {
        "name": "semantic_fpn", "backbone": backbone, "semantic": semantic, "compat": {"pad_multiple": 32},
        "fpn": {"levels": LEVELS, "channels": int(state["backbone.fpn_lateral2.weight"].shape[0])},
    }  # fmt: skip
    things = COCO_STUFF if semantic["num_classes"] == len(COCO_STUFF) + 1 else ()
    stuff = ("things", *things) if things else _numbered(semantic["num_classes"])
    return Plan(
        architecture="semantic_fpn", model=model, layout=layout(), classes=Classes((), (), stuff=stuff), resize=RESIZE,
        detect={"score_threshold": 0.05}, notes=tuple(notes),
    )  # fmt: skip


def semantic_of(state: State) -> dict[str, Any]:
    """The section `semantic` of a file with such a head."""
    predictor = state[f"{_HEAD}predictor.weight"]
    norm = "gn" if f"{_HEAD}p2.0.norm.weight" in state else "none"
    return {"num_classes": int(predictor.shape[0]), "channels": int(predictor.shape[1]), "norm": norm}


def with_stuff(classes: Classes, num_classes: int) -> Classes:
    """Classes with the stuff of a semantic map of so many labels, of which the first is any thing; 54 are COCO's."""
    count = num_classes - 1
    return replace(classes, stuff=COCO_STUFF if count == len(COCO_STUFF) else _numbered(count))


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"stuff {k}" for k in range(count))


def layout() -> Layout:
    """Names of `modeling/meta_arch/semantic_seg.py` with a ResNet and a pyramid."""
    rows = [
        *backbone_rows("trunk.backbone.body.", "backbone.bottom_up."),
        *pyramid_rows("trunk.fpn.", 2, 5),
        *semantic_rows(),
    ]
    return Layout(
        family=FAMILY, rows=rows, changes=(first_convolution("trunk.backbone.body."),), dropped=DROPPED
    )  # fmt: skip


def semantic_rows() -> Rows:
    """The table of the head: its upsampling takes the odd places there, and a norm belongs to its convolution."""
    rows = [(r"semantic\.head\.predictor\.", f"{_HEAD}predictor.")]
    for level in range(len(LEVELS)):
        for step in range(max(1, level)):
            mine, theirs = rf"semantic\.head\.towers\.{level}\.{step}\.", f"{_HEAD}p{level + 2}.{2 * step}."
            rows += [(rf"{mine}0\.", theirs), (rf"{mine}1\.", f"{theirs}norm.")]
    return rows
