"""The box branch of two-stage detectors: each region is pooled, classified and given a better box.

Papers: Girshick, "Fast R-CNN", ICCV 2015; Lin et al., "Feature Pyramid Networks", CVPR 2017, section 4.2. Sampling, RoI
pooling, the two losses and decoding stand here; `fast_rcnn.py` is the detector that it makes with stored proposals.

Shape legend: B = images, R = proposals, S = sampled regions, G = ground-truth boxes, K = classes. Boxes are absolute
(x1, y1, x2, y2) in network pixels; offsets are (dx, dy, dw, dh) from a region; label -1 is background, whose logit is
the last of K + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.nn.box_head import BoxHead, StageHead
from boxwright.nn.norm import BATCH_NORMS, Norm
from boxwright.nn.trunk import Trunk
from boxwright.ops.assign import Assignment, gather_rows
from boxwright.ops.coding import LARGEST_LOG_RATIO, check_log_ratio, decode_boxes, encode_boxes
from boxwright.ops.losses import giou_loss, label_weights, smooth_l1
from boxwright.ops.match import Sampled, match_boxes, sample_balanced
from boxwright.ops.roi import pool_regions, region_levels
from boxwright.ops.select import clip_boxes, select_detections, top_candidates
from boxwright.structures import DetectSettings, PaddedDetections, Proposals, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxSettings:
    """How regions are classified and refined. The defaults are those of the Feature Pyramid Networks, section 4.2."""

    stage_head: bool = False
    """Use the backbone's last stage as head (C4) instead of the layers below."""
    conv_channels: tuple[int, ...] = ()
    """3x3 convolutions of the head; four of them in torchvision's v2, and only such in the course."""
    fc_channels: tuple[int, ...] = (1024, 1024)
    """Fully connected layers of the head."""
    norm: Norm = "none"
    """After each convolution of the head ("bn" in torchvision's v2)."""
    pool_size: int = 7
    pool_sampling: int = 0
    """Points per bin and axis: 0 takes as many as it has cells (Detectron2), torchvision's checkpoints want 2."""
    pool_aligned: bool = True
    """False shifts by half a cell, as torchvision's checkpoints want it."""
    pool_from: Literal["size", "source"] = "size"
    """Pool from the level that fits a region's size, or from the one that proposed it (the course)."""
    canonical_level: int = 4
    """Level of a region of 224 x 224 pixels (the paper's k0); 5 in the course."""
    level_slack: float = 0.0
    """Added to the level before it is rounded down: 1e-6 in torchvision."""
    positive_iou: float = 0.5
    negative_iou: float = 0.5
    low_inclusive: bool = False
    """Whether a region of exactly negative_iou is background, as in the course, or costs nothing."""
    high_inclusive: bool = True
    """Whether a region of exactly positive_iou is positive; false in the course."""
    claimed: bool = False
    """Whether an object's best proposal, from positive_iou on, learns it even where it overlaps another one more:
    MMDetection's Mask R-CNN."""
    samples: int = 512
    """Regions per image that are learnt from."""
    positive_fraction: float = 0.25
    regression: Literal["class", "agnostic", "none"] = "class"
    """A box for each class, one for all, or the proposal as it is (the course)."""
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1"
    beta: float = 0.0
    """Of the smooth-L1 loss: 0 is L1 (Detectron2), torchvision has 1/9."""
    offset_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    """Offsets are learnt times these."""
    largest_log_ratio: float = LARGEST_LOG_RATIO
    """Decoding lets a side grow at most by e to this: the default is ln(1000 / 16), 62.5-fold; ln(28) in the course."""
    shrink_limited: bool = False
    """Whether decoding limits how far a side may shrink, as it does how far it may grow; true in MMDetection."""
    multi_label: bool = True
    """Whether a region may report several classes at test; the course keeps the best only."""
    min_side: float = 0.0
    """Smaller detections are dropped; 0.01 in torchvision."""

    def __post_init__(self) -> None:
        if not 0 < self.negative_iou <= self.positive_iou <= 1:
            raise ValueError(
                f"negative_iou: expected above 0 and up to positive_iou ({self.positive_iou}), got {self.negative_iou}"
            )
        check_log_ratio(self.largest_log_ratio)
        if self.samples < 1 or self.pool_size < 1:
            raise ValueError(f"samples and pool_size: expected at least 1, got {self.samples} and {self.pool_size}")


class SampledRegions(NamedTuple):
    """The regions of each image that its loss is made of, positives first, and what each of them should become."""

    boxes: Tensor  # (B, S, 4)
    owner: Tensor  # (B, S) row of the ground truth, -1 for background
    labels: Tensor  # (B, S) -1 for background
    ground_truth_boxes: Tensor  # (B, S, 4)
    level: Tensor  # (B, S) index of the map that each is pooled from
    positive: Tensor  # (B, S)
    real: Tensor  # (B, S) False for padding


