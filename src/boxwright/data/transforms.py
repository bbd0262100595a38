"""Augmentation and resizing of an image together with its boxes, masks, keypoints and the labels of its pixels.

Pixels are transformed by torchvision's `transforms.v2`. A step is any callable `Sample -> Sample`. Randomness comes
from torch's global generator only, which the loader seeds for each sample. Shape legend: G = objects of the image, H W
= its height and width. Boxes are (x1, y1, x2, y2) in pixels.

Every step that moves pixels is one `Placement` (a window of the image, resized, put on a canvas), so that pixels, boxes
and masks are kept consistent in a single place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes

from boxwright.data.moved_objects import MovedObjects
from boxwright.data.placed_maps import fit_map, place_map
from boxwright.data.placed_masks import place_mask, tight_box
from boxwright.data.view import ColourChange, Tile, View
from boxwright.ops.image import Placement, ResizeRule, fit_image, padded_canvas, paste_window, resize_plan
from boxwright.structures import CroppedMask, GroundTruth


class Sample(NamedTuple):
    """One image (3, H, W) uint8, its ground truth, and stored proposals with scores (R, 5) if there are any.

    In place of the image it may have the view that a device is to make pixels of (`data.view`), and in place of ground
    truth without masks the moved objects that it is to make boxes of (`data.moved_objects`): every step takes all of
    them, and draws the same for them.
    """

    image: Tensor | View
    ground_truth: GroundTruth | MovedObjects
    proposals: Tensor | None = None

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the image."""
        return int(self.image.shape[1]), int(self.image.shape[2])

    @property
    def pixels(self) -> Tensor:
        """The image of a sample that has one."""
        assert isinstance(self.image, Tensor)
        return self.image

    @property
    def objects(self) -> GroundTruth:
        """The ground truth of a sample that has it."""
        assert isinstance(self.ground_truth, GroundTruth)
        return self.ground_truth


SLIVER = 1e-3
"""Pixels: what a centre crop leaves of a box at least, or there is nothing left of it."""

Step: TypeAlias = Callable[[Sample], Sample]


def _chance(probability: float) -> bool:
    return bool(torch.rand(()) < probability)


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _whole_number(limit: int) -> int:
    """A random integer in [0, limit]."""
    return int(torch.randint(limit + 1, ()))


def on_canvas(size_hw: tuple[int, int], parts: Sequence[tuple[Tensor | View, Placement]]) -> Tensor | View:
    """Placed windows of images, or of views, on one canvas in the padding colour."""
    canvas: Tensor | None = None
    tiles: list[Tile] = []
    for image, placement in parts:
        if isinstance(image, View):
            tiles += image.placed(placement)
        else:
            canvas = padded_canvas(image, size_hw) if canvas is None else canvas
            paste_window(canvas, image, placement)
    return View(size_hw, tuple(tiles)) if canvas is None else canvas


def place_ground_truth(
    ground_truth: GroundTruth,
    placement: Placement,
    min_visibility: float,
    *,
    centred: bool = False,
    min_side: float = 1.0,
    canvas_hw: tuple[int, int] | None = None,
) -> GroundTruth:
    """The ground truth visible in a placed window, in canvas coordinates; the canvas is the window if not given.

    An object is dropped if less than `min_side` pixels or less than `min_visibility` of its box is left, or, if
    `centred`, if its centre lies outside. An ignored region stays as long as any of it is visible, since it must not
    become background. A box that the window cuts is shrunk to what is left of its mask, if it has one (with a pixel).
    `ops.move_boxes` does the same for a batch without masks, with the same numbers.
    """
    semantic = ground_truth.semantic
    if semantic is not None:
        semantic = place_map(semantic, placement, canvas_hw or placement.size_hw)
    if not len(ground_truth):
        return ground_truth if semantic is None else replace(ground_truth, semantic=semantic)
    # in NumPy: for so few numbers torch takes longer to begin than to compute
    origin, limits = (np.array(placement.window[i : i + 2] * 2, dtype=np.float32) for i in (0, 2))
    scale, corner = (np.array(pair * 2, dtype=np.float32) for pair in (placement.scale_xy, placement.corner_xy))
    own = ground_truth.boxes.numpy()
    clipped = own.clip(origin, limits)
    boxes = torch.from_numpy((clipped - origin) * scale + corner)
    sides, own_sides, clipped_sides = (part[:, 2:] - part[:, :2] for part in (boxes.numpy(), own, clipped))
    enough = clipped_sides.prod(1) >= min_visibility * own_sides.prod(1)
    if centred:
        centres = (own[:, :2] + own[:, 2:]) / 2
        enough &= ((centres > origin[:2]) & (centres < limits[:2])).all(1)
    left = torch.from_numpy((sides >= min_side).all(1) & (enough | ground_truth.ignore.numpy()))
    points = place_keypoints(ground_truth.keypoints, placement)
    if ground_truth.masks is None:
        shown = None if points is None else points[left]
        return GroundTruth(boxes[left], ground_truth.labels[left], ground_truth.ignore[left], None, shown, semantic)

    cut = (clipped != own).any(1)
    indices, masks = [], []
    for index in left.nonzero().flatten().tolist():
        mask = place_mask(ground_truth.masks[index], placement)
        if cut[index] and bool(ground_truth.masks[index].bitmap.any()):
            tight = tight_box(mask)
            if tight is None:
                continue
            boxes[index] = torch.tensor(tight, dtype=torch.float32)
        indices.append(index)
        masks.append(mask)
    chosen = torch.tensor(indices, dtype=torch.int64)
    shown = None if points is None else points[chosen]
    labels, ignore = ground_truth.labels[chosen], ground_truth.ignore[chosen]
    return GroundTruth(boxes[chosen], labels, ignore, tuple(masks), shown, semantic)


