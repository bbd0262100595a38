"""MMDetection's two-stage detectors, Faster and Mask R-CNN on a pyramid; see `mmdetection.py` for what a file tells."""

from __future__ import annotations

import re
from typing import Any

from boxwright.convert.architecture import State, indices, merged
from boxwright.convert.keymap import Layout, Plan
from boxwright.convert.mmdetection import (
    DROPPED,
    FAMILY,
    backbone_of,
    backbone_rows,
    classes_of,
    detect_of,
    first_convolution,
    pyramid_rows,
    resize_of,
)
from boxwright.convert.mmdetection_config import at, kind_of, read_config

DETECT = {"score_threshold": 0.05, "nms_iou": 0.5, "candidates_per_level": 20_000, "max_detections": 100}
"""MMDetection has no limit of candidates; with probabilities above 0.05, 1000 regions cannot have more than 20000."""
LEVEL_SLACK = 3.6e-7
"""It adds 1e-6 to side / 56 before the logarithm: so much for the level of a region of 224 pixels."""
FASTER_RCNN = {
    "rpn": {
        "anchor_grid": "corner", "low_quality_iou": 0.3, "best_anchors": "claimed", "padding": "ignored",
        "train_candidates": 2000, "test_candidates": 1000, "train_proposals": 1000, "test_proposals": 1000,
        "shrink_limited": True,
    },
    "box": {"level_slack": LEVEL_SLACK, "shrink_limited": True},
    "compat": {"pad_multiple": 32},
}  # fmt: skip
"""In what `faster-rcnn_r50_fpn` differs from our defaults."""
_RPN, _ROI = "rpn_head.", "roi_head."


def recognises(state: State) -> bool:
    """Whether the names are those of its Faster or Mask R-CNN."""
    return f"{_RPN}rpn_cls.weight" in state and f"{_ROI}bbox_head.fc_cls.weight" in state


def plan(state: State, options: dict[str, Any]) -> Plan:
    """What a two-stage file holds."""
    config = read_config(options.get("meta"))
    levels = len(indices(state, r"neck\.lateral_convs\.(\d)\.conv\.weight"))
    if levels != 4:
        raise ValueError(f"expected a pyramid on 4 maps, got {levels or 'none'}")
    backbone, bgr, notes = backbone_of(state, options, config, caffe=False)
    masked = f"{_ROI}mask_head.conv_logits.weight" in state
    head = at(config, "model", "roi_head", "bbox_head", default={})
    count = int(state[f"{_ROI}bbox_head.fc_cls.weight"].shape[0]) - 1
    sides = int(state[f"{_ROI}bbox_head.fc_reg.weight"].shape[0])
    stds = tuple(at(head, "bbox_coder", "target_stds", default=(0.1, 0.1, 0.2, 0.2)))
    model = merged(FASTER_RCNN, {
        "name": "mask_rcnn" if masked else "faster_rcnn", "backbone": backbone,
        "fpn": {"channels": int(state["neck.lateral_convs.0.conv.weight"].shape[0])},
        "rpn": _proposals(state, config),
        "box": {
            "fc_channels": tuple(int(state[f"{_ROI}bbox_head.shared_fcs.{k}.weight"].shape[0])
                                 for k in indices(state, r"roi_head\.bbox_head\.shared_fcs\.(\d)\.weight")),
            "conv_channels": _convolutions(state, "bbox_head.shared_convs"),
            "claimed": bool(at(config, "model", "train_cfg", "rcnn", "assigner", "match_low_quality", default=masked)),
            "regression": "agnostic" if sides == 4 and count > 1 else "class",
            "offset_weights": tuple(1 / std for std in stds),
            **_pooling(at(config, "model", "roi_head", "bbox_roi_extractor", "roi_layer", default={}), 7),
        },
    })  # fmt: skip
    if masked:
        model["mask"] = {
            "conv_channels": _convolutions(state, "mask_head.convs"), "level_slack": LEVEL_SLACK,
            "upsampled_channels": int(state[f"{_ROI}mask_head.upsample.weight"].shape[1]),
            **_pooling(at(config, "model", "roi_head", "mask_roi_extractor", "roi_layer", default={}), 14),
        }  # fmt: skip
    test = at(config, "model", "test_cfg", "rcnn", default={})
    detect = {**DETECT, "score_threshold": at(test, "score_thr", default=0.05)}
    return Plan(
        architecture=("Mask" if masked else "Faster") + " R-CNN", model=model, resize=resize_of(config), notes=notes,
        detect=detect_of(detect, test), classes=classes_of(options.get("meta"), count),
        layout=layout("detector." if masked else "", bgr),
    )  # fmt: skip


