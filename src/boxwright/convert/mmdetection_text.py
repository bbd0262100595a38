"""The config of a detector of ours as MMDetection 3.x writes it, to stand beside its weights in their file.

It says what `mmdetection.py` and `mmdetection_rcnn.py` read there: colours, strides, the variant of the head, anchors,
and how predictions become detections; it is the section `model` of a config that trains nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from boxwright.nn.resnet import ResNetVariant, stage_widths
from boxwright.structures import Classes

Section = Mapping[str, Any]
_STRIDES = (8, 16, 32, 64, 128)


def fed_bgr(pixel_std: Sequence[float]) -> bool:
    """Whether a network is fed BGR there: where its pixels are not divided by a deviation ("caffe")."""
    return max(pixel_std) < 1.5 / 255


def meta_of(recipe: Section, classes: Classes) -> dict[str, Any]:
    """What stands beside the weights of this recipe (plain data): `cfg` as text, and the names of the classes.

    Raises ValueError for anchors that such a config cannot state.
    """
    model, detect, resize = recipe["model"], recipe["detect"], recipe["data"]["resize"]
    name, count = model["name"], len(classes)
    whole: dict[str, Any] = {
        "data_preprocessor": _pixels(model["backbone"]), "backbone": _backbone(model["backbone"]),
    }  # fmt: skip
    nms = {"type": "nms", "iou_threshold": detect["nms_iou"]}
    test: dict[str, Any] = {"score_thr": detect["score_threshold"], "nms": nms, "max_per_img": detect["max_detections"]}
    if name == "fcos":
        test |= {"score_thr": model["compat"]["class_threshold"], "nms_pre": detect["candidates_per_level"]}
        whole |= {"type": "FCOS", "neck": _neck(model, "on_output"), "bbox_head": _fcos(model, count), "test_cfg": test}
    elif name == "retinanet":
        kind = "on_output" if model["fpn"]["extra_from"] == "p5" else "on_input"
        test["nms_pre"] = detect["candidates_per_level"]
        whole |= {"type": "RetinaNet", "neck": _neck(model, kind), "bbox_head": _retina(model, count), "test_cfg": test}
    else:
        rpn = model["rpn"]
        before = {
            "nms_pre": rpn["test_candidates"], "max_per_img": rpn["test_proposals"], "min_bbox_size": 0,
            "nms": {"type": "nms", "iou_threshold": rpn["nms_iou"]},
        }  # fmt: skip
        whole |= {
            "type": "MaskRCNN" if name == "mask_rcnn" else "FasterRCNN", "neck": _neck(model, None),
            "rpn_head": _rpn(model), "roi_head": _regions(model, count), "test_cfg": {"rpn": before, "rcnn": test},
            "train_cfg": {"rcnn": {"assigner": {"match_low_quality": model["box"]["claimed"]}}},
        }  # fmt: skip
    texts = [f"model = {whole!r}"]
    if resize["mode"] in ("short_side", "centre_crop"):
        step = {"type": "Resize", "scale": (resize["max_size"], resize["size"]), "keep_ratio": True}
        texts.append(f"test_pipeline = {[step]!r}")
    return {"cfg": "\n".join(texts) + "\n", "dataset_meta": {"classes": list(classes.names)}}


def _pixels(backbone: Section) -> dict[str, Any]:
    bgr = fed_bgr(backbone["pixel_std"])
    mean, std = ([255 * value for value in backbone[key]] for key in ("pixel_mean", "pixel_std"))
    return {
        "type": "DetDataPreprocessor", "mean": mean[::-1] if bgr else mean, "std": std[::-1] if bgr else std,
        "bgr_to_rgb": not bgr, "pad_size_divisor": 32,
    }  # fmt: skip


def _backbone(backbone: Section) -> dict[str, Any]:
    digits = re.search(r"\d+", backbone["name"])
    moving = backbone["norm"] in ("bn", "sync_bn")
    eps = {} if backbone["norm_eps"] is None else {"eps": backbone["norm_eps"]}
    groups = stage_widths(backbone["name"], ResNetVariant(widths=_widths(backbone)))[3]
    return {
        "type": "ResNet" if groups == 1 else "ResNeXt", "depth": int(digits[0]) if digits else 50, "num_stages": 4,
        "out_indices": (0, 1, 2, 3), "frozen_stages": backbone["frozen_stages"] - 1,
        "norm_cfg": {"type": "BN", "requires_grad": moving, **eps}, "norm_eval": not moving,
        "style": "caffe" if backbone["stride_in_1x1"] else "pytorch",
    }  # fmt: skip


def _widths(backbone: Section) -> Any:
    return None if backbone["widths"] is None else tuple(backbone["widths"])


def _neck(model: Section, extra: str | None) -> dict[str, Any]:
    _, outs, *_ = stage_widths(model["backbone"]["name"], ResNetVariant(widths=_widths(model["backbone"])))
    neck: dict[str, Any] = {
        "type": "FPN", "in_channels": outs, "out_channels": model["fpn"]["channels"], "num_outs": 5
    }  # fmt: skip
    if extra is not None:
        relu = model["name"] == "fcos" or model["compat"]["extra_relu"]
        neck |= {"start_level": 1, "add_extra_convs": extra, "relu_before_extra_convs": relu}
    return neck


def _fcos(model: Section, num_classes: int) -> dict[str, Any]:
    head, assignment, loss = model["head"], model["assignment"], model["loss"]
    return {
        "type": "FCOSHead", "num_classes": num_classes, "in_channels": model["fpn"]["channels"],
        "stacked_convs": len(head["stem_channels"]), "feat_channels": (head["stem_channels"] or [0])[-1],
        "strides": list(_STRIDES), "norm_on_bbox": head["normalise_targets"],
        "centerness_on_reg": head["centerness_on"] == "box", "conv_bias": head["bias"],
        "center_sampling": assignment["center_radius"] is not None,
        "center_sample_radius": assignment["center_radius"] or 1.5,
        "norm_cfg": None if head["norm"] == "none" else {"type": head["norm"].upper(), "num_groups": 32},
        "loss_bbox": {"type": "GIoULoss" if loss["box"] == "giou" else "IoULoss"},
    }  # fmt: skip


def _retina(model: Section, num_classes: int) -> dict[str, Any]:
    anchors = model["anchors"]
    base, count = anchors["sizes"][0] / _STRIDES[0], len(anchors["scales"])
    sizes = [base * stride for stride in _STRIDES]
    octaves = [2 ** (k / count) for k in range(count)]
    if not _equal(sizes, anchors["sizes"]) or not _equal(octaves, anchors["scales"]):
        raise ValueError(
            "mmdetection: expected anchors.sizes that are one number times the strides and anchors.scales that divide "
            f"an octave evenly, got {list(anchors['sizes'])} and {list(anchors['scales'])}"
        )
    return {
        "type": "RetinaHead", "num_classes": num_classes, "in_channels": model["fpn"]["channels"],
        "stacked_convs": len(model["head"]["stem_channels"]),
        "feat_channels": (model["head"]["stem_channels"] or [0])[-1],
        "anchor_generator": {
            "type": "AnchorGenerator", "octave_base_scale": base, "scales_per_octave": count,
            "ratios": list(anchors["ratios"]), "strides": list(_STRIDES),
        },
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_stds": [1.0] * 4},
        "loss_bbox": {"type": "GIoULoss" if model["loss"]["box"] == "giou" else "L1Loss"},
    }  # fmt: skip


def _rpn(model: Section) -> dict[str, Any]:
    rpn, strides = model["rpn"], (4, 8, 16, 32, 64)
    sides = [sizes[0] for sizes in rpn["anchor_sizes"]]
    scale = sides[0] / strides[0]
    if any(len(sizes) != 1 for sizes in rpn["anchor_sizes"]) or not _equal([scale * s for s in strides], sides):
        raise ValueError(
            "mmdetection: expected rpn.anchor_sizes of one size a level, a number times its stride, got "
            f"{[list(sizes) for sizes in rpn['anchor_sizes']]}"
        )
    return {
        "type": "RPNHead", "in_channels": model["fpn"]["channels"], "feat_channels": (rpn["stem_channels"] or [0])[-1],
        "anchor_generator": {
            "type": "AnchorGenerator", "scales": [scale], "ratios": list(rpn["anchor_ratios"]),
            "strides": list(strides),
        },
    }  # fmt: skip


def _regions(model: Section, num_classes: int) -> dict[str, Any]:
    box = model["box"]
    whole = {
        "type": "StandardRoIHead", "bbox_roi_extractor": _pooling(box, model),
        "bbox_head": {
            "type": "Shared2FCBBoxHead", "num_classes": num_classes,
            "reg_class_agnostic": box["regression"] == "agnostic",
            "bbox_coder": {
                "type": "DeltaXYWHBBoxCoder", "target_stds": [1 / weight for weight in box["offset_weights"]]
            },
        },
    }  # fmt: skip
    if "mask" in model:
        whole["mask_roi_extractor"] = _pooling(model["mask"], model)
        whole["mask_head"] = {"type": "FCNMaskHead", "num_convs": len(model["mask"]["conv_channels"]),
                              "num_classes": num_classes}  # fmt: skip
    return whole


def _pooling(part: Section, model: Section) -> dict[str, Any]:
    layer = {
        "type": "RoIAlign", "output_size": part["pool_size"], "sampling_ratio": part["pool_sampling"],
        "aligned": part["pool_aligned"],
    }  # fmt: skip
    return {
        "type": "SingleRoIExtractor", "roi_layer": layer, "out_channels": model["fpn"]["channels"],
        "featmap_strides": [4, 8, 16, 32],
    }  # fmt: skip


def _equal(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(abs(a / b - 1) < 1e-6 for a, b in zip(one, other, strict=True))