class RegionLogits(NamedTuple):
    """What the head says of regions."""

    class_logits: Tensor  # (B, R, K + 1), the last is background
    offsets: Tensor  # (B, R, K, 4), or (B, R, 1, 4) for all classes, or (B, R, 0, 4) without refinement


class BoxBranch(nn.Module):
    """Pooling, head and predictors for regions of the given maps; sampling, losses and selection.

    Args:
        strides: of the maps that regions are pooled from, finest first.
        head: gives vectors from pooled maps, `channels` long.
    """

    def __init__(self, settings: BoxSettings, num_classes: int, head: BoxHead | StageHead, strides: list[int]) -> None:
        super().__init__()
        self.settings, self.num_classes, self.strides = settings, num_classes, strides
        self.head = head
        self.class_logits = nn.Linear(head.channels, num_classes + 1)
        boxes = {"class": num_classes, "agnostic": 1, "none": 0}[settings.regression]
        self.offsets = nn.Linear(head.channels, 4 * boxes) if boxes else None
        self.register_buffer("class_weights", None, persistent=False)  # see `models.class_weights`
        self.class_weights: Tensor | None
        for layer, std in ((self.class_logits, 0.01), (self.offsets, 0.001)):
            if layer is not None:
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)

    def forward(self, levels: Sequence[Tensor], boxes: Tensor, level: Tensor) -> RegionLogits:
        """Logits and offsets of regions (B, R, 4), each pooled from its map (B, R) of levels (B, C, h, w)."""
        pooled = self.pool(levels, boxes, level, self.settings.pool_size)
        vectors = self.head(pooled)  # (B * R, C)
        shape = boxes.shape[:2]
        offsets = boxes.new_zeros(*shape, 0, 4)
        if self.offsets is not None:
            kind = vectors.device.type  # in float32: in bfloat16 they would be right to one part in 256 only
            with nullcontext() if vectors.dtype == torch.float32 else torch.autocast(kind, enabled=False):
                offsets = self.offsets(vectors.float()).reshape(*shape, -1, 4)
        return RegionLogits(self.class_logits(vectors).reshape(*shape, -1).float(), offsets)

    def pool(self, levels: Sequence[Tensor], boxes: Tensor, level: Tensor, size: int) -> Tensor:
        """Pooled maps (B * R, C, size, size) of regions (B, R, 4)."""
        image = torch.arange(boxes.shape[0], device=boxes.device)[:, None].expand_as(level)
        return pool_regions(
            levels[: len(self.strides)], self.strides, boxes.flatten(0, 1), image.flatten(), level.flatten(), size,
            sampling=self.settings.pool_sampling, aligned=self.settings.pool_aligned,
        )  # fmt: skip

    def level_of(self, proposals: Proposals) -> Tensor:
        """The index (B, R) of the map that each proposal is pooled from."""
        if self.settings.pool_from == "source" and proposals.level is not None:
            return proposals.level.clamp(max=len(self.strides) - 1)
        return self.level_by_size(proposals.boxes)

    def level_by_size(self, boxes: Tensor) -> Tensor:
        """The index (B, R) of the map that fits each box (B, R, 4) best."""
        lowest = self.strides[0].bit_length() - 1
        level = region_levels(
            boxes, lowest, self.strides[-1].bit_length() - 1,
            canonical=self.settings.canonical_level, slack=self.settings.level_slack,
        )  # fmt: skip
        return level - lowest

    def cuts_padding(self, device: torch.device) -> bool:
        """Whether padding goes only as far as an image needs it, which a GPU has to be asked for.

        On a CPU, where pooling and head are most of a step; and where a norm sees all regions of a batch.
        """
        return device.type == "cpu" or any(isinstance(part, BATCH_NORMS) for part in self.head.modules())

    @torch.no_grad()
    def sample(self, proposals: Proposals, targets: Targets) -> SampledRegions:
        """Regions to learn from: drawn from proposals and ground truth together; the proposals are left as they are."""
        settings = self.settings
        boxes = torch.cat([proposals.boxes, targets.boxes], dim=1)  # (B, R + G, 4)
        level = torch.cat([self.level_of(proposals), self.level_by_size(targets.boxes)], dim=1)
        usable = torch.cat([proposals.valid, targets.valid & ~targets.ignore], dim=1)
        claimed = settings.claimed
        rows = torch.arange(-proposals.boxes.shape[1], targets.boxes.shape[1], device=boxes.device)  # (R + G,)
        own = (rows >= 0).expand_as(usable)  # ground truth, which would be the best region of itself
        assigned = match_boxes(
            boxes, targets.boxes, targets.valid, targets.ignore,
            positive_iou=settings.positive_iou, negative_iou=settings.negative_iou, low_quality=claimed,
            low_quality_iou=settings.positive_iou, claimed=claimed, left_out=own if claimed else None,
            low_inclusive=settings.low_inclusive, high_inclusive=settings.high_inclusive,
        )  # fmt: skip
        if claimed:
            assigned = Assignment(torch.where(own & usable, rows, assigned.owner), assigned.ignored & ~own)
        positive = (assigned.owner >= 0) & usable
        drawn = sample_balanced(
            positive, ~positive & ~assigned.ignored & usable, settings.samples, settings.positive_fraction
        )  # fmt: skip
        if self.cuts_padding(boxes.device):
            longest = max(1, int(drawn.real.sum(1).amax()))
            drawn = Sampled(*(part[:, :longest] for part in drawn))
        owner = torch.where(drawn.positive, assigned.owner.gather(1, drawn.rows), -1)
        return SampledRegions(
            boxes=gather_rows(boxes, drawn.rows),
            owner=owner,
            labels=torch.where(drawn.positive, gather_rows(targets.labels, owner), -1),
            ground_truth_boxes=gather_rows(targets.boxes, owner),
            level=level.gather(1, drawn.rows),
            positive=drawn.positive,
            real=drawn.real,
        )

    def loss(self, sampled: SampledRegions, logits: RegionLogits) -> dict[str, Tensor]:
        """Losses "classification" (cross-entropy) and, with refinement, "box", both over all sampled regions."""
        total = sampled.real.sum().clamp(min=1)
        background = torch.full_like(sampled.labels, self.num_classes)
        labels = torch.where(sampled.positive, sampled.labels, background)
        entropy = F.cross_entropy(logits.class_logits.flatten(0, 1), labels.flatten(), reduction="none")
        if self.class_weights is not None:
            entropy = entropy * label_weights(sampled.labels, self.class_weights).flatten()
        losses = {"classification": (entropy * sampled.real.flatten()).sum() / total}
        if self.settings.regression == "none":
            return losses
        own = torch.zeros_like(labels) if self.settings.regression == "agnostic" else sampled.labels.clamp(min=0)
        offsets = logits.offsets.gather(2, own[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]  # (B, S, 4)
        weights, scale = sampled.positive.to(offsets.dtype), self.settings.offset_weights
        if self.settings.box_loss == "giou":
            box = giou_loss(self._decoded(sampled.boxes, offsets), sampled.ground_truth_boxes, weights)
        else:
            wanted = encode_boxes(sampled.boxes, sampled.ground_truth_boxes, scale)
            box = smooth_l1(offsets, wanted, weights, self.settings.beta)
        return {**losses, "box": box / total}

    def _decoded(self, regions: Tensor, offsets: Tensor) -> Tensor:
        settings = self.settings
        return decode_boxes(
            regions, offsets, settings.offset_weights, settings.largest_log_ratio,
            shrink_limited=settings.shrink_limited,
        )  # fmt: skip

    @torch.no_grad()
    def select(
        self, proposals: Proposals, logits: RegionLogits, sizes_hw: Tensor, settings: DetectSettings
    ) -> PaddedDetections:
        """The best detections of each image in network pixels, from the logits of all its proposals."""
        probabilities = logits.class_logits.softmax(-1) * proposals.valid[..., None]  # (B, R, K + 1)
        best = probabilities.argmax(-1, keepdim=True)
        scores = probabilities[..., : self.num_classes]
        if not self.settings.multi_label:  # regions whose best class is background report nothing
            scores = torch.where(torch.arange(self.num_classes, device=best.device) == best, scores, 0.0)
        values, picked = top_candidates(scores.flatten(1), settings.candidates_per_level, settings.score_threshold)
        place, labels = picked.clamp(min=0) // self.num_classes, picked.clamp(min=0) % self.num_classes  # (B, N)
        boxes = gather_rows(proposals.boxes, place)
        if self.offsets is not None:
            row = place if self.settings.regression == "agnostic" else picked.clamp(min=0)
            offsets = gather_rows(logits.offsets.flatten(1, 2), row)
            boxes = self._decoded(boxes, offsets)
        boxes = clip_boxes(boxes, sizes_hw)
        good = (picked >= 0) & ((boxes[..., 2:] - boxes[..., :2]) >= self.settings.min_side).all(-1)
        return PaddedDetections(
            *select_detections(
                boxes, values, torch.where(good, labels, -1), settings.nms_iou, settings.max_detections
            )
        )  # fmt: skip


def box_branch(settings: BoxSettings, num_classes: int, trunk: Trunk, stage: StageHead | None) -> BoxBranch:
    """The branch over a trunk's maps, with the given stage as head or the layers that the settings describe."""
    head: BoxHead | StageHead = stage or BoxHead(
        trunk.channels, settings.pool_size, settings.conv_channels, settings.fc_channels, settings.norm
    )
    return BoxBranch(settings, num_classes, head, trunk.strides[: trunk.num_pooled])


def drawn(sampled: SampledRegions | None, logits: RegionLogits | None) -> tuple[SampledRegions, RegionLogits]:
    """Both, where the forward pass was given ground truth; ValueError where it was not."""
    if sampled is None or logits is None:
        raise ValueError("loss: this forward pass was given no targets; call model(images, targets)")
    return sampled, logits
