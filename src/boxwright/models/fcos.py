"""FCOS: every location of a feature pyramid predicts a class, four distances to the sides of a box, and centerness.

Papers: Tian, Shen, Chen, He, "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019 (the baseline, Table 3
row 4, and its improvements, rows 5 to 9). The presets are the course variant, the baseline and the improved one.

Shape legend: B = images, L = levels, P = locations on all levels, G = ground-truth boxes, N = candidates, K = classes.
Boxes are absolute (x1, y1, x2, y2) in network pixels; distances are (left, top, right, bottom); label -1 is background.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.nn.backbones import TORCHVISION_RESNET, Backbone, FeaturePyramid
from boxwright.nn.norm import Norm
from boxwright.nn.resnet import ResNetVariant
from boxwright.nn.towers import conv_tower, init_dense, through_tower
from boxwright.ops.assign import assign_locations, gather_rows
from boxwright.ops.channels import channel_table, report_classes
from boxwright.ops.losses import BoxLoss, box_loss, centerness_loss, entropy_floor, focal_loss
from boxwright.ops.points import (
    Grid,
    RangeEnds,
    centerness,
    decode_ltrb,
    encode_ltrb,
    level_ranges,
    pyramid_locations,
)
from boxwright.ops.select import clip_boxes, clip_detections, select_detections, top_candidates
from boxwright.structures import Detections, DetectSettings, ImageBatch, Losses, PaddedDetections, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class FCOSConfig:
    """What an FCOS is made of. The defaults are the improved variant (Table 3, row 9)."""

    num_classes: int
    backbone: str = "resnet50"
    backbone_weights: str | None = None
    backbone_norm: Norm = "frozen_bn"
    backbone_variant: ResNetVariant = TORCHVISION_RESNET
    frozen_stages: int = 2
    """Stem and C2 are not trained, as in the authors' code (FREEZE_AT 2)."""
    fpn_channels: int = 256
    extra_levels: int = 2
    """2 gives P3 to P7 (the paper), 0 gives P3 to P5 (the course)."""
    with_p2: bool = False
    """A level of stride 4 too, which the head does not look at: masks are pooled from it (Mask R-CNN's P2)."""
    extra_from: Literal["p5", "c5"] = "p5"
    """Rows 2 and 3: P5 is as good as C5 and smaller."""
    stem_channels: tuple[int, ...] = (256, 256, 256, 256)
    head_norm: Norm | Literal["level_bn"] = "gn"
    """Row 5: group norm in the head."""
    centerness_on: Literal["box", "class"] = "box"
    """Row 6: centerness beside the box regression; the baseline has it beside the classification."""
    center_radius: float | None = 1.5
    """Row 7: only locations this near to a box's centre, in strides, may learn it. None is the baseline."""
    box_loss: BoxLoss = "giou"
    """Row 8: GIoU; the baseline is IoU; "l1" in stride units is the course variant of seed 003."""
    normalise_targets: bool = True
    """Row 9: distances are learnt in strides; the baseline learns pixels."""
    box_output: Literal["exp", "relu", "clip"] = "relu"
    """Row 9 goes with ReLU, the baseline with exp, the course with clip(min=0) at decoding (gradient 0 below it)."""
    box_bias: float = 0.0
    """Start of the box output, before its map. Above 0 it keeps relu and clip alive where all raw outputs are negative
    (pitfall 17)."""
    scale_per_level: bool = True
    """A learnt factor per level on the box output (the paper, section 3.2)."""
    level_bounds: tuple[float, ...] = (64, 128, 256, 512)
    """max(l, t, r, b) at which responsibility passes to the next level."""
    level_range_ends: RangeEnds = "half_open"
    """Which ends belong to a range: neither in Detectron2's, torchvision's and the course's checkpoints (which compare
    areas roughly, too), both in AdelaiDet's and the authors'."""
    locations: Grid = "centre"
    """Where a cell looks; "torchvision" and, for the course variant 003, "swapped" are for their checkpoints."""
    smoothing: float = 0.0
    """Added to both areas of the IoU in the box loss: 1 in AdelaiDet and the authors' code."""
    box_weighting: Literal["centerness", "none"] = "centerness"
    """The authors' code weights the box loss by centerness; the paper's equation 2 and the course do not."""
    normaliser: Literal["positives", "ema", "batch_ema"] = "positives"
    """Divide by the positives of all ranks, by their running mean an image (the course), or by the running mean of a
    batch, at least 1 (Detectron2)."""
    normaliser_start: float = 150.0
    """First value of the running mean: positives of an image or batch."""
    normaliser_momentum: float = 0.9
    multi_label: bool = True
    """Whether one location may report several classes at test; the course keeps the best only."""
    class_threshold: float = 0.0
    """Least class probability of a candidate, whatever its centerness: 0.05 in AdelaiDet and the authors' code, where
    no threshold holds for the final score."""
    clip: Literal["before_nms", "after_nms"] = "before_nms"
    """When boxes are cut to the image; Detectron2 and AdelaiDet do so at the end."""
    keep_empty: bool = False
    """Whether boxes that clipping left without area are reported, as torchvision does."""
    inclusive_pixels: bool = False
    """Whether x2 and y2 are the last pixel of a box in clipping and NMS, as in the authors' code."""
    class_channels: tuple[int, ...] | None = None
    """The output channel of each class, where a checkpoint has more of them than classes (torchvision's 91)."""
    prior_probability: float = 0.01
    pad_multiple: int = 1
    """Batches are padded to sides of this multiple: 32 in all references."""
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes: expected at least 1, got {self.num_classes}")
        if len(self.level_bounds) != 2 + self.extra_levels:
            levels = 3 + self.extra_levels
            raise ValueError(f"level_bounds: expected {levels - 1} for {levels} levels, got {self.level_bounds}")
        level_ranges(self.level_bounds)  # they must rise
        channel_table(self.num_classes, self.class_channels)


