"""The keypoint branch: heatmaps for each region, which keypoint models hold beside the detector that finds the regions.

Paper: He, Gkioxari, Dollár, Girshick, "Mask R-CNN", ICCV 2017, section 5. Keypoints are learnt in regions that own an
object with one inside, and predicted in final detections; there is one heatmap a keypoint, whatever the class.

Shape legend: B = images, S = sampled regions (padded), R = regions of all images, N = detections, K = keypoints, M =
side of a heatmap (56). Boxes are absolute (x1, y1, x2, y2) in network pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from boxwright.nn.keypoint_head import KeypointHead
from boxwright.ops.keypoints import heatmap_cells, heatmap_loss
from boxwright.ops.roi import pool_regions, region_levels
from boxwright.structures import PaddedDetections, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class KeypointSettings:
    """How keypoints are predicted and learnt. The defaults are those of the paper, for a person in COCO."""

    num_keypoints: int = 17
    """Of an object; as many as the annotations have."""
    conv_channels: tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512, 512)
    """3x3 convolutions of the head."""
    pool_size: int = 14
    """Side of the pooled map; a heatmap has four times as many cells."""
    pool_sampling: int = 0
    """Points per bin and axis: 0 takes as many as it has cells (Detectron2), torchvision's checkpoints want 2."""
    pool_aligned: bool = True
    """False shifts by half a cell, as torchvision's checkpoints want it."""
    canonical_level: int = 4
    """Level of a region of 224 x 224 pixels."""
    level_slack: float = 0.0
    """Added to the level before it is rounded down: 1e-6 in torchvision."""
    samples: int | None = None
    """At most so many regions per image whose keypoints are learnt; null for all that own an object."""
    loss_weight: float = 1.0
    """Of the loss "keypoint" beside the others; 1 in Detectron2 and torchvision."""

    def __post_init__(self) -> None:
        for name in ("num_keypoints", "pool_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"samples: expected at least 1, got {self.samples}")
        if not 0 < self.loss_weight < math.inf:
            raise ValueError(f"loss_weight: expected a number above 0, got {self.loss_weight}")


class KeypointRegions(NamedTuple):
    """Heatmaps of regions to learn from, of all images together, and what they must say."""

    heatmaps: Tensor  # (R, K, M, M)
    cells: Tensor  # (R, K)
    learnt: Tensor  # (R, K) bool


class KeypointBranch(nn.Module):
    """Pooling, head and loss for regions of the given maps, and heatmaps of detections.

    Args:
        in_channels: of the maps.
        strides: of the maps that regions are pooled from, finest first.
    """

    def __init__(self, settings: KeypointSettings, in_channels: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.settings, self.strides = settings, list(strides)
        self.head = KeypointHead(in_channels, settings.num_keypoints, settings.conv_channels)

    def forward(self, levels: Sequence[Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        """Heatmaps (R, K, M, M) of regions (R, 4), each of an image (R,) of the maps (B, C, h, w)."""
        lowest = self.strides[0].bit_length() - 1
        level = region_levels(
            boxes, lowest, self.strides[-1].bit_length() - 1,
            canonical=self.settings.canonical_level, slack=self.settings.level_slack,
        )  # fmt: skip
        pooled = pool_regions(
            levels[: len(self.strides)], self.strides, boxes, image, level - lowest, self.settings.pool_size,
            sampling=self.settings.pool_sampling, aligned=self.settings.pool_aligned,
        )  # fmt: skip
        heatmaps: Tensor = self.head(pooled)
        return heatmaps

    def learn(self, levels: Sequence[Tensor], boxes: Tensor, owner: Tensor, targets: Targets) -> KeypointRegions:
        """Heatmaps of those regions (B, S, 4) that own an object (B, S) with a keypoint in them.

        At most `samples` an image: the first ones, so their order should be a random one. Where a batch has none of
        them, a stand-in without a keypoint to learn keeps every parameter in the graph. Raises ValueError for objects
        with another number of keypoints.
        """
        side, count = 4 * self.settings.pool_size, self.settings.num_keypoints
        boxes, owner = boxes[:, : self.settings.samples], owner[:, : self.settings.samples]
        image, row = (owner >= 0).nonzero(as_tuple=True)
        if targets.keypoints is not None and len(image):
            if targets.keypoints.shape[2] != count:
                raise ValueError(
                    f"keypoints: the model learns {count} of an object, the ground truth has "
                    f"{targets.keypoints.shape[2]}; set model.keypoint.num_keypoints"
                )
            own = boxes[image, row]
            cells, learnt = heatmap_cells(targets.keypoints[image, owner[image, row]], own, side)
            some = learnt.any(1)
            if bool(some.any()):
                return KeypointRegions(self(levels, own[some], image[some]), cells[some], learnt[some])
        box = boxes.new_tensor([[0.0, 0.0, 1.0, 1.0]])
        cells = image.new_zeros((1, count))
        return KeypointRegions(self(levels, box, image.new_zeros(1)), cells, cells > 0)

    def loss(self, regions: KeypointRegions) -> dict[str, Tensor]:
        """Loss "keypoint": cross-entropy over the cells of a heatmap, the mean over keypoints that lie in regions."""
        return {"keypoint": self.settings.loss_weight * heatmap_loss(*regions)}

    def add_heatmaps(self, found: PaddedDetections, levels: Sequence[Tensor]) -> PaddedDetections:
        """The same detections with heatmaps (B, N, K, M, M) over each box, logits; padding rows have zeros."""
        real = found.labels >= 0
        if torch.compiler.is_exporting():  # shapes of a graph may not depend on how many there are: all rows
            batch, count = real.shape
            image, row = (grid.flatten() for grid in torch.meshgrid(
                torch.arange(batch, device=real.device), torch.arange(count, device=real.device), indexing="ij"
            ))  # fmt: skip
        else:
            image, row = real.nonzero(as_tuple=True)
        side = 4 * self.settings.pool_size
        heatmaps = found.boxes.new_zeros((*real.shape, self.settings.num_keypoints, side, side))
        drawn = self(levels, found.boxes[image, row], image)
        heatmaps = heatmaps.index_put((image, row), drawn.to(heatmaps.dtype))
        return found._replace(heatmaps=heatmaps * real[..., None, None, None])
