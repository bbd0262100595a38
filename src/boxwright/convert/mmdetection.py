"""MMDetection's one-stage detectors, FCOS and RetinaNet, from files of mmengine (3.x) and of 2.x.

Such a file mostly holds the config it was trained with, as text; what that says is taken (`mmdetection_config.py`).
Without one, settings are those of its zoo, which the notes tell: a "caffe" ResNet (FCOS, or by the file's name) has its
strides in the 1x1 and sees BGR from 0 to 255, a "pytorch" one is torchvision's.
"""

from __future__ import annotations

import re
from typing import Any

from boxwright.convert.architecture import State, indices, merged, resnet_of
from boxwright.convert.coco_names import numbered_classes
from boxwright.convert.detectron2 import MEAN_BGR, UNIT_STD, rgb
from boxwright.convert.keymap import Change, Layout, Plan, flipped, joined
from boxwright.convert.mmdetection_config import at, class_names, kind_of, read_config
from boxwright.convert.torchvision import anchor_changes
from boxwright.structures import Classes

FAMILY = "MMDetection"
FCOS_MEAN_BGR = (102.9801, 115.9465, 122.7717)
"""Of the baseline; the improved variant has that of Detectron2."""
MEAN_RGB, STD_RGB = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
RESIZE = {"mode": "short_side", "size": 800, "max_size": 1333, "filter": "plain"}
"""OpenCV's bilinear filter, which is not antialiased."""
DROPPED = (r".*num_batches_tracked", r"data_preprocessor\..*")
FCOS_DETECT = {"score_threshold": 0.0, "nms_iou": 0.5, "candidates_per_level": 1000, "max_detections": 100}
RETINANET_DETECT = {**FCOS_DETECT, "score_threshold": 0.05}
FCOS_BASELINE = {
    "head": {"centerness_on": "class", "normalise_targets": False, "box_output": "exp", "bias": False},
    "assignment": {"center_radius": None},
    "loss": {"box": "iou"},
}
FCOS_IMPROVED = {
    "head": {"centerness_on": "box", "normalise_targets": True, "box_output": "relu", "bias": True},
    "assignment": {"center_radius": 1.5},
    "loss": {"box": "giou"},
}
"""The two variants of its zoo (`center-normbbox-centeronreg-giou` is the second)."""
FCOS_COMPAT = {"level_range_ends": "closed", "class_threshold": 0.05, "scoring": "class_first", "pad_multiple": 32}
RETINANET = {
    "name": "retinanet",
    "loss": {"normaliser": "one_each"},
    "compat": {
        "anchor_grid": "corner", "extra_relu": False, "best_anchors": "claimed", "padding": "ignored",
        "shrink_limited": True, "pad_multiple": 32,
    },
}  # fmt: skip
"""In what its RetinaNet differs from our defaults."""
_HEAD, _NECK = "bbox_head.", "neck."


def recognises(state: State) -> bool:
    """Whether the names are those of its FCOS or RetinaNet."""
    return f"{_NECK}lateral_convs.0.conv.weight" in state and (
        f"{_HEAD}conv_centerness.weight" in state or f"{_HEAD}retina_cls.weight" in state
    )


def plan(state: State, options: dict[str, Any]) -> Plan:
    """What a one-stage file holds."""
    config = read_config(options.get("meta"))
    return _fcos(state, options, config) if f"{_HEAD}conv_centerness.weight" in state else (
        _retinanet(state, options, config)
    )  # fmt: skip


