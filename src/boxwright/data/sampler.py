"""Which images make up step n, and the seed of each image's augmentation: a pure function of (seed, step).

There is no state between steps, so a resumed run sees exactly the samples of an uninterrupted one, with any number of
workers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
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

    With `repeats` (`class_balance.repeat_factors`) an epoch holds each record as often as its factor says: 1.3 is once
    or, in three epochs of ten, drawn anew for each, twice.
    """

    def __init__(
        self, aspects: Sequence[float], batch: int, *, seed: int, start: int, stop: int,
        mosaic: Callable[[int], bool] | None = None, rank: int = 0, world: int = 1,
        repeats: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        self.aspects = torch.tensor(aspects)
        self.repeats = None if repeats is None else torch.tensor(repeats, dtype=torch.float64)
        self.batch, self.seed, self.start, self.stop = batch, seed, start, stop
        self.mosaic, self.rank, self.world = mosaic, rank, world
        self._epoch: tuple[int, list[int]] = (-1, [])
        self._ends = [0]  # draws before each epoch; longer as far as it was needed

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
        epoch, place = self._place(draw)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._order(epoch))
        return self._epoch[1][place]

    def _place(self, draw: int) -> tuple[int, int]:
        """The epoch of a draw, and its place there."""
        if self.repeats is None:
            return divmod(draw, len(self.aspects))
        while self._ends[-1] <= draw:  # epochs differ in length: a resumed run counts them again from the first
            self._ends.append(self._ends[-1] + len(self._drawn(self._generator(len(self._ends) - 1))))
        epoch = bisect_right(self._ends, draw) - 1
        return epoch, draw - self._ends[epoch]

    def _generator(self, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(draw_seed(self.seed, -1 - epoch))

    def _drawn(self, generator: torch.Generator) -> Tensor:
        """The records of an epoch, each as often as it is drawn, in order."""
        records = torch.arange(len(self.aspects))
        if self.repeats is None:
            return records
        chance = torch.rand(len(records), generator=generator, dtype=torch.float64)
        return records.repeat_interleave((self.repeats + chance).floor().long())

    def _order(self, epoch: int) -> list[int]:
        generator = self._generator(epoch)
        drawn = self._drawn(generator)
        order = drawn[torch.randperm(len(drawn), generator=generator)]
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
