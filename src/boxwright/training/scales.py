"""Multi-scale training: which size a step has, and a batch brought to that size on its device."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from boxwright.data.loader import Batch
from boxwright.data.sampler import draw_seed
from boxwright.recipes.schema import Data
from boxwright.structures import ImageBatch
from boxwright.training.schedule import Horizon, rising


def batch_scale(data: Data, seed: int, step: int, horizon: Horizon | None) -> float:
    """The multi-scale factor of a step, the same on every process."""
    return data.train_scales[scale_index(data, seed, step, horizon)] if data.train_scales else 1.0


def scale_index(data: Data, seed: int, step: int, horizon: Horizon | None) -> int:
    """Which of the recipe's `train_scales` a step has; without a horizon each in turn, to learn what it costs."""
    count = len(data.train_scales) or 1
    if horizon is None:
        return step % count
    if data.scale_order == "random":
        return draw_seed(seed + 1, step) % count
    return rising(step, horizon, count)


def scale_batch(batch: Batch, factor: float) -> Batch:
    """The whole batch at another size, on its device: pixels, sizes, boxes, masks, maps and proposals."""
    images, targets, indices, proposals = batch
    height, width = (max(32, round(side * factor)) for side in images.pixels.shape[-2:])
    sides = (width / images.pixels.shape[-1], height / images.pixels.shape[-2])
    # filled on the device: a tensor made on the host would make a GPU wait
    factors = torch.stack([torch.full((), side, device=images.pixels.device) for side in sides])  # x, y
    pixels = F.interpolate(images.pixels.float(), size=(height, width), mode="bilinear", antialias=True)
    pixels = pixels.round().clamp(0, 255).to(torch.uint8) if images.pixels.dtype == torch.uint8 else pixels
    sizes = (images.sizes_hw * factors.flip(0)).round().long()
    scaled = ImageBatch(pixels, sizes, images.original_hw, images.scale_xy * factors, images.offset_xy * factors)
    if proposals is not None:
        proposals = proposals.scaled(*sides)
    return Batch(scaled, targets.scaled(factors, (height, width)), indices, proposals)