def place_keypoints(keypoints: Tensor | None, placement: Placement) -> Tensor | None:
    """Keypoints (G, P, 3) in canvas coordinates; those outside the window are not annotated any more: zeros."""
    if keypoints is None:
        return None
    x1, y1, x2, y2 = placement.window
    points, visible = keypoints[..., :2], keypoints[..., 2:]
    inside = ((points >= torch.tensor([x1, y1])) & (points <= torch.tensor([x2, y2]))).all(-1, keepdim=True)
    moved = (points - torch.tensor([x1, y1])) * torch.tensor(placement.scale_xy) + torch.tensor(placement.corner_xy)
    return torch.cat([moved, visible], dim=-1) * (inside & (visible > 0))


def place_proposals(proposals: Tensor | None, placement: Placement) -> Tensor | None:
    """The proposals (R, 5) visible in a placed window, in canvas coordinates; those under 1 pixel are dropped."""
    if proposals is None:
        return None
    x1, y1, x2, y2 = placement.window
    origin, limits = torch.tensor([x1, y1] * 2), torch.tensor([x2, y2] * 2)
    boxes = (proposals[:, :4].maximum(origin).minimum(limits) - origin) * torch.tensor(placement.scale_xy * 2)
    shown = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    boxes = boxes + torch.tensor(placement.corner_xy * 2, dtype=torch.float32)
    return torch.cat([boxes, proposals[:, 4:]], dim=1)[shown]


def on_window(
    ground_truth: GroundTruth | MovedObjects,
    placement: Placement,
    canvas_hw: tuple[int, int],
    min_visibility: float,
    *,
    centred: bool = False,
) -> GroundTruth | MovedObjects:
    """What a placed window shows of ground truth, or of moved objects; see `place_ground_truth`."""
    if isinstance(ground_truth, MovedObjects):
        return ground_truth.placed(placement, min_visibility, centred=centred)
    return place_ground_truth(ground_truth, placement, min_visibility, centred=centred, canvas_hw=canvas_hw)


def resize_sample(sample: Sample, rule: ResizeRule) -> Sample:
    """The sample resized to network size by a rule; every object that is not cut off is kept, however small it gets."""
    plan = resize_plan(sample.size_hw, rule)
    hw = sample.size_hw
    proposals = resize_proposals(sample.proposals, hw, rule)
    return Sample(fit_image(sample.pixels, plan), resize_ground_truth(sample.objects, hw, rule), proposals)


def resize_proposals(proposals: Tensor | None, hw: tuple[int, int], rule: ResizeRule) -> Tensor | None:
    """Proposals (R, 5) of an image of size `hw` in network coordinates."""
    if proposals is None:
        return None
    plan = resize_plan(hw, rule)
    scale = torch.tensor(plan.scale_xy * 2)
    if plan.crop is not None:
        return place_proposals(torch.cat([proposals[:, :4] * scale, proposals[:, 4:]], dim=1), plan.crop)
    boxes = proposals[:, :4] * scale + torch.tensor(plan.offset_xy * 2)
    return torch.cat([boxes, proposals[:, 4:]], dim=1)


