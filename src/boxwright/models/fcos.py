"""FCOS: every location of a feature pyramid predicts a class, four distances to the sides of a box, and centerness.

Paper: Tian, Shen, Chen, He, "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019 (the baseline, Table 3
row 4, and its improvements, rows 5 to 9). What only foreign checkpoints need stands in `fcos_compat.py`.

Shape legend: B = images, L = levels, P = locations on all levels, G = ground-truth boxes, N = candidates, K = classes.
Boxes are absolute (x1, y1, x2, y2) in network pixels; distances are (left, top, right, bottom); label -1 is background.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.models.fcos_compat import FCOSCompat, limit_candidates, reported, select
from boxwright.models.sections import BackboneSection
from boxwright.nn.backbones import FeaturePyramid
from boxwright.nn.norm import Norm
from boxwright.nn.towers import conv_tower, init_dense, through_tower
from boxwright.ops.assign import assign_locations, gather_rows
from boxwright.ops.channels import channel_table
from boxwright.ops.losses import (
    BoxLoss,
    box_loss,
    centerness_loss,
    entropy_floor,
    focal_loss,
    label_weights,
    process_mean_,
)
from boxwright.ops.points import centerness, decode_ltrb, encode_ltrb, level_ranges, pyramid_locations
from boxwright.ops.select import clip_boxes, select_detections, top_candidates
from boxwright.structures import Detections, DetectSettings, ImageBatch, Losses, PaddedDetections, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class FCOSPyramid:
    """The feature pyramid."""

    channels: int = 256
    """Width of every level."""
    extra_levels: int = 2
    """2 gives P3 to P7 (the paper), 0 gives P3 to P5 (the course, small machines)."""
    extra_from: Literal["p5", "c5"] = "p5"
    """Rows 2 and 3: P5 is as good as C5 and smaller."""
    with_p2: bool = False
    """A level of stride 4 too, which the head does not look at: masks are pooled from it (Mask R-CNN's P2)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FCOSHeadSection:
    """Towers and predictors, shared by all levels."""

    stem_channels: tuple[int, ...] = (256, 256, 256, 256)
    """3x3 convolutions of each tower."""
    norm: Norm | Literal["level_bn"] = "gn"
    """Row 5: group norm in the head."""
    bias: bool = True
    """Whether the towers' convolutions have a bias beside a norm; MMDetection's baseline has none."""
    centerness_on: Literal["box", "class"] = "box"
    """Row 6: centerness beside the box regression; the baseline has it beside the classification."""
    normalise_targets: bool = True
    """Row 9: distances are learnt in strides; the baseline learns pixels."""
    box_output: Literal["exp", "relu", "clip"] = "relu"
    """Row 9 goes with ReLU, the baseline with exp, the course with clip(min=0) at decoding (gradient 0 below it)."""
    box_bias: float = 0.0
    """Start of the box output, before its map. Above 0 it keeps relu and clip alive where all raw outputs are
    negative."""
    scale_per_level: bool = True
    """A learnt factor per level on the box output (the paper, section 3.2)."""
    prior_probability: float = 0.01
    """Of every class at the start of training (RetinaNet, section 3.3)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FCOSAssignment:
    """Which locations learn which object."""

    level_bounds: tuple[float, ...] = (64, 128, 256, 512)
    """max(l, t, r, b) at which responsibility passes to the next level."""
    center_radius: float | None = 1.5
    """Row 7: only locations this near to a box's centre, in strides, may learn it. null is the baseline."""

    def __post_init__(self) -> None:
        level_ranges(self.level_bounds)  # they must rise


@dataclass(frozen=True, kw_only=True, slots=True)
class FCOSLossSection:
    """What is minimised."""

    box: BoxLoss = "giou"
    """Row 8: GIoU; the baseline is IoU; "l1" is one of the course's variants, in strides."""
    box_weighting: Literal["centerness", "none"] = "centerness"
    """The authors' code weights the box loss by centerness; the paper's equation 2 and the course do not."""
    normaliser: Literal["positives", "ema", "batch_ema"] = "positives"
    """Divide by the positives of all ranks, by their running mean an image (the course), or by the running mean of a
    batch, at least 1 (Detectron2)."""
    normaliser_start: float = 150.0
    """First value of the running mean: positives of an image or batch."""
    normaliser_momentum: float = 0.9
    """How much of the running mean a training step keeps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FCOSConfig:
    """What an FCOS is made of. The defaults are the improved variant (Table 3, row 9)."""

    name: Literal["fcos"] = "fcos"
    """Which detector."""
    backbone: BackboneSection = BackboneSection()
    fpn: FCOSPyramid = FCOSPyramid()
    head: FCOSHeadSection = FCOSHeadSection()
    assignment: FCOSAssignment = FCOSAssignment()
    loss: FCOSLossSection = FCOSLossSection()
    compat: FCOSCompat = FCOSCompat()

    def __post_init__(self) -> None:
        levels, bounds = 3 + self.fpn.extra_levels, self.assignment.level_bounds
        if len(bounds) != levels - 1:
            raise ValueError(f"assignment.level_bounds: expected {levels - 1} for {levels} levels, got {bounds}")


LARGEST_EXPONENT = 20.0
"""exp() of more is no distance in an image, and from 44 on its square overflows: a loss with a gradient of NaN."""


class FCOSOutputs(NamedTuple):
    """Raw predictions of all locations, level by level, and where those locations are."""

    class_logits: Tensor  # (B, P, K)
    distances: Tensor  # (B, P, 4) after the output map: strides if targets are normalised, else pixels
    centerness_logits: Tensor  # (B, P)
    locations: Tensor  # (P, 2)
    strides: Tensor  # (P,)
    sizes_hw: Tensor  # (B, 2) of the images within the batch
    level_sizes: tuple[tuple[int, int], ...]


class FCOSHead(nn.Module):
    """Two towers and three predictors, shared by all levels; gives logits and raw box outputs only."""

    def __init__(self, config: FCOSHeadSection, in_channels: int, num_channels: int, num_levels: int) -> None:
        super().__init__()
        width = config.stem_channels[-1] if config.stem_channels else in_channels
        stem = (in_channels, config.stem_channels, config.norm)
        self.class_tower = conv_tower(*stem, bias=config.bias, num_levels=num_levels)
        self.box_tower = conv_tower(*stem, bias=config.bias, num_levels=num_levels)
        self.class_logits = nn.Conv2d(width, num_channels, 3, padding=1)
        self.box_distances = nn.Conv2d(width, 4, 3, padding=1)
        self.centerness = nn.Conv2d(width, 1, 3, padding=1)
        for predictor in (self.class_logits, self.box_distances, self.centerness):
            init_dense(predictor)
        prior = config.prior_probability
        nn.init.constant_(self.class_logits.bias, -math.log((1 - prior) / prior))  # type: ignore[arg-type]
        nn.init.constant_(self.box_distances.bias, config.box_bias)  # type: ignore[arg-type]
        self.scales = nn.Parameter(torch.ones(num_levels)) if config.scale_per_level else None
        self.centerness_on = config.centerness_on
        self.norm_by_level = config.norm == "level_bn"

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits (B, P, K), raw box outputs (B, P, 4) and centerness logits (B, P) from maps (B, C, h, w)."""
        rows: list[tuple[Tensor, Tensor, Tensor]] = []
        # what boxes are made of is computed in float32: in bfloat16 a side would be right to one part in 256 only
        kind = levels[0].device.type
        precise = nullcontext() if levels[0].dtype == torch.float32 else torch.autocast(kind, enabled=False)
        for index, level in enumerate(levels):
            if self.norm_by_level:
                for_class = through_tower(self.class_tower, level, index)
                for_box = through_tower(self.box_tower, level, index)
            else:
                for_class, for_box = self.class_tower(level), self.box_tower(level)
            with precise:
                box = self.box_distances(for_box.float())
                central = self.centerness((for_box if self.centerness_on == "box" else for_class).float())
            if self.scales is not None:
                box = box * self.scales[index]
            rows.append((_flatten(self.class_logits(for_class)), _flatten(box), _flatten(central)))
        classes, boxes, central_rows = (torch.cat(column, dim=1).float() for column in zip(*rows, strict=True))
        return classes, boxes, central_rows[..., 0]


def _flatten(map_: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h * w, C), row by row."""
    return map_.permute(0, 2, 3, 1).reshape(map_.shape[0], -1, map_.shape[1])


class FCOS(nn.Module):
    """The detector; see `DetectionModel` for what its methods promise."""

    def __init__(self, config: FCOSConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        table = channel_table(num_classes, config.compat.class_channels)
        fpn = config.fpn
        self.backbone = config.backbone.build(("c2", "c3", "c4", "c5") if fpn.with_p2 else ("c3", "c4", "c5"))
        self.fpn = FeaturePyramid(
            self.backbone.channels, fpn.channels, extra_levels=fpn.extra_levels, extra_from=fpn.extra_from
        )
        self.strides = [8 * 2**level for level in range(3 + fpn.extra_levels)]
        self.head = FCOSHead(config.head, fpn.channels, len(table), len(self.strides))
        self.foreign = config.compat != FCOSCompat()
        """Whether detections are chosen as in another code base."""
        self.register_buffer("class_weights", None, persistent=False)  # see `models.class_weights`
        self.class_weights: Tensor | None
        # saved with the weights, moved by training steps only, the same on every rank
        self.register_buffer("mean_positives", torch.tensor(float(config.loss.normaliser_start)))
        self.mean_positives: Tensor
        # constants that belong on the device: made anew in each step they would make a GPU wait
        for name, value in (
            ("pixel_mean", torch.tensor(config.backbone.pixel_mean)),
            ("pixel_std", torch.tensor(config.backbone.pixel_std)),
            ("ranges", torch.tensor(level_ranges(config.assignment.level_bounds, config.compat.level_range_ends))),
            ("class_of_channel", table),
            ("channel_of_class", torch.tensor(config.compat.class_channels or range(len(table)))),
        ):
            self.register_buffer(name, value, persistent=False)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.ranges: Tensor  # (L, 2)
        self.class_of_channel: Tensor
        self.channel_of_class: Tensor

    def forward(self, images: ImageBatch, targets: Targets | None = None, proposals: None = None) -> FCOSOutputs:
        """Raw predictions for a batch; ground truth and proposals play no part in them."""
        return self.predict(self.pyramid(images), images)

    def pyramid(self, images: ImageBatch) -> list[Tensor]:
        """Maps (B, C, h, w) of a batch, finest first."""
        pixels = images.normalised(self.pixel_mean, self.pixel_std, self.config.compat.pad_multiple)
        levels: list[Tensor] = self.fpn(self.backbone(pixels))
        return levels

    def predict(self, levels: list[Tensor], images: ImageBatch) -> FCOSOutputs:
        """Raw predictions from the maps of a batch."""
        levels = levels[-len(self.strides) :]
        classes, boxes, central = self.head(levels)
        sizes = tuple((level.shape[2], level.shape[3]) for level in levels)
        multiple = self.config.compat.pad_multiple
        height, width = (-(-side // multiple) * multiple for side in images.pixels.shape[2:])
        locations, strides = pyramid_locations(
            sizes, self.strides, device=classes.device, grid=self.config.compat.locations, padded_hw=(height, width)
        )
        return FCOSOutputs(classes, self._box_map(boxes), central, locations, strides, images.sizes_hw, sizes)

    def _box_map(self, raw: Tensor) -> Tensor:
        """Distances (B, P, 4) from raw outputs; "clip" leaves them raw, decoding clips."""
        if self.config.head.box_output == "exp":
            return raw.clamp(max=LARGEST_EXPONENT).exp()
        return F.relu(raw) if self.config.head.box_output == "relu" else raw

    def loss(self, outputs: FCOSOutputs, targets: Targets) -> Losses:
        """Losses "classification", "box" and "centerness"; the last has an entropy floor, for logs and plots.

        Every loss stays in the graph when nothing is positive.
        """
        config = self.config
        sizes = outputs.level_sizes
        ranges = torch.cat([pair.expand(h * w, 2) for pair, (h, w) in zip(self.ranges, sizes, strict=True)])  # (P, 2)
        owner, ignored = assign_locations(
            outputs.locations, outputs.strides, ranges, targets.boxes, targets.valid, targets.ignore,
            center_radius=config.assignment.center_radius, coarse_areas=config.compat.level_range_ends == "open",
        )  # fmt: skip
        positive = owner >= 0  # (B, P)
        classes = torch.where(positive, gather_rows(targets.labels, owner), -1)
        labels = torch.where(positive, self.channel_of_class[classes.clamp(min=0)], -1)
        units = outputs.strides if config.head.normalise_targets else 1.0
        distances = encode_ltrb(outputs.locations, gather_rows(targets.boxes, owner), units)  # (B, P, 4)
        central = centerness(torch.where(positive[..., None], distances, 1.0))
        predicted = outputs.distances.clamp(min=0) if config.head.box_output == "clip" else outputs.distances

        weights = positive * (central if config.loss.box_weighting == "centerness" else 1.0)  # (B, P)
        num_positive, weight_sum = self._normalisers(positive, weights)
        of_class = None if self.class_weights is None else label_weights(classes, self.class_weights)
        losses = Losses(
            classification=focal_loss(outputs.class_logits, labels, ~ignored, weights=of_class) / num_positive,
            box=box_loss(predicted, distances, weights, config.loss.box, config.compat.smoothing) / weight_sum,
            centerness=centerness_loss(outputs.centerness_logits, central, positive) / num_positive,
        )
        losses.floors = {"centerness": entropy_floor(central, positive).detach() / num_positive}
        return losses

    @torch.no_grad()
    def _normalisers(self, positive: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Positives, and the sum of box weights, of the mean rank: at least 1 and a little above 0."""
        sums = torch.stack([positive.sum().to(weights.dtype), weights.sum()])
        if self.training:
            sums = process_mean_(sums)  # every rank takes part, also one without a single box
        config, batch = self.config.loss, len(positive)
        if config.normaliser == "positives":
            return sums[0].clamp(min=1.0), sums[1].clamp(min=1e-6 if config.box_weighting != "none" else 1.0)
        by_batch = config.normaliser == "batch_ema"
        mean = self.mean_positives
        if self.training:
            mean.lerp_(sums[0].clamp(min=1.0) if by_batch else sums[0] / batch, 1 - config.normaliser_momentum)
        total = mean.clone() if by_batch else (mean * batch).clamp(min=1.0)
        return total, total

    def detect_padded(self, outputs: FCOSOutputs, settings: DetectSettings) -> PaddedDetections:
        """The best detections of each image in network pixels: top candidates per level, decoded, clipped, NMS."""
        probabilities = outputs.class_logits.sigmoid()
        scores = (probabilities * outputs.centerness_logits.sigmoid()[..., None]).sqrt()  # (B, P, K)
        if self.foreign:
            scores = limit_candidates(self.config.compat, scores, probabilities)
        num_classes = scores.shape[-1]
        columns: list[tuple[Tensor, Tensor, Tensor]] = []
        start = 0
        for height, width in outputs.level_sizes:
            level = slice(start, start := start + height * width)
            values, picked = top_candidates(
                scores[:, level].flatten(1), settings.candidates_per_level, settings.score_threshold
            )
            place, labels = picked.clamp(min=0) // num_classes, picked.clamp(min=0) % num_classes  # (B, N)
            if self.foreign:
                central = outputs.centerness_logits[:, level].gather(1, place).sigmoid()
                values, picked = reported(self.config.compat, values, picked, central, settings.score_threshold)
            distances = outputs.distances[:, level].gather(1, place[..., None].expand(-1, -1, 4))
            units = outputs.strides[level][place] if self.config.head.normalise_targets else 1.0
            boxes = decode_ltrb(outputs.locations[level][place], distances, units)
            columns.append((boxes, values, torch.where(picked >= 0, labels, -1)))
        boxes, values, labels = (torch.cat(column, dim=1) for column in zip(*columns, strict=True))
        sizes_hw = outputs.sizes_hw
        if self.foreign:
            return select(self.config.compat, boxes, values, labels, sizes_hw, settings, self.class_of_channel)
        boxes = clip_boxes(boxes, sizes_hw)  # what lies outside must not overlap
        return PaddedDetections(
            *select_detections(boxes, values, labels, settings.nms_iou, settings.max_detections)
        )  # fmt: skip

    def detect(self, outputs: FCOSOutputs, images: ImageBatch, settings: DetectSettings) -> list[Detections]:
        """Detections of each image, in the coordinates of the original images."""
        return self.detect_padded(outputs, settings).restore(images)
