"""The ground truth of a batch, padded, as losses take it.

Shape legend: B = images, G = ground-truth boxes (the padded maximum of a batch), K = classes,
P = keypoints of an object, H W = pixels of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.ops.mask_targets import PackedMasks, pack_masks
from boxwright.ops.rotated import resize_rotated
from boxwright.structures.classes import IGNORED
from boxwright.structures.detections import require
from boxwright.structures.ground_truth import GroundTruth
from boxwright.structures.masks import CroppedMask


@dataclass(frozen=True, slots=True)
class Targets:
    """The ground truth of a batch, padded to its largest image: boxes (B, G, 4), labels, ignore and valid (B, G).

    Padding rows are marked by `valid` only, never by their coordinates. Masks keep the size of their objects.
    Keypoints (B, G, P, 3) are x, y and visibility, rotated boxes (B, G, 5) as in `GroundTruth`; those of padding rows
    are 0. `semantic` (B, H, W) uint8 is the label of every pixel, 255 where it is not known and in the padding of an
    image.
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    valid: Tensor
    masks: PackedMasks | None = None
    keypoints: Tensor | None = None
    semantic: Tensor | None = None
    rotated: Tensor | None = None

    def __post_init__(self) -> None:
        batch, count = self.boxes.shape[:2]
        require(self.boxes.shape == (batch, count, 4), f"boxes: expected (B, G, 4), got {tuple(self.boxes.shape)}")
        for name in ("labels", "ignore", "valid"):
            shape = tuple(getattr(self, name).shape)
            require(shape == (batch, count), f"{name}: expected {(batch, count)}, got {shape}")
        if self.masks is not None:
            shape = tuple(self.masks.start.shape)
            require(shape == (batch, count), f"masks: expected those of {(batch, count)} objects, got {shape}")
        if self.rotated is not None:
            shape = tuple(self.rotated.shape)
            require(shape == (batch, count, 5), f"rotated: expected ({batch}, {count}, 5), got {shape}")
        if self.keypoints is not None:
            shape = tuple(self.keypoints.shape)
            good = len(shape) == 4 and shape[:2] == (batch, count) and shape[3] == 3
            require(good, f"keypoints: expected ({batch}, {count}, P, 3), got {shape}")
        if self.semantic is not None:
            shape, dtype = tuple(self.semantic.shape), self.semantic.dtype
            good = len(shape) == 3 and shape[0] == batch and dtype == torch.uint8
            require(good, f"semantic: expected ({batch}, H, W) uint8, got {shape} {dtype}")

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def of(cls, ground_truths: Sequence[GroundTruth], *, at_least: int = 0) -> Targets:
        """Pad the ground truth of several images to one batch, of `at_least` so many rows."""
        require(len(ground_truths) > 0, "a batch needs at least one image")
        count = max(at_least, *(len(ground_truth) for ground_truth in ground_truths))

        def pad(rows: list[Tensor]) -> Tensor:
            full = rows[0].new_zeros((len(rows), count, *rows[0].shape[1:]))
            for index, row in enumerate(rows):
                full[index, : len(row)] = row
            return full

        with_masks = all(ground_truth.masks is not None for ground_truth in ground_truths if len(ground_truth))
        with_masks = with_masks and any(ground_truth.masks is not None for ground_truth in ground_truths)
        return cls(
            boxes=pad([ground_truth.boxes for ground_truth in ground_truths]),
            labels=pad([ground_truth.labels for ground_truth in ground_truths]),
            ignore=pad([ground_truth.ignore for ground_truth in ground_truths]),
            valid=pad([torch.ones(len(ground_truth), dtype=torch.bool) for ground_truth in ground_truths]),
            masks=_packed(ground_truths, count) if with_masks else None,
            keypoints=_padded_keypoints(ground_truths, count),
            semantic=_padded_maps([one.semantic for one in ground_truths]),
            rotated=_padded_rotated(ground_truths, count),
        )

    def image(self, index: int, size_hw: tuple[int, int] | None = None) -> GroundTruth:
        """The ground truth of one image, without padding rows, on the CPU.

        A semantic map is cut to `size_hw`, the height and width of the image; without, it is as large as the batch.
        """
        keep = self.valid[index]
        boxes, labels, ignore = self.boxes[index][keep], self.labels[index][keep], self.ignore[index][keep]
        masks = None if self.masks is None else _unpacked(self.masks, index, keep)
        points = None if self.keypoints is None else self.keypoints[index][keep].cpu()
        semantic = None if self.semantic is None else self.semantic[index].cpu()
        if semantic is not None and size_hw is not None:
            semantic = semantic[: size_hw[0], : size_hw[1]]
        turned = None if self.rotated is None else self.rotated[index][keep].cpu()
        return GroundTruth(boxes.cpu(), labels.cpu(), ignore.cpu(), masks, points, semantic, turned)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Targets:
        """The same targets on another device."""
        tensors = (self.boxes, self.labels, self.ignore, self.valid)
        boxes, labels, ignore, valid = (tensor.to(device, non_blocking=non_blocking) for tensor in tensors)
        masks = self.masks and PackedMasks(*(t.to(device, non_blocking=non_blocking) for t in self.masks))
        points, semantic, turned = (
            None if tensor is None else tensor.to(device, non_blocking=non_blocking)
            for tensor in (self.keypoints, self.semantic, self.rotated)
        )
        return Targets(boxes, labels, ignore, valid, masks, points, semantic, turned)

    def pin_memory(self) -> Targets:
        """The same targets in pinned memory, for an asynchronous copy to a GPU."""
        tensors = (self.boxes, self.labels, self.ignore, self.valid)
        boxes, labels, ignore, valid = (tensor.pin_memory() for tensor in tensors)
        masks = self.masks and PackedMasks(*(tensor.pin_memory() for tensor in self.masks))
        points, semantic, turned = (
            None if tensor is None else tensor.pin_memory() for tensor in (self.keypoints, self.semantic, self.rotated)
        )
        return Targets(boxes, labels, ignore, valid, masks, points, semantic, turned)

    def scaled(self, factors_xy: Tensor, size_hw: tuple[int, int] | None = None) -> Targets:
        """The same targets for images resized by the factors (2,) of width and height.

        A semantic map becomes `size_hw`, the height and width of the resized batch, which it needs.
        """
        factors = factors_xy.repeat(2)
        masks = self.masks and self.masks._replace(frame=self.masks.frame * factors)
        points = self.keypoints
        if points is not None:
            points = points * torch.cat([factors_xy, factors_xy.new_ones(1)])
        semantic = self.semantic
        if semantic is not None:
            assert size_hw is not None
            semantic = F.interpolate(semantic[:, None], size_hw, mode="nearest-exact")[:, 0]
        turned = None if self.rotated is None else resize_rotated(self.rotated, factors_xy)
        return Targets(self.boxes * factors, self.labels, self.ignore, self.valid, masks, points, semantic, turned)