def resize_ground_truth(ground_truth: GroundTruth, hw: tuple[int, int], rule: ResizeRule) -> GroundTruth:
    """The ground truth of an image of size `hw` in network coordinates, with its masks; every object is kept.

    But for a centre crop: boxes are cut at its border, and those of which nothing is left are dropped.
    """
    plan = resize_plan(hw, rule)
    if plan.size_hw == plan.image_hw == hw:
        return ground_truth
    crop = plan.crop
    offset = plan.offset_xy if crop is None else (0.0, 0.0)
    boxes = ground_truth.boxes * torch.tensor(plan.scale_xy * 2) + torch.tensor(offset * 2)
    placement = Placement((0, 0, hw[1], hw[0]), plan.image_hw, (int(offset[0]), int(offset[1])))
    masks = None if ground_truth.masks is None else tuple(place_mask(mask, placement) for mask in ground_truth.masks)
    points = ground_truth.keypoints
    if points is not None:
        moved = points[..., :2] * torch.tensor(plan.scale_xy) + torch.tensor(offset)
        points = torch.cat([moved, points[..., 2:]], dim=-1) * (points[..., 2:] > 0)
    resized = GroundTruth(boxes, ground_truth.labels, ground_truth.ignore, masks, points)
    shown = resized if crop is None else place_ground_truth(resized, crop, min_visibility=0.0, min_side=SLIVER)
    return shown if ground_truth.semantic is None else replace(shown, semantic=fit_map(ground_truth.semantic, plan))


@dataclass(frozen=True, slots=True)
class Compose:
    """Several steps, one after the other."""

    steps: Sequence[Step]

    def __call__(self, sample: Sample) -> Sample:
        """The sample after every step."""
        for step in self.steps:
            sample = step(sample)
        return sample


@dataclass(frozen=True, slots=True)
class HorizontalFlip:
    """Flip left and right with probability `p`; keypoint i becomes `mirrored[i]` (`Skeleton.mirrored`)."""

    p: float = 0.5
    mirrored: tuple[int, ...] = ()

    def __call__(self, sample: Sample) -> Sample:
        """The sample, mirrored or as it was."""
        return _flipped(sample, 0, self.mirrored) if _chance(self.p) else sample


@dataclass(frozen=True, slots=True)
class VerticalFlip:
    """Flip top and bottom with probability `p` (for microscope and aerial images).

    That mirrors an object too: its left keypoints become right ones, as in `HorizontalFlip`.
    """

    p: float = 0.5
    mirrored: tuple[int, ...] = ()

    def __call__(self, sample: Sample) -> Sample:
        """The sample, mirrored or as it was."""
        return _flipped(sample, 1, self.mirrored) if _chance(self.p) else sample


def _flipped(sample: Sample, axis: int, mirrored: tuple[int, ...]) -> Sample:
    """The flipped sample: axis 0 flips x, axis 1 flips y."""
    image, ground_truth, proposals = sample
    extent = sample.size_hw[1 - axis]
    flipped = image.flipped(axis) if isinstance(image, View) else image.flip(2 - axis)
    turned = None if proposals is None else _turned(proposals, axis, extent)
    if isinstance(ground_truth, MovedObjects):
        return Sample(flipped, ground_truth.flipped(axis, extent), turned)
    boxes = _turned(ground_truth.boxes, axis, extent)
    masks = ground_truth.masks
    if masks is not None and axis == 0:
        masks = tuple(CroppedMask(extent - x - bitmap.shape[1], y, bitmap.flip(1)) for x, y, bitmap in masks)
    elif masks is not None:
        masks = tuple(CroppedMask(x, extent - y - bitmap.shape[0], bitmap.flip(0)) for x, y, bitmap in masks)
    points = ground_truth.keypoints
    if points is not None:
        points = points[:, list(mirrored)] if mirrored else points.clone()
        points[..., axis] = torch.where(points[..., 2] > 0, extent - points[..., axis], 0.0)
    semantic = None if ground_truth.semantic is None else ground_truth.semantic.flip(1 - axis)
    changed = replace(ground_truth, boxes=boxes, masks=masks, keypoints=points, semantic=semantic)
    return Sample(flipped, changed, turned)


def _turned(boxes: Tensor, axis: int, extent: int) -> Tensor:
    turned = boxes.clone()
    turned[:, axis], turned[:, axis + 2] = extent - boxes[:, axis + 2], extent - boxes[:, axis]
    return turned


