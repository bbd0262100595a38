"""What a detector found. Shape legend: B = images, N = detections at most, D = detections, H W = pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from boxwright.ops.mask_paste import Paste, mask_polygons, paste_masks
from boxwright.structures.classes import Classes
from boxwright.structures.cropped_mask import CroppedMask
from boxwright.structures.images import ImageBatch
from boxwright.structures.requirement import require


class PaddedDetections(NamedTuple):
    """Detections of a batch at fixed ranks, best first: boxes (B, N, 4), scores (B, N), labels (B, N), counts (B,).

    Rows from `counts` on are padding: box 0, score 0, label -1. Boxes are in network pixels. `masks`
    (B, N, M, M), where a detector gives them, are probabilities on a grid over each box.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    counts: Tensor
    masks: Tensor | None = None

    def restore(self, images: ImageBatch, paste: Paste = "exact") -> list[Detections]:
        """Detections of each picture on the CPU, in the pixels of the original pictures; masks cropped, as pasted."""
        scale = images.scale_xy.to(self.boxes.device).repeat(1, 2)[:, None]  # (B, 1, 4)
        offset = images.offset_xy.to(self.boxes.device).repeat(1, 2)[:, None]
        boxes = ((self.boxes - offset) / scale).cpu()
        scores, labels, counts = self.scores.cpu(), self.labels.cpu(), self.counts.tolist()
        grids = None if self.masks is None else self.masks.cpu()
        found = []
        for picture, (height, width) in enumerate(images.original_hw.tolist()):
            rows = slice(0, counts[picture])
            limits = torch.tensor([width, height, width, height])
            own = boxes[picture, rows].clamp(min=0).minimum(limits)
            masks = None
            if grids is not None:
                # over the box as it was found: what clipping takes away must not squeeze the rest
                pasted = paste_masks(grids[picture, rows], boxes[picture, rows], (height, width), how=paste)
                masks = tuple(CroppedMask(*part) for part in pasted)
            found.append(Detections(own, scores[picture, rows], labels[picture, rows], (height, width), masks=masks))
        return found


@dataclass(frozen=True, slots=True)
class Detections:
    """What a detector found in one picture, best first: boxes (D, 4), scores (D,), labels (D,), and masks if any.

    Boxes and masks are in the coordinates of the original picture of `size_hw`. Masks are whole planes (D, H, W) bool,
    as `predict` gives them, or cropped to their objects, as evaluation keeps them for thousands of pictures.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    size_hw: tuple[int, int]
    classes: Classes | None = None
    masks: Tensor | tuple[CroppedMask, ...] | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes)
        require(self.boxes.shape == (count, 4), f"boxes: expected (D, 4), got {tuple(self.boxes.shape)}")
        require(self.scores.shape == (count,), f"scores: expected ({count},), got {tuple(self.scores.shape)}")
        require(self.labels.shape == (count,), f"labels: expected ({count},), got {tuple(self.labels.shape)}")
        if isinstance(self.masks, tuple):
            require(len(self.masks) == count, f"masks: expected {count}, got {len(self.masks)}")
        elif self.masks is not None:
            expected, got = (count, *self.size_hw), tuple(self.masks.shape)
            require(got == expected, f"masks: expected {expected}, got {got}")
        if self.classes is not None and count:
            highest = int(self.labels.max())
            require(highest < len(self.classes), f"label {highest} of a detector with {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def names(self) -> list[str]:
        """Class name of each detection (its label as text where no names are known)."""
        known = self.classes.names if self.classes else None
        return [known[label] if known else str(label) for label in self.labels.tolist()]

    def select(self, keep: Tensor) -> Detections:
        """The detections picked by a mask or by indices."""
        masks: Tensor | tuple[CroppedMask, ...] | None = self.masks
        if isinstance(masks, tuple):
            masks = tuple(masks[row] for row in torch.arange(len(self), device=keep.device)[keep].tolist())
        elif masks is not None:
            masks = masks[keep]
        chosen = (self.boxes[keep], self.scores[keep], self.labels[keep])
        return Detections(*chosen, self.size_hw, self.classes, masks, self.path)

    def above(self, score: float) -> Detections:
        """The detections whose score is at least `score`."""
        return self.select(self.scores >= score)

    def whole_masks(self) -> Tensor | None:
        """Masks as planes (D, H, W) bool of the whole picture, None where there are none."""
        if not isinstance(self.masks, tuple):
            return self.masks
        planes = torch.zeros(len(self), *self.size_hw, dtype=torch.bool)
        for plane, mask in zip(planes, self.masks, strict=True):
            mask.draw(plane)
        return planes

    def mask(self, index: int) -> CroppedMask:
        """The mask of one detection, cropped to its object. Raises ValueError where there are no masks."""
        if self.masks is None:
            raise ValueError("these detections have no masks: their detector finds boxes only")
        mask = self.masks[index]
        return mask if isinstance(mask, CroppedMask) else CroppedMask(0, 0, mask).tight()

    def to_coco(self, image_id: int | str, *, polygons: bool = False) -> list[dict[str, Any]]:
        """Rows of a COCO result file: the category ids of the user's own files, boxes as x, y, width, height.

        Masks are written as compressed run-length codes, or as polygons along the edges of their pixels.
        """
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
                mask = self.mask(index)
                row["segmentation"] = (
                    mask_polygons(mask.bitmap, mask.x, mask.y) if polygons else mask.encoded(self.size_hw)
                )
            rows.append(row)
        return rows

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`, for its trackers, annotators and zones (needs `supervision`)."""
        try:
            import supervision
        except ImportError as error:
            raise ImportError("to_supervision() needs the package supervision: pip install supervision") from error
        masks = self.whole_masks()
        return supervision.Detections(
            xyxy=self.boxes.cpu().numpy(),
            confidence=self.scores.cpu().numpy(),
            class_id=self.labels.cpu().numpy(),
            mask=None if masks is None else masks.cpu().numpy(),
            data={"class_name": self.names},
        )
