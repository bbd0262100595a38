"""What a training step will need, told from a small piece of it, before it is taken.

On a GPU too large a batch ends in an error; on a CPU the kernel kills the process without a word. So on a CPU the
tensors that autograd keeps for the backward pass are counted for one small image first. They grow with the pixels of a
batch, and a step holds a little more for a moment: `BESIDE`.
"""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.data.dataset import DetectionDataset
from boxwright.data.loader import Batch, Collate
from boxwright.ops.image import resize_plan
from boxwright.recipes.schema import Recipe
from boxwright.runtime.precision import autocast
from boxwright.structures import ImageBatch, Targets

PIECES = (96, 192)
"""Pixels: the longest sides of the images that are tried."""
BESIDE = 1.2
"""Times what is counted: a step holds more for a moment. The peak of FCOS with ResNet-50 was 1.16 (fp32) and 1.18 times
(bf16) that, and a process that asks for more than there is, is killed without a sentence."""
MOST_A_PIXEL = 8192
"""Bytes: no network of ours keeps more for a pixel; where even that fits nothing is tried."""
LEAST = 64
"""Pixels: their shorter sides at least; BatchNorm refuses a map of a single cell."""
CGROUP = Path("/sys/fs/cgroup")


def check_fits(model: Any, images: DetectionDataset, recipe: Recipe, precision: str, device: torch.device) -> None:
    """ValueError with the batch that fits, where a training step of the recipe cannot fit into this machine's memory.

    For a CPU only: a GPU that is too small says so itself.
    """
    size = recipe.data.batch_size
    if device.type != "cpu" or not len(images):
        return
    scale = max(recipe.data.train_scales, default=1.0)
    free = free_bytes() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    hw = resize_plan(images.original_hw(0), images.rule).size_hw
    if size * hw[0] * hw[1] * scale * scale * MOST_A_PIXEL < free:
        return
    batch = Collate(images.rule)([images[index % len(images)] for index in range(size)])
    needed = step_bytes(model, batch, precision, adam=recipe.optim.kind == "adamw", scale=scale)
    refuse_too_large(int(BESIDE * needed), free, size, recipe.optim.accumulate)


def kept_bytes(model: Any, images: ImageBatch, targets: Targets, proposals: Any, precision: str) -> int:
    """Bytes that autograd keeps for the backward pass of a batch, weights not counted; the model stays as it is.

    The forward pass and the loss are really computed, so give a small batch.
    """
    tried = copy.deepcopy(model)  # statistics and normalisers move in training
    own = {parameter.data_ptr() for parameter in tried.parameters()}
    seen: dict[int, int] = {}

    alive: list[Tensor] = []  # so that no address comes twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with autocast(images.pixels.device, precision):
            outputs = tried.train()(images, targets, proposals)
        tried.loss(outputs, targets)
    return sum(seen.values())


def step_bytes(model: Any, batch: Batch, precision: str, *, adam: bool, scale: float = 1.0) -> int:
    """Bytes that a training step of a batch needs at least, besides what the process has: activations and gradients.

    Of two small versions of its first image: what they differ by grows with the pixels, the rest (weights cast to bf16,
    what a second stage keeps of its regions) is counted once. `adam`: whether the optimiser keeps two numbers for each
    weight, else one; `scale`: of multi-scale training.
    """
    height, width = batch.images.pixels.shape[-2:]
    areas, kept = [], []
    for side in PIECES:
        factor = min(1.0, side / max(height, width))
        sides = [max(LEAST, round(side * factor)) for side in (height, width)]
        areas.append(sides[0] * sides[1])
        kept.append(kept_bytes(model, *_piece(batch, sides[0], sides[1]), precision))
    grows = max(0.0, (kept[1] - kept[0]) / (areas[1] - areas[0])) if areas[1] > areas[0] else kept[1] / areas[1]
    once = max(0.0, kept[0] - grows * areas[0])
    pixels = len(batch.images) * height * width * scale * scale
    trained: int = sum(one.numel() * one.element_size() for one in model.parameters() if one.requires_grad)
    return int(once + grows * pixels) + trained * (3 if adam else 2)


def _piece(batch: Batch, height: int, width: int) -> tuple[ImageBatch, Targets, Any]:
    """The first image of a batch at another size, with its objects and proposals."""
    whole_height, whole_width = batch.images.pixels.shape[-2:]
    down, across = height / whole_height, width / whole_width
    pixels = F.interpolate(batch.images.pixels[:1].float(), size=(height, width), mode="area")
    if batch.images.pixels.dtype == torch.uint8:
        pixels = pixels.round().byte()
    targets = Targets.of([batch.targets.image(0)]).scaled(torch.tensor([across, down]))
    proposals = batch.proposals
    if proposals is not None:
        first = replace(proposals, boxes=proposals.boxes[:1], scores=proposals.scores[:1], valid=proposals.valid[:1])
        proposals = first.scaled(across, down)
    return ImageBatch.of([pixels[0]]), targets, proposals


def free_bytes() -> int:
    """Bytes of memory that this process can still have: what is free, within the limit of a container."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="utf-8").strip()
        if limit != "max":
            used = int((CGROUP / "memory.current").read_text(encoding="utf-8"))
            free = min(free, int(limit) - used)
    except (OSError, ValueError):  # no such file: no such limit
        pass
    return free


def refuse_too_large(needed: int, free: int, batch_size: int, accumulate: int) -> None:
    """ValueError with the batch that fits, where a step needs more than there is."""
    if needed <= free:
        return
    fits = batch_size * free // needed
    gib = 2**30
    sentence = f"a step of {batch_size} images needs about {needed / gib:.1f} GiB, {free / gib:.1f} GiB are free"
    if fits < 1:
        raise ValueError(f"{sentence}: not even one image fits; take a smaller data.resize or a smaller backbone")
    while batch_size % fits:  # so that the same images make up a step
        fits -= 1
    raise ValueError(
        f"{sentence}: try data.batch_size={fits} with optim.accumulate={accumulate * batch_size // fits} (the same "
        "learning), or a smaller data.resize"
    )