@dataclass(frozen=True, slots=True)
class ScaleJitter:
    """Zoom by a random factor and keep the image's size: cropped when it grows, padded when it shrinks.

    Large-scale jitter of Ghiasi et al. (Simple Copy-Paste, section 3), but a smaller image is placed anywhere, not
    always in the top left corner. Only the visible window is resized.
    """

    low: float = 0.5
    high: float = 1.5
    p: float = 1.0
    min_visibility: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(f"scale jitter: expected 0 < low <= high, got {self.low} and {self.high}")

    def __call__(self, sample: Sample) -> Sample:
        """The zoomed sample, at its old size."""
        if not _chance(self.p):
            return sample
        height, width = sample.size_hw
        factor = _uniform(self.low, self.high)
        if factor >= 1:
            window_hw = (max(1, round(height / factor)), max(1, round(width / factor)))
            x, y = _whole_number(width - window_hw[1]), _whole_number(height - window_hw[0])
            placement = Placement((x, y, x + window_hw[1], y + window_hw[0]), (height, width), (0, 0))
        else:
            size_hw = (max(1, round(height * factor)), max(1, round(width * factor)))
            corner = (_whole_number(width - size_hw[1]), _whole_number(height - size_hw[0]))
            placement = Placement((0, 0, width, height), size_hw, corner)
        canvas = on_canvas((height, width), [(sample.image, placement)])
        ground_truth = on_window(sample.ground_truth, placement, (height, width), self.min_visibility)
        return Sample(canvas, ground_truth, place_proposals(sample.proposals, placement))


@dataclass(frozen=True, slots=True)
class RandomIoUCrop:
    """Crop with a random minimum IoU between the crop and some object (SSD, section 2.2), and enlarge to the old size.

    The crop is chosen by torchvision's `v2.RandomIoUCrop`; objects whose centre lies outside are dropped. A minimum IoU
    of 1 leaves the image unchanged; it must be among the choices, since an image may have no crop for any other.
    """

    p: float = 0.5
    min_scale: float = 0.3
    least_ious: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)

    def __post_init__(self) -> None:
        if max(self.least_ious, default=0.0) < 1:
            raise ValueError(
                f"IoU crop: expected a minimum IoU of 1 among {self.least_ious}, which leaves the image unchanged"
            )

    def __call__(self, sample: Sample) -> Sample:
        """The sample cropped and enlarged, or unchanged if a minimum IoU of 1 was drawn."""
        size_hw = sample.size_hw
        if not _chance(self.p) or min(size_hw) * self.min_scale < 1:
            return sample
        given = sample.ground_truth
        known = given.made() if isinstance(given, MovedObjects) else given  # what is drawn depends on the boxes
        if bool(known.ignore.all()):
            return sample
        crop = v2.RandomIoUCrop(min_scale=self.min_scale, sampler_options=[*self.least_ious])
        objects = BoundingBoxes(known.boxes[~known.ignore], format="XYXY", canvas_size=size_hw)
        chosen = crop.make_params([objects])
        if not chosen:
            return sample
        x, y = chosen["left"], chosen["top"]
        placement = Placement((x, y, x + chosen["width"], y + chosen["height"]), size_hw, (0, 0))
        canvas = on_canvas(size_hw, [(sample.image, placement)])
        shown = on_window(given, placement, size_hw, min_visibility=0.0, centred=True)
        return Sample(canvas, shown, place_proposals(sample.proposals, placement))


@dataclass(frozen=True, slots=True)
class ColourJitter:
    """Random brightness, contrast, saturation (each a factor in 1 +- value) and hue (shifted by +- value of a circle).

    This is torchvision's `v2.ColorJitter`. Its hue goes through HSV and costs more than the other three together.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.0
    p: float = 1.0

    def __call__(self, sample: Sample) -> Sample:
        """The sample in other colours; its ground truth is unchanged."""
        if not _chance(self.p):
            return sample
        jitter = v2.ColorJitter(self.brightness, self.contrast, self.saturation, self.hue)
        if not isinstance(sample.image, View):
            return sample._replace(image=jitter(sample.image))
        drawn = jitter.make_params([])
        factors = [drawn[f"{name}_factor"] for name in ("brightness", "contrast", "saturation", "hue")]
        changes = [ColourChange(kind, factors[kind]) for kind in drawn["fn_idx"].tolist() if factors[kind] is not None]
        return sample._replace(image=sample.image.coloured(changes))
