"""Settings that another library's file cannot state, folded into weights where the detector stays the same.

Shape legend: A = anchors at one cell, L = levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from boxwright.convert.detectron2 import FAIR_STD_BGR, MEAN_BGR, UNIT_STD, rgb
from boxwright.nn.resnet import ResNetVariant, stage_widths
from boxwright.ops.anchors import cell_anchors
from boxwright.ops.rotated_anchors import rotated_cell_anchors

NEARLY = 1e-6
"""Relative: what is nearer is equal, and left as it is, so that a file that came from there goes back unchanged."""
_FIRST = tuple(
    f"{held}backbone.body.conv1.weight" for held in ("", "trunk.", "detector.trunk.", "instances.detector.trunk.")
)  # fmt: skip
_OFFSETS = ("head.box_offsets.bias", *(f"{held}rpn.offsets.bias" for held in ("", "detector.", "instances.detector.")))


def unit_pixels(weights: Mapping[str, Tensor], model: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights for pixels that are divided by Detectron2's usual deviation instead of the recipe's.

    Exact: (x - mean) / std is linear, and padding is 0 after it, so the first convolution takes the factor.
    """
    own, usual = torch.tensor(model["backbone"]["pixel_std"]), torch.tensor(usual_std(model))
    factor = usual / own  # (3,) RGB
    if bool(((factor - 1).abs() < NEARLY).all()):
        return dict(weights)
    return {
        name: value * factor.to(value.dtype)[:, None, None] if name in _FIRST else value
        for name, value in weights.items()
    }


def usual_std(model: Mapping[str, Any]) -> tuple[float, ...]:
    """The deviation of RGB in [0, 1] that Detectron2's zoo has for such a ResNet: another one for a ResNeXt."""
    backbone = model["backbone"]
    widths = backbone["widths"]
    groups = widths[3] if widths else stage_widths(backbone["name"], ResNetVariant())[3]
    return rgb(UNIT_STD if groups == 1 else FAIR_STD_BGR)


def pixel_entries(model: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The entry `pixel_mean` of a file whose mean is not Detectron2's, and what its config has to say then.

    A mean cannot be folded: padding is 0 after it is subtracted.
    """
    own, usual = torch.tensor(model["backbone"]["pixel_mean"]), torch.tensor(rgb(MEAN_BGR))
    if bool(((own - usual).abs() < 1e-4).all()):
        return {}, []
    bgr = own.flip(0) * 255
    return {"pixel_mean": bgr[:, None, None]}, [
        f"its config needs MODEL.PIXEL_MEAN {[round(v, 4) for v in bgr.tolist()]}"
    ]


def anchors_at_corners(weights: Mapping[str, Tensor], model: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """Weights for anchors at the corners of cells instead of their centres; None where that is not exact.

    A box is the anchor's centre plus dx times its width. Half a stride more is a constant of dx where stride over width
    is the same on all levels, as in all pyramids whose anchors double from level to level.
    """
    sides, strides = _cells(model)  # (L, A, 2), (L,)
    shift = strides[:, None, None] / (2 * sides)
    if bool(((shift / shift[:1] - 1).abs() > NEARLY).any()):
        return None
    rest = 3 if model["name"] == "rotated_faster_rcnn" else 2  # dw, dh and, of a rotated box, its turn
    both = torch.nn.functional.pad(shift[0], (0, rest)).flatten()  # (A (2 + rest),): dx, dy, ... of each anchor
    return {name: value + both.to(value.dtype) if name in _OFFSETS else value for name, value in weights.items()}


def _cells(model: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Sides (L, A, 2) of the anchors at a cell of each level, and its stride."""
    if model["name"] == "retinanet":
        anchors = model["anchors"]
        sizes = [[size * scale for scale in anchors["scales"]] for size in anchors["sizes"]]
        ratios, first = anchors["ratios"], 8
    else:
        sizes, ratios = model["rpn"]["anchor_sizes"], model["rpn"]["anchor_ratios"]
        first = 4 if len(sizes) > 1 else 16  # P2, or the one map of C4 and DC5
    if model["name"] == "rotated_faster_rcnn":
        angles = model["rpn"]["anchor_angles"]
        sides = torch.stack([rotated_cell_anchors(row, ratios, angles)[:, 2:4] for row in sizes])
    else:
        cells = torch.stack([cell_anchors(row, ratios, rounded=False) for row in sizes])
        sides = cells[..., 2:] - cells[..., :2]
    return sides.double(), torch.tensor([float(first * 2**level) for level in range(len(sizes))], dtype=torch.float64)
