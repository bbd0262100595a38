"""State dicts of the course's Faster R-CNN assignment."""

from __future__ import annotations

from typing import Any

import torch

from boxwright.convert.architecture import State, merged, model_of, tower_of
from boxwright.convert.course import (
    DETECT,
    DROPPED,
    FAMILY,
    RESIZE,
    classes_of,
    pyramid_channels,
    pyramid_style,
    trunk_rows,
)
from boxwright.convert.keymap import Layout, Plan, reordered


def recognises(state: State) -> bool:
    """Whether the names are those of the course's Faster R-CNN."""
    return "rpn.pred_net.pred_obj.weight" in state


def plan(state: State, options: dict[str, Any]) -> Plan:
    """What a file holds; its classifier has background as class 0, and no box refinement."""
    style = pyramid_style(state)
    stem, _ = tower_of(state, "rpn.pred_net.stem_rpn.")
    convolutions, _ = tower_of(state, "cls_pred.")
    linear = last_layer(len(convolutions))
    if f"{linear}.weight" not in state:
        raise ValueError(f"expected {linear}.weight, the last layer of its classifier")
    count = int(state[f"{linear}.weight"].shape[0]) - 1
    model = merged(model_of("faster-rcnn-regnetx400mf-224"), {
        "fpn": {"channels": pyramid_channels(state, style)},
        "rpn": {"stem_channels": stem, "samples": 32},
        "box": {"conv_channels": convolutions, "samples": 32},
    })  # fmt: skip
    return Plan(
        architecture="Faster R-CNN", model=model, classes=classes_of(count), resize=RESIZE,
        layout=layout(style, count, len(convolutions)),
        detect={**DETECT, "score_threshold": 0.05, "max_detections": 300},
    )  # fmt: skip


def layout(style: str, num_classes: int, num_convolutions: int) -> Layout:
    """Names of its Faster R-CNN, whose pyramid has those of `style`; its class 0 is background."""
    rows = [
        *trunk_rows(r"trunk\.", style),
        (r"rpn\.stem\.", "rpn.pred_net.stem_rpn."),
        (r"rpn\.objectness\.", "rpn.pred_net.pred_obj."),
        (r"rpn\.offsets\.", "rpn.pred_net.pred_box."),
        (r"box\.head\.convolutions\.", "cls_pred."),
    ]
    linear, order = last_layer(num_convolutions), torch.tensor([*range(1, num_classes + 1), 0])
    changes = tuple(reordered(f"box.class_logits.{end}", f"{linear}.{end}", order) for end in ("weight", "bias"))
    return Layout(family=FAMILY, rows=rows, changes=changes, dropped=DROPPED)


def last_layer(num_convolutions: int) -> str:
    """The classifier's linear layer: after so many convolutions, their ReLUs, and the flattening."""
    return f"cls_pred.{2 * num_convolutions + 1}"
