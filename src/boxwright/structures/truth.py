"""What pictures hold: the truth of one picture, and the targets of a batch.

Shape legend: B = images, G = ground-truth boxes (of one picture, or the padded maximum of a batch), K = classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from boxwright.ops.mask_targets import PackedMasks, pack_masks
from boxwright.structures.cropped_mask import CroppedMask
from boxwright.structures.pictures import require


@dataclass(frozen=True, slots=True)
class Truth:
    """What one picture holds: boxes (G, 4), labels (G,) int64, ignore (G,) bool, and masks when there are any.

    `ignore` marks regions that take no part in loss or score (COCO crowd, VOC difficult).
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    masks: tuple[CroppedMask, ...] | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes)
        require(self.boxes.shape == (count, 4), f"boxes: expected (G, 4), got {tuple(self.boxes.shape)}")
        require(self.boxes.dtype == torch.float32, f"boxes: expected float32, got {self.boxes.dtype}")
        require(self.labels.shape == (count,), f"labels: expected ({count},), got {tuple(self.labels.shape)}")
        require(self.labels.dtype == torch.int64, f"labels: expected int64, got {self.labels.dtype}")
        require(self.ignore.shape == (count,), f"ignore: expected ({count},), got {tuple(self.ignore.shape)}")
        require(self.ignore.dtype == torch.bool, f"ignore: expected bool, got {self.ignore.dtype}")
        if self.masks is not None:
            require(len(self.masks) == count, f"masks: expected {count}, got {len(self.masks)}")
        if count:
            bad = ~torch.isfinite(self.boxes).all(1) | (self.boxes[:, 2:] <= self.boxes[:, :2]).any(1)
            if bool(bad.any()):
                index = int(bad.nonzero()[0])
                raise ValueError(f"box {index} {self.boxes[index].tolist()}: expected finite x1 < x2 and y1 < y2")
            require(int(self.labels.min()) >= 0, f"labels: expected [0, K), got {int(self.labels.min())}")

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def empty(cls) -> Truth:
        """A picture without objects."""
        return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))

    @classmethod
    def of(cls, boxes: Any, labels: Any, ignore: Any = None, masks: Sequence[CroppedMask] | None = None) -> Truth:
        """Truth from anything tensor-like; no ignore flags means none is ignored."""
        boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        labels = torch.as_tensor(labels, dtype=torch.int64).reshape(-1)
        flags = torch.zeros(len(labels)) if ignore is None else torch.as_tensor(ignore)
        return cls(boxes, labels, flags.to(torch.bool).reshape(-1), None if masks is None else tuple(masks))


@dataclass(frozen=True, slots=True)
class Targets:
    """The truth of a batch, padded to its largest picture: boxes (B, G, 4), labels, ignore and valid (B, G).

    Padding rows are marked by `valid` only, never by their coordinates. Masks keep the size of their objects.
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    valid: Tensor
    masks: PackedMasks | None = None

    def __post_init__(self) -> None:
        batch, count = self.boxes.shape[:2]
        require(self.boxes.shape == (batch, count, 4), f"boxes: expected (B, G, 4), got {tuple(self.boxes.shape)}")
        for name in ("labels", "ignore", "valid"):
            shape = tuple(getattr(self, name).shape)
            require(shape == (batch, count), f"{name}: expected {(batch, count)}, got {shape}")
        if self.masks is not None:
            shape = tuple(self.masks.start.shape)
            require(shape == (batch, count), f"masks: expected those of {(batch, count)} objects, got {shape}")

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def of(cls, truths: Sequence[Truth]) -> Targets:
        """Pad the truth of several pictures to one batch."""
        require(len(truths) > 0, "a batch needs at least one picture")
        count = max(len(truth) for truth in truths)

        def pad(rows: list[Tensor]) -> Tensor:
            full = rows[0].new_zeros((len(rows), count, *rows[0].shape[1:]))
            for index, row in enumerate(rows):
                full[index, : len(row)] = row
            return full

        with_masks = all(truth.masks is not None for truth in truths if len(truth))
        with_masks = with_masks and any(truth.masks is not None for truth in truths)
        return cls(
            boxes=pad([truth.boxes for truth in truths]),
            labels=pad([truth.labels for truth in truths]),
            ignore=pad([truth.ignore for truth in truths]),
            valid=pad([torch.ones(len(truth), dtype=torch.bool) for truth in truths]),
            masks=_packed(truths) if with_masks else None,
        )

    def picture(self, index: int) -> Truth:
        """The truth of one picture, without padding, on the CPU."""
        keep = self.valid[index]
        boxes, labels, ignore = self.boxes[index][keep], self.labels[index][keep], self.ignore[index][keep]
        masks = None if self.masks is None else _unpacked(self.masks, index, keep)
        return Truth(boxes.cpu(), labels.cpu(), ignore.cpu(), masks)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Targets:
        """The same targets on another device."""
        tensors = (self.boxes, self.labels, self.ignore, self.valid)
        boxes, labels, ignore, valid = (tensor.to(device, non_blocking=non_blocking) for tensor in tensors)
        masks = self.masks and PackedMasks(*(t.to(device, non_blocking=non_blocking) for t in self.masks))
        return Targets(boxes, labels, ignore, valid, masks)

    def pin_memory(self) -> Targets:
        """The same targets in pinned memory, for an asynchronous copy to a GPU."""
        tensors = (self.boxes, self.labels, self.ignore, self.valid)
        boxes, labels, ignore, valid = (tensor.pin_memory() for tensor in tensors)
        masks = self.masks and PackedMasks(*(tensor.pin_memory() for tensor in self.masks))
        return Targets(boxes, labels, ignore, valid, masks)

    def scaled(self, factors_xy: Tensor) -> Targets:
        """The same targets for pictures resized by the factors (2,) of width and height."""
        factors = factors_xy.repeat(2)
        masks = self.masks and self.masks._replace(frame=self.masks.frame * factors)
        return Targets(self.boxes * factors, self.labels, self.ignore, self.valid, masks)


def _packed(truths: Sequence[Truth]) -> PackedMasks:
    """The masks of several pictures; all of them have masks, or no objects."""
    rows = [truth.masks or () for truth in truths]
    bitmaps, corners = (
        [[mask.bitmap for mask in row] for row in rows],
        [[(mask.x, mask.y) for mask in row] for row in rows],
    )
    return pack_masks(bitmaps, corners)


def _unpacked(packed: PackedMasks, picture: int, keep: Tensor) -> tuple[CroppedMask, ...]:
    """Cropped masks of one picture's objects; where the batch was resized, in whole pixels of its new size."""
    pixels = packed.pixels.cpu()
    rows = zip(packed.start[picture][keep].tolist(), packed.size_hw[picture][keep].tolist(),
               packed.frame[picture][keep].cpu(), strict=True)  # fmt: skip
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