BASELINE = {
    "head_norm": "none",
    "centerness_on": "class",
    "center_radius": None,
    "box_loss": "iou",
    "normalise_targets": False,
    "box_output": "exp",
}
"""Table 3, row 4. Rows 5 to 9 each take one of these back, in this order (row 9 the last two)."""

COURSE = {
    "backbone": "regnet_x_400mf",
    "backbone_norm": "bn",
    "frozen_stages": 0,
    "fpn_channels": 64,
    "extra_levels": 0,
    "level_bounds": (64, 128),
    "stem_channels": (64, 64),
    "head_norm": "none",
    "center_radius": None,
    "box_output": "clip",
    "box_bias": 2.0,
    "scale_per_level": False,
    "box_weighting": "none",
    "normaliser": "ema",
    "multi_label": False,
}
"""Seeds 000 and 001, corrected: its regression starts alive, which in the seed it did not."""


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

    def __init__(self, config: FCOSConfig, num_levels: int) -> None:
        super().__init__()
        width = config.stem_channels[-1] if config.stem_channels else config.fpn_channels
        stem = (config.fpn_channels, config.stem_channels, config.head_norm)
        self.class_tower = conv_tower(*stem, num_levels=num_levels)
        self.box_tower = conv_tower(*stem, num_levels=num_levels)
        num_channels = len(channel_table(config.num_classes, config.class_channels))
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
        self.norm_by_level = config.head_norm == "level_bn"

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

    def __init__(self, config: FCOSConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(
            config.backbone,
            ("c2", "c3", "c4", "c5") if config.with_p2 else ("c3", "c4", "c5"),
            weights=config.backbone_weights,
            norm=config.backbone_norm,
            frozen_stages=config.frozen_stages,
            variant=config.backbone_variant,
        )
        self.fpn = FeaturePyramid(
            self.backbone.channels,
            config.fpn_channels,
            extra_levels=config.extra_levels,
            extra_from=config.extra_from,
        )
        self.strides = [8 * 2**level for level in range(3 + config.extra_levels)]
        self.head = FCOSHead(config, len(self.strides))
        # saved with the weights, moved by training steps only, the same on every rank
        self.register_buffer("mean_positives", torch.tensor(float(config.normaliser_start)))
        self.mean_positives: Tensor
        # constants that belong on the device: made anew in each step they would make a GPU wait
        for name, value in (
            ("pixel_mean", torch.tensor(config.pixel_mean)),
            ("pixel_std", torch.tensor(config.pixel_std)),
            ("ranges", torch.tensor(level_ranges(config.level_bounds, config.level_range_ends))),
            ("class_of_channel", table := channel_table(config.num_classes, config.class_channels)),
            ("channel_of_class", torch.tensor(config.class_channels or range(len(table)))),
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
        pixels = images.normalised(self.pixel_mean, self.pixel_std, self.config.pad_multiple)
        levels: list[Tensor] = self.fpn(self.backbone(pixels))
        return levels

    def predict(self, levels: list[Tensor], images: ImageBatch) -> FCOSOutputs:
        """Raw predictions from the maps of a batch."""
        levels = levels[-len(self.strides) :]
        classes, boxes, central = self.head(levels)
        sizes = tuple((level.shape[2], level.shape[3]) for level in levels)
        multiple = self.config.pad_multiple
        height, width = (-(-side // multiple) * multiple for side in images.pixels.shape[2:])
        locations, strides = pyramid_locations(
            sizes, self.strides, device=classes.device, grid=self.config.locations, padded_hw=(height, width)
        )
        return FCOSOutputs(classes, self._box_map(boxes), central, locations, strides, images.sizes_hw, sizes)

    def _box_map(self, raw: Tensor) -> Tensor:
        """Distances (B, P, 4) from raw outputs; "clip" leaves them raw, decoding clips."""
        if self.config.box_output == "exp":
            return raw.clamp(max=LARGEST_EXPONENT).exp()
        return F.relu(raw) if self.config.box_output == "relu" else raw

    def loss(self, outputs: FCOSOutputs, targets: Targets) -> Losses:
        """Losses "classification", "box" and "centerness"; the last has an entropy floor, for logs and plots.

        Every loss stays in the graph when nothing is positive.
        """
        config = self.config
        sizes = outputs.level_sizes
        ranges = torch.cat([pair.expand(h * w, 2) for pair, (h, w) in zip(self.ranges, sizes, strict=True)])  # (P, 2)
        owner, ignored = assign_locations(
            outputs.locations, outputs.strides, ranges, targets.boxes, targets.valid, targets.ignore,
            center_radius=config.center_radius, coarse_areas=config.level_range_ends == "open",
        )  # fmt: skip
        positive = owner >= 0  # (B, P)
        labels = torch.where(positive, self.channel_of_class[gather_rows(targets.labels, owner)], -1)
        units = outputs.strides if config.normalise_targets else 1.0
        distances = encode_ltrb(outputs.locations, gather_rows(targets.boxes, owner), units)  # (B, P, 4)
        central = centerness(torch.where(positive[..., None], distances, 1.0))
        predicted = outputs.distances.clamp(min=0) if config.box_output == "clip" else outputs.distances

        weights = positive * (central if config.box_weighting == "centerness" else 1.0)  # (B, P)
        num_positive, weight_sum = self._normalisers(positive, weights)
        losses = Losses(
            classification=focal_loss(outputs.class_logits, labels, ~ignored) / num_positive,
            box=box_loss(predicted, distances, weights, config.box_loss, config.smoothing) / weight_sum,
            centerness=centerness_loss(outputs.centerness_logits, central, positive) / num_positive,
        )
        losses.floors = {"centerness": entropy_floor(central, positive).detach() / num_positive}
        return losses

    @torch.no_grad()
    def _normalisers(self, positive: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Positives, and the sum of box weights, of the mean rank: at least 1 and a little above 0."""
        sums = torch.stack([positive.sum().to(weights.dtype), weights.sum()])
        if dist.is_available() and dist.is_initialized() and self.training:
            dist.all_reduce(sums)  # every rank takes part, also one without a single box
            sums /= dist.get_world_size()
        batch = len(positive)
        if self.config.normaliser == "positives":
            return sums[0].clamp(min=1.0), sums[1].clamp(min=1e-6 if self.config.box_weighting != "none" else 1.0)
        by_batch = self.config.normaliser == "batch_ema"
        mean = self.mean_positives
        if self.training:
            mean.lerp_(sums[0].clamp(min=1.0) if by_batch else sums[0] / batch, 1 - self.config.normaliser_momentum)
        total = mean.clone() if by_batch else (mean * batch).clamp(min=1.0)
        return total, total

    def detect_padded(self, outputs: FCOSOutputs, settings: DetectSettings) -> PaddedDetections:
        """The best detections of each image in network pixels: top candidates per level, decoded, clipped, NMS."""
        config, probabilities = self.config, outputs.class_logits.sigmoid()
        scores = (probabilities * outputs.centerness_logits.sigmoid()[..., None]).sqrt()  # (B, P, K)
        if config.class_threshold > 0:
            scores = torch.where(probabilities > config.class_threshold, scores, -1.0)
        num_classes = scores.shape[-1]
        columns: list[tuple[Tensor, Tensor, Tensor]] = []
        start = 0
        for height, width in outputs.level_sizes:
            level = slice(start, start := start + height * width)
            if config.multi_label:
                candidates, label_of = scores[:, level].flatten(1), None
            else:
                candidates, label_of = scores[:, level].max(-1)
            values, picked = top_candidates(candidates, settings.candidates_per_level, settings.score_threshold)
            safe = picked.clamp(min=0)  # (B, N)
            place = safe // num_classes if label_of is None else safe
            labels = safe % num_classes if label_of is None else label_of.gather(1, safe)
            distances = outputs.distances[:, level].gather(1, place[..., None].expand(-1, -1, 4))
            units = outputs.strides[level][place] if config.normalise_targets else 1.0
            boxes = decode_ltrb(outputs.locations[level][place], distances, units)
            columns.append((boxes, values, torch.where(picked >= 0, labels, -1)))
        boxes, values, labels = (torch.cat(column, dim=1) for column in zip(*columns, strict=True))
        if config.clip == "before_nms":  # what lies outside must not overlap
            boxes = clip_boxes(boxes, outputs.sizes_hw - int(config.inclusive_pixels))
        # 0 0 1 1, made on the device: a copy from the host would make a GPU wait
        extent = torch.arange(4, device=boxes.device) // 2 * 1.0 if config.inclusive_pixels else 0.0
        found = select_detections(
            boxes + extent, values, labels, settings.nms_iou, settings.max_detections,
            keep_empty=config.keep_empty or config.clip == "after_nms",
        )  # fmt: skip
        if config.clip == "after_nms":
            found = clip_detections(*found, outputs.sizes_hw)
        if config.class_channels is not None:
            found = report_classes(*found, self.class_of_channel)
        rows, scores, labels, counts = found
        return PaddedDetections(rows - extent * (labels >= 0)[..., None], scores, labels, counts)

    def detect(self, outputs: FCOSOutputs, images: ImageBatch, settings: DetectSettings) -> list[Detections]:
        """Detections of each image, in the coordinates of the original images."""
        return self.detect_padded(outputs, settings).restore(images)
