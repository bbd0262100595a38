"""The proposal network of two-stage detectors: anchors classified and refined; the best become proposals.

Papers: Ren, He, Girshick, Sun, "Faster R-CNN", NeurIPS 2015, section 3.1; Lin et al., "Feature Pyramid Networks", CVPR
2017, section 4.1. `rpn.py` is the detector that it makes alone.

Shape legend: B = images, N = anchors of all levels, A = anchors at one cell, G = ground-truth boxes, S = sampled
anchors, R = proposals. Boxes are absolute (x1, y1, x2, y2) in network pixels; offsets (dx, dy, dw, dh) are from an
anchor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.models.sections import TrunkSection
from boxwright.nn.norm import Norm
from boxwright.nn.towers import conv_tower, init_dense
from boxwright.ops.anchors import cell_anchors, pyramid_anchors
from boxwright.ops.assign import gather_rows
from boxwright.ops.coding import LARGEST_LOG_RATIO, check_log_ratio, decode_boxes, encode_boxes
from boxwright.ops.losses import giou_loss, smooth_l1
from boxwright.ops.match import centred_outside, match_boxes, sample_balanced
from boxwright.ops.points import Grid, grid_locations
from boxwright.ops.select import best_rows, clip_boxes, select_detections
from boxwright.structures import ImageBatch, Proposals, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class ProposalSettings:
    """How regions are proposed. The defaults are for P2 to P6 (Feature Pyramid Networks, section 4.1)."""

    pooled_level: bool = True
    """Propose from P6 too, every other cell of P5, for large objects; false without a pyramid."""
    stem_channels: tuple[int, ...] = (256,)
    """3x3 convolutions before the two predictors; two of them in torchvision's v2."""
    stem_norm: Norm = "none"
    """After each of them: none in the references; "gn" (Wu and He 2018) learns faster from random weights."""
    anchor_sizes: tuple[tuple[float, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
    """Sides of the square anchors of each level, finest first."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    anchor_grid: Grid = "centre"
    """Where a cell's anchors stand: "corner" for Detectron2's checkpoints, "torchvision" for torchvision's."""
    anchors_rounded: bool = False
    """Corners at whole pixels, as torchvision's checkpoints have them."""
    shrink_limited: bool = False
    """Whether decoding limits how far a side may shrink, as it does how far it may grow; true in MMDetection."""
    largest_log_ratio: float = LARGEST_LOG_RATIO
    """Decoding lets a side grow at most by e to this: the default is ln(1000 / 16), 62.5-fold; ln(28) in the course."""
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    low_inclusive: bool = False
    """Whether an anchor of exactly negative_iou is background, as in the course, or costs nothing."""
    high_inclusive: bool = True
    """Whether an anchor of exactly positive_iou is positive."""
    low_quality: bool = True
    """Each object's best anchor learns it even below positive_iou; off in the course."""
    low_quality_iou: float = 0.0
    """But not below this overlap: 0.3 in MMDetection."""
    best_anchors: Literal["own", "claimed"] = "own"
    """What an object's best anchors learn: the one that they overlap most, or the one whose best they are
    (MMDetection)."""
    padding: Literal["background", "ignored"] = "background"
    """Whether anchors over the padding of a batch are background, or cost nothing (MMDetection)."""
    samples: int = 256
    """Anchors per image that are learnt from."""
    positive_fraction: float = 0.5
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1"
    """Of offsets, or of the boxes that they give (Detectron2's BBOX_REG_LOSS_TYPE)."""
    box_weight: float = 1.0
    """Of the box loss against that of objectness (Detectron2's BBOX_REG_LOSS_WEIGHT)."""
    beta: float = 0.0
    """Of the smooth-L1 loss: 0 is L1 (Detectron2), torchvision has 1/9."""
    normaliser: Literal["sampled", "nominal"] = "sampled"
    """Divide losses by the anchors drawn (torchvision) or by `samples` an image, drawn or not (Detectron2)."""
    train_candidates: int = 2000
    """Best anchors of each level that go into NMS, in training and at test."""
    test_candidates: int = 1000
    train_proposals: int = 1000
    """Proposals per image that are left after NMS, in training and at test."""
    test_proposals: int = 1000
    per_level: bool = False
    """Whether those limits hold for each level (the course) or for all together."""
    nms_iou: float = 0.7
    min_side: float = 0.0
    """Smaller proposals are dropped; 0.001 in torchvision."""
    score_threshold: float = 0.0
    """Proposals of a smaller probability are dropped: 0.05 in torchvision's MobileNet detectors."""

    def __post_init__(self) -> None:
        if not 0 < self.negative_iou <= self.positive_iou <= 1:
            raise ValueError(
                f"negative_iou: expected above 0 and up to positive_iou ({self.positive_iou}), got {self.negative_iou}"
            )
        check_log_ratio(self.largest_log_ratio)
        if len({len(sizes) for sizes in self.anchor_sizes}) != 1:
            raise ValueError(f"anchor_sizes: expected as many on each level, got {self.anchor_sizes}")
        if not 0 <= self.box_weight < math.inf:
            raise ValueError(f"box_weight: expected a number from 0, got {self.box_weight}")
        for name in ("samples", "train_candidates", "test_candidates", "train_proposals", "test_proposals"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")


class SampledAnchors(NamedTuple):
    """The anchors of each image that its loss is made of, drawn once, so that losses of one forward repeat."""

    rows: Tensor  # (B, S) into the anchors
    positive: Tensor  # (B, S)
    real: Tensor  # (B, S) False for padding
    boxes: Tensor  # (B, S, 4) what positive ones should become


class AnchorOutputs(NamedTuple):
    """Raw predictions for all anchors, level by level, and those that were drawn where ground truth was given."""

    objectness: Tensor  # (B, N) logits
    offsets: Tensor  # (B, N, 4)
    anchors: Tensor  # (N, 4)
    sizes_hw: Tensor  # (B, 2) of the images within the batch
    level_counts: tuple[int, ...]  # anchors of each level
    sampled: SampledAnchors | None


class ProposalNetwork(nn.Module):
    """Objectness and offsets of anchors on maps of one width, their losses, and proposals."""

    def __init__(
        self, settings: ProposalSettings, in_channels: int, strides: list[int], pad_multiple: int = 1
    ) -> None:  # fmt: skip
        super().__init__()
        self.pad_multiple = pad_multiple
        if len(settings.anchor_sizes) != len(strides):
            raise ValueError(
                f"rpn.anchor_sizes: expected one entry for each of the strides {strides}, got {settings.anchor_sizes}"
            )
        self.settings, self.strides = settings, strides
        self.num_anchors = len(settings.anchor_sizes[0]) * len(settings.anchor_ratios)
        width = settings.stem_channels[-1] if settings.stem_channels else in_channels
        self.stem = conv_tower(in_channels, settings.stem_channels, settings.stem_norm)
        self.objectness = nn.Conv2d(width, self.num_anchors, 1)
        self.offsets = nn.Conv2d(width, 4 * self.num_anchors, 1)
        init_dense(self.objectness)
        init_dense(self.offsets)
        cells = [
            cell_anchors(s, settings.anchor_ratios, rounded=settings.anchors_rounded) for s in settings.anchor_sizes
        ]
        self.register_buffer("cells", torch.stack(cells), persistent=False)
        self.cells: Tensor  # (L, A, 4)

    def forward(self, levels: Sequence[Tensor], images: ImageBatch, targets: Targets | None) -> AnchorOutputs:
        """Predictions for the anchors of maps (B, C, h, w); with targets, also the anchors to learn from."""
        rows: list[tuple[Tensor, Tensor]] = []
        kind = levels[0].device.type  # offsets in float32: in bfloat16 they would be right to one part in 256 only
        precise = nullcontext() if levels[0].dtype == torch.float32 else torch.autocast(kind, enabled=False)
        for level in levels:
            map_ = self.stem(level)
            objectness = self.objectness(map_).permute(0, 2, 3, 1).flatten(1)  # (B, h * w * A)
            with precise:
                offsets = self.offsets(map_.float())
            offsets = offsets.permute(0, 2, 3, 1).reshape(map_.shape[0], -1, 4)
            rows.append((objectness.float(), offsets.float()))
        anchors = self._anchors(levels, images)
        sampled = None if targets is None else self._sample(anchors, images.sizes_hw, targets)
        objectness, offsets = (torch.cat(column, dim=1) for column in zip(*rows, strict=True))
        counts = tuple(row.shape[1] for row, _ in rows)
        return AnchorOutputs(objectness, offsets, anchors, images.sizes_hw, counts, sampled)

    def _anchors(self, levels: Sequence[Tensor], images: ImageBatch) -> Tensor:
        height, width = (-(-side // self.pad_multiple) * self.pad_multiple for side in images.pixels.shape[2:])
        grids = [
            grid_locations(
                (level.shape[2], level.shape[3]), stride, device=level.device,
                grid=self.settings.anchor_grid, padded_hw=(height, width),
            )
            for level, stride in zip(levels, self.strides, strict=True)
        ]  # fmt: skip
        return pyramid_anchors(grids, list(self.cells))

    @torch.no_grad()
    def _sample(self, anchors: Tensor, sizes_hw: Tensor, targets: Targets) -> SampledAnchors:
        settings = self.settings
        outside = centred_outside(anchors, sizes_hw, self.pad_multiple) if settings.padding == "ignored" else None
        assigned = match_boxes(
            anchors, targets.boxes, targets.valid, targets.ignore,
            positive_iou=settings.positive_iou, negative_iou=settings.negative_iou, low_quality=settings.low_quality,
            low_quality_iou=settings.low_quality_iou, claimed=settings.best_anchors == "claimed", left_out=outside,
            low_inclusive=settings.low_inclusive, high_inclusive=settings.high_inclusive,
        )  # fmt: skip
        positive = assigned.owner >= 0  # (B, N)
        drawn = sample_balanced(
            positive, ~positive & ~assigned.ignored, settings.samples, settings.positive_fraction
        )  # fmt: skip
        boxes = gather_rows(targets.boxes, assigned.owner.gather(1, drawn.rows))
        return SampledAnchors(drawn.rows, drawn.positive, drawn.real, boxes)

    def loss(self, outputs: AnchorOutputs) -> dict[str, Tensor]:
        """Losses "objectness" (cross-entropy) and "proposal_box" (smooth L1 or GIoU) of the drawn anchors."""
        if outputs.sampled is None:
            raise ValueError("loss: this forward pass was given no targets; call model(images, targets)")
        rows, positive, real, boxes = outputs.sampled
        logits = torch.where(real, outputs.objectness.gather(1, rows), -1e4)  # loss and gradient 0 against 0
        offsets = outputs.offsets.gather(1, rows[..., None].expand(-1, -1, 4))
        nominal = self.settings.normaliser == "nominal"
        total = len(real) * self.settings.samples if nominal else real.sum().clamp(min=1)
        objectness = F.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="sum")
        anchors, weights = outputs.anchors[rows], positive.to(offsets.dtype) * self.settings.box_weight
        if self.settings.box_loss == "giou":
            box = giou_loss(self._decoded(anchors, offsets), boxes, weights)
        else:
            box = smooth_l1(offsets, encode_boxes(anchors, boxes), weights, self.settings.beta)
        return {"objectness": objectness / total, "proposal_box": box / total}

    def _decoded(self, anchors: Tensor, offsets: Tensor) -> Tensor:
        settings = self.settings
        return decode_boxes(
            anchors, offsets, largest_log_ratio=settings.largest_log_ratio, shrink_limited=settings.shrink_limited
        )

    @torch.no_grad()
    def propose(
        self, outputs: AnchorOutputs, candidates: int, proposals: int, nms_iou: float, *, per_level: bool = False
    ) -> Proposals:
        """The best boxes of each image: best anchors of each level, decoded, clipped to the image, NMS by level.

        No gradient flows through them.
        """
        columns: list[tuple[Tensor, Tensor, Tensor]] = []
        start = 0
        for index, count in enumerate(outputs.level_counts):
            level = slice(start, start := start + count)
            scores, place = best_rows(outputs.objectness[:, level], candidates)
            offsets = outputs.offsets[:, level].gather(1, place[..., None].expand(-1, -1, 4))
            boxes = clip_boxes(self._decoded(outputs.anchors[level][place], offsets), outputs.sizes_hw)
            sides = boxes[..., 2:] - boxes[..., :2]
            good = torch.isfinite(boxes).all(-1) & torch.isfinite(scores) & (sides >= self.settings.min_side).all(-1)
            if self.settings.score_threshold > 0:
                good &= scores.sigmoid() >= self.settings.score_threshold
            columns.append((boxes, scores, torch.where(good, index, -1)))
        if not per_level:
            boxes, scores, origin = (torch.cat(column, dim=1) for column in zip(*columns, strict=True))
            columns = [(boxes, scores, origin)]
        chosen = [select_detections(*column, nms_iou, proposals)[:3] for column in columns]
        boxes, scores, origin = (torch.cat(column, dim=1) for column in zip(*chosen, strict=True))
        return Proposals(boxes, scores, origin >= 0, origin.clamp(min=0))


def check_anchors(trunk: TrunkSection, pooled_level: bool, anchor_sizes: Sequence[object]) -> None:
    """Raise ValueError where a two-stage config has not as many entries of anchor sizes as maps."""
    count = len(trunk.levels) + (trunk.channels is not None and pooled_level)
    if len(anchor_sizes) != count:
        raise ValueError(f"rpn.anchor_sizes: expected one entry for each of the {count} levels, got {anchor_sizes}")