def backbone_of(
    state: State,
    options: dict[str, Any],
    config: dict[str, Any],
    *,
    caffe: bool,
    mean_bgr: tuple[float, ...] = MEAN_BGR,
) -> tuple[dict[str, Any], bool, tuple[str, ...]]:
    """The section `backbone` of its ResNet, whether it was fed BGR, and notes; `caffe` is what is usual there."""
    section = at(config, "model", "backbone", default={})
    if section and kind_of(section) not in ("ResNet", "ResNeXt"):
        raise ValueError(f"its backbone is {kind_of(section)}; ResNet and ResNeXt are known here")
    name, widths, groups = resnet_of(state, "backbone.conv1.weight", "backbone.layer{}.", 1)
    named = "caffe" in str(options.get("file", "")).lower()
    usual = (caffe or named) and groups == 1
    style = at(section, "style", default="caffe" if usual else "pytorch")
    in_1x1, notes = options.get("stride_in_1x1"), []
    # 3.x has the pixels' statistics in the model, 2.x in the pipelines
    pixels = at(config, "model", "data_preprocessor") or at(config, "img_norm_cfg") or {}
    if in_1x1 is None:
        in_1x1 = style == "caffe"
        if not section:
            notes.append(f"a {style!r} ResNet, with its strides in the {'1x1' if in_1x1 else '3x3'} convolutions")
    bgr = not at(pixels, "bgr_to_rgb", default=at(pixels, "to_rgb", default=style != "caffe"))
    mean = _three(at(pixels, "mean"), mean_bgr if style == "caffe" else MEAN_RGB)
    std = _three(at(pixels, "std"), UNIT_STD if style == "caffe" else STD_RGB)
    if not pixels:
        notes.append(f"pixel mean {mean} and deviation {std} ({'BGR' if bgr else 'RGB'})")
    moving = at(section, "norm_eval", default=True) is False
    eps = options.get("norm_eps")
    backbone = {
        "name": name, "widths": widths, "stride_in_1x1": bool(in_1x1), "norm": "bn" if moving else "frozen_bn",
        "norm_eps": at(section, "norm_cfg", "eps") if eps is None else eps,
        "frozen_stages": min(5, 1 + max(-1, int(at(section, "frozen_stages", default=1)))),
        "pixel_mean": rgb(mean) if bgr else tuple(v / 255 for v in mean),
        "pixel_std": rgb(std) if bgr else tuple(v / 255 for v in std),
    }  # fmt: skip
    return backbone, bgr, tuple(notes)


def _three(value: Any, usual: tuple[float, ...]) -> tuple[float, ...]:
    numbers = tuple(value) if isinstance(value, list | tuple) else ()
    return numbers if len(numbers) == 3 and all(isinstance(v, int | float) for v in numbers) else usual


def resize_of(config: dict[str, Any]) -> dict[str, Any]:
    """How its config resizes images at test."""
    pipeline = at(config, "test_pipeline", default=[])
    steps = [step for step in pipeline if isinstance(step, dict)]
    steps += [inner for step in steps for inner in at(step, "transforms", default=()) if isinstance(inner, dict)]
    for step in steps:
        scale = at(step, "scale", default=at(step, "img_scale"))
        if isinstance(scale, list | tuple) and len(scale) == 2 and all(isinstance(side, int) for side in scale):
            if kind_of(step) == "Resize" and at(step, "keep_ratio", default=True) is False:
                return {"mode": "fixed", "width": scale[0], "height": scale[1], "filter": "plain"}
            return {**RESIZE, "size": min(scale), "max_size": max(scale)}
    return RESIZE


def detect_of(usual: dict[str, Any], test: Any) -> dict[str, Any]:
    """How raw predictions become detections, from a section `test_cfg`; its NMS must be the plain one."""
    if kind_of(at(test, "nms", default={})) not in ("", "nms"):
        raise ValueError(f"its NMS is {kind_of(at(test, 'nms'))}, which is not known here")
    return {
        **usual,
        "nms_iou": at(test, "nms", "iou_threshold", default=at(test, "nms", "iou_thr", default=usual["nms_iou"])),
        "max_detections": at(test, "max_per_img", default=usual["max_detections"]),
    }


def classes_of(meta: Any, count: int) -> Classes:
    """Names of the classes that the file tells, with COCO's ids where they are its 80; else by their number."""
    names, numbered = class_names(meta), numbered_classes(count)
    if names is None or len(names) != count or names == numbered.names:
        return numbered
    return Classes.named(names)


def backbone_rows(ours: str) -> list[tuple[str, str]]:
    """The table of a ResNet, whose names are torchvision's."""
    return [(re.escape(f"{ours}backbone.body."), "backbone.")]


