"""State dicts of the course's detectors: FCOS as in seeds 001 and 003, Faster R-CNN as in seed 002.

The two have the same names but for the pyramid, which tells them apart. Seed 003 reads centerness from the class tower,
has its locations transposed, and trains distances by L1; weights made so need all of it again.
"""

from __future__ import annotations

from typing import Any

import torch

from boxwright.convert.architecture import State, plain, tower_of
from boxwright.convert.keymap import Layout, Plan, reordered
from boxwright.models import faster_rcnn
from boxwright.models.fcos import COURSE
from boxwright.structures import Classes

FAMILY = "the course"
VOC_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The order of the notebooks, which is that of the VOC challenge."""
RESIZE = {"mode": "short_side", "size": 224, "max_size": 4096}
DETECT = {"score_threshold": 0.3, "nms_iou": 0.5, "candidates_per_level": 20_000, "max_detections": 2000}
PYRAMIDS = {
    "001": ("l{}", "p{}"),
    "003": ("conv{}", "conv_out{}"),
    "printed": ("conv{}", "conv{}_out"),
}
"""Names of the 1x1 and 3x3 convolutions of level 3 to 5. "printed" is what seed 001 shows as the expected output."""
FLAGS_003 = {"centerness_on": "class", "locations": "swapped", "box_loss": "l1"}


FPN = "backbone.fpn_params."


def recognises(state: State) -> bool:
    """Whether the names are those of the course's one-stage detector."""
    return "pred_net.pred_ctr.weight" in state


def classes_of(count: int) -> Classes:
    """Names of so many classes: 20 are those of VOC."""
    return Classes.named(VOC_NAMES if count == len(VOC_NAMES) else (f"class {k}" for k in range(count)))


def plan(state: State, options: dict[str, Any]) -> Plan:
    """What a file holds; `variant` ("001" or "003") says whose rules hold where the names do not."""
    style = _pyramid_style(state)
    lateral, _ = PYRAMIDS[style]
    rules = options.get("variant") or style
    if rules not in PYRAMIDS:
        raise ValueError(f"variant: expected 001 or 003, got {rules!r}")
    stems, _ = tower_of(state, "pred_net.stem_cls.")
    model = {
        "name": "fcos", **plain(COURSE),
        "fpn_channels": int(state[f"{FPN}{lateral.format(3)}.weight"].shape[0]),
        "stem_channels": stems,
        "level_range_ends": "open",
        "box_bias": 0.0,
        **(FLAGS_003 if rules == "003" else {}),
    }  # fmt: skip
    rows = [
        *_trunk_rows("", style),
        (r"head\.class_tower\.", "pred_net.stem_cls."),
        (r"head\.box_tower\.", "pred_net.stem_box."),
        (r"head\.class_logits\.", "pred_net.pred_cls."),
        (r"head\.box_distances\.", "pred_net.pred_box."),
        (r"head\.centerness\.", "pred_net.pred_ctr."),
    ]
    return Plan(
        architecture=f"FCOS of seed {'003' if rules == '003' else '001'}", model=model,
        layout=Layout(family=FAMILY, rows=rows, dropped=(r"backbone\.backbone\.fc\..*",)),
        classes=classes_of(int(state["pred_net.pred_cls.weight"].shape[0])), resize=RESIZE, detect=DETECT,
    )  # fmt: skip


def _pyramid_style(state: State) -> str:
    names = [
        name
        for name, pair in PYRAMIDS.items()
        if all(f"{FPN}{part.format(3)}.weight" in state for part in pair)
    ]  # fmt: skip
    if len(names) != 1:
        raise ValueError("its pyramid has none of the names of the course (l3, p3; conv3, conv_out3; conv3, conv3_out)")
    return names[0]


def _trunk_rows(prefix: str, style: str) -> list[tuple[str, str]]:
    """The table of backbone and pyramid, which all detectors of the course share."""
    lateral, output = PYRAMIDS[style]
    return [
        (rf"{prefix}backbone\.body\.", "backbone.backbone."),
        *((rf"{prefix}fpn\.laterals\.{k - 3}\.", f"{FPN}{lateral.format(k)}.") for k in (3, 4, 5)),
        *((rf"{prefix}fpn\.outputs\.{k - 3}\.", f"{FPN}{output.format(k)}.") for k in (3, 4, 5)),
    ]


def recognises_two_stage(state: State) -> bool:
    """Whether the names are those of the course's Faster R-CNN."""
    return "rpn.pred_net.pred_obj.weight" in state


def plan_two_stage(state: State, options: dict[str, Any]) -> Plan:
    """What a file of seed 002 holds; its classifier has background as class 0, and no box refinement."""
    style = _pyramid_style(state)
    stem, _ = tower_of(state, "rpn.pred_net.stem_rpn.")
    convolutions, _ = tower_of(state, "cls_pred.")
    linear = f"cls_pred.{2 * len(convolutions) + 1}"  # after the convolutions, their ReLUs, and the flattening
    if f"{linear}.weight" not in state:
        raise ValueError(f"expected {linear}.weight, the last layer of its classifier")
    count = int(state[f"{linear}.weight"].shape[0]) - 1
    preset = plain(faster_rcnn.COURSE)
    model = {
        "name": "faster_rcnn", **preset,
        "fpn_channels": int(state[f"{FPN}{PYRAMIDS[style][0].format(3)}.weight"].shape[0]),
        "rpn": preset["rpn"] | {"stem_channels": stem},
        "box": preset["box"] | {"conv_channels": convolutions},
    }  # fmt: skip
    rows = [
        *_trunk_rows(r"trunk\.", style),
        (r"rpn\.stem\.", "rpn.pred_net.stem_rpn."),
        (r"rpn\.objectness\.", "rpn.pred_net.pred_obj."),
        (r"rpn\.offsets\.", "rpn.pred_net.pred_box."),
        (r"box\.head\.convolutions\.", "cls_pred."),
    ]
    order = torch.tensor([*range(1, count + 1), 0])
    changes = tuple(reordered(f"box.class_logits.{end}", f"{linear}.{end}", order) for end in ("weight", "bias"))
    return Plan(
        architecture="Faster R-CNN of seed 002", model=model, classes=classes_of(count), resize=RESIZE,
        layout=Layout(family=FAMILY, rows=rows, changes=changes, dropped=(r"backbone\.backbone\.fc\..*",)),
        detect={**DETECT, "score_threshold": 0.05, "max_detections": 300},
    )  # fmt: skip
