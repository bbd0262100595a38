"""Region proposals for the images of a batch.

Shape legend: B = images, R = proposals (the padded maximum of a batch).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from boxwright.structures.detections import require


@dataclass(frozen=True, slots=True)
class Proposals:
    """Boxes that may contain an object, for a padded batch: boxes (B, R, 4) in network pixels, scores, valid (B, R).

    Best first within each image (within each level, if levels have their own limits); `valid` marks rows that are not
    padding. `level` (B, R) is the index of the pyramid level of each, where it is known. Boxes (B, R, 5) are rotated.
    """

    boxes: Tensor
    scores: Tensor
    valid: Tensor
    level: Tensor | None = None

    def __post_init__(self) -> None:
        batch, count = self.boxes.shape[:2]
        require(
            self.boxes.dim() == 3 and self.boxes.shape[2] in (4, 5),
            f"boxes: expected (B, R, 4), or (B, R, 5) rotated, got {tuple(self.boxes.shape)}",
        )
        for name, field in (("scores", self.scores), ("valid", self.valid), ("level", self.level)):
            shape = (batch, count) if field is None else tuple(field.shape)
            require(shape == (batch, count), f"{name}: expected {(batch, count)}, got {shape}")

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def of(cls, boxes: Sequence[Tensor], scores: Sequence[Tensor] | None = None) -> Proposals:
        """Pad the proposals (R, 4) of several images to one batch; without scores all are 1."""
        require(len(boxes) > 0, "a batch needs at least one image")
        scores = [torch.ones(len(rows)) for rows in boxes] if scores is None else scores
        shape = (len(boxes), max(1, *(len(rows) for rows in boxes)))
        padded, values = torch.zeros(*shape, 4), torch.zeros(shape)
        valid = torch.zeros(shape, dtype=torch.bool)
        for index, (rows, own) in enumerate(zip(boxes, scores, strict=True)):
            padded[index, : len(rows)], values[index, : len(rows)], valid[index, : len(rows)] = rows, own, True
        return cls(padded, values, valid)

    def scaled(self, across: float, down: float) -> Proposals:
        """The same proposals of a batch whose pixels were resized by these factors."""
        factors = (across, down, across, down)
        boxes = torch.stack(
            [side * factor for side, factor in zip(self.boxes.unbind(-1), factors, strict=True)], dim=-1
        )
        return Proposals(boxes, self.scores, self.valid, self.level)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Proposals:
        """The same proposals on another device."""
        tensors = (self.boxes, self.scores, self.valid, self.level)
        moved = (None if t is None else t.to(device, non_blocking=non_blocking) for t in tensors)
        return Proposals(*moved)  # type: ignore[arg-type]

    def pin_memory(self) -> Proposals:
        """The same proposals in pinned memory, for an asynchronous copy to a GPU."""
        tensors = (self.boxes, self.scores, self.valid, self.level)
        return Proposals(*(None if t is None else t.pin_memory() for t in tensors))  # type: ignore[arg-type]
