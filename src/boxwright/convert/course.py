"""State dicts of the course's FCOS assignment, of which there are two.

They have the same names but for the pyramid, which tells them apart. The second, "003", reads centerness from the class
tower, has its locations transposed, and trains distances by L1; weights made so need all of it again.
"""

from __future__ import annotations

from typing import Any

from boxwright.convert.architecture import State, merged, model_of, tower_of
from boxwright.convert.keymap import Layout, Plan
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
"""Names of the 1x1 and 3x3 convolutions of level 3 to 5. "printed" is what the
assignment shows as the expected output."""
FLAGS_003 = {"head": {"centerness_on": "class"}, "loss": {"box": "l1"}, "compat": {"locations": "swapped"}}
FPN = "backbone.fpn_params."
DROPPED = (r"backbone\.backbone\.fc\..*",)


def recognises(state: State) -> bool:
    """Whether the names are those of the course's one-stage detector."""
    return "pred_net.pred_ctr.weight" in state


def classes_of(count: int) -> Classes:
    """Names of so many classes: 20 are those of VOC."""
    return Classes.named(VOC_NAMES if count == len(VOC_NAMES) else (f"class {k}" for k in range(count)))


def plan(state: State, options: dict[str, Any]) -> Plan:
    """What a file holds; `variant` ("001" or "003") says whose rules hold where the names do not."""
    style = pyramid_style(state)
    rules = options.get("variant") or style
    if rules not in PYRAMIDS:
        raise ValueError(f"variant: expected 001 or 003, got {rules!r}")
    stems, _ = tower_of(state, "pred_net.stem_cls.")
    own = {
        "fpn": {"channels": pyramid_channels(state, style)},
        "head": {"stem_channels": stems, "box_bias": 0.0},
        "compat": {"level_range_ends": "open"},
    }
    model = merged(model_of("fcos-regnetx400mf-224"), own, FLAGS_003 if rules == "003" else {})
    return Plan(
        architecture=f"FCOS, variant {'003' if rules == '003' else '001'}", model=model, layout=layout(style),
        classes=classes_of(int(state["pred_net.pred_cls.weight"].shape[0])), resize=RESIZE, detect=DETECT,
    )  # fmt: skip


def layout(style: str) -> Layout:
    """Names of the one-stage detector, whose pyramid has those of `style`, a key of `PYRAMIDS`."""
    rows = [
        *trunk_rows("", style),
        (r"head\.class_tower\.", "pred_net.stem_cls."),
        (r"head\.box_tower\.", "pred_net.stem_box."),
        (r"head\.class_logits\.", "pred_net.pred_cls."),
        (r"head\.box_distances\.", "pred_net.pred_box."),
        (r"head\.centerness\.", "pred_net.pred_ctr."),
    ]
    return Layout(family=FAMILY, rows=rows, dropped=DROPPED)


def pyramid_style(state: State) -> str:
    """Whose names the pyramid has: a key of `PYRAMIDS`."""
    names = [
        name
        for name, pair in PYRAMIDS.items()
        if all(f"{FPN}{part.format(3)}.weight" in state for part in pair)
    ]  # fmt: skip
    if len(names) != 1:
        raise ValueError("its pyramid has none of the names of the course (l3, p3; conv3, conv_out3; conv3, conv3_out)")
    return names[0]


def pyramid_channels(state: State, style: str) -> int:
    """The width of the pyramid."""
    return int(state[f"{FPN}{PYRAMIDS[style][0].format(3)}.weight"].shape[0])


def trunk_rows(prefix: str, style: str) -> list[tuple[str, str]]:
    """The table of backbone and pyramid, which all detectors of the course share."""
    lateral, output = PYRAMIDS[style]
    return [
        (rf"{prefix}backbone\.body\.", "backbone.backbone."),
        *((rf"{prefix}fpn\.laterals\.{k - 3}\.", f"{FPN}{lateral.format(k)}.") for k in (3, 4, 5)),
        *((rf"{prefix}fpn\.outputs\.{k - 3}\.", f"{FPN}{output.format(k)}.") for k in (3, 4, 5)),
    ]
