"""The semantic branch: one label a pixel, which models without a detector, and panoptic ones beside theirs, hold.

Paper: Kirillov, Girshick, He, Dollár, "Panoptic Feature Pyramid Networks", CVPR 2019, section 3.

Shape legend: B = images, S = semantic classes, h w = height and width of the finest map, H W of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from boxwright.models.sections import TrunkSection
from boxwright.nn.norm import Norm
from boxwright.nn.semantic_head import SemanticHead
from boxwright.ops.semantic import IGNORED, semantic_loss
from boxwright.structures import PaddedDetections, Targets
from boxwright.structures.detections import SEMANTIC_STRIDE

MOST_CLASSES = IGNORED
"""Labels are bytes, and 255 is ignored."""
COCO_CLASSES = 54
"""Of the semantic maps of COCO's panoptic data: 53 kinds of stuff, and things."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SemanticSettings:
    """How semantic maps are predicted and learnt. The defaults are those of the paper."""

    num_classes: int | None = None
    """Of the semantic map: "things", where the data has objects, and the stuff. null: as many as the data has, which
    training writes down; 54, as in COCO, where there is no data."""
    channels: int = 128
    """Of the 3x3 convolutions."""
    norm: Norm = "gn"
    """After each of them."""
    loss_weight: float = 1.0
    """Of the loss "semantic" beside the others; 0.5 in Detectron2's panoptic models."""

    def __post_init__(self) -> None:
        if self.num_classes is not None and not 1 <= self.num_classes <= MOST_CLASSES:
            raise ValueError(f"num_classes: expected 1 to {MOST_CLASSES}, got {self.num_classes}")
        if self.channels < 1:
            raise ValueError(f"channels: expected at least 1, got {self.channels}")
        if not 0 < self.loss_weight < math.inf:
            raise ValueError(f"loss_weight: expected a number above 0, got {self.loss_weight}")

    @property
    def outputs(self) -> int:
        """How many classes a model is built for."""
        return COCO_CLASSES if self.num_classes is None else self.num_classes


def check_pyramid(fpn: TrunkSection) -> None:
    """Raise ValueError where a semantic head cannot stand on such maps."""
    if fpn.channels is None or fpn.levels != ("c2", "c3", "c4", "c5")[: len(fpn.levels)]:
        raise ValueError(
            f"fpn: a semantic head needs a pyramid from c2 on, got levels {list(fpn.levels)} and channels "
            f"{'null' if fpn.channels is None else fpn.channels}"
        )


class SemanticBranch(nn.Module):
    """The head on a pyramid's levels, and its loss.

    Args:
        in_channels: of the levels.
        num_levels: how many of them, from stride 4 on.
    """

    def __init__(self, settings: SemanticSettings, in_channels: int, num_levels: int) -> None:
        super().__init__()
        self.settings, self.num_levels = settings, num_levels
        self.head = SemanticHead(in_channels, settings.outputs, num_levels, settings.channels, settings.norm)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Logits (B, S, h, w) at stride 4 of the levels, finest first."""
        logits: Tensor = self.head(levels[: self.num_levels])
        return logits

    def loss(self, logits: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Loss "semantic": cross-entropy, the mean over the batch's annotated pixels; 0 where there are none."""
        if targets.semantic is None:
            return {"semantic": logits.sum() * 0.0}
        loss = semantic_loss(logits, targets.semantic, SEMANTIC_STRIDE)
        return {"semantic": self.settings.loss_weight * loss}


def no_detections(logits: Tensor, rows: int) -> PaddedDetections:
    """The semantic maps (B, S, h, w) of a model without detector, and so many rows of padding: it found nothing."""
    boxes = logits.new_zeros((logits.shape[0], rows, 4))
    labels = torch.full_like(boxes[..., 0], -1).to(torch.int64)
    return PaddedDetections(boxes, boxes[..., 0], labels, (labels >= 0).sum(1), semantic=logits)
