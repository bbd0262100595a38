"""The loader: how samples become a batch, in loader processes or in this one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from boxwright.data.dataset import DetectionDataset, SampleKey
from boxwright.data.sampler import AHEAD
from boxwright.data.transforms import Sample
from boxwright.ops.image import ResizeRule, resize_plan
from boxwright.structures import ImageBatch, Proposals, Targets

GRACE = 1.0
"""Seconds after a SIGTERM in which further ones are the same wish to stop."""
PATIENCE = 60.0
"""Seconds after a SIGTERM in which a run may still need its workers."""

_T = TypeVar("_T")
_R = TypeVar("_R")


class Batch(NamedTuple):
    """The input of one training or evaluation step: images, ground truth, indices of the records, stored proposals."""

    images: ImageBatch
    targets: Targets
    indices: tuple[int, ...]
    proposals: Proposals | None = None

    def to(self, device: torch.device) -> Batch:
        """The same on a device; a GPU gets it while it works on."""
        images, targets, proposals = self.images, self.targets, self.proposals
        return Batch(
            images.to(device, non_blocking=True),
            targets.to(device, non_blocking=True),
            self.indices,
            None if proposals is None else proposals.to(device, non_blocking=True),
        )


class Collate:
    """Stack samples into a batch, padded at the right and bottom."""

    def __init__(self, rule: ResizeRule) -> None:
        self.rule = rule

    def __call__(self, rows: Sequence[tuple[Sample, tuple[int, int], int]]) -> Batch:
        plans = [resize_plan(hw, self.rule) for _, hw, _ in rows]
        images = ImageBatch.of(
            [sample.pixels for sample, _, _ in rows],
            [hw for _, hw, _ in rows],
            [plan.scale_xy for plan in plans],
            [plan.offset_xy for plan in plans],
        )
        targets = Targets.of([sample.objects for sample, _, _ in rows])
        given = [sample.proposals for sample, _, _ in rows if sample.proposals is not None]
        proposals = Proposals.of([part[:, :4] for part in given], [part[:, 4] for part in given]) if given else None
        return Batch(images, targets, tuple(index for *_, index in rows), proposals)


def make_loader(
    images: DetectionDataset,
    batches: Sampler[list[SampleKey]] | Sequence[Sequence[int]],
    *,
    workers: int,
    pin: bool = False,
) -> Iterable[Batch]:
    """A loader of the given batches; workers run one torch thread each and hold no state."""
    return load_collated(images, Collate(images.rule), batches, workers=workers, pin=pin)


def load_collated(
    samples: Dataset[_T],
    collate: Callable[[Sequence[_T]], _R],
    batches: Sampler[list[SampleKey]] | Sequence[Sequence[int]],
    *,
    workers: int,
    pin: bool = False,
) -> Iterable[_R]:
    """The samples of the given batches, collated, in loader processes if there are any."""
    loader: DataLoader[Any] = DataLoader(
        samples,
        batch_sampler=batches,  # type: ignore[arg-type]
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=max(1, min(4, (AHEAD - 2) // workers)) if workers else None,
        worker_init_fn=_leave_signals_to_the_run,
    )
    return loader


def _leave_signals_to_the_run(_: int) -> None:
    """Ignore Ctrl-C and SIGTERM, which reach every process: without its workers a run could not save.

    But not for ever: torch and Python end workers by SIGTERM too, and Python waits for them at exit. So another SIGTERM
    after `GRACE` ends the worker, and a single one does after `PATIENCE`, when the run has long taken its last batch.
    """
    first: float | None = None

    def end(number: int, frame: object) -> None:
        os._exit(0)

    def end_later(number: int, frame: object) -> None:
        nonlocal first
        if first is None:
            first = time.monotonic()
            if hasattr(signal, "setitimer"):  # Windows has none, and no groups that are signalled
                signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        elif time.monotonic() - first > GRACE:
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, end)
    signal.signal(signal.SIGTERM, end_later)
