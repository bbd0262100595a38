"""RetinaNet: nine anchors at every cell of a feature pyramid, each with a class and an offset to its box.

Paper: Lin, Goyal, Girshick, He, Dollar, "Focal Loss for Dense Object Detection", ICCV 2017, sections 3 and 4.

Shape legend: B = images, L = levels, A = anchors at one cell, N = anchors of all levels, G = ground-truth boxes,
C = candidates, K = classes. Boxes and anchors are absolute (x1, y1, x2, y2) in network pixels; offsets are
(dx, dy, dw, dh) from the anchor; label -1 is background.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from boxwright.models.sections import BackboneSection, check_channels
from boxwright.nn.backbones import FeaturePyramid
from boxwright.nn.norm import Norm
from boxwright.nn.towers import conv_tower, init_dense
from boxwright.ops.anchors import cell_anchors, pyramid_anchors
from boxwright.ops.assign import gather_rows
from boxwright.ops.channels import channel_table, report_classes
from boxwright.ops.coding import LARGEST_LOG_RATIO, check_log_ratio, decode_boxes, encode_boxes
from boxwright.ops.losses import focal_loss, giou_loss, label_weights, process_mean_, smooth_l1
from boxwright.ops.match import centred_outside, match_boxes
from boxwright.ops.points import Grid, grid_locations
from boxwright.ops.select import clip_boxes, clip_detections, select_detections, top_pairs
from boxwright.structures import Detections, DetectSettings, ImageBatch, PaddedDetections, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class RetinaNetPyramid:
    """The feature pyramid."""

    channels: int = 256
    """Width of every level."""
    extra_levels: int = 2
    """2 gives P3 to P7 (the paper), 0 gives P3 to P5 (small machines)."""
    extra_from: Literal["p5", "c5"] = "c5"
    """P6 from C5 (the paper, Detectron2, torchvision's v2) or from P5 (torchvision's v1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetinaNetHeadSection:
    """Towers and predictors, shared by all levels."""

    stem_channels: tuple[int, ...] = (256, 256, 256, 256)
    """3x3 convolutions of each tower."""
    norm: Norm = "none"
    """The paper and Detectron2 have none, torchvision's v2 group norm."""
    bias: bool = True
    """Whether the towers' convolutions have a bias beside a norm; torchvision's v2 has none."""
    prior_probability: float = 0.01
    """Of every class at the start of training (section 3.3)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetinaNetAnchors:
    """The anchors at each cell."""

    sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    """Smallest anchor of each level: the side of the square of its area."""
    scales: tuple[float, ...] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    """Anchors of each level are this many times its size."""
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width."""

    def __post_init__(self) -> None:
        if not self.sizes or not self.scales or not self.ratios:
            raise ValueError("sizes, scales and ratios: expected at least one of each")
        if min(*self.sizes, *self.scales, *self.ratios) <= 0:
            raise ValueError("sizes, scales and ratios: expected numbers above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class RetinaNetAssignment:
    """Which anchors learn which object."""

    positive_iou: float = 0.5
    """An anchor learns the box that it overlaps by this much or more; and each box its best anchors, however poor."""
    negative_iou: float = 0.4
    """Below it an anchor is background; between the two it costs nothing."""
    low_inclusive: bool = False
    """Whether an anchor of exactly negative_iou is background, as in the course, or costs nothing."""
    high_inclusive: bool = True
    """Whether an anchor of exactly positive_iou is positive."""

    def __post_init__(self) -> None:
        if not 0 <= self.negative_iou <= self.positive_iou <= 1:
            raise ValueError(f"negative_iou: expected 0 to positive_iou {self.positive_iou}, got {self.negative_iou}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RetinaNetLossSection:
    """What is minimised."""

    box: Literal["smooth_l1", "giou"] = "smooth_l1"
    """On offsets, or GIoU of the decoded boxes (torchvision's v2)."""
    beta: float = 0.0
    """Of the smooth-L1 loss, where the error turns from square to straight; 0 is L1 (Detectron2's and torchvision's
    checkpoints)."""
    normaliser: Literal["positives", "ema", "image", "one_each"] = "positives"
    """Divide by the positive anchors of all ranks, by the running mean of a batch's (Detectron2), each image by its own
    (torchvision), or by those of all ranks where an image without any counts for one (MMDetection)."""
    normaliser_start: float = 100.0
    """First value of the running mean, in positives of a rank's batch."""
    normaliser_momentum: float = 0.9
    """How much of the running mean a training step keeps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetinaNetCompat:
    """What only the checkpoints of other code bases need."""

    anchor_grid: Grid = "centre"
    """Where the anchors of a cell stand: its centre, its corner (Detectron2), or torchvision's grid."""
    anchors_rounded: bool = False
    """Sizes cut to whole pixels and corners rounded, as torchvision does."""
    clip: Literal["before_nms", "after_nms"] = "before_nms"
    """When boxes are cut to the image; Detectron2 does so at the end."""
    keep_empty: bool = False
    """Whether boxes that clipping left without area are reported, as torchvision does."""
    shrink_limited: bool = False
    """Whether decoding limits how far a side may shrink, as it does how far it may grow; true in MMDetection."""
    largest_log_ratio: float = LARGEST_LOG_RATIO
    """Decoding lets a side grow at most by e to this: the default is ln(1000 / 16), 62.5-fold; ln(28) in the course."""
    extra_relu: bool = True
    """Whether P7 is made from ReLU of P6; MMDetection makes it from P6 itself."""
    best_anchors: Literal["own", "claimed"] = "own"
    """What the best anchors of a box learn: the box that they overlap most, or the one whose best they are
    (MMDetection)."""
    padding: Literal["background", "ignored"] = "background"
    """Whether anchors over the padding of a batch are background, or cost nothing (MMDetection)."""
    class_channels: tuple[int, ...] | None = None
    """The output channel of each class, where a checkpoint has more of them than classes (torchvision's 91)."""
    pad_multiple: int = 1
    """Batches are padded to sides of this multiple: 32 in Detectron2 and torchvision."""

    def __post_init__(self) -> None:
        check_channels(self.class_channels)
        check_log_ratio(self.largest_log_ratio)


@dataclass(frozen=True, kw_only=True, slots=True)
class RetinaNetConfig:
    """What a RetinaNet is made of. The defaults are the paper's."""

    name: Literal["retinanet"] = "retinanet"
    """Which detector."""
    backbone: BackboneSection = BackboneSection()
    fpn: RetinaNetPyramid = RetinaNetPyramid()
    head: RetinaNetHeadSection = RetinaNetHeadSection()
    anchors: RetinaNetAnchors = RetinaNetAnchors()
    assignment: RetinaNetAssignment = RetinaNetAssignment()
    loss: RetinaNetLossSection = RetinaNetLossSection()
    compat: RetinaNetCompat = RetinaNetCompat()

    def __post_init__(self) -> None:
        levels = 3 + self.fpn.extra_levels
        if len(self.anchors.sizes) != levels:
            raise ValueError(f"anchors.sizes: expected {levels} for {levels} levels, got {self.anchors.sizes}")


class RetinaNetOutputs(NamedTuple):
    """Raw predictions of all anchors, level by level, and the anchors."""

    class_logits: Tensor  # (B, N, K)
    offsets: Tensor  # (B, N, 4)
    anchors: Tensor  # (N, 4)
    sizes_hw: Tensor  # (B, 2) of the images within the batch
    level_counts: tuple[int, ...]  # anchors of each level


class RetinaNetHead(nn.Module):
    """Two towers and two predictors, shared by all levels; gives logits and offsets only.

    The rows of `class_logits` go by class, then by anchor (the references': by anchor, then by class), so that
    fine-tuning finds the rows of a class together.
    """

    def __init__(self, config: RetinaNetHeadSection, in_channels: int, num_channels: int, num_anchors: int) -> None:
        super().__init__()
        width = config.stem_channels[-1] if config.stem_channels else in_channels
        self.num_anchors = num_anchors
        stem = (in_channels, config.stem_channels, config.norm)
        self.class_tower = conv_tower(*stem, bias=config.bias)
        self.box_tower = conv_tower(*stem, bias=config.bias)
        self.class_logits = nn.Conv2d(width, num_channels * self.num_anchors, 3, padding=1)
        self.box_offsets = nn.Conv2d(width, self.num_anchors * 4, 3, padding=1)
        for predictor in (self.class_logits, self.box_offsets):
            init_dense(predictor)
        prior = config.prior_probability
        nn.init.constant_(self.class_logits.bias, -math.log((1 - prior) / prior))  # type: ignore[arg-type]

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits (B, N, K) and offsets (B, N, 4) from maps (B, C, h, w)."""
        classes, boxes = [], []
        kind = levels[0].device.type  # offsets in float32: in bfloat16 they would be right to one part in 256 only
        precise = nullcontext() if levels[0].dtype == torch.float32 else torch.autocast(kind, enabled=False)
        for level in levels:
            logits = self.class_logits(self.class_tower(level)).unflatten(1, (-1, self.num_anchors))  # (B, K, A, h, w)
            for_box = self.box_tower(level)
            with precise:
                offsets = self.box_offsets(for_box.float()).unflatten(1, (self.num_anchors, 4))  # (B, A, 4, h, w)
            classes.append(logits.permute(0, 3, 4, 2, 1).flatten(1, 3))
            boxes.append(offsets.permute(0, 3, 4, 1, 2).flatten(1, 3))
        return torch.cat(classes, dim=1).float(), torch.cat(boxes, dim=1).float()


class RetinaNet(nn.Module):
    """The detector; see `DetectionModel` for what its methods promise."""

    def __init__(self, config: RetinaNetConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        table = channel_table(num_classes, config.compat.class_channels)
        fpn, anchors = config.fpn, config.anchors
        self.backbone = config.backbone.build(("c3", "c4", "c5"))
        self.fpn = FeaturePyramid(
            self.backbone.channels, fpn.channels, extra_levels=fpn.extra_levels, extra_from=fpn.extra_from,
            extra_relu=config.compat.extra_relu,
        )  # fmt: skip
        self.strides = [8 * 2**level for level in range(3 + fpn.extra_levels)]
        num_anchors = len(anchors.scales) * len(anchors.ratios)
        self.head = RetinaNetHead(config.head, fpn.channels, len(table), num_anchors)
        self.register_buffer("class_weights", None, persistent=False)  # see `models.class_weights`
        self.class_weights: Tensor | None
        # saved with the weights, moved by training steps only, the same on every rank
        self.register_buffer("mean_positives", torch.tensor(float(config.loss.normaliser_start)))
        self.mean_positives: Tensor
        # constants that belong on the device: made anew in each step they would make a GPU wait
        for name, value in (
            ("pixel_mean", torch.tensor(config.backbone.pixel_mean)),
            ("pixel_std", torch.tensor(config.backbone.pixel_std)),
            ("cells", torch.stack([level_anchors(config, size) for size in anchors.sizes])),
            ("class_of_channel", table),
            ("channel_of_class", torch.tensor(config.compat.class_channels or range(len(table)))),
        ):
            self.register_buffer(name, value, persistent=False)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.cells: Tensor  # (L, A, 4), around the origin
        self.class_of_channel: Tensor
        self.channel_of_class: Tensor

    def forward(self, images: ImageBatch, targets: Targets | None = None, proposals: None = None) -> RetinaNetOutputs:
        """Raw predictions for a batch; ground truth and proposals play no part in them."""
        pixels = images.normalised(self.pixel_mean, self.pixel_std, self.config.compat.pad_multiple)
        levels = self.fpn(self.backbone(pixels))
        classes, offsets = self.head(levels)
        padded_hw = (pixels.shape[2], pixels.shape[3])
        grids = [
            grid_locations(
                (level.shape[2], level.shape[3]), stride, device=pixels.device,
                grid=self.config.compat.anchor_grid, padded_hw=padded_hw,
            )
            for level, stride in zip(levels, self.strides, strict=True)
        ]  # fmt: skip
        anchors = pyramid_anchors(grids, list(self.cells))
        counts = tuple(grid.shape[0] * self.head.num_anchors for grid in grids)
        return RetinaNetOutputs(classes, offsets, anchors, images.sizes_hw, counts)

    def loss(self, outputs: RetinaNetOutputs, targets: Targets) -> dict[str, Tensor]:
        """Losses "classification" and "box". Both stay in the graph when nothing is positive."""
        config, anchors = self.config, outputs.anchors
        compat = config.compat
        outside = None
        if compat.padding == "ignored":
            outside = centred_outside(anchors, outputs.sizes_hw, compat.pad_multiple)
        owner, ignored = match_boxes(
            anchors, targets.boxes, targets.valid, targets.ignore,
            positive_iou=config.assignment.positive_iou, negative_iou=config.assignment.negative_iou, low_quality=True,
            claimed=compat.best_anchors == "claimed", left_out=outside,
            low_inclusive=config.assignment.low_inclusive, high_inclusive=config.assignment.high_inclusive,
        )  # fmt: skip
        positive = owner >= 0  # (B, N)
        classes = torch.where(positive, gather_rows(targets.labels, owner), -1)
        labels = torch.where(positive, self.channel_of_class[classes.clamp(min=0)], -1)
        boxes = gather_rows(targets.boxes, owner)  # (B, N, 4)
        share = 1 / self._normaliser(positive)  # (B, 1)
        if config.loss.box == "giou":
            box = giou_loss(self._decoded(anchors, outputs.offsets), boxes, positive * share)
        else:
            box = smooth_l1(outputs.offsets, encode_boxes(anchors, boxes), positive * share, config.loss.beta)
        weights = share if self.class_weights is None else share * label_weights(classes, self.class_weights)
        return {"classification": focal_loss(outputs.class_logits, labels, ~ignored, weights=weights), "box": box}

    def _decoded(self, anchors: Tensor, offsets: Tensor) -> Tensor:
        compat = self.config.compat
        return decode_boxes(
            anchors, offsets, largest_log_ratio=compat.largest_log_ratio, shrink_limited=compat.shrink_limited
        )

    @torch.no_grad()
    def _normaliser(self, positive: Tensor) -> Tensor:
        """What the losses of each image (B, 1) are divided by: at least 1."""
        each = positive.sum(1, keepdim=True).float()  # (B, 1)
        if self.config.loss.normaliser == "image":
            return each.clamp(min=1.0) * len(each)
        total = (each.clamp(min=1.0) if self.config.loss.normaliser == "one_each" else each).sum()
        if self.training:
            total = process_mean_(total)  # every rank takes part, also one without a single box
        total = total.clamp(min=1.0)
        if self.config.loss.normaliser == "ema":
            if self.training:
                self.mean_positives.lerp_(total, 1 - self.config.loss.normaliser_momentum)
            total = self.mean_positives.clone()
        return total.expand_as(each)

    def detect_padded(self, outputs: RetinaNetOutputs, settings: DetectSettings) -> PaddedDetections:
        """The best detections of each image in network pixels: top candidates per level, decoded, clipped, NMS."""
        columns: list[tuple[Tensor, Tensor, Tensor]] = []
        start = 0
        for count in outputs.level_counts:
            level = slice(start, start := start + count)
            logits, rows, labels = top_pairs(outputs.class_logits[:, level], settings.candidates_per_level)  # (B, C)
            scores = logits.sigmoid()
            good = scores > settings.score_threshold
            offsets = outputs.offsets[:, level].gather(1, rows[..., None].expand(-1, -1, 4))
            boxes = self._decoded(outputs.anchors[level][rows], offsets)
            columns.append((boxes, scores * good, torch.where(good, labels, -1)))
        boxes, scores, labels = (torch.cat(column, dim=1) for column in zip(*columns, strict=True))
        compat = self.config.compat
        before = compat.clip == "before_nms"
        boxes = clip_boxes(boxes, outputs.sizes_hw) if before else boxes
        found = select_detections(
            boxes, scores, labels, settings.nms_iou, settings.max_detections, 
            keep_empty=compat.keep_empty or not before,
        )  # fmt: skip
        if not before:
            found = clip_detections(*found, outputs.sizes_hw)
        if compat.class_channels is not None:
            found = report_classes(*found, self.class_of_channel)
        return PaddedDetections(*found)

    def detect(self, outputs: RetinaNetOutputs, images: ImageBatch, settings: DetectSettings) -> list[Detections]:
        """Detections of each image, in the coordinates of the original images."""
        return self.detect_padded(outputs, settings).restore(images)


def level_anchors(config: RetinaNetConfig, size: float) -> Tensor:
    """Anchors (A, 4) at one cell of the level with this smallest size."""
    sizes, rounded = [size * scale for scale in config.anchors.scales], config.compat.anchors_rounded
    if rounded:
        sizes = [int(side) for side in sizes]
    return cell_anchors(sizes, config.anchors.ratios, rounded=rounded)
