"""Recipes and overrides of version 1, whose detectors had flat settings, in the words of version 2: one table.

It serves YAML files, what is given on a command line, and the recipes within checkpoints. Old names are known by
themselves, so a file need not say its version.
"""

from __future__ import annotations

from typing import Any

MODEL = {
    "backbone_weights": "backbone.weights",
    "backbone_norm": "backbone.norm",
    "frozen_stages": "backbone.frozen_stages",
    "pixel_mean": "backbone.pixel_mean",
    "pixel_std": "backbone.pixel_std",
    "fpn_channels": "fpn.channels",
    "fpn_norm": "fpn.norm",
    "extra_levels": "fpn.extra_levels",
    "extra_from": "fpn.extra_from",
    "with_p2": "fpn.with_p2",
    "levels": "fpn.levels",
    "pooled_level": "rpn.pooled_level",
    "stem_channels": "head.stem_channels",
    "head_norm": "head.norm",
    "head_bias": "head.bias",
    "centerness_on": "head.centerness_on",
    "normalise_targets": "head.normalise_targets",
    "box_output": "head.box_output",
    "box_bias": "head.box_bias",
    "scale_per_level": "head.scale_per_level",
    "prior_probability": "head.prior_probability",
    "anchor_sizes": "anchors.sizes",
    "anchor_scales": "anchors.scales",
    "anchor_ratios": "anchors.ratios",
    "level_bounds": "assignment.level_bounds",
    "center_radius": "assignment.center_radius",
    "positive_iou": "assignment.positive_iou",
    "negative_iou": "assignment.negative_iou",
    "box_loss": "loss.box",
    "smooth_l1_beta": "loss.beta",
    "box_weighting": "loss.box_weighting",
    "normaliser": "loss.normaliser",
    "normaliser_start": "loss.normaliser_start",
    "normaliser_momentum": "loss.normaliser_momentum",
    "level_range_ends": "compat.level_range_ends",
    "locations": "compat.locations",
    "smoothing": "compat.smoothing",
    "multi_label": "compat.multi_label",
    "class_threshold": "compat.class_threshold",
    "clip": "compat.clip",
    "keep_empty": "compat.keep_empty",
    "inclusive_pixels": "compat.inclusive_pixels",
    "class_channels": "compat.class_channels",
    "pad_multiple": "compat.pad_multiple",
    "anchor_grid": "compat.anchor_grid",
    "rounded_anchors": "compat.anchors_rounded",
}
"""Settings of the detector that have moved into sections, below `model`."""
VARIANT = {"widths": None, "stride_in_1x1": False, "dilated_c5": False, "norm_eps": None}
"""Settings below `model.backbone_variant`, now below `model.backbone`, and what they are where nothing is said."""
KEYS = {
    **{f"model.{old}": f"model.{new}" for old, new in MODEL.items()},
    **{f"model.backbone_variant.{name}": f"model.backbone.{name}" for name in VARIANT},
    "validation.max_pictures": "validation.max_images",
}
"""Every key of version 1 that is called otherwise today."""
VALUES = {("model.loss.normaliser", "picture"): "image"}
"""Values that are called otherwise, by today's key."""


def today(data: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """The settings of a file or checkpoint in today's words; what was renamed is noted.

    Raises ValueError where a setting is given by its old and its new key.
    """
    data = _copied(data)
    if type(data.get("version")) is int and data["version"] == 1:
        data["version"] = 2
    model = data.get("model")
    if isinstance(model, dict) and isinstance(model.get("backbone"), str):
        model["backbone"] = {"name": model["backbone"]}
    for old, new in KEYS.items():
        holder, name = _holder(data, old)
        if holder is None or name not in holder:
            continue
        value = holder.pop(name)
        _put(data, old, new, value)
        notes.append(f"{old} is now {new}")
    if isinstance(model, dict) and isinstance(model.get("backbone_variant"), dict) and not model["backbone_variant"]:
        del model["backbone_variant"]
    for (key, value), word in VALUES.items():
        holder, name = _holder(data, key)
        if holder is not None and isinstance(holder.get(name), str) and holder[name] == value:
            holder[name] = word
            notes.append(f"{key}={value} is now {word}")
    return data


def override_today(key: str, value: Any, notes: list[str]) -> dict[str, Any]:
    """An override of a command line by today's keys: one, or several where a part of a section was given whole."""
    if key == "model.backbone_variant" and isinstance(value, dict):
        notes.append("model.backbone_variant is now part of model.backbone")
        return {f"model.backbone.{name}": given for name, given in {**VARIANT, **value}.items()}
    new = KEYS.get(key, key)
    if new != key:
        notes.append(f"{key} is now {new}")
    word = VALUES.get((new, value), value) if isinstance(value, str) else value
    if word != value:
        notes.append(f"{new}={value} is now {word}")
    return {new: word}


def _copied(data: dict[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, dict) else value for key, value in data.items()}


def _holder(data: dict[str, Any], key: str) -> tuple[dict[str, Any] | None, str]:
    """The mapping that the last part of a dotted key stands in, if there is one, and that part."""
    *path, last = key.split(".")
    place: Any = data
    for part in path:
        place = place.get(part) if isinstance(place, dict) else None
    return (place if isinstance(place, dict) else None), last


def _put(data: dict[str, Any], old: str, new: str, value: Any) -> None:
    """Set a dotted key, with new sections on the way."""
    *path, last = new.split(".")
    place = data
    for part in path:
        if not isinstance(place.get(part), dict):
            place[part] = {}
        place = place[part]
    if last in place:
        raise ValueError(f"{old} is now {new}, and both are given: leave out the old one")
    place[last] = value
