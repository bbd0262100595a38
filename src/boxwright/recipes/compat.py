"""What a detector must be so that another library's code computes the same from its weights.

`convert --to` refuses whatever differs from these tables; the recipe's key `compat` sets what can be chosen before
training. A key is dotted, below a recipe's `model`; a value is the only one that the other library has, or `OneOf`.
What that library says in a config of its own (anchor sizes, thresholds, limits, widths) is free and stands in none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from boxwright.nn.resnet import BLOCKS
from boxwright.ops.coding import LARGEST_LOG_RATIO

Switch = Literal["torchvision", "detectron2", "adelaidet", "mmdetection"]
SWITCHES: tuple[str, ...] = get_args(Switch)
"""What `compat` may be; the course's own recipes need no switch."""
LIBRARIES = (*SWITCHES, "course")
Settings = dict[str, Any]


class OneOf(NamedTuple):
    """Any of several values."""

    values: tuple[Any, ...]


class Rules(NamedTuple):
    """What a library asks of a detector."""

    chosen: Settings
    """What `compat` sets: rules of detection, and parts that are trained another way."""
    fixed: Settings
    """What another recipe would be needed for."""
    beside: Settings
    """Keys of the recipe outside of `model` that `compat` sets: how images are resized there, and what is reported."""


FCOS_FIXED: Settings = {
    "fpn.extra_levels": 2, "fpn.extra_from": "p5", "compat.multi_label": True, "compat.inclusive_pixels": False,
}  # fmt: skip
NORMALISED: Settings = {
    "head.centerness_on": "box", "head.normalise_targets": True, "head.box_output": "relu",
}  # fmt: skip
"""The improved FCOS (Table 3, row 9), which is what Detectron2, torchvision and AdelaiDet have."""
PLAIN_DECODING = {"shrink_limited": False, "largest_log_ratio": LARGEST_LOG_RATIO}
REGIONS: Settings = {
    "rpn.stem_norm": "none", "rpn.per_level": False, "rpn.largest_log_ratio": LARGEST_LOG_RATIO,
    "box.largest_log_ratio": LARGEST_LOG_RATIO, "box.pool_from": "size", "box.canonical_level": 4,
    "box.multi_label": True, "box.regression": OneOf(("class", "agnostic")), "mask.canonical_level": 4,
    "keypoint.canonical_level": 4,
}  # fmt: skip
"""Of the two-stage detectors of all libraries but the course."""
RESNET: Settings = {"backbone.name": OneOf(tuple(BLOCKS))}
"""Bottlenecks, which is all that is read back."""
ALL_PAIRS: Settings = {"detect.candidates_per_level": 20_000}
"""Those libraries let all pairs of region and class above the threshold into NMS."""


def rules(library: str, model: Mapping[str, Any]) -> Rules:
    """What a library asks of the detector of this section `model` (plain data, complete).

    Raises ValueError where it has no such detector.
    """
    name = model["name"]
    known = {
        "torchvision": ("fcos", "retinanet", "faster_rcnn", "mask_rcnn", "keypoint_rcnn"),
        "detectron2": (
            "fcos", "retinanet", "rpn", "fast_rcnn", "faster_rcnn", "mask_rcnn", "keypoint_rcnn", "semantic_fpn",
            "panoptic_fpn", "rotated_faster_rcnn",
        ),
        "adelaidet": ("fcos",),
        "mmdetection": ("fcos", "retinanet", "faster_rcnn", "mask_rcnn"),
        "course": ("fcos", "faster_rcnn"),
    }  # fmt: skip
    if name not in known[library]:
        raise ValueError(f"{library} has no detector like {name}; it has {', '.join(known[library])}")
    found = _TABLES[library](model)
    return Rules(_of_parts(found.chosen, model), _of_parts(found.fixed, model), found.beside)


