"""The box branch of rotated detectors: each rotated region is pooled along its sides, classified and refined.

Paper: Ma et al., "Arbitrary-Oriented Scene Text Detection via Rotation Proposals", IEEE Transactions on Multimedia
2018; pooling, coding and limits are those of Detectron2's `RROIHeads`. It is `box_branch.py` with a fifth number.

Shape legend: B = images, R = proposals, S = sampled regions, G = ground-truth boxes, K = classes. Boxes are
(cx, cy, w, h, degrees) in network pixels, see `ops.rotated`; offsets are (dx, dy, dw, dh, da) from a region; label -1
is background, whose logit is the last of K + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.models.box_branch import RegionLogits, SampledRegions
from boxwright.models.rotated_proposal_network import rotated_of
from boxwright.nn.box_head import BoxHead
from boxwright.nn.norm import Norm
from boxwright.ops.assign import gather_rows
from boxwright.ops.losses import label_weights, smooth_l1
from boxwright.ops.match import match_boxes, sample_balanced
from boxwright.ops.rotated import clip_rotated, rotated_hull
from boxwright.ops.rotated_coding import AnglePeriod, RotatedWeights, decode_rotated, encode_rotated
from boxwright.ops.rotated_nms import select_rotated
from boxwright.ops.rotated_roi import pool_rotated, rotated_levels
from boxwright.ops.select import top_candidates
from boxwright.structures import DetectSettings, PaddedDetections, Proposals, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class RotatedBoxSettings:
    """How rotated regions are classified and refined."""

    conv_channels: tuple[int, ...] = ()
    """3x3 convolutions of the head."""
    fc_channels: tuple[int, ...] = (1024, 1024)
    """Fully connected layers of the head."""
    norm: Norm = "none"
    """After each convolution of the head."""
    pool_size: int = 7
    pool_sampling: int = 0
    """Points per bin and axis: 0 takes as many as it has cells (Detectron2), which an exported graph cannot."""
    canonical_level: int = 4
    """Level of a region of 224 x 224 pixels."""
    positive_iou: float = 0.5
    negative_iou: float = 0.5
    samples: int = 512
    """Regions per image that are learnt from."""
    positive_fraction: float = 0.25
    beta: float = 0.0
    """Of the smooth-L1 loss: 0 is L1 (Detectron2)."""
    angle_period: AnglePeriod = 360
    """Learn the box as it is named (360, Detectron2), or the shortest turn to its rectangle: 180 for either end of it,
    90 for any side, with w and h exchanged."""
    offset_weights: RotatedWeights = (10.0, 10.0, 5.0, 5.0, 1.0)
    """Offsets are learnt times these; the last is the turn, in radians."""

    def __post_init__(self) -> None:
        if not 0 < self.negative_iou <= self.positive_iou <= 1:
            raise ValueError(
                f"negative_iou: expected above 0 and up to positive_iou ({self.positive_iou}), got {self.negative_iou}"
            )
        if self.samples < 1 or self.pool_size < 1:
            raise ValueError(f"samples and pool_size: expected at least 1, got {self.samples} and {self.pool_size}")


class RotatedBoxBranch(nn.Module):
    """Pooling, head and predictors for rotated regions of the given maps; sampling, losses and selection.

    Args:
        in_channels: of the maps that regions are pooled from.
        strides: of these maps, finest first.
    """

    def __init__(self, settings: RotatedBoxSettings, num_classes: int, in_channels: int, strides: list[int]) -> None:
        super().__init__()
        self.settings, self.num_classes, self.strides = settings, num_classes, strides
        self.head = BoxHead(
            in_channels, settings.pool_size, settings.conv_channels, settings.fc_channels, settings.norm
        )  # fmt: skip
        self.class_logits = nn.Linear(self.head.channels, num_classes + 1)
        self.offsets = nn.Linear(self.head.channels, 5 * num_classes)  # a box for each class
        self.register_buffer("class_weights", None, persistent=False)  # see `models.class_weights`
        self.class_weights: Tensor | None
        for layer, std in ((self.class_logits, 0.01), (self.offsets, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, levels: Sequence[Tensor], boxes: Tensor) -> RegionLogits:
        """Logits and offsets of regions (B, R, 5), each pooled from the map of levels (B, C, h, w) that fits it."""
        vectors = self.head(self.pool(levels, boxes))  # (B * R, C)
        shape = boxes.shape[:2]
        kind = vectors.device.type  # in float32: in bfloat16 they would be right to one part in 256 only
        with nullcontext() if vectors.dtype == torch.float32 else torch.autocast(kind, enabled=False):
            offsets = self.offsets(vectors.float()).reshape(*shape, self.num_classes, 5)
        return RegionLogits(self.class_logits(vectors).reshape(*shape, -1).float(), offsets)

    def pool(self, levels: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Pooled maps (B * R, C, s, s) of regions (B, R, 5)."""
        level = self.level_of(boxes)
        image = torch.arange(boxes.shape[0], device=boxes.device)[:, None].expand_as(level)
        return pool_rotated(
            levels[: len(self.strides)], self.strides, boxes.flatten(0, 1), image.flatten(), level.flatten(),
            self.settings.pool_size, sampling=self.settings.pool_sampling,
        )  # fmt: skip

    def level_of(self, boxes: Tensor) -> Tensor:
        """The index (B, R) of the map that fits each box (B, R, 5) best."""
        lowest, highest = self.strides[0].bit_length() - 1, self.strides[-1].bit_length() - 1
        return rotated_levels(boxes, lowest, highest, canonical=self.settings.canonical_level) - lowest

    @torch.no_grad()
    def sample(self, proposals: Proposals, targets: Targets) -> SampledRegions:
        """Regions to learn from: drawn from proposals and ground truth together; the proposals are left as they are."""
        settings, wanted = self.settings, rotated_of(targets)
        boxes = torch.cat([proposals.boxes, wanted], dim=1)  # (B, R + G, 5)
        usable = torch.cat([proposals.valid, targets.valid & ~targets.ignore], dim=1)
        assigned = match_boxes(
            boxes, wanted, targets.valid, targets.ignore,
            positive_iou=settings.positive_iou, negative_iou=settings.negative_iou, low_quality=False,
        )  # fmt: skip
        positive = (assigned.owner >= 0) & usable
        drawn = sample_balanced(
            positive, ~positive & ~assigned.ignored & usable, settings.samples, settings.positive_fraction
        )  # fmt: skip
        owner = torch.where(drawn.positive, assigned.owner.gather(1, drawn.rows), -1)
        chosen = gather_rows(boxes, drawn.rows)
        return SampledRegions(
            boxes=chosen,
            owner=owner,
            labels=torch.where(drawn.positive, gather_rows(targets.labels, owner), -1),
            ground_truth_boxes=gather_rows(wanted, owner),
            level=self.level_of(chosen),
            positive=drawn.positive,
            real=drawn.real,
        )

    def loss(self, sampled: SampledRegions, logits: RegionLogits) -> dict[str, Tensor]:
        """Losses "classification" (cross-entropy) and "box" (smooth L1 of five numbers), over all sampled regions."""
        total = sampled.real.sum().clamp(min=1)
        labels = torch.where(sampled.positive, sampled.labels, self.num_classes)
        entropy = F.cross_entropy(logits.class_logits.flatten(0, 1), labels.flatten(), reduction="none")
        if self.class_weights is not None:
            entropy = entropy * label_weights(sampled.labels, self.class_weights).flatten()
        own = sampled.labels.clamp(min=0)[..., None, None].expand(-1, -1, 1, 5)
        offsets = logits.offsets.gather(2, own)[:, :, 0]  # (B, S, 5)
        settings = self.settings
        wanted = encode_rotated(
            sampled.boxes, sampled.ground_truth_boxes, settings.offset_weights, period=settings.angle_period
        )
        box = smooth_l1(offsets, wanted, sampled.positive.to(offsets.dtype), self.settings.beta)
        return {"classification": (entropy * sampled.real.flatten()).sum() / total, "box": box / total}

    @torch.no_grad()
    def select(
        self, proposals: Proposals, logits: RegionLogits, sizes_hw: Tensor, settings: DetectSettings
    ) -> PaddedDetections:
        """The best detections of each image in network pixels, from the logits of all its proposals.

        `boxes` of the result are the hulls of its `rotated` ones.
        """
        probabilities = logits.class_logits.softmax(-1) * proposals.valid[..., None]  # (B, R, K + 1)
        scores = probabilities[..., : self.num_classes].flatten(1)
        values, picked = top_candidates(scores, settings.candidates_per_level, settings.score_threshold)
        row = picked.clamp(min=0)
        place, labels = row // self.num_classes, row % self.num_classes  # (B, N)
        offsets = gather_rows(logits.offsets.flatten(1, 2), row)
        boxes = decode_rotated(gather_rows(proposals.boxes, place), offsets, self.settings.offset_weights)
        boxes = clip_rotated(boxes, sizes_hw)
        good = (picked >= 0) & torch.isfinite(boxes).all(-1)
        boxes, values, labels, counts = select_rotated(
            boxes, values, torch.where(good, labels, -1), settings.nms_iou, settings.max_detections
        )
        return PaddedDetections(rotated_hull(boxes), values, labels, counts, rotated=boxes)
