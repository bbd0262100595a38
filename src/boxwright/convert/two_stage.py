"""Detectron2's two-stage detectors: RPN, Fast, Faster, Mask and Keypoint R-CNN on C4, DC5 and a pyramid, Panoptic FPN;
and its Faster R-CNN of rotated boxes (RRPN), which has the same names and five offsets a box.

What a file does not say is taken as the zoo has it: the limits of proposals, and that the only map of a C5 detector is
dilated (DC5).
"""

from __future__ import annotations

import re
from typing import Any

from boxwright.convert.architecture import State, indices
from boxwright.convert.coco_names import PERSON, numbered_classes
from boxwright.convert.detectron2 import (
    DROPPED,
    FAMILY,
    RESIZE,
    backbone_of,
    backbone_rows,
    block_rows,
    first_convolution,
    pyramid_rows,
)
from boxwright.convert.keymap import Layout, Plan, Rows
from boxwright.convert.semantic import semantic_of, semantic_rows, with_stuff
from boxwright.structures import Classes

_RPN, _ROI = "proposal_generator.rpn_head.", "roi_heads."
DETECT = {"score_threshold": 0.05, "nms_iou": 0.5, "candidates_per_level": 20_000, "max_detections": 100}
"""Detectron2 has no limit of candidates; with probabilities above 0.05, 1000 regions cannot have more than 20000."""
ONE_LEVEL = {"train_candidates": 12_000, "test_candidates": 6000, "train_proposals": 2000, "test_proposals": 1000}
PYRAMID = {"train_candidates": 2000, "test_candidates": 1000, "train_proposals": 1000, "test_proposals": 1000}


def recognises(state: State) -> bool:
    """Whether the names are those of a two-stage detector of Detectron2."""
    return f"{_RPN}objectness_logits.weight" in state or f"{_ROI}box_predictor.cls_score.weight" in state


def plan(state: State, options: dict[str, Any]) -> Plan:
    """What a two-stage file holds."""
    backbone, notes = backbone_of(state, options)
    levels, channels = _pyramid(state)
    pyramid = channels is not None
    if levels == ("c5",):
        backbone["dilated_c5"] = True
    pointed = f"{_ROI}keypoint_head.score_lowres.weight" in state
    boxed, masked = f"{_ROI}box_predictor.cls_score.weight" in state, f"{_ROI}mask_head.predictor.weight" in state
    proposed = f"{_RPN}objectness_logits.weight" in state
    if masked and not proposed:
        raise ValueError("a mask head on stored proposals (no proposal network) is not known here")
    if pointed and (masked or not proposed or not pyramid):
        raise ValueError("a keypoint head is known only on a pyramid with a proposal network, and without masks")
    labelled = "sem_seg_head.predictor.weight" in state
    if labelled and not (masked and pyramid):
        raise ValueError("a semantic head beside a detector is known only with masks and on a pyramid (Panoptic FPN)")
    turned = _is_rotated(state, boxes_alone=boxed and pyramid and not (masked or pointed or labelled))
    prefix = "instances.detector." if labelled else "detector." if masked or pointed else ""
    kinds = {
        "panoptic_fpn": labelled, "rotated_faster_rcnn": turned, "mask_rcnn": masked, "keypoint_rcnn": pointed,
        "rpn": not boxed, "faster_rcnn": proposed, "fast_rcnn": True,
    }  # fmt: skip
    name = next(kind for kind, given in kinds.items() if given)
    model: dict[str, Any] = {
        "name": name, "backbone": backbone, "fpn": {"levels": levels, "channels": channels},
        "compat": {"pad_multiple": 32 if pyramid else 1},
    }  # fmt: skip
    if proposed:
        model["rpn"] = _proposals(state, pyramid, angles=6 if turned else 1)
    classes = Classes(("object",), (1,))
    detect: dict[str, Any] = DETECT
    if boxed:
        model["box"] = _boxes(state, rotated=turned)
        classes = numbered_classes(int(state[f"{_ROI}box_predictor.cls_score.weight"].shape[0]) - 1)
    else:
        limit = 2000 if pyramid else 1000
        candidates = model["rpn"]["test_candidates"]
        detect = {"score_threshold": 0.0, "nms_iou": 0.7, "candidates_per_level": candidates, "max_detections": limit}
        model["rpn"]["test_proposals"] = limit
    if masked:
        model["mask"] = _masks(state)
    if pointed:
        model["keypoint"] = _keypoints(state)
        model["box"]["beta"] = 0.5  # of the zoo's keypoint models only
        model["rpn"]["train_proposals"] = 1500
        if len(classes) == 1 and model["keypoint"]["num_keypoints"] == 17:
            classes = PERSON
    if labelled:
        model["semantic"] = {**semantic_of(state), "loss_weight": 0.5}
        classes = with_stuff(classes, model["semantic"]["num_classes"])
    kind = "FPN" if pyramid else "DC5" if levels == ("c5",) else "C4"
    return Plan(
        architecture=name if labelled else f"{name} {kind}", model=model,
        layout=layout(prefix, levels, stage=kind == "C4"), classes=classes, resize=RESIZE, detect=detect,
        notes=tuple(notes),
    )  # fmt: skip


