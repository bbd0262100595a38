"""Torchvision's Faster, Mask and Keypoint R-CNN with ResNet (first and second version) and MobileNet.

Class 0 of its heads is background. Of boxes and masks it has rows for that class too, which nothing reads: they are
kept for the way back.
"""

from __future__ import annotations

from typing import Any

import torch

from boxwright.convert.architecture import State, merged, norms
from boxwright.convert.coco_names import COCO_CLASSES, NUM_IDS, PERSON
from boxwright.convert.keymap import Layout, Plan, reordered, without_first
from boxwright.convert.torchvision import DROPPED, FAMILY, RESIZE, backbone_of, pyramid_rows
from boxwright.structures import Classes

DETECT = {"score_threshold": 0.05, "nms_iou": 0.5, "candidates_per_level": 20_000, "max_detections": 100}
"""Torchvision has no limit of candidates; with probabilities above 0.05, 1000 regions cannot have more than 20000."""
FASTER_RCNN = {
    "name": "faster_rcnn",
    "rpn": {
        "anchor_grid": "torchvision", "anchors_rounded": True, "beta": 1 / 9, "min_side": 0.001,
        "train_proposals": 2000,
    },
    "box": {"pool_sampling": 2, "pool_aligned": False, "level_slack": 1e-6, "beta": 1 / 9, "min_side": 0.01},
    "compat": {"pad_multiple": 32},
}  # fmt: skip
"""In what `fasterrcnn_resnet50_fpn` differs from our defaults."""
MASK_RCNN = merged(FASTER_RCNN, {
    "name": "mask_rcnn",
    "mask": {
        "pool_sampling": 2, "pool_aligned": False, "level_slack": 1e-6, "targets": "soft", "paste": "torchvision"
    },
})  # fmt: skip
"""The same of `maskrcnn_resnet50_fpn`."""
KEYPOINT_RCNN = merged(FASTER_RCNN, {
    "name": "keypoint_rcnn",
    "keypoint": {"pool_sampling": 2, "pool_aligned": False, "level_slack": 1e-6},
})  # fmt: skip
"""The same of `keypointrcnn_resnet50_fpn`."""
LEGACY = "9f466800"
"""In the name of the older file of `keypointrcnn_resnet50_fpn`, which keeps the eps of its norms."""
_ROI, _HEAD = "roi_heads.", "rpn.head."


def recognises(state: State) -> bool:
    """Whether the names are those of a two-stage detector of torchvision."""
    return f"{_HEAD}cls_logits.weight" in state and f"{_ROI}box_predictor.cls_score.weight" in state


def plan(state: State, options: dict[str, Any]) -> Plan:
    """What a two-stage file holds."""
    count = int(state[f"{_ROI}box_predictor.cls_score.weight"].shape[0])
    masked, mobile = f"{_ROI}mask_predictor.mask_fcn_logits.weight" in state, "backbone.body.0.0.weight" in state
    pointed = f"{_ROI}keypoint_predictor.kps_score_lowres.weight" in state
    if masked and pointed:
        raise ValueError("a file with a mask head and a keypoint head is not known here")
    second = f"{_ROI}box_head.0.0.weight" in state
    file = str(options.get("file", ""))
    variant = options.get("variant") if mobile else None
    if variant not in (None, "320", "800"):
        raise ValueError(f"variant: expected 320 or 800, got {variant!r}")
    small = variant == "320" or (variant is None and "320" in file)
    name = "maskrcnn" if masked else "keypointrcnn" if pointed else "fasterrcnn"
    name += "_mobilenet_v3_large" + "_320" * small if mobile else "_resnet50"
    architecture = name + "_fpn" + "_v2" * second
    first_zoo = not second and not mobile and f"{architecture}_coco-" in file and LEGACY not in file
    eps = 0.0 if first_zoo else None
    model = merged(MASK_RCNN if masked else KEYPOINT_RCNN if pointed else FASTER_RCNN, {
        "backbone": _mobilenet(state, options) if mobile else backbone_of(state, options, eps),
        "fpn": {
            "channels": int(state["backbone.fpn.inner_blocks.0.0.weight"].shape[0]),
            "norm": "bn" if "backbone.fpn.inner_blocks.0.1.weight" in state else "none",
            **({"levels": MOBILENET_MAPS} if mobile else {}),
        },
        "rpn": {
            "stem_channels": _widths(state, f"{_HEAD}conv.{{}}.0.weight"),
            **(_mobile_proposals(small) if mobile else {}),
        },
        "box": _box_fields(state, second),
        "compat": {"class_channels": tuple(k - 1 for k in COCO_CLASSES.ids) if count == NUM_IDS else None},
    })  # fmt: skip
    if masked:
        widths = _widths(state, f"{_ROI}mask_head.{{}}.0.weight")
        upsampled = int(state[f"{_ROI}mask_predictor.conv5_mask.weight"].shape[1])
        norm = "bn" if f"{_ROI}mask_head.0.1.weight" in state else "none"
        model["mask"] |= {"conv_channels": widths, "upsampled_channels": upsampled, "norm": norm}
    if pointed:
        predictor = state[f"{_ROI}keypoint_predictor.kps_score_lowres.weight"]
        widths = _widths(state, f"{_ROI}keypoint_head.{{}}.weight", step=2)
        model["keypoint"] |= {"conv_channels": widths, "num_keypoints": int(predictor.shape[1])}
    notes: tuple[str, ...] = ()
    if mobile and not small:
        notes = ("images of 800 to 1333 pixels; variant=320 for those of 320 to 640",)
    elif not (second or mobile or first_zoo):
        notes = ("eps of BatchNorm 1e-5; of torchvision's COCO_V1 weights it is 0",)
    classes = COCO_CLASSES if count == NUM_IDS else Classes(
        tuple(f"class {k}" for k in range(1, count)), tuple(range(1, count))
    )  # fmt: skip
    if pointed and count == 2 and model["keypoint"]["num_keypoints"] == 17:
        classes = PERSON
    return Plan(
        architecture=architecture, model=model, classes=classes, detect=DETECT, notes=notes,
        layout=layout("detector." if masked or pointed else "", count, second=second, mobile=mobile),
        resize={**RESIZE, "size": 320, "max_size": 640} if small and mobile else RESIZE,
    )  # fmt: skip


