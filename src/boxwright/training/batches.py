"""The batches that a run learns from, step after step, from where it stands.

They come from one of two sources: a loader that makes them on the host, or one that only draws them, so that the device
makes them (`data.drawn`). Both draw the same for the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from accelerate import Accelerator

from boxwright.data.class_balance import repeat_factors
from boxwright.data.dataset import DetectionDataset
from boxwright.data.drawn import DrawnCollate, DrawnDataset
from boxwright.data.loader import Batch, load_collated, make_loader
from boxwright.data.sampler import StepSampler
from boxwright.data.stored import StoredImages, store_objects
from boxwright.recipes.schema import Recipe
from boxwright.runtime.cuda_graphs import CudaCapture
from boxwright.training.made_batches import BatchMaker, made_beside
from boxwright.training.state import Progress, RunSettings

ENDLESS = 1 << 40
"""Steps: more than any run has."""


class BatchSource(Protocol):
    """What makes batches on the device of a run."""

    @property
    def images(self) -> DetectionDataset:
        """The images that they are made of."""

    def __call__(self, sampler: StepSampler) -> Iterable[Batch]:
        """The batches whose keys a sampler gives, one after the other."""


@dataclass(frozen=True, slots=True)
class LoadedBatches:
    """Batches that are made on the host, by loader processes if there are `workers`, and copied to a device."""

    images: DetectionDataset
    workers: int
    device: torch.device

    def __call__(self, sampler: StepSampler) -> Iterator[Batch]:
        """The batches whose keys a sampler gives."""
        for batch in make_loader(self.images, sampler, workers=self.workers, pin=self.device.type == "cuda"):
            yield batch.to(self.device)


class DrawnBatches:
    """Batches that are made on a device, of images that are stored there, or of those that each is sent with.

    The ground truth of all images is stored there too, unless it has masks, keypoints, maps or angles, which the host
    moves.
    With `graphs` a GPU makes batches of stored images as CUDA graphs; `log` is told where it cannot.
    """

    def __init__(
        self, images: DetectionDataset, workers: int, device: torch.device, stored: StoredImages | None = None, *,
        graphs: bool = True, log: Callable[[str], None] = lambda text: None,
    ) -> None:  # fmt: skip
        self.images, self.workers, self.device, self.stored, self.log = images, workers, device, stored, log
        self.graphs = graphs and device.type == "cuda" and stored is not None
        on_host = images.masks or images.num_keypoints or images.semantic or images.rotated
        self.objects = None if on_host else store_objects(images)
        self.samples = DrawnDataset(images, self.objects, send_images=stored is None)
        starts = None if stored is None else stored.starts
        self.collate = DrawnCollate(images, starts, few_shapes=self.graphs)

    def __call__(self, sampler: StepSampler) -> Iterator[Batch]:
        """The batches whose keys a sampler gives."""
        pixels = None if self.stored is None else self.stored.pixels
        capture = CudaCapture(self.device) if self.graphs else None
        make = BatchMaker(self.device, pixels, self.objects, capture, self.log)
        drawn = load_collated(self.samples, self.collate, sampler, workers=self.workers, pin=self.device.type == "cuda")
        yield from made_beside(drawn, make, self.device)


def training_batches(
    run: RunSettings, progress: Progress, source: BatchSource, aspects: Sequence[float], accelerator: Accelerator
) -> Iterator[list[Batch]]:
    """The batches of each step on the device: one, or as many as are accumulated.

    With a time budget there is no end of them.
    """
    accumulate, until = run.recipe.optim.accumulate, run.recipe.data.augment.mosaic_until
    stop = progress.steps if run.minutes is None else ENDLESS
    sampler = StepSampler(
        aspects, run.recipe.data.batch_size, seed=run.seed, start=progress.step * accumulate, stop=stop * accumulate,
        mosaic=lambda batch: progress.mosaics(batch // accumulate, until),
        rank=accelerator.process_index, world=accelerator.num_processes, repeats=repeats_of(run.recipe, source.images),
    )  # fmt: skip
    group: list[Batch] = []
    for batch in source(sampler):
        group.append(batch)
        if len(group) == accumulate:
            yield group
            group = []


def repeats_of(recipe: Recipe, images: DetectionDataset) -> list[float] | None:
    """How often each training image is drawn in an epoch; None where each is drawn once."""
    threshold = recipe.data.repeat_threshold
    return None if threshold is None else repeat_factors(images.records, threshold)
