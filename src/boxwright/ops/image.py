"""Resizing images for a network: the same rule, and the same pixels, in training and inference.

Shape legend: H W = height and width in pixels. An image is (3, H, W), uint8 or float in [0, 1]. Network coordinates =
original coordinates * scale + offset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

# Where an image does not fill its canvas: the ImageNet mean, which the models' normalisation turns into (nearly) zero.
PAD_COLOUR = (124, 116, 104)

LARGE = 100_000_000
"""Values of an image beyond which it is resized plane by plane, where resizing needs floats."""

Filter = Literal["antialias", "plain", "pillow"]
"""How pixels are interpolated: bilinear with antialiasing; bilinear between the nearest four (torchvision's detectors);
or by Pillow, which differs from the first by one level in a few pixels (Detectron2, AdelaiDet, the original FCOS)."""
Rounding = Literal["nearest", "down", "original"]
"""How a side is rounded to whole pixels: floor(side * scale + 0.5); floor(side * scale) (torchvision); or by the rule
of the original FCOS, which rounds the short side and cuts the long one."""


@dataclass(frozen=True, slots=True)
class ResizeRule:
    """How an image is resized for the network.

    mode "short_side": the shorter side becomes `size`, unless the longer one would pass `max_size`; aspect kept.
    mode "letterbox": as large as fits into `height` x `width`, aspect kept, in the top left corner; the rest is padded.
    mode "fixed": exactly `height` x `width`, aspect not kept. mode "none": as it is. mode "centre_crop": the shorter
    side becomes `size`, and what lies beyond a centred square of that size is cut off (the course, in training).
    """

    mode: Literal["short_side", "letterbox", "fixed", "none", "centre_crop"] = "none"
    size: int | None = None
    max_size: int | None = None
    height: int | None = None
    width: int | None = None
    filter: Filter = "antialias"
    rounding: Rounding = "nearest"

    def __post_init__(self) -> None:
        needs = {
            "short_side": ("size",), "letterbox": ("height", "width"), "fixed": ("height", "width"), "none": (),
            "centre_crop": ("size",),
        }  # fmt: skip
        if self.mode not in needs:
            raise ValueError(f"resize mode {self.mode!r}: expected one of {', '.join(needs)}")
        takes = (*needs[self.mode], "max_size") if self.mode == "short_side" else needs[self.mode]
        for name in ("size", "max_size", "height", "width"):
            value = getattr(self, name)
            if value is None and name in needs[self.mode]:
                raise ValueError(f"resize mode {self.mode!r} needs `{name}`")
            if value is not None and name not in takes:
                raise ValueError(f"resize mode {self.mode!r} does not use `{name}`")
            if value is not None and value < 1:
                raise ValueError(f"resize `{name}`: expected at least 1 pixel, got {value}")


class ResizePlan(NamedTuple):
    """A rule applied to one image: resize it to `image_hw`, and place it at `offset_xy` on a canvas of `size_hw`.

    A canvas smaller than the image shows a part of it; the offsets are 0 or negative then.
    """

    size_hw: tuple[int, int]
    image_hw: tuple[int, int]
    scale_xy: tuple[float, float]
    offset_xy: tuple[float, float]
    filter: Filter = "antialias"

    @property
    def crop(self) -> Placement | None:
        """The window of the resized image that is kept, where that is not all of it."""
        (height, width), x, y = self.size_hw, -int(self.offset_xy[0]), -int(self.offset_xy[1])
        if self.image_hw[0] <= height and self.image_hw[1] <= width:
            return None
        return Placement((x, y, x + width, y + height), self.size_hw, (0, 0))


def resize_plan(hw: tuple[int, int], rule: ResizeRule) -> ResizePlan:
    """The plan for an image of size `hw` under a rule; the scale is new over old size, per axis, after rounding.

    >>> plan = resize_plan((480, 640), ResizeRule("short_side", size=240, max_size=300))
    >>> plan.size_hw, plan.scale_xy, plan.offset_xy
    ((225, 300), (0.46875, 0.46875), (0.0, 0.0))
    >>> resize_plan((480, 640), ResizeRule("letterbox", height=320, width=320)).image_hw
    (240, 320)

    The centre crop follows the course to the last digit: its boxes are scaled by `size` over the shorter side along
    both axes, although the longer side becomes a whole number, and the window begins at a whole pixel, rounded down.

    >>> plan = resize_plan((333, 500), ResizeRule("centre_crop", size=224))
    >>> plan.image_hw, plan.size_hw, round(plan.scale_xy[0], 6), plan.offset_xy
    ((224, 336), (224, 224), 0.672673, (-56.0, 0.0))
    """
    height, width = hw
    if height < 1 or width < 1:
        raise ValueError(f"an image of {height} x {width} pixels cannot be resized")
    if rule.mode == "centre_crop":
        return _centre_crop(hw, rule)
    if rule.mode == "fixed":
        assert rule.height is not None
        assert rule.width is not None
        image = (rule.height, rule.width)
    elif rule.mode == "none":
        image = hw
    elif rule.mode == "short_side" and rule.rounding == "original":
        assert rule.size is not None
        short = rule.size
        if rule.max_size and max(hw) / min(hw) * short > rule.max_size:
            short = round(rule.max_size * min(hw) / max(hw))
        long = max(1, int(short * max(hw) / min(hw)))
        image = (short, long) if height <= width else (long, short)
    else:
        if rule.mode == "short_side":
            assert rule.size is not None
            scale = min(rule.size / min(hw), (rule.max_size or math.inf) / max(hw))
        else:
            assert rule.height is not None
            assert rule.width is not None
            scale = min(rule.height / height, rule.width / width)
        up = 0.0 if rule.rounding == "down" else 0.5
        image = (max(1, math.floor(height * scale + up)), max(1, math.floor(width * scale + up)))
    canvas = image
    if rule.mode == "letterbox" and rule.height is not None and rule.width is not None:
        canvas = (rule.height, rule.width)
    return ResizePlan(canvas, image, (image[1] / width, image[0] / height), (0.0, 0.0), rule.filter)


def _centre_crop(hw: tuple[int, int], rule: ResizeRule) -> ResizePlan:
    assert rule.size is not None
    size, short = rule.size, min(hw)
    up = 0.5 if rule.rounding == "nearest" else 0.0
    image = (math.floor(hw[0] * size / short + up), math.floor(hw[1] * size / short + up))
    offset = (0.0 - (image[1] - size) // 2, 0.0 - (image[0] - size) // 2)  # and not -0.0
    return ResizePlan((size, size), image, (size / short, size / short), offset, rule.filter)


class Placement(NamedTuple):
    """A window (x1, y1, x2, y2) of an image, resized to `size_hw`, with its corner at `corner_xy` of a canvas."""

    window: tuple[int, int, int, int]
    size_hw: tuple[int, int]
    corner_xy: tuple[int, int]

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Canvas pixels per image pixel."""
        x1, y1, x2, y2 = self.window
        return self.size_hw[1] / (x2 - x1), self.size_hw[0] / (y2 - y1)


def resize_image(image: Tensor, size_hw: tuple[int, int], filter: Filter = "antialias") -> Tensor:
    """An image (3, H, W) at another size, of the same type; "plain" turns uint8 into float in [0, 1].

    >>> resize_image(torch.full((3, 8, 8), 7, dtype=torch.uint8), (3, 5)).unique().tolist()
    [7]
    """
    if filter == "pillow" and image.dtype == torch.uint8:
        pil_image = Image.fromarray(image.permute(1, 2, 0).numpy())
        array = np.array(pil_image.resize((size_hw[1], size_hw[0]), Image.Resampling.BILINEAR))
        return torch.from_numpy(array).permute(2, 0, 1).contiguous()
    if filter == "plain" and image.dtype == torch.uint8:
        if image.shape[0] > 1 and image.numel() > LARGE:  # as floats it would take four times the memory
            return torch.cat([resize_image(plane[None], size_hw, filter) for plane in image])
        image = image.float().div_(255)  # rounding to whole levels would move scores by 1e-3
    if tuple(image.shape[-2:]) == tuple(size_hw):
        return image
    if filter != "antialias":
        return F.interpolate(image[None], size_hw, mode="bilinear", align_corners=False)[0]
    resized: Tensor = vision.resize_image(
        image, list(size_hw), interpolation=vision.InterpolationMode.BILINEAR, antialias=True
    )
    return resized


def padded_canvas(like: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """An empty canvas (3, H, W) in the padding colour, of the same type and device as the image `like`."""
    colour = torch.tensor(PAD_COLOUR, dtype=torch.float32, device=like.device)
    if like.is_floating_point():
        colour = colour / 255
    return colour.to(like.dtype)[:, None, None].expand(3, *size_hw).contiguous()


def paste_window(canvas: Tensor, image: Tensor, placement: Placement) -> None:
    """Draw the placed window of an image (3, H, W) onto a canvas, in place."""
    x1, y1, x2, y2 = placement.window
    (left, top), (height, width) = placement.corner_xy, placement.size_hw
    seen = vision.resized_crop_image(image, y1, x1, y2 - y1, x2 - x1, [height, width], antialias=True)
    canvas[:, top : top + height, left : left + width] = seen


def fit_image(image: Tensor, plan: ResizePlan) -> Tensor:
    """An image (3, H, W) resized by a plan, padded where its canvas is larger, and cut where that is smaller."""
    resized = resize_image(image, plan.image_hw, plan.filter).contiguous()
    if plan.crop is not None:
        x1, y1, x2, y2 = plan.crop.window
        return resized[:, y1:y2, x1:x2].contiguous()
    if plan.image_hw == plan.size_hw:
        return resized
    canvas = padded_canvas(resized, plan.size_hw)
    left, top = (int(value) for value in plan.offset_xy)
    canvas[:, top : top + plan.image_hw[0], left : left + plan.image_hw[1]] = resized
    return canvas