def _proposals(state: State, config: dict[str, Any]) -> dict[str, Any]:
    made = at(config, "model", "rpn_head", "anchor_generator", default={})
    scales, ratios = at(made, "scales", default=[8]), at(made, "ratios", default=[0.5, 1.0, 2.0])
    anchors = int(state[f"{_RPN}rpn_cls.weight"].shape[0])
    if len(scales) != 1 or anchors != len(ratios):
        raise ValueError(f"expected one size and {len(ratios)} anchors a cell, got {len(scales)} and {anchors}")
    test = at(config, "model", "test_cfg", "rpn", default={})
    return {
        "stem_channels": (int(state[f"{_RPN}rpn_conv.weight"].shape[0]),),
        "anchor_sizes": tuple((float(scales[0]) * stride,) for stride in (4, 8, 16, 32, 64)),
        "anchor_ratios": tuple(float(ratio) for ratio in ratios),
        "nms_iou": at(test, "nms", "iou_threshold", default=at(test, "nms_thr", default=0.7)),
        "test_candidates": at(test, "nms_pre", default=1000),
        "test_proposals": at(test, "max_per_img", default=1000),
    }


def _pooling(layer: Any, usual: int) -> dict[str, Any]:
    if kind_of(layer) not in ("", "RoIAlign"):
        raise ValueError(f"its regions are pooled by {kind_of(layer)}; RoIAlign is known here")
    size = at(layer, "output_size", default=at(layer, "out_size", default=usual))
    return {
        "pool_size": size, "pool_sampling": at(layer, "sampling_ratio", default=0),
        "pool_aligned": bool(at(layer, "aligned", default=True)),
    }  # fmt: skip


def _convolutions(state: State, name: str) -> tuple[int, ...]:
    prefix = f"{_ROI}{name}."
    found = indices(state, re.escape(prefix) + r"(\d+)\.conv\.weight")
    return tuple(int(state[f"{prefix}{k}.conv.weight"].shape[0]) for k in found)


def layout(prefix: str, bgr: bool) -> Layout:
    """Names of `FasterRCNN` and `MaskRCNN`; `prefix` is what our detector is called within ours."""
    mine, box, mask = re.escape(prefix), f"{_ROI}bbox_head.", f"{_ROI}mask_head."
    rows = [
        *backbone_rows(f"{prefix}trunk."),
        *pyramid_rows(f"{prefix}trunk.", 4),
        (rf"{mine}rpn\.stem\.0\.", f"{_RPN}rpn_conv."),
        (rf"{mine}rpn\.objectness\.", f"{_RPN}rpn_cls."),
        (rf"{mine}rpn\.offsets\.", f"{_RPN}rpn_reg."),
        *((rf"{mine}box\.head\.convolutions\.{2 * k}\.", f"{box}shared_convs.{k}.conv.") for k in range(8)),
        *((rf"{mine}box\.head\.layers\.{k}\.", f"{box}shared_fcs.{k}.") for k in range(4)),
        (rf"{mine}box\.class_logits\.", f"{box}fc_cls."),
        (rf"{mine}box\.offsets\.", f"{box}fc_reg."),
        *((rf"mask\.head\.convolutions\.{2 * k}\.", f"{mask}convs.{k}.conv.") for k in range(8)),
        (r"mask\.head\.upsampled\.", f"{mask}upsample."),
        (r"mask\.head\.predictor\.", f"{mask}conv_logits."),
    ]
    return Layout(family=FAMILY, rows=rows, changes=first_convolution(f"{prefix}trunk.", bgr), dropped=DROPPED)