def _pyramid(state: State) -> tuple[tuple[str, ...], int | None]:
    """The maps of its backbone, and the width of the pyramid on them, if there is one."""
    levels = indices(state, r"backbone\.fpn_lateral(\d)\.")
    if levels:
        if levels != [2, 3, 4, 5]:
            raise ValueError(f"expected a pyramid from P2 to P5, got levels {levels}")
        return ("c2", "c3", "c4", "c5"), int(state["backbone.fpn_lateral2.weight"].shape[0])
    last = max(indices(state, r"backbone\.res(\d)\."))
    return (f"c{last}",), None


def _is_rotated(state: State, *, boxes_alone: bool) -> bool:
    """Whether the proposal network learns five offsets an anchor, not four; ValueError beside other heads."""
    if f"{_RPN}anchor_deltas.weight" not in state:
        return False
    scores, offsets = (state[f"{_RPN}{name}.weight"].shape[0] for name in ("objectness_logits", "anchor_deltas"))
    turned = int(offsets) == 5 * int(scores)
    if turned and not boxes_alone:
        raise ValueError("a proposal network of rotated boxes is known only on a pyramid, with a box head alone")
    return turned


def _proposals(state: State, pyramid: bool, angles: int) -> dict[str, Any]:
    anchors, expected = int(state[f"{_RPN}objectness_logits.weight"].shape[0]), (3 if pyramid else 15) * angles
    if anchors != expected:
        raise ValueError(f"expected {expected} anchors a cell, got {anchors}")
    sizes = tuple((float(side),) for side in (32, 64, 128, 256, 512))
    return {
        "stem_channels": (int(state[f"{_RPN}conv.weight"].shape[0]),),
        "anchor_sizes": sizes if pyramid else (tuple(size for (size,) in sizes),),
        "pooled_level": pyramid,
        "anchor_grid": "corner",
        "normaliser": "nominal",
        **(PYRAMID if pyramid else ONE_LEVEL),
    }


def _boxes(state: State, *, rotated: bool) -> dict[str, Any]:
    classes = int(state[f"{_ROI}box_predictor.cls_score.weight"].shape[0]) - 1
    sides = int(state[f"{_ROI}box_predictor.bbox_pred.weight"].shape[0])
    settings: dict[str, Any] = {} if rotated else {"regression": "agnostic" if sides == 4 and classes > 1 else "class"}
    if f"{_ROI}res5.0.conv1.weight" in state:
        return {**settings, "stage_head": True, "pool_size": 14}
    convolutions = indices(state, rf"{re.escape(_ROI)}box_head\.conv(\d+)\.")
    layers = indices(state, rf"{re.escape(_ROI)}box_head\.fc(\d+)\.")
    return {
        **settings,
        "conv_channels": tuple(int(state[f"{_ROI}box_head.conv{k}.weight"].shape[0]) for k in convolutions),
        "fc_channels": tuple(int(state[f"{_ROI}box_head.fc{k}.weight"].shape[0]) for k in layers),
    }