def pyramid_rows(ours: str, levels: int) -> list[tuple[str, str]]:
    """The table of a feature pyramid on so many maps, and of the levels made on top of it."""
    mine = re.escape(f"{ours}fpn.")
    return [
        (rf"{mine}laterals\.(\d)\.", rf"{_NECK}lateral_convs.\1.conv."),
        (rf"{mine}outputs\.(\d)\.", rf"{_NECK}fpn_convs.\1.conv."),
        *((rf"{mine}extras\.{k}\.", f"{_NECK}fpn_convs.{levels + k}.conv.") for k in range(2)),
    ]


def first_convolution(ours: str, bgr: bool) -> tuple[Change, ...]:
    """The convolution that sees the colours, where those were BGR."""
    return (flipped(f"{ours}backbone.body.conv1.weight", "backbone.conv1.weight"),) if bgr else ()


def _tower(state: State, name: str) -> tuple[tuple[int, ...], str, bool]:
    """Widths of a tower's convolutions, the norm after each, and whether they have a bias."""
    prefix = f"{_HEAD}{name}."
    widths = tuple(
        int(state[f"{prefix}{k}.conv.weight"].shape[0]) for k in indices(state, re.escape(prefix) + r"(\d+)\.conv\.")
    )
    norm = "gn" if f"{prefix}0.gn.weight" in state else "bn" if f"{prefix}0.bn.weight" in state else "none"
    return widths, norm, f"{prefix}0.conv.bias" in state


def tower_rows(widths: tuple[int, ...], norm: str) -> list[tuple[str, str]]:
    """The table of both towers: convolution, norm where there is one, ReLU."""
    step, rows = (2 if norm == "none" else 3), []
    for ours, theirs in (("class_tower", "cls_convs"), ("box_tower", "reg_convs")):
        for k in range(len(widths)):
            rows.append((rf"head\.{ours}\.{step * k}\.", f"{_HEAD}{theirs}.{k}.conv."))
            if norm != "none":
                rows.append((rf"head\.{ours}\.{step * k + 1}\.", f"{_HEAD}{theirs}.{k}.{norm}."))
    return rows


def _neck(state: State, wanted: int) -> int:
    """The width of the pyramid, which must stand on so many maps."""
    levels = len(indices(state, r"neck\.lateral_convs\.(\d)\.conv\.weight"))
    if levels != wanted:
        raise ValueError(f"expected a pyramid on {wanted} maps, got {levels}")
    return int(state[f"{_NECK}lateral_convs.0.conv.weight"].shape[0])


def _fcos(state: State, options: dict[str, Any], config: dict[str, Any]) -> Plan:
    head = at(config, "model", "bbox_head", default={})
    widths, norm, bias = _tower(state, "cls_convs")
    improved = bool(at(head, "norm_on_bbox", default=bias if not head else False))
    variant = merged(FCOS_IMPROVED if improved else FCOS_BASELINE)
    if head:
        variant["head"]["centerness_on"] = "box" if at(head, "centerness_on_reg", default=False) else "class"
        radius = float(at(head, "center_sample_radius", default=1.5))
        variant["assignment"]["center_radius"] = radius if at(head, "center_sampling", default=False) else None
        variant["loss"]["box"] = "giou" if kind_of(at(head, "loss_bbox", default={})) == "GIoULoss" else "iou"
    mean = MEAN_BGR if improved else FCOS_MEAN_BGR
    backbone, bgr, notes = backbone_of(state, options, config, caffe=True, mean_bgr=mean)
    model = merged({"name": "fcos"}, variant, {
        "backbone": backbone, "fpn": {"channels": _neck(state, 3), "extra_levels": 2, "extra_from": "p5"},
        "head": {"stem_channels": widths, "norm": norm, "bias": bias or norm == "none"}, "compat": FCOS_COMPAT,
    })  # fmt: skip
    test = at(config, "model", "test_cfg", default={})
    threshold = at(test, "score_thr", default=FCOS_COMPAT["class_threshold"])
    model["compat"]["class_threshold"] = threshold
    if not head:
        notes += (f"the {'improved' if improved else 'baseline'} variant, because its towers' convolutions have "
                  f"{'a' if bias else 'no'} bias",)  # fmt: skip
    return Plan(
        architecture=f"FCOS, {'improved' if improved else 'baseline'}", model=model, resize=resize_of(config),
        detect=detect_of({**FCOS_DETECT, "nms_iou": 0.6 if improved else 0.5}, test), notes=notes,
        classes=classes_of(options.get("meta"), int(state[f"{_HEAD}conv_cls.weight"].shape[0])),
        layout=fcos_layout(widths, norm, bgr),
    )  # fmt: skip