def _padded_keypoints(ground_truths: Sequence[GroundTruth], count: int) -> Tensor | None:
    """Keypoints (B, count, P, 3) of several images, None if none has any; ValueError where their numbers differ."""
    given = [one.keypoints for one in ground_truths]
    numbers = {points.shape[1] for points in given if points is not None}
    if not numbers:
        return None
    require(len(numbers) == 1, f"keypoints: expected one number of an object in a batch, got {sorted(numbers)}")
    full = torch.zeros(len(given), count, numbers.pop(), 3)
    for row, points in zip(full, given, strict=True):
        if points is not None:
            row[: len(points)] = points
    return full


def _padded_maps(maps: Sequence[Tensor | None]) -> Tensor | None:
    """Semantic maps (B, H, W) of several images, 255 where an image has none; None if no image has one."""
    given = [one for one in maps if one is not None]
    if not given:
        return None
    height, width = (max(one.shape[axis] for one in given) for axis in (0, 1))
    full = given[0].new_full((len(maps), height, width), IGNORED)
    for row, one in zip(full, maps, strict=True):
        if one is not None:
            row[: one.shape[0], : one.shape[1]] = one
    return full


def _padded_rotated(ground_truths: Sequence[GroundTruth], count: int) -> Tensor | None:
    """Rotated boxes (B, count, 5), None if no image has any; ValueError where only some images with objects do."""
    given = [one.rotated for one in ground_truths]
    if all(rows is None for rows in given):
        return None
    full = torch.zeros(len(given), count, 5)
    for row, one in zip(full, ground_truths, strict=True):
        require(
            one.rotated is not None or not len(one), "rotated: expected them in all images with objects, or in none"
        )
        if one.rotated is not None:
            row[: len(one)] = one.rotated
    return full


def _packed(ground_truths: Sequence[GroundTruth], count: int) -> PackedMasks:
    """The masks of several images, padded to `count` objects; all of them have masks, or no objects."""
    rows = [ground_truth.masks or () for ground_truth in ground_truths]
    bitmaps, corners = (
        [[mask.bitmap for mask in row] for row in rows],
        [[(mask.x, mask.y) for mask in row] for row in rows],
    )
    return pack_masks(bitmaps, corners, at_least=count)


def _unpacked(packed: PackedMasks, image: int, keep: Tensor) -> tuple[CroppedMask, ...]:
    """Cropped masks of one image's objects; where the batch was resized, in whole pixels of its new size."""
    pixels = packed.pixels.cpu()
    rows = zip(
        packed.start[image][keep].tolist(),
        packed.size_hw[image][keep].tolist(),
        packed.frame[image][keep].cpu(),
        strict=True,
    )
    masks = []
    for start, (height, width), frame in rows:
        if height == 0:
            masks.append(CroppedMask.unknown())
            continue
        bitmap = pixels[start : start + height * width].reshape(height, width)
        x1, y1, x2, y2 = (round(value) for value in frame.tolist())
        shape = (max(1, y2 - y1), max(1, x2 - x1))
        if shape != (height, width):
            bitmap = torch.nn.functional.interpolate(bitmap[None, None].float(), shape, mode="nearest-exact")[0, 0] > 0
        masks.append(CroppedMask(x1, y1, bitmap))
    return tuple(masks)