def _widths(state: State, key: str, step: int = 1) -> tuple[int, ...]:
    found: list[int] = []
    while (name := key.format(len(found) * step)) in state:
        found.append(int(state[name].shape[0]))
    return tuple(found)


def _mobilenet(state: State, options: dict[str, Any]) -> dict[str, Any]:
    eps = options.get("norm_eps")
    return {
        "name": "mobilenet_v3_large", "norm_eps": 1e-5 if eps is None else eps,
        **norms(state, "backbone.body.", frozen=0),
    }  # fmt: skip


MOBILENET_MAPS = ("features.13", "features.16")
"""Torchvision takes two maps, both of stride 32: after the last stage, and after the last convolution."""


def _mobile_proposals(small: bool) -> dict[str, Any]:
    sizes = ((32.0, 64.0, 128.0, 256.0, 512.0),) * 3
    limits = {"test_candidates": 150, "test_proposals": 150} if small else {}
    return {"anchor_sizes": sizes, "score_threshold": 0.05, **limits}


def _box_fields(state: State, second: bool) -> dict[str, Any]:
    if not second:
        return {"fc_channels": tuple(int(state[f"{_ROI}box_head.fc{k}.weight"].shape[0]) for k in (6, 7))}
    widths = _widths(state, f"{_ROI}box_head.{{}}.0.weight")
    fully = int(state[f"{_ROI}box_head.{len(widths) + 1}.weight"].shape[0])
    return {"conv_channels": widths, "fc_channels": (fully,), "norm": "bn"}


def layout(prefix: str, count: int, *, second: bool, mobile: bool) -> Layout:
    """Names of the two-stage detectors; `prefix` is what our detector is called within ours."""
    mine = prefix.replace(".", r"\.")
    body = r"trunk\.backbone\.body\." + (r"features\." if mobile else "")
    rows = [
        (mine + body, "backbone.body."),
        *pyramid_rows(f"{prefix}trunk.fpn.", second),
        *((rf"{mine}rpn\.stem\.{2 * k}\.", f"{_HEAD}conv.{k}.0.") for k in range(4)),
        (rf"{mine}rpn\.objectness\.", f"{_HEAD}cls_logits."),
        (rf"{mine}rpn\.offsets\.", f"{_HEAD}bbox_pred."),
    ]
    if second:
        rows += [(rf"{mine}box\.head\.convolutions\.{3 * k}\.", f"{_ROI}box_head.{k}.0.") for k in range(4)]
        rows += [(rf"{mine}box\.head\.convolutions\.{3 * k + 1}\.", f"{_ROI}box_head.{k}.1.") for k in range(4)]
        rows += [(rf"{mine}box\.head\.layers\.0\.", f"{_ROI}box_head.5.")]
        rows += [(rf"mask\.head\.convolutions\.{3 * k}\.", f"{_ROI}mask_head.{k}.0.") for k in range(4)]
        rows += [(rf"mask\.head\.convolutions\.{3 * k + 1}\.", f"{_ROI}mask_head.{k}.1.") for k in range(4)]
    else:
        rows += [(rf"{mine}box\.head\.layers\.{k}\.", f"{_ROI}box_head.fc{k + 6}.") for k in range(2)]
        rows += [(rf"mask\.head\.convolutions\.{2 * k}\.", f"{_ROI}mask_head.{k}.0.") for k in range(4)]
    rows += [(rf"keypoint\.head\.convolutions\.{2 * k}\.", f"{_ROI}keypoint_head.{2 * k}.") for k in range(16)]
    rows += [(r"keypoint\.head\.predictor\.", f"{_ROI}keypoint_predictor.kps_score_lowres.")]
    rows += [(r"mask\.head\.upsampled\.", f"{_ROI}mask_predictor.conv5_mask.")]
    background_last = torch.tensor([*range(1, count), 0])
    changes = []
    for end in ("weight", "bias"):
        scores, boxes = f"{_ROI}box_predictor.cls_score.{end}", f"{_ROI}box_predictor.bbox_pred.{end}"
        changes.append(reordered(f"{prefix}box.class_logits.{end}", scores, background_last))
        changes.append(without_first(f"{prefix}box.offsets.{end}", boxes, 4))
        if mobile:  # several sizes at one cell: theirs go by ratio, ours by size
            by_size = torch.arange(15).reshape(3, 5).T.flatten()
            sides = (4 * by_size[:, None] + torch.arange(4)).flatten()
            changes.append(reordered(f"{prefix}rpn.objectness.{end}", f"{_HEAD}cls_logits.{end}", by_size))
            changes.append(reordered(f"{prefix}rpn.offsets.{end}", f"{_HEAD}bbox_pred.{end}", sides))
        logits = f"{_ROI}mask_predictor.mask_fcn_logits.{end}"
        changes.append(without_first(f"mask.head.predictor.{end}", logits, 1))
    return Layout(family=FAMILY, rows=rows, changes=tuple(changes), dropped=DROPPED)
