"""Before training: who would own what in the first batch of a run, augmented and scaled as training sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

import torch

from boxwright.data.dataset import DetectionDataset
from boxwright.data.loader import Batch, make_loader
from boxwright.data.sampler import StepSampler, aspects_of
from boxwright.inference.explain_anchors import SEED
from boxwright.inference.owners import Owners, owners_of
from boxwright.models import MODELS
from boxwright.models.box_branch import SampledRegions, box_branch
from boxwright.models.claims import held_detector
from boxwright.models.fast_rcnn import FastRCNNConfig
from boxwright.ops.image import ResizePlan
from boxwright.recipes.schema import Recipe
from boxwright.structures import Classes, GroundTruth, Proposals, Targets
from boxwright.training.batches import repeats_of
from boxwright.training.prepare import augmentation, log_missing_proposals, open_checked, open_proposals
from boxwright.training.scales import batch_scale, scale_batch
from boxwright.training.schedule import scaled
from boxwright.training.state import Progress


class SeenImage(NamedTuple):
    """One image of a batch (3, H, W) as training sees it, with the padding of the batch."""

    image: torch.Tensor
    plan: ResizePlan
    """Of an image that is not resized any more."""
    size_hw: tuple[int, int]
    """Without the padding."""
    path: Path
    ground_truth: GroundTruth
    owners: Owners | None
    """None for Fast R-CNN, which has regions instead, and for a model that finds no objects."""
    sampled: SampledRegions | None
    """Regions drawn from stored proposals; None for other detectors."""


class FirstBatch(NamedTuple):
    """The images of the first step of a run, and what their classes are called."""

    images: tuple[SeenImage, ...]
    classes: Classes
    alone: bool = False
    """Whether it is one image that was asked for, not augmented and with its original pixels."""


def first_batch(
    recipe: Recipe,
    data: Path,
    log: Callable[[str], None],
    *,
    classes: str | None = None,
    split: str = "train",
    seed: int = 0,
    proposals: Path | None = None,
) -> FirstBatch:
    """What the first step of a run with this recipe, data and seed learns from; what preflight finds is logged.

    Raises ValueError or FileNotFoundError where `train` would.
    """
    check_known(recipe)
    # nothing is validated
    opened = open_checked(
        data, classes=classes, train_split=split, val_split=split, overfit=None, recipe=recipe,
        log=lambda line: None if "to validate on" in line else log(line),
    )  # fmt: skip
    recipe = opened.settled(recipe)
    stored = open_proposals(None if proposals is None else str(proposals), recipe, opened)
    log_missing_proposals(stored, recipe, opened, log)
    images = DetectionDataset(
        opened.train, recipe.data.resize.rule(), 
        augmentation=augmentation(recipe.data.augment, opened.classes.skeleton),
        masks=recipe.needs_masks, num_keypoints=recipe.num_keypoints, semantic=recipe.needs_semantic,
        rotated=recipe.needs_rotated, cache=False, proposals=stored, value_range=recipe.data.value_range,
    )  # fmt: skip
    progress = Progress.at_start(scaled(recipe, len(images.records), world=1), fixed=True)
    until = recipe.data.augment.mosaic_until
    sampler = StepSampler(
        aspects_of(opened.train), recipe.data.batch_size, seed=seed, start=0, stop=1,
        mosaic=lambda step: progress.mosaics(step, until), repeats=repeats_of(recipe, images),
    )  # fmt: skip
    (batch,) = make_loader(images, sampler, workers=0)
    scale = batch_scale(recipe.data, seed, 0, progress.planned)
    batch = batch if scale == 1.0 else scale_batch(batch, scale)
    paths = [images.records[index].path for index in batch.indices]
    sampled: list[SampledRegions | None] = [None] * len(paths)
    if batch.proposals is not None:
        sampled = [*sampled_regions(recipe, batch.proposals, batch.targets)]
    seen = [
        _seen(recipe, batch, row, path, opened.classes, own)
        for row, (path, own) in enumerate(zip(paths, sampled, strict=True))
    ]
    return FirstBatch(tuple(seen), opened.classes)


def check_known(recipe: Recipe) -> None:
    """Raise ValueError for a detector whose places that own objects are not known: one of a user's."""
    if not MODELS[recipe.model.name].detects:
        return
    if held_detector(recipe.model) is None and not isinstance(recipe.model, FastRCNNConfig):
        raise ValueError(f"explain does not know the parts of this detector, {recipe.model.name}")


def _seen(
    recipe: Recipe, batch: Batch, row: int, path: Path, classes: Classes, sampled: SampledRegions | None
) -> SeenImage:
    pixels = batch.images.pixels[row]
    pixels = pixels if pixels.dtype == torch.uint8 else (pixels * 255).round().to(torch.uint8)
    whole = (int(pixels.shape[1]), int(pixels.shape[2]))
    height, width = batch.images.sizes_hw[row].tolist()
    plan, ground_truth = ResizePlan(whole, whole, (1.0, 1.0), (0.0, 0.0)), batch.targets.image(row)
    owners = owners_of(recipe.model, pixels, plan, classes, ground_truth, (height, width))
    return SeenImage(pixels, plan, (height, width), path, ground_truth, owners, sampled)


def sampled_regions(recipe: Recipe, proposals: Proposals, targets: Targets) -> list[SampledRegions]:
    """Regions drawn from the proposals of each image as Fast R-CNN draws them: no weight plays a part in it."""
    config = cast(FastRCNNConfig, recipe.model)
    trunk = config.fpn.build(config.backbone, pooled_level=False)
    stage = config.backbone.build_stage_head() if config.box.stage_head else None
    branch = box_branch(config.box, 1, trunk, stage)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        drawn = branch.sample(proposals, targets)
    return [SampledRegions(*(part[row][real] for part in drawn)) for row, real in enumerate(drawn.real)]
