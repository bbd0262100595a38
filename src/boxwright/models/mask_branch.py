"""The mask branch: a mask for each region, which mask models hold beside the detector that finds the regions.

Paper: He, Gkioxari, Dollár, Girshick, "Mask R-CNN", ICCV 2017, section 3. Masks are learnt in regions that own an
object, on the channel of its class alone, and predicted in final detections.

Shape legend: B = images, S = candidate regions (padded), R = regions of all images, N = detections, G = ground-truth
boxes, M = side of a mask (28), C = channels. Boxes are absolute (x1, y1, x2, y2) in network pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.nn.box_head import StageHead
from boxwright.nn.mask_head import MaskHead
from boxwright.nn.norm import Norm
from boxwright.ops.mask_paste import Paste
from boxwright.ops.mask_targets import cut_masks
from boxwright.ops.roi import pool_regions, region_levels
from boxwright.structures import PaddedDetections, Targets


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskSettings:
    """How masks are predicted and learnt. The defaults are those of the paper with a feature pyramid."""

    conv_channels: tuple[int, ...] = (256, 256, 256, 256)
    """3x3 convolutions of the head; none over C4, where the last stage of the backbone comes first."""
    upsampled_channels: int = 256
    norm: Norm = "none"
    """After each convolution of the head ("bn" in torchvision's v2)."""
    pool_size: int = 14
    """Side of the pooled map; a mask has twice as many cells, half as many as the map over C4."""
    pool_sampling: int = 0
    """Points per bin and axis: 0 takes as many as it has cells (Detectron2), torchvision's checkpoints want 2."""
    pool_aligned: bool = True
    """False shifts by half a cell, as torchvision's checkpoints want it."""
    canonical_level: int = 4
    """Level of a region of 224 x 224 pixels."""
    level_slack: float = 0.0
    """Added to the level before it is rounded down: 1e-6 in torchvision."""
    samples: int | None = None
    """At most so many regions per image whose masks are learnt; null for all that own an object."""
    targets: Literal["hard", "soft"] = "hard"
    """A cell is inside or outside by half its area (Detectron2), or as much as is covered (torchvision)."""
    paste: Paste = "exact"
    """How masks get to the image's pixels: "torchvision" over boxes of whole pixels, as that library does."""

    def __post_init__(self) -> None:
        if self.pool_size < 2:
            raise ValueError(f"pool_size: expected at least 2, got {self.pool_size}")
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"samples: expected at least 1, got {self.samples}")


class MaskRegions(NamedTuple):
    """Regions whose masks are learnt, of all images together, and what the head says of them."""

    logits: Tensor  # (R, M, M)
    boxes: Tensor  # (R, 4)
    image: Tensor  # (R,)
    owner: Tensor  # (R,) row of the ground truth
    weight: Tensor  # (R,) 1, or 0 for the stand-in of a batch without such regions


class MaskBranch(nn.Module):
    """Pooling, head and loss for regions of the given maps, and masks of detections.

    Args:
        in_channels: of the maps, or of what `stage` gives.
        strides: of the maps that regions are pooled from, finest first.
        stage: the backbone's last stage, which a box branch over C4 has as its head: shared, and not held here.
    """

    def __init__(self, settings: MaskSettings, num_classes: int, in_channels: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.settings, self.strides = settings, list(strides)
        self.head = MaskHead(
            in_channels, num_classes, settings.conv_channels, settings.upsampled_channels, settings.norm
        )

    def forward(
        self, levels: Sequence[Tensor], boxes: Tensor, image: Tensor, labels: Tensor, stage: StageHead | None = None
    ) -> Tensor:
        """Logits (R, M, M) for the class (R,) of each region (R, 4) of an image (R,) of the maps (B, C, h, w)."""
        lowest = self.strides[0].bit_length() - 1
        level = region_levels(
            boxes, lowest, self.strides[-1].bit_length() - 1,
            canonical=self.settings.canonical_level, slack=self.settings.level_slack,
        )  # fmt: skip
        pooled = pool_regions(
            levels[: len(self.strides)], self.strides, boxes, image, level - lowest, self.settings.pool_size,
            sampling=self.settings.pool_sampling, aligned=self.settings.pool_aligned,
        )  # fmt: skip
        logits: Tensor = self.head(pooled if stage is None else stage.maps(pooled), labels)
        return logits

    def learn(
        self,
        levels: Sequence[Tensor],
        boxes: Tensor,
        owner: Tensor,
        targets: Targets,
        stage: StageHead | None = None,
    ) -> MaskRegions:
        """Logits of those regions (B, S, 4) that own an object (B, S) with a mask that has a pixel, for its class.

        At most `samples` an image: the first ones, so their order should be a random one. Where a batch has none of
        them, a stand-in of weight 0 keeps every parameter in the graph, so that processes
        stay in step.
        """
        boxes, owner = boxes[:, : self.settings.samples], owner[:, : self.settings.samples]
        chosen = owner >= 0
        if targets.masks is None:
            chosen = torch.zeros_like(chosen)
        elif targets.masks.nonempty.shape[1]:
            chosen = chosen & targets.masks.nonempty.gather(1, owner.clamp(min=0))
        image, row = chosen.nonzero(as_tuple=True)
        if not len(image):
            none = image.new_zeros(1)
            box = boxes.new_tensor([[0.0, 0.0, 1.0, 1.0]])
            logits = self(levels, box, none, none, stage)
            return MaskRegions(logits, box, none, none, box.new_zeros(1))
        own, object_ = boxes[image, row], owner[image, row]
        logits = self(levels, own, image, targets.labels[image, object_], stage)
        return MaskRegions(logits, own, image, object_, own.new_ones(len(own)))

    def loss(self, regions: MaskRegions, targets: Targets, sizes_hw: Tensor) -> dict[str, Tensor]:
        """Loss "mask": binary cross-entropy of each region's mask, the mean over its cells and over the regions."""
        wanted = torch.zeros_like(regions.logits)
        if targets.masks is not None and targets.masks.start.shape[1]:
            wanted = cut_masks(
                targets.masks, regions.image, regions.owner, regions.boxes, sizes_hw, regions.logits.shape[-1],
                aligned=self.settings.pool_aligned,
            )  # fmt: skip
        if self.settings.targets == "hard":
            wanted = (wanted >= 0.5).to(wanted.dtype)
        entropy = F.binary_cross_entropy_with_logits(regions.logits, wanted, reduction="none").mean((1, 2))
        return {"mask": (entropy * regions.weight).sum() / regions.weight.sum().clamp(min=1)}

    def add_masks(
        self, found: PaddedDetections, levels: Sequence[Tensor], stage: StageHead | None = None
    ) -> PaddedDetections:
        """The same detections with masks (B, N, M, M), probabilities over each box; padding rows have zeros."""
        real = found.labels >= 0
        if torch.compiler.is_exporting():  # shapes of a graph may not depend on how many there are: all rows
            batch, count = real.shape
            image, row = (grid.flatten() for grid in torch.meshgrid(
                torch.arange(batch, device=real.device), torch.arange(count, device=real.device), indexing="ij"
            ))  # fmt: skip
        else:
            image, row = real.nonzero(as_tuple=True)
        cells = self.settings.pool_size * 2 // (1 if stage is None else 2)
        masks = found.boxes.new_zeros((*real.shape, cells, cells))
        labels = found.labels[image, row].clamp(min=0)
        drawn = self(levels, found.boxes[image, row], image, labels, stage).sigmoid()
        masks = masks.index_put((image, row), drawn.to(masks.dtype))
        return found._replace(masks=masks * (found.labels >= 0)[..., None, None])
