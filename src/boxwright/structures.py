"""The records that cross folders: what a picture holds, what a detector found, and a batch of pixels.

Shape legend: B = images, G = ground-truth boxes (of one picture, or the padded maximum of a batch), D = detections,
R = proposals (likewise), K = classes, H W = height and width in pixels. Boxes are absolute (x1, y1, x2, y2) float32
without `+1`; labels lie in [0, K). Every record is checked when it is built, so that a wrong box cannot travel further
than the line that made it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from boxwright.ops.masks import encode_rle


class CroppedMask(NamedTuple):
    """One object's mask, kept only where the object is: `bitmap` (h, w) bool with its corner at column x, row y."""

    x: int
    y: int
    bitmap: Tensor


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True)
class Classes:
    """Class names in label order, and the id that each has in the user's files.

    Label k is `names[k]` inside the library and `ids[k]` in result files, whatever the ids were (0-based, 1-based,
    with gaps).
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        _require(len(self.names) == len(self.ids), f"{len(self.names)} class names but {len(self.ids)} class ids")
        _require(len(self.names) > 0, "no classes: a detector needs at least one class name")
        _require(len(set(self.names)) == len(self.names), f"class names repeat: {sorted(self.names)}")
        _require(len(set(self.ids)) == len(self.ids), f"class ids repeat: {sorted(self.ids)}")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def named(cls, names: Iterable[str], first_id: int = 0) -> Classes:
        """Classes numbered from `first_id` in the given order."""
        names = tuple(names)
        return cls(names, tuple(range(first_id, first_id + len(names))))


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
        _require(self.boxes.shape == (count, 4), f"boxes: expected (G, 4), got {tuple(self.boxes.shape)}")
        _require(self.boxes.dtype == torch.float32, f"boxes: expected float32, got {self.boxes.dtype}")
        _require(self.labels.shape == (count,), f"labels: expected ({count},), got {tuple(self.labels.shape)}")
        _require(self.labels.dtype == torch.int64, f"labels: expected int64, got {self.labels.dtype}")
        _require(self.ignore.shape == (count,), f"ignore: expected ({count},), got {tuple(self.ignore.shape)}")
        _require(self.ignore.dtype == torch.bool, f"ignore: expected bool, got {self.ignore.dtype}")
        if self.masks is not None:
            _require(len(self.masks) == count, f"masks: expected {count}, got {len(self.masks)}")
        if count:
            bad = ~torch.isfinite(self.boxes).all(1) | (self.boxes[:, 2:] <= self.boxes[:, :2]).any(1)
            if bool(bad.any()):
                index = int(bad.nonzero()[0])
                raise ValueError(f"box {index} {self.boxes[index].tolist()}: expected finite x1 < x2 and y1 < y2")
            _require(int(self.labels.min()) >= 0, f"labels: expected [0, K), got {int(self.labels.min())}")

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

    Padding rows are marked by `valid` only, never by their coordinates. Masks stay ragged: one tuple a picture.
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    valid: Tensor
    masks: tuple[tuple[CroppedMask, ...], ...] | None = None

    def __post_init__(self) -> None:
        batch, count = self.boxes.shape[:2]
        _require(self.boxes.shape == (batch, count, 4), f"boxes: expected (B, G, 4), got {tuple(self.boxes.shape)}")
        for name in ("labels", "ignore", "valid"):
            shape = tuple(getattr(self, name).shape)
            _require(shape == (batch, count), f"{name}: expected {(batch, count)}, got {shape}")

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def of(cls, truths: Sequence[Truth]) -> Targets:
        """Pad the truth of several pictures to one batch."""
        _require(len(truths) > 0, "a batch needs at least one picture")
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
            masks=tuple(truth.masks or () for truth in truths) if with_masks else None,
        )

    def picture(self, index: int) -> Truth:
        """The truth of one picture, without padding, on the CPU."""
        keep = self.valid[index]
        boxes, labels, ignore = self.boxes[index][keep], self.labels[index][keep], self.ignore[index][keep]
        return Truth(boxes.cpu(), labels.cpu(), ignore.cpu(), None if self.masks is None else self.masks[index])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Targets:
        """The same targets on another device (masks stay where they are)."""
        boxes, labels, ignore, valid = (
            t.to(device, non_blocking=non_blocking) for t in (self.boxes, self.labels, self.ignore, self.valid)
        )
        return Targets(boxes, labels, ignore, valid, self.masks)

    def pin_memory(self) -> Targets:
        """The same targets in pinned memory, for an asynchronous copy to a GPU."""
        tensors = (self.boxes, self.labels, self.ignore, self.valid)
        boxes, labels, ignore, valid = (tensor.pin_memory() for tensor in tensors)
        return Targets(boxes, labels, ignore, valid, self.masks)


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Pixels of a batch with the way back: network coordinates = original coordinates * scale + offset.

    pixels (B, 3, H, W) RGB, uint8 or float in [0, 1], padded at the right and bottom; sizes_hw (B, 2) the part that
    is picture; original_hw (B, 2); scale_xy and offset_xy (B, 2) float32. The model normalises, then zeroes padding.
    """

    pixels: Tensor
    sizes_hw: Tensor
    original_hw: Tensor
    scale_xy: Tensor
    offset_xy: Tensor

    def __post_init__(self) -> None:
        batch = len(self.pixels)
        _require(
            self.pixels.dim() == 4 and self.pixels.shape[1] == 3,
            f"pixels: expected (B, 3, H, W), got {tuple(self.pixels.shape)}",
        )
        good = self.pixels.dtype == torch.uint8 or self.pixels.is_floating_point()
        _require(good, f"pixels: expected uint8 or float in [0, 1], got {self.pixels.dtype}")
        for name in ("sizes_hw", "original_hw", "scale_xy", "offset_xy"):
            shape = tuple(getattr(self, name).shape)
            _require(shape == (batch, 2), f"{name}: expected {(batch, 2)}, got {shape}")

    def __len__(self) -> int:
        return len(self.pixels)

    @classmethod
    def of(
        cls,
        pictures: Sequence[Tensor],
        original_hw: Sequence[tuple[int, int]] | None = None,
        scale_xy: Sequence[tuple[float, float]] | None = None,
        offset_xy: Sequence[tuple[float, float]] | None = None,
        *,
        multiple_of: int = 1,
    ) -> ImageBatch:
        """Stack pictures (3, h, w), padding at the right and bottom to the largest, rounded up to `multiple_of`."""
        _require(len(pictures) > 0, "a batch needs at least one picture")
        for index, picture in enumerate(pictures):
            good = picture.dim() == 3 and picture.shape[0] == 3
            _require(good, f"picture {index}: expected (3, H, W), got {tuple(picture.shape)}")
            _require(picture.dtype == pictures[0].dtype, f"picture {index}: {picture.dtype} in a batch of "
                     f"{pictures[0].dtype}")  # fmt: skip
        sizes = [(int(p.shape[1]), int(p.shape[2])) for p in pictures]
        height = -(-max(h for h, _ in sizes) // multiple_of) * multiple_of
        width = -(-max(w for _, w in sizes) // multiple_of) * multiple_of
        pixels = pictures[0].new_zeros((len(pictures), 3, height, width))
        for index, picture in enumerate(pictures):
            pixels[index, :, : sizes[index][0], : sizes[index][1]] = picture
        count = len(pictures)
        return cls(
            pixels=pixels,
            sizes_hw=torch.tensor(sizes, dtype=torch.int64),
            original_hw=torch.tensor(original_hw or sizes, dtype=torch.int64),
            scale_xy=torch.tensor(scale_xy or [(1.0, 1.0)] * count, dtype=torch.float32),
            offset_xy=torch.tensor(offset_xy or [(0.0, 0.0)] * count, dtype=torch.float32),
        )

    def normalised(self, mean: Tensor | Sequence[float], std: Tensor | Sequence[float]) -> Tensor:
        """Pixels (B, 3, H, W) float minus mean over std (three numbers in [0, 1] each), and zero outside each picture.

        Zero after normalisation is what a convolution pads with, so a picture ends in a batch as it ends alone.
        """
        unit = 255.0 if self.pixels.dtype == torch.uint8 else 1.0
        device = self.pixels.device
        mean, std = (torch.as_tensor(v, dtype=torch.float32, device=device)[:, None, None] for v in (mean, std))
        normal = torch.addcmul(-mean / std, self.pixels.float(), 1 / (unit * std))
        height, width = self.pixels.shape[-2:]
        rows = torch.arange(height, device=device) < self.sizes_hw[:, :1]  # (B, H)
        columns = torch.arange(width, device=device) < self.sizes_hw[:, 1:]  # (B, W)
        normal = normal * (rows[:, None, :, None] & columns[:, None, None, :])
        return normal.contiguous(memory_format=torch.channels_last)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ImageBatch:
        """The same batch on another device."""
        tensors = (self.pixels, self.sizes_hw, self.original_hw, self.scale_xy, self.offset_xy)
        return ImageBatch(*(tensor.to(device, non_blocking=non_blocking) for tensor in tensors))

    def pin_memory(self) -> ImageBatch:
        """The same batch in pinned memory, for an asynchronous copy to a GPU."""
        tensors = (self.pixels, self.sizes_hw, self.original_hw, self.scale_xy, self.offset_xy)
        return ImageBatch(*(tensor.pin_memory() for tensor in tensors))


@dataclass(frozen=True, slots=True)
class Proposals:
    """Boxes that may hold an object, for a batch, padded: boxes (B, R, 4) in network pixels, scores and valid (B, R).

    Best first within each picture (within each level where levels have limits of their own); `valid` marks the rows
    that are proposals. `level` (B, R) is the index of the pyramid level that each came from, where that is known.
    """

    boxes: Tensor
    scores: Tensor
    valid: Tensor
    level: Tensor | None = None

    def __post_init__(self) -> None:
        batch, count = self.boxes.shape[:2]
        _require(self.boxes.shape == (batch, count, 4), f"boxes: expected (B, R, 4), got {tuple(self.boxes.shape)}")
        for name, field in (("scores", self.scores), ("valid", self.valid), ("level", self.level)):
            shape = (batch, count) if field is None else tuple(field.shape)
            _require(shape == (batch, count), f"{name}: expected {(batch, count)}, got {shape}")

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def of(cls, boxes: Sequence[Tensor], scores: Sequence[Tensor] | None = None) -> Proposals:
        """Pad the proposals (R, 4) of several pictures to one batch; without scores all are 1."""
        _require(len(boxes) > 0, "a batch needs at least one picture")
        scores = [torch.ones(len(rows)) for rows in boxes] if scores is None else scores
        shape = (len(boxes), max(1, *(len(rows) for rows in boxes)))
        padded, values = torch.zeros(*shape, 4), torch.zeros(shape)
        valid = torch.zeros(shape, dtype=torch.bool)
        for index, (rows, own) in enumerate(zip(boxes, scores, strict=True)):
            padded[index, : len(rows)], values[index, : len(rows)], valid[index, : len(rows)] = rows, own, True
        return cls(padded, values, valid)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Proposals:
        """The same proposals on another device."""
        tensors = (self.boxes, self.scores, self.valid, self.level)
        moved = (None if t is None else t.to(device, non_blocking=non_blocking) for t in tensors)
        return Proposals(*moved)  # type: ignore[arg-type]

    def pin_memory(self) -> Proposals:
        """The same proposals in pinned memory, for an asynchronous copy to a GPU."""
        tensors = (self.boxes, self.scores, self.valid, self.level)
        return Proposals(*(None if t is None else t.pin_memory() for t in tensors))  # type: ignore[arg-type]


class PaddedDetections(NamedTuple):
    """Detections of a batch at fixed ranks, best first: boxes (B, N, 4), scores (B, N), labels (B, N), counts (B,).

    Rows from `counts` on are padding: box 0, score 0, label -1. Boxes are in network pixels.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    counts: Tensor

    def restore(self, images: ImageBatch) -> list[Detections]:
        """Detections of each picture on the CPU, in the pixels of the original pictures."""
        scale = images.scale_xy.to(self.boxes.device).repeat(1, 2)[:, None]  # (B, 1, 4)
        offset = images.offset_xy.to(self.boxes.device).repeat(1, 2)[:, None]
        boxes = ((self.boxes - offset) / scale).cpu()
        scores, labels, counts = self.scores.cpu(), self.labels.cpu(), self.counts.tolist()
        found = []
        for picture, (height, width) in enumerate(images.original_hw.tolist()):
            rows = slice(0, counts[picture])
            limits = torch.tensor([width, height, width, height])
            own = boxes[picture, rows].clamp(min=0).minimum(limits)
            found.append(Detections(own, scores[picture, rows], labels[picture, rows], (height, width)))
        return found


@dataclass(frozen=True, slots=True)
class Detections:
    """What a detector found in one picture, best first: boxes (D, 4), scores (D,), labels (D,), masks (D, H, W) bool.

    Boxes and masks are in the coordinates of the original picture of `size_hw`.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    size_hw: tuple[int, int]
    classes: Classes | None = None
    masks: Tensor | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes)
        _require(self.boxes.shape == (count, 4), f"boxes: expected (D, 4), got {tuple(self.boxes.shape)}")
        _require(self.scores.shape == (count,), f"scores: expected ({count},), got {tuple(self.scores.shape)}")
        _require(self.labels.shape == (count,), f"labels: expected ({count},), got {tuple(self.labels.shape)}")
        if self.masks is not None:
            expected, got = (count, *self.size_hw), tuple(self.masks.shape)
            _require(got == expected, f"masks: expected {expected}, got {got}")
        if self.classes is not None and count:
            highest = int(self.labels.max())
            _require(highest < len(self.classes), f"label {highest} of a detector with {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def names(self) -> list[str]:
        """Class name of each detection (its label as text where no names are known)."""
        known = self.classes.names if self.classes else None
        return [known[label] if known else str(label) for label in self.labels.tolist()]

    def select(self, keep: Tensor) -> Detections:
        """The detections picked by a mask or by indices."""
        masks = None if self.masks is None else self.masks[keep]
        chosen = (self.boxes[keep], self.scores[keep], self.labels[keep])
        return Detections(*chosen, self.size_hw, self.classes, masks, self.path)

    def above(self, score: float) -> Detections:
        """The detections whose score is at least `score`."""
        return self.select(self.scores >= score)

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """Rows of a COCO result file: the category ids of the user's own files, boxes as x, y, width, height."""
        ids = self.classes.ids if self.classes else None
        rows: list[dict[str, Any]] = []
        for index, (box, score, label) in enumerate(
            zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        ):
            x1, y1, x2, y2 = box
            row = {
                "image_id": image_id,
                "category_id": ids[label] if ids else label,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            if self.masks is not None:
                row["segmentation"] = encode_rle(self.masks[index])
            rows.append(row)
        return rows

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`, for its trackers, annotators and zones (needs `supervision`)."""
        try:
            import supervision
        except ImportError as error:
            raise ImportError("to_supervision() needs the package supervision: pip install supervision") from error
        return supervision.Detections(
            xyxy=self.boxes.cpu().numpy(),
            confidence=self.scores.cpu().numpy(),
            class_id=self.labels.cpu().numpy(),
            mask=None if self.masks is None else self.masks.cpu().numpy(),
            data={"class_name": self.names},
        )