def _masks(state: State) -> dict[str, Any]:
    convolutions = indices(state, rf"{re.escape(_ROI)}mask_head\.mask_fcn(\d+)\.")
    return {
        "conv_channels": tuple(int(state[f"{_ROI}mask_head.mask_fcn{k}.weight"].shape[0]) for k in convolutions),
        "upsampled_channels": int(state[f"{_ROI}mask_head.deconv.weight"].shape[1]),
    }


def _keypoints(state: State) -> dict[str, Any]:
    convolutions = indices(state, rf"{re.escape(_ROI)}keypoint_head\.conv_fcn(\d+)\.")
    return {
        "num_keypoints": int(state[f"{_ROI}keypoint_head.score_lowres.weight"].shape[1]),
        "conv_channels": tuple(int(state[f"{_ROI}keypoint_head.conv_fcn{k}.weight"].shape[0]) for k in convolutions),
    }


def layout(prefix: str, levels: tuple[str, ...], *, stage: bool) -> Layout:
    """Names of `GeneralizedRCNN` and `ProposalNetwork`; `prefix` is what our detector is called within ours."""
    mine = re.escape(prefix)
    pyramid = len(levels) > 1
    theirs = "backbone.bottom_up." if pyramid else "backbone."
    rows: list[tuple[str, str]] = [
        *backbone_rows(f"{prefix}trunk.backbone.body.", theirs),
        *(pyramid_rows(f"{prefix}trunk.fpn.", 2, 5) if pyramid else []),
        (rf"{mine}rpn\.stem\.0\.", f"{_RPN}conv."),
        (rf"{mine}rpn\.objectness\.", f"{_RPN}objectness_logits."),
        (rf"{mine}rpn\.offsets\.", f"{_RPN}anchor_deltas."),
        *(block_rows(rf"{mine}box\.head\.stage\.", f"{_ROI}res5.") if stage else []),
        *((rf"{mine}box\.head\.convolutions\.{2 * k}\.", f"{_ROI}box_head.conv{k + 1}.") for k in range(8)),
        *((rf"{mine}box\.head\.layers\.{k}\.", f"{_ROI}box_head.fc{k + 1}.") for k in range(4)),
        (rf"{mine}box\.class_logits\.", f"{_ROI}box_predictor.cls_score."),
        (rf"{mine}box\.offsets\.", f"{_ROI}box_predictor.bbox_pred."),
        *mask_rows(mine.removesuffix(r"detector\.")),
        *((rf"keypoint\.head\.convolutions\.{2 * k}\.", f"{_ROI}keypoint_head.conv_fcn{k + 1}.") for k in range(16)),
        (r"keypoint\.head\.predictor\.", f"{_ROI}keypoint_head.score_lowres."),
        *semantic_rows(),
    ]
    return Layout(
        family=FAMILY, rows=rows, dropped=DROPPED,
        changes=(first_convolution(f"{prefix}trunk.backbone.body.", f"{theirs}stem.conv1.weight"),),
    )  # fmt: skip


def mask_rows(mine: str = "") -> Rows:
    """The table of the mask branch; `mine` is an expression of what our Mask R-CNN is called within ours."""
    return [
        *((rf"{mine}mask\.head\.convolutions\.{2 * k}\.", f"{_ROI}mask_head.mask_fcn{k + 1}.") for k in range(8)),
        (rf"{mine}mask\.head\.upsampled\.", f"{_ROI}mask_head.deconv."),
        (rf"{mine}mask\.head\.predictor\.", f"{_ROI}mask_head.predictor."),
    ]
