"""FCOS by its authors in their first repository, `tianzhi0549/FCOS`.

A file does not say whether distances go through exp (the 2019 baseline) or ReLU (`imprv`), nor where its centerness
sits: the variant must be given, or stand in the file's name as in its zoo.
"""

from __future__ import annotations

from typing import Any

from boxwright.convert.adelaidet import COMPAT, DETECT
from boxwright.convert.architecture import State, merged, model_of, norms, resnet_of, tower_of
from boxwright.convert.coco_names import numbered_classes
from boxwright.convert.detectron2 import DROPPED, RESIZE, rgb
from boxwright.convert.keymap import Layout, Plan, flipped, joined

FAMILY = "the original FCOS"
VARIANTS = {"baseline": "fcos-r50-fpn-1x-gn", "improved": "fcos-r50-fpn-1x-improved"}
"""The recipe that each follows; the authors' `fcos_R_50_FPN_1x` has the norm of Table 3, row 5."""
MEAN_BGR = (102.9801, 115.9465, 122.7717)


def recognises(state: State) -> bool:
    """Whether the names are those of the authors' first repository."""
    return "rpn.head.centerness.weight" in state


def plan(state: State, options: dict[str, Any]) -> Plan:
    """What a file of the original repository holds."""
    variant, file = options.get("variant"), str(options.get("file", "")).lower()
    if variant is None and "fcos" in file:
        variant = "improved" if "imprv" in file else "baseline" if "_r_" in file or "_x_" in file else None
    if variant not in VARIANTS:
        raise ValueError(
            'a file of the original FCOS does not say which it is: give variant="baseline" (exp, centerness beside the '
            'classes) or "improved" (the `imprv` configs)'
        )
    name, widths, groups = resnet_of(state, "backbone.body.stem.conv1.weight", "backbone.body.layer{}.", 1)
    in_1x1 = options.get("stride_in_1x1")
    stem_channels, norm = tower_of(state, "rpn.head.cls_tower.")
    model = merged(model_of(VARIANTS[variant]), {
        "backbone": {
            "name": name, "widths": widths, "stride_in_1x1": groups == 1 if in_1x1 is None else in_1x1, "norm_eps": 0.0,
            "pixel_mean": rgb(MEAN_BGR), "pixel_std": rgb((1.0, 1.0, 1.0)), **norms(state, "backbone.body."),
        },
        "fpn": {"channels": int(state["backbone.fpn.fpn_inner4.weight"].shape[0]), "extra_from": "p5"},
        "head": {"stem_channels": stem_channels, "norm": norm},
        "compat": merged(COMPAT, {"inclusive_pixels": True}),
    })  # fmt: skip
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
        layout=Layout(family=FAMILY, rows=rows, changes=changes, dropped=DROPPED),
        classes=numbered_classes(int(state[f"{head}cls_logits.weight"].shape[0])),
        notes=() if in_1x1 is not None else ("strides in the 1x1 convolutions of a ResNet, as in its zoo",),
    )  # fmt: skip
