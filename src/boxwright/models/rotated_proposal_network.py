"""The proposal network of rotated detectors: anchors at several angles, classified and refined; the best are proposals.

Papers: Ma et al., "Arbitrary-Oriented Scene Text Detection via Rotation Proposals", IEEE Transactions on Multimedia
2018, section 3; the numbers are those of Detectron2's RRPN. It is `proposal_network.py` with a fifth number.

Shape legend: B = images, N = anchors of all levels, A = anchors at one cell, G = ground-truth boxes, S = sampled
anchors, R = proposals. Boxes are (cx, cy, w, h, degrees) in network pixels, see `ops.rotated`; offsets
(dx, dy, dw, dh, da) are from an anchor.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.models.proposal_network import AnchorOutputs, SampledAnchors
from boxwright.nn.norm import Norm
from boxwright.nn.towers import conv_tower, init_dense
from boxwright.ops.assign import gather_rows
from boxwright.ops.losses import smooth_l1
from boxwright.ops.match import match_boxes, sample_balanced
from boxwright.ops.points import grid_locations
from boxwright.ops.rotated import clip_rotated
from boxwright.ops.rotated_anchors import ANGLES, rotated_cell_anchors, rotated_pyramid_anchors
from boxwright.ops.rotated_coding import AnglePeriod, decode_rotated, encode_rotated
from boxwright.ops.rotated_nms import select_rotated
from boxwright.ops.select import best_rows
from boxwright.structures import ImageBatch, Proposals, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class RotatedProposalSettings:
    """How rotated regions are proposed. The defaults are for P2 to P6, with 18 anchors a cell."""

    pooled_level: bool = True
    """Propose from P6 too, every other cell of P5, for large objects; false without a pyramid."""
    stem_channels: tuple[int, ...] = (256,)
    """3x3 convolutions before the two predictors."""
    stem_norm: Norm = "none"
    """After each of them."""
    anchor_sizes: tuple[tuple[float, ...], ...] = ((32,), (64,), (128,), (256,), (512,))
    """Sides of the square anchors of each level, finest first."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    anchor_angles: tuple[float, ...] = ANGLES
    """Degrees by which each is turned, counter-clockwise: half a turn is enough, since both ends of a box are alike."""
    anchor_grid: Literal["centre", "corner"] = "centre"
    """Where a cell's anchors stand: "corner" for Detectron2's checkpoints."""
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    samples: int = 256
    """Anchors per image that are learnt from."""
    positive_fraction: float = 0.5
    beta: float = 0.0
    """Of the smooth-L1 loss: 0 is L1 (Detectron2)."""
    angle_period: AnglePeriod = 360
    """Learn the box as it is named (360, Detectron2), or the shortest turn to its rectangle: 180 for either end of it,
    90 for any side, with w and h exchanged."""
    normaliser: Literal["sampled", "nominal"] = "sampled"
    """Divide losses by the anchors drawn, or by `samples` an image, drawn or not (Detectron2)."""
    train_candidates: int = 2000
    """Best anchors of each level that go into NMS, in training and at test."""
    test_candidates: int = 1000
    train_proposals: int = 1000
    """Proposals per image that are left after NMS, in training and at test."""
    test_proposals: int = 1000
    nms_iou: float = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.negative_iou <= self.positive_iou <= 1:
            raise ValueError(
                f"negative_iou: expected above 0 and up to positive_iou ({self.positive_iou}), got {self.negative_iou}"
            )
        if len({len(sizes) for sizes in self.anchor_sizes}) != 1:
            raise ValueError(f"anchor_sizes: expected as many on each level, got {self.anchor_sizes}")
        if not self.anchor_angles or not all(-180 <= angle < 180 for angle in self.anchor_angles):
            raise ValueError(f"anchor_angles: expected degrees from -180 to below 180, got {list(self.anchor_angles)}")
        for name in ("samples", "train_candidates", "test_candidates", "train_proposals", "test_proposals"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")


class RotatedProposalNetwork(nn.Module):
    """Objectness and offsets of rotated anchors on maps of one width, their losses, and proposals."""

    def __init__(self, settings: RotatedProposalSettings, in_channels: int, strides: list[int]) -> None:
        super().__init__()
        self.settings, self.strides = settings, strides
        self.num_anchors = len(settings.anchor_sizes[0]) * len(settings.anchor_ratios) * len(settings.anchor_angles)
        width = settings.stem_channels[-1] if settings.stem_channels else in_channels
        self.stem = conv_tower(in_channels, settings.stem_channels, settings.stem_norm)
        self.objectness = nn.Conv2d(width, self.num_anchors, 1)
        self.offsets = nn.Conv2d(width, 5 * self.num_anchors, 1)
        init_dense(self.objectness)
        init_dense(self.offsets)
        cells = [
            rotated_cell_anchors(sizes, settings.anchor_ratios, settings.anchor_angles)
            for sizes in settings.anchor_sizes
        ]
        self.register_buffer("cells", torch.stack(cells), persistent=False)
        self.cells: Tensor  # (L, A, 5)

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
            offsets = offsets.permute(0, 2, 3, 1).reshape(map_.shape[0], -1, 5)
            rows.append((objectness.float(), offsets.float()))
        anchors = self._anchors(levels)
        sampled = None if targets is None else self._sample(anchors, targets)
        objectness, offsets = (torch.cat(column, dim=1) for column in zip(*rows, strict=True))
        counts = tuple(row.shape[1] for row, _ in rows)
        return AnchorOutputs(objectness, offsets, anchors, images.sizes_hw, counts, sampled)

    def _anchors(self, levels: Sequence[Tensor]) -> Tensor:
        grids = [
            grid_locations(
                (level.shape[2], level.shape[3]), stride, device=level.device, grid=self.settings.anchor_grid
            )
            for level, stride in zip(levels, self.strides, strict=True)
        ]
        return rotated_pyramid_anchors(grids, list(self.cells))

    @torch.no_grad()
    def _sample(self, anchors: Tensor, targets: Targets) -> SampledAnchors:
        settings, wanted = self.settings, rotated_of(targets)
        assigned = match_boxes(
            anchors, wanted, targets.valid, targets.ignore,
            positive_iou=settings.positive_iou, negative_iou=settings.negative_iou, low_quality=True,
        )  # fmt: skip
        positive = assigned.owner >= 0  # (B, N)
        drawn = sample_balanced(
            positive, ~positive & ~assigned.ignored, settings.samples, settings.positive_fraction
        )  # fmt: skip
        boxes = gather_rows(wanted, assigned.owner.gather(1, drawn.rows))
        return SampledAnchors(drawn.rows, drawn.positive, drawn.real, boxes)

    def loss(self, outputs: AnchorOutputs) -> dict[str, Tensor]:
        """Losses "objectness" (cross-entropy) and "proposal_box" (smooth L1 of five numbers) of the drawn anchors."""
        if outputs.sampled is None:
            raise ValueError("loss: this forward pass was given no targets; call model(images, targets)")
        rows, positive, real, boxes = outputs.sampled
        logits = torch.where(real, outputs.objectness.gather(1, rows), -1e4)  # loss and gradient 0 against 0
        offsets = outputs.offsets.gather(1, rows[..., None].expand(-1, -1, 5))
        nominal = self.settings.normaliser == "nominal"
        total = len(real) * self.settings.samples if nominal else real.sum().clamp(min=1)
        objectness = F.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="sum")
        wanted = encode_rotated(outputs.anchors[rows], boxes, period=self.settings.angle_period)
        box = smooth_l1(offsets, wanted, positive.to(offsets.dtype), self.settings.beta)
        return {"objectness": objectness / total, "proposal_box": box / total}

    @torch.no_grad()
    def propose(self, outputs: AnchorOutputs, candidates: int, proposals: int) -> Proposals:
        """The best boxes of each image: best anchors of each level, decoded, clipped where upright, NMS by level.

        No gradient flows through them.
        """
        columns: list[tuple[Tensor, Tensor, Tensor]] = []
        start = 0
        for index, count in enumerate(outputs.level_counts):
            level = slice(start, start := start + count)
            scores, place = best_rows(outputs.objectness[:, level], candidates)
            offsets = outputs.offsets[:, level].gather(1, place[..., None].expand(-1, -1, 5))
            boxes = clip_rotated(decode_rotated(outputs.anchors[level][place], offsets), outputs.sizes_hw)
            good = torch.isfinite(boxes).all(-1) & torch.isfinite(scores)
            columns.append((boxes, scores, torch.where(good, index, -1)))
        boxes, scores, origin = (torch.cat(column, dim=1) for column in zip(*columns, strict=True))
        boxes, scores, origin, _ = select_rotated(boxes, scores, origin, self.settings.nms_iou, proposals)
        return Proposals(boxes, scores, origin >= 0, origin.clamp(min=0))


def rotated_of(targets: Targets) -> Tensor:
    """The rotated boxes (B, G, 5) of targets; ValueError where objects have none."""
    if targets.rotated is None and not targets.boxes.shape[1]:
        return torch.zeros(*targets.boxes.shape[:2], 5, device=targets.boxes.device)
    if targets.rotated is None:
        raise ValueError("targets: a rotated detector learns rotated boxes, and these targets have none (`rotated`)")
    return targets.rotated