def fcos_layout(widths: tuple[int, ...], norm: str, bgr: bool) -> Layout:
    """Names of `FCOS`; `bgr` is what its first convolution expects."""
    rows = [
        *backbone_rows(""),
        *pyramid_rows("", 3),
        *tower_rows(widths, norm),
        (r"head\.class_logits\.", f"{_HEAD}conv_cls."),
        (r"head\.box_distances\.", f"{_HEAD}conv_reg."),
        (r"head\.centerness\.", f"{_HEAD}conv_centerness."),
    ]
    scales = joined("head.scales", (f"{_HEAD}scales.{k}.scale" for k in range(5)), shape=())
    return Layout(family=FAMILY, rows=rows, changes=(*first_convolution("", bgr), scales), dropped=DROPPED)


def _retinanet(state: State, options: dict[str, Any], config: dict[str, Any]) -> Plan:
    head = at(config, "model", "bbox_head", default={})
    widths, norm, bias = _tower(state, "cls_convs")
    channels = _neck(state, 3)
    anchors = int(state[f"{_HEAD}retina_reg.weight"].shape[0]) // 4
    made = at(head, "anchor_generator", default={})
    count, base = int(at(made, "scales_per_octave", default=3)), float(at(made, "octave_base_scale", default=4))
    ratios = tuple(float(ratio) for ratio in at(made, "ratios", default=(0.5, 1.0, 2.0)))
    if anchors != count * len(ratios):
        raise ValueError(f"expected {count * len(ratios)} anchors a cell, got {anchors}")
    num_classes = int(state[f"{_HEAD}retina_cls.weight"].shape[0]) // anchors
    _check_coder(at(head, "bbox_coder", "target_stds", default=(1.0,) * 4))
    backbone, bgr, notes = backbone_of(state, options, config, caffe=False)
    first_extra = state[f"{_NECK}fpn_convs.3.conv.weight"].shape[1]
    model = merged(RETINANET, {
        "backbone": backbone,
        "fpn": {"channels": channels, "extra_from": "p5" if first_extra == channels else "c5"},
        "head": {"stem_channels": widths, "norm": norm, "bias": bias},
        "anchors": {
            "sizes": tuple(base * stride for stride in (8, 16, 32, 64, 128)),
            "scales": tuple(2 ** (k / count) for k in range(count)), "ratios": ratios,
        },
        "loss": {"box": "giou" if kind_of(at(head, "loss_bbox", default={})) == "GIoULoss" else "smooth_l1"},
    })  # fmt: skip
    if at(config, "model", "neck", "relu_before_extra_convs", default=False):
        model["compat"]["extra_relu"] = True
    test = at(config, "model", "test_cfg", default={})
    detect = {**RETINANET_DETECT, "score_threshold": at(test, "score_thr", default=0.05)}
    return Plan(
        architecture="RetinaNet", model=model, resize=resize_of(config), detect=detect_of(detect, test), notes=notes,
        classes=classes_of(options.get("meta"), num_classes),
        layout=retinanet_layout(num_classes, widths, norm, count, len(ratios), bgr),
    )  # fmt: skip


def _check_coder(stds: Any) -> None:
    if tuple(stds) != (1.0,) * 4:
        raise ValueError(f"its offsets are coded with deviations {tuple(stds)}; (1, 1, 1, 1) are known here")


def retinanet_layout(
    num_classes: int, widths: tuple[int, ...], norm: str, num_scales: int, num_ratios: int, bgr: bool
) -> Layout:
    """Names of `RetinaNet`; its anchors go by ratio, then by size, as torchvision's."""
    rows = [*backbone_rows(""), *pyramid_rows("", 3), *tower_rows(widths, norm)]
    changes = anchor_changes(f"{_HEAD}retina_cls", f"{_HEAD}retina_reg", num_classes, num_scales, num_ratios)
    return Layout(family=FAMILY, rows=rows, changes=(*first_convolution("", bgr), *changes), dropped=DROPPED)
