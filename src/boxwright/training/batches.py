"""The batches that a run learns from, step after step, from where it stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from accelerate import Accelerator

from boxwright.data.class_balance import repeat_factors
from boxwright.data.dataset import DetectionDataset
from boxwright.data.loader import Batch, make_loader
from boxwright.data.sampler import StepSampler
from boxwright.recipes.schema import Recipe
from boxwright.training.state import Progress, RunSettings

ENDLESS = 1 << 40
"""Steps: more than any run has."""


def training_batches(
    run: RunSettings,
    progress: Progress,
    images: DetectionDataset,
    aspects: Sequence[float],
    workers: int,
    accelerator: Accelerator,
) -> Iterator[list[Batch]]:
    """The batches of each step on the device: one, or as many as are accumulated.

    With a time budget there is no end of them.
    """
    accumulate, until = run.recipe.optim.accumulate, run.recipe.data.augment.mosaic_until
    stop = progress.steps if run.minutes is None else ENDLESS
    sampler = StepSampler(
        aspects, run.recipe.data.batch_size, seed=run.seed, start=progress.step * accumulate, stop=stop * accumulate,
        mosaic=lambda batch: progress.mosaics(batch // accumulate, until),
        rank=accelerator.process_index, world=accelerator.num_processes, repeats=repeats_of(run.recipe, images),
    )  # fmt: skip
    group: list[Batch] = []
    for batch in make_loader(images, sampler, workers=workers, pin=accelerator.device.type == "cuda"):
        group.append(batch.to(accelerator.device))
        if len(group) == accumulate:
            yield group
            group = []


def repeats_of(recipe: Recipe, images: DetectionDataset) -> list[float] | None:
    """How often each training image is drawn in an epoch; None where each is drawn once."""
    threshold = recipe.data.repeat_threshold
    return None if threshold is None else repeat_factors(images.records, threshold)
