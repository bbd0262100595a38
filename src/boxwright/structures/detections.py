"""What a detector found. Shape legend: B = images, N = detections at most, D = detections, H W = pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from boxwright.ops.masks import encode_rle
from boxwright.structures.classes import Classes
from boxwright.structures.images import ImageBatch
from boxwright.structures.requirement import require


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
        require(self.boxes.shape == (count, 4), f"boxes: expected (D, 4), got {tuple(self.boxes.shape)}")
        require(self.scores.shape == (count,), f"scores: expected ({count},), got {tuple(self.scores.shape)}")
        require(self.labels.shape == (count,), f"labels: expected ({count},), got {tuple(self.labels.shape)}")
        if self.masks is not None:
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
