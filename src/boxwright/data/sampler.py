"""Which images make up step n, and the seed of each image's augmentation: a pure function of (seed, step).

There is no state between steps, so a resumed run sees exactly the samples of an uninterrupted one, with any number of
workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Sampler

from boxwright.data.dataset import SampleKey
from boxwright.data.records import Split

AHEAD = 64
"""Upper bound on the steps between drawing the keys of a batch and using the batch."""


class StepSampler(Sampler[list[SampleKey]]):
    """The keys of the batch of each step, from `start` to `stop`, for one rank of `world`.

    Each epoch is a permutation of the records; a batch may cross the end of an epoch. Images of similar shape are
    grouped in blocks that are drawn at random, so that padding is small. `mosaic` tells whether the images of a step
    may be mosaics; it is called when the keys are drawn, up to `AHEAD` steps before they are used.
    """

    def __init__(
        self, aspects: Sequence[float], batch: int, *, seed: int, start: int, stop: int,
        mosaic: Callable[[int], bool] | None = None, rank: int = 0, world: int = 1,
    ) -> None:  # fmt: skip
        self.aspects = torch.tensor(aspects)
        self.batch, self.seed, self.start, self.stop = batch, seed, start, stop
        self.mosaic, self.rank, self.world = mosaic, rank, world
        self._epoch: tuple[int, list[int]] = (-1, [])

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for step in range(self.start, self.stop):
            first = (step * self.world + self.rank) * self.batch
            mosaic = self.mosaic is not None and self.mosaic(step)
            yield [
                SampleKey(self._record(n), draw_seed(self.seed, n), mosaic) for n in range(first, first + self.batch)
            ]

    def _record(self, draw: int) -> int:
        epoch, place = divmod(draw, len(self.aspects))
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._order(epoch))
        return self._epoch[1][place]

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(draw_seed(self.seed, -1 - epoch))
        order = torch.randperm(len(self.aspects), generator=generator)
        block = self.batch * self.world
        if self.aspects.amax() < 1.02 * self.aspects.amin() or len(order) <= block:
            return order.tolist()
        windows = []
        for window in torch.split(order, block * 16):
            blocks = torch.split(window[self.aspects[window].argsort(stable=True)], block)
            windows += [blocks[index] for index in torch.randperm(len(blocks), generator=generator).tolist()]
        return torch.cat(windows).tolist()


def draw_seed(seed: int, number: int) -> int:
    """A well-mixed 63-bit seed for draw `number` of a run (splitmix64).

    Not numpy's `SeedSequence`, whose other seeds would change every recorded run.
    """
    value = (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & (2**64 - 1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = ((value ^ (value >> shift)) * factor) & (2**64 - 1)
    return (value ^ (value >> 31)) >> 1


def aspects_of(split: Split) -> list[float]:
    """Width over height of every record, 1 if the annotation file does not give the size."""
    return [r.stated_hw[1] / r.stated_hw[0] if r.stated_hw and all(r.stated_hw) else 1.0 for r in split.records]
