"""Regions of interest: which pyramid level a box is pooled from, and pooling it to a fixed size.

Shape legend: R = regions of all images, C = channels, s = side of the pooled map. Sources: Feature Pyramid Networks
(Lin et al. 2017), equation 1; Mask R-CNN (He et al. 2017), section 3 (RoIAlign).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from boxwright.ops.boxes import box_area

CANONICAL_SIZE = 224.0
OUTSIDE = -1000.0
"""Cells: where a box lies that no map has anything for."""


def region_levels(boxes: Tensor, lowest: int, highest: int, *, canonical: int = 4, slack: float = 0.0) -> Tensor:
    """The pyramid level (...,) that each box (..., 4) is pooled from, `lowest` to `highest` (2 for P2).

    A box of 224 x 224 pixels belongs to level `canonical`, half its side to the one below, and so on. `slack` lifts
    boxes just below a border to the level above (torchvision adds 1e-6 to the logarithm).

    >>> region_levels(torch.tensor([[0.0, 0.0, 224.0, 224.0], [0.0, 0.0, 111.0, 111.0]]), 2, 5).tolist()
    [4, 2]
    """
    side = box_area(boxes).sqrt()
    level = (canonical + (side / CANONICAL_SIZE + 1e-8).log2() + slack).floor()
    return level.clamp(lowest, highest).to(torch.int64)


def pool_regions(
    levels: Sequence[Tensor],
    strides: Sequence[int],
    boxes: Tensor,
    image: Tensor,
    level: Tensor,
    size: int,
    *,
    sampling: int = 0,
    aligned: bool = True,
) -> Tensor:
    """RoIAlign of boxes (R, 4), each from its own image (R,) and its own map: features (R, C, size, size).

    Args:
        levels: maps (B, C, h, w), finest first.
        strides: of each map, in network pixels.
        boxes: in network pixels.
        image: which image of the batch each box belongs to.
        level: index into `levels` for each box.
        sampling: points a bin and axis; 0 takes as many as the bin has cells (Detectron2), torchvision takes 2.
        aligned: shift by half a cell, which is right; False is the convention of torchvision's own models.
    """
    rows = torch.cat([image[:, None].to(boxes.dtype), boxes], dim=1)  # (R, 5)
    if len(levels) == 1:
        only: Tensor = roi_align(levels[0].float(), rows, size, 1 / strides[0], sampling, aligned)
        return only
    if torch.compiler.is_exporting():  # an exported graph cannot split by counts that depend on data
        pooled = levels[0].new_zeros((boxes.shape[0], levels[0].shape[1], size, size), dtype=torch.float32)
        for index, (map_, stride) in enumerate(zip(levels, strides, strict=True)):
            own = (level == index).nonzero()[:, 0]
            features = roi_align(map_.float(), rows[own], size, 1 / stride, sampling, aligned)
            pooled = pooled.index_put((own,), features)
        return pooled
    if not counts_regions(boxes.device):
        return pool_every_level(levels, strides, rows, level, size, sampling=sampling, aligned=aligned)
    order = level.argsort(stable=True)  # by level; undone below, so that rows keep their order
    counts = torch.stack([(level == index).sum() for index in range(len(levels))]).tolist()
    parts = [
        roi_align(map_.float(), own, size, 1 / stride, sampling, aligned)
        for map_, stride, own in zip(levels, strides, rows[order].split(counts), strict=True)  # type: ignore[no-untyped-call]
    ]
    return torch.cat(parts)[order.argsort()]


def counts_regions(device: torch.device) -> bool:
    """Whether regions are sorted by level: on a CPU, which knows how many belong to each without waiting."""
    return device.type == "cpu"


def pool_every_level(
    levels: Sequence[Tensor], strides: Sequence[int], rows: Tensor, level: Tensor, size: int, *,
    sampling: int, aligned: bool,
) -> Tensor:  # fmt: skip
    """`pool_regions` of rows (R, 5), image and box, without asking how many belong to each level: no GPU is waited for.

    Every map is asked for every region; a region of another level is an empty box far outside of the map, which
    RoIAlign answers with zeros at once. So the sum over the maps is what the region's own map gives.
    """
    pooled: Tensor | None = None
    for index, (map_, stride) in enumerate(zip(levels, strides, strict=True)):
        nowhere = torch.where((level == index)[:, None], rows[:, 1:], OUTSIDE * stride)
        own = torch.cat([rows[:, :1], nowhere], dim=1)
        part: Tensor = roi_align(map_.float(), own, size, 1 / stride, sampling, aligned)
        pooled = part if pooled is None else pooled + part
    assert pooled is not None  # there is a map
    return pooled
