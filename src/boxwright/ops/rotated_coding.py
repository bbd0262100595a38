"""Rotated box coding: a rotated box as an offset from a rotated reference (an anchor or a proposal), and back.

Offsets are (dx, dy, dw, dh, da): the shift of the centre in sides w and h of the reference, along x and y of the image
(not turned into the frame of the box), the logarithm of the ratio of the sides, and the turn in radians. Boxes are
(cx, cy, w, h, degrees), see `ops.rotated`. Shape legend: `...` = any leading shape. Source: Rotation RPN (Ma et al.
2018), equation 2, as Detectron2 has it (`Box2BoxTransformRotated`).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from boxwright.ops.coding import LARGEST_LOG_RATIO
from boxwright.ops.rotated import wrap_angles

RotatedWeights = tuple[float, float, float, float, float]
ONES: RotatedWeights = (1.0, 1.0, 1.0, 1.0, 1.0)
AnglePeriod = Literal[360, 180, 90]
"""The turn in degrees after which a box is learnt as the same one."""


def encode_rotated(
    reference: Tensor, boxes: Tensor, weights: RotatedWeights = ONES, *, period: AnglePeriod = 360
) -> Tensor:  # fmt: skip
    """Offsets (..., 5) that lead from reference (..., 5) to boxes (..., 5), each times its weight.

    A rectangle has four names: turned by 180 degrees it is itself, and so it is turned by 90 with w and h exchanged.
    With a period of 360 the offsets lead to the box as it is named, with 180 or 90 to the rectangle, by the shortest
    turn: at most half the period. Boxes without area (padding, background) give finite offsets, which the caller masks.

    >>> turned = encode_rotated(torch.tensor([0.0, 0, 10, 20, 170]), torch.tensor([5.0, 5, 10, 20, -170]))
    >>> turned.round(decimals=4).tolist() == torch.tensor([0.5, 0.25, 0, 0, 0.3491]).tolist()
    True
    """
    sides = reference[..., 2:4].clamp(min=1e-6)
    shift = (boxes[..., :2] - reference[..., :2]) / sides
    wanted = boxes[..., 2:4].clamp(min=1e-6)
    whole = wrap_angles(boxes[..., 4:] - reference[..., 4:])
    turn = (whole + period / 2) % period - period / 2
    if period == 90:
        quarters = ((whole - turn) / 90).round()
        wanted = torch.where(quarters % 2 == 1, wanted.flip(-1), wanted)
    offsets = torch.cat([shift, (wanted / sides).log(), torch.deg2rad(turn)], -1)
    return torch.stack([column * weight for column, weight in zip(offsets.unbind(-1), weights, strict=True)], dim=-1)


def decode_rotated(
    reference: Tensor,
    offsets: Tensor,
    weights: RotatedWeights = ONES,
    largest_log_ratio: float = LARGEST_LOG_RATIO,
) -> Tensor:
    """Rotated boxes (..., 5), their angles in [-180, 180), from reference (..., 5) and offsets (..., 5).

    >>> decode_rotated(torch.tensor([0.0, 0, 10, 20, 0]), torch.tensor([0.5, 0.25, 0, 0, torch.pi / 2])).tolist()
    [5.0, 5.0, 10.0, 20.0, 90.0]
    """
    offsets = torch.stack([column / weight for column, weight in zip(offsets.unbind(-1), weights, strict=True)], dim=-1)
    sides = reference[..., 2:4]
    centre = reference[..., :2] + offsets[..., :2] * sides
    grown = sides * offsets[..., 2:4].clamp(max=largest_log_ratio).exp()
    return torch.cat([centre, grown, wrap_angles(reference[..., 4:] + torch.rad2deg(offsets[..., 4:]))], -1)