def differing(library: str, model: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Where a detector is not what the library has: by key, its value and what it is there."""
    asked = rules(library, model)
    return {
        key: (at(model, key), wanted)
        for key, wanted in {**asked.chosen, **asked.fixed}.items()
        if not _fits(at(model, key), wanted)
    }


def reason(library: str, model: Mapping[str, Any], differences: Mapping[str, tuple[Any, Any]]) -> str:
    """One sentence on these differences."""
    listed = [f"{key} {own!r} (there {_shown(wanted)})" for key, (own, wanted) in differences.items()]
    return f"{library} has no {model['name']} like this one: {'; '.join(listed)}"


def advice(library: str, model: Mapping[str, Any], differences: Mapping[str, tuple[Any, Any]]) -> str:
    """What would have left none of these differences, to follow that sentence."""
    chosen, text = rules(library, model).chosen, ""
    if set(differences) <= set(chosen):
        text += f"; a detector trained with compat={library} is like those there"
    elif set(differences) & set(chosen):
        rest = ", ".join(key for key in differences if key not in chosen)
        text += f"; compat={library} changes all but {rest}, for which another recipe must be trained"
    if library in ("detectron2", "torchvision") and "head.scale_per_level" in differences:
        text += "; AdelaiDet has a factor for each level"
    return text


def switch_settings(library: str, model: Mapping[str, Any], resize_mode: str) -> dict[str, Any]:
    """The recipe's settings, nested, that `compat` stands for with this detector."""
    asked = rules(library, model)
    nested: dict[str, Any] = {}
    beside = {key: value for key, value in asked.beside.items() if resize_mode == "short_side" or "resize" not in key}
    for key, value in [*((f"model.{key}", value) for key, value in asked.chosen.items()), *beside.items()]:
        *path, last = key.split(".")
        place = nested
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return nested


def at(model: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    place: Any = model
    for part in key.split("."):
        place = place.get(part) if isinstance(place, Mapping) else None
    return place


def _of_parts(settings: Settings, model: Mapping[str, Any]) -> Settings:
    """Those of sections that the detector has."""
    return {key: value for key, value in settings.items() if key.split(".", 1)[0] in model}


def _fits(own: Any, wanted: Any) -> bool:
    if isinstance(wanted, OneOf):
        return any(_fits(own, value) for value in wanted.values)
    return list(own) == list(wanted) if isinstance(own, list | tuple) and isinstance(wanted, list | tuple) else (
        bool(own == wanted)
    )  # fmt: skip


def _shown(wanted: Any) -> str:
    return " or ".join(map(repr, wanted.values)) if isinstance(wanted, OneOf) else repr(wanted)


def _decoding(*sections: str) -> Settings:
    return {f"{section}.{key}": value for section in sections for key, value in PLAIN_DECODING.items()}


def _detectron2(model: Mapping[str, Any]) -> Rules:
    resize = {"data.resize.filter": "pillow"}
    always: Settings = {**RESNET, "backbone.norm_eps": None, "compat.class_channels": None}
    if model["name"] == "fcos":
        chosen = {
            **NORMALISED, "head.norm": "gn", "head.bias": True, "head.scale_per_level": False,
            "compat.locations": "centre", "compat.scoring": "joint", "compat.class_threshold": 0.0,
            "compat.clip": "after_nms", "compat.pad_multiple": 32,
        }  # fmt: skip
        return Rules(chosen, {**always, **FCOS_FIXED, "compat.keep_empty": False}, resize)
    if model["name"] == "retinanet":
        chosen = {
            "compat.anchor_grid": "corner", "compat.anchors_rounded": False, "compat.clip": "after_nms",
            "compat.pad_multiple": 32, "compat.extra_relu": True,
        }  # fmt: skip
        fixed = {
            **always, "fpn.extra_levels": 2, "head.bias": True, "head.norm": OneOf(("none", "gn")),
            **_decoding("compat"), "compat.keep_empty": False,
        }  # fmt: skip
        return Rules(chosen, fixed, resize)
    levels, pyramid = list(model["fpn"]["levels"]), model["fpn"]["channels"] is not None
    chosen = {"rpn.anchor_grid": "corner", "compat.pad_multiple": 32 if pyramid else 1}
    if model["name"] == "rotated_faster_rcnn":  # all else of it is Detectron2's
        chosen["box.pool_sampling"] = 0
        fixed = {
            **always, "rpn.pooled_level": True, "rpn.stem_norm": "none", "fpn.norm": "none",
            "fpn.levels": ["c2", "c3", "c4", "c5"], "backbone.dilated_c5": False, "box.norm": "none",
            "box.canonical_level": 4,
        }  # fmt: skip
        return Rules(chosen, fixed, resize | ALL_PAIRS)
    fixed = {
        **always, **REGIONS, **_decoding("rpn", "box"), "rpn.anchors_rounded": False, "rpn.min_side": 0.0,
        "rpn.score_threshold": 0.0, "rpn.pooled_level": pyramid, "fpn.norm": "none",
        "fpn.levels": ["c2", "c3", "c4", "c5"] if pyramid else OneOf((["c4"], ["c5"])),
        "backbone.dilated_c5": levels == ["c5"], "box.stage_head": levels == ["c4"], "box.norm": "none",
        "box.pool_aligned": True, "box.pool_sampling": 0, "box.level_slack": 0.0, "box.min_side": 0.0,
        "mask.pool_aligned": True, "mask.pool_sampling": 0, "mask.level_slack": 0.0, "mask.norm": "none",
        "mask.paste": "exact", "keypoint.pool_aligned": True, "keypoint.pool_sampling": 0, "keypoint.level_slack": 0.0,
        "semantic.norm": OneOf(("gn", "none")),
    }  # fmt: skip
    return Rules(chosen, fixed, resize if model["name"] in ("rpn", "semantic_fpn") else resize | ALL_PAIRS)


def _torchvision(model: Mapping[str, Any]) -> Rules:
    resize = {"data.resize.filter": "plain", "data.resize.rounding": "down"}
    always: Settings = {"backbone.stride_in_1x1": False, "backbone.dilated_c5": False}
    if model["name"] == "fcos":
        chosen = {
            **NORMALISED, "head.norm": "gn", "head.bias": True, "head.scale_per_level": False,
            "compat.locations": "torchvision", "compat.scoring": "joint", "compat.class_threshold": 0.0,
            "compat.clip": "before_nms", "compat.keep_empty": True, "compat.pad_multiple": 32,
        }  # fmt: skip
        return Rules(chosen, {**always, **FCOS_FIXED}, resize)
    if model["name"] == "retinanet":
        second = model["head"]["norm"] == "gn"
        chosen = {
            "compat.anchor_grid": "torchvision", "compat.anchors_rounded": True, "compat.clip": "before_nms",
            "compat.keep_empty": True, "compat.pad_multiple": 32, "compat.extra_relu": True,
            "fpn.extra_from": "c5" if second else "p5", "head.bias": not second,
        }  # fmt: skip
        fixed = {
            **always, **_decoding("compat"), "fpn.extra_levels": 2, "head.norm": OneOf(("none", "gn")),
        }  # fmt: skip
        return Rules(chosen, fixed, resize)
    chosen = {
        "rpn.anchor_grid": "torchvision", "rpn.anchors_rounded": True, "rpn.min_side": 0.001, "box.pool_sampling": 2,
        "box.pool_aligned": False, "box.level_slack": 1e-6, "box.min_side": 0.01, "mask.pool_sampling": 2,
        "mask.pool_aligned": False, "mask.level_slack": 1e-6, "mask.paste": "torchvision", "compat.pad_multiple": 32,
        "keypoint.pool_sampling": 2, "keypoint.pool_aligned": False, "keypoint.level_slack": 1e-6,
    }  # fmt: skip
    mobile = str(model["backbone"]["name"]).startswith("mobilenet")
    fixed = {
        **always, **REGIONS, **_decoding("rpn", "box"), "box.regression": "class", "box.stage_head": False,
        "fpn.norm": "none" if model["name"] == "keypoint_rcnn" else OneOf(("none", "bn")), "rpn.pooled_level": True,
        "fpn.levels": ["features.13", "features.16"] if mobile else ["c2", "c3", "c4", "c5"],
    }  # fmt: skip
    return Rules(chosen, fixed, resize | ALL_PAIRS)


def _adelaidet(model: Mapping[str, Any]) -> Rules:
    chosen = {
        **NORMALISED, "head.bias": True, "compat.locations": "centre", "compat.scoring": "joint",
        "compat.class_threshold": 0.05, "compat.clip": "after_nms", "compat.pad_multiple": 32,
    }  # fmt: skip
    fixed = {
        **RESNET, **FCOS_FIXED, "fpn.extra_levels": OneOf((0, 2)), "head.norm": OneOf(("none", "gn", "level_bn")),
        "backbone.norm_eps": None, "compat.class_channels": None, "compat.keep_empty": False,
    }  # fmt: skip
    return Rules(chosen, fixed, {"data.resize.filter": "pillow", "detect.score_threshold": 0.0})


def _mmdetection(model: Mapping[str, Any]) -> Rules:
    resize: Settings = {"data.resize.filter": "plain"}
    always: Settings = {**RESNET, "compat.class_channels": None, "backbone.dilated_c5": False}
    if model["name"] == "fcos":
        chosen: Settings = {
            "head.scale_per_level": True, "head.box_output": "relu" if model["head"]["normalise_targets"] else "exp",
            "compat.locations": "centre", "compat.scoring": "class_first", "compat.clip": "before_nms",
            "compat.pad_multiple": 32,
        }  # fmt: skip
        resize |= {
            "model.compat.class_threshold": 0.05,
            "detect.score_threshold": 0.0,
        }  # the first stands in its config
        fixed = {**always, **FCOS_FIXED, "head.norm": OneOf(("none", "gn", "bn")), "compat.keep_empty": False}
        return Rules(chosen, fixed, resize)
    if model["name"] == "retinanet":
        chosen = {
            "compat.anchor_grid": "corner", "compat.anchors_rounded": False, "compat.clip": "before_nms",
            "compat.pad_multiple": 32, "compat.extra_relu": False, "compat.shrink_limited": True,
        }  # fmt: skip
        fixed = {
            **always, "fpn.extra_levels": 2, "compat.keep_empty": False, "compat.largest_log_ratio": LARGEST_LOG_RATIO,
        }  # fmt: skip
        return Rules(chosen, fixed, resize)
    chosen = {
        "rpn.anchor_grid": "corner", "rpn.shrink_limited": True, "box.shrink_limited": True, "box.level_slack": 3.6e-7,
        "mask.level_slack": 3.6e-7, "compat.pad_multiple": 32,
    }  # fmt: skip
    fixed = {
        **always, **REGIONS, "fpn.levels": ["c2", "c3", "c4", "c5"], "fpn.norm": "none", "rpn.pooled_level": True,
        "rpn.anchors_rounded": False, "rpn.min_side": 0.0, "rpn.score_threshold": 0.0, "box.stage_head": False,
        "box.norm": "none", "box.pool_aligned": True, "box.min_side": 0.0, "mask.pool_aligned": True,
        "mask.norm": "none", "mask.paste": "exact",
    }  # fmt: skip
    return Rules(chosen, fixed, resize | ALL_PAIRS)


def _course(model: Mapping[str, Any]) -> Rules:
    """Its one network, RegNetX-400MF on P3 to P5, fed with ImageNet's mean and deviation."""
    fixed: Settings = {
        "backbone.name": "regnet_x_400mf", "backbone.norm_eps": None, "backbone.pixel_mean": [0.485, 0.456, 0.406],
        "backbone.pixel_std": [0.229, 0.224, 0.225], "compat.class_channels": None, "compat.pad_multiple": 1,
    }  # fmt: skip
    if model["name"] == "fcos":
        third = model["head"]["centerness_on"] == "class"
        fixed |= {
            "fpn.extra_levels": 0, "fpn.with_p2": False, "head.norm": "none", "head.normalise_targets": True,
            "head.box_output": OneOf(("clip", "relu")), "head.scale_per_level": False,
            "compat.locations": "swapped" if third else "centre", "compat.multi_label": False,
            "compat.scoring": "joint", "compat.class_threshold": 0.0, "compat.clip": "before_nms",
            "compat.keep_empty": False, "compat.inclusive_pixels": False,
        }  # fmt: skip
        return Rules({}, fixed, {})
    fixed |= {
        "fpn.levels": ["c3", "c4", "c5"], "fpn.norm": "none", "rpn.pooled_level": False, "rpn.stem_norm": "none",
        "rpn.anchor_grid": "centre", "rpn.anchors_rounded": False, "rpn.per_level": True,
        "rpn.shrink_limited": False, "rpn.largest_log_ratio": 3.332204510175204, "rpn.score_threshold": 0.0,
        "box.stage_head": False, "box.fc_channels": [], "box.norm": "none", "box.pool_sampling": 0,
        "box.pool_aligned": True, "box.pool_from": "source", "box.regression": "none", "box.multi_label": False,
    }  # fmt: skip
    return Rules({}, fixed, {})


_TABLES = {
    "torchvision": _torchvision, "detectron2": _detectron2, "adelaidet": _adelaidet, "mmdetection": _mmdetection,
    "course": _course,
}  # fmt: skip
