"""The loader: which pictures make up step n, how each is augmented, and how a batch is put together.

All of it is a function of (seed, step): nothing is remembered between steps, so a resumed run sees exactly what an
uninterrupted one would, with any number of workers.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from boxwright.data.mosaic import Mosaic
from boxwright.data.pictures import Prepared, image_size, prepare, read_image
from boxwright.data.proposals import StoredProposals
from boxwright.data.records import Record, Split
from boxwright.data.transforms import Compose, Sample, resize_proposals, resize_sample, resize_truth
from boxwright.data.truth import truth_of
from boxwright.data.value_range import ValueRange
from boxwright.ops.image import ResizeRule, resize_plan
from boxwright.structures import ImageBatch, Proposals, Targets, Truth

AHEAD = 64
"""Steps: loader processes draw the keys of fewer than so many before these are used."""
CACHE_LIMIT = 4 << 30
"""Bytes of decoded pictures that are kept in memory at most, besides a quarter of what the machine has free."""


class Batch(NamedTuple):
    """What one training or evaluation step is fed: pictures, truth, which records they are, and stored proposals."""

    images: ImageBatch
    targets: Targets
    indices: tuple[int, ...]
    proposals: Proposals | None = None


class SampleKey(NamedTuple):
    """One draw: the index of the record, the seed of its augmentation, and whether mosaics are still on."""

    record: int
    seed: int
    mosaic: bool = False


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training picture after resizing: a mosaic now and then, then the other steps."""

    steps: Compose
    mosaic: Mosaic | None = None


class PictureSet(Dataset[tuple[Sample, tuple[int, int], int]]):
    """Resized pictures of a split with their truth; augmented where a key brings a seed and a pipeline is given."""

    def __init__(
        self,
        split: Split,
        rule: ResizeRule,
        *,
        augmentation: Augmentation | None = None,
        masks: bool = False,
        cache: bool | None = None,
        proposals: StoredProposals | None = None,
        value_range: ValueRange = "auto",
    ) -> None:
        self.value_range = value_range
        self.records = split.records
        self.rule = rule
        self.augmentation = augmentation
        self.masks = masks
        self.proposals = proposals
        self._kept: list[tuple[Tensor, tuple[int, int]]] | None = None
        self._joined: Tensor | None = None
        self._truths: list[Truth] | None = None
        self._original_truths: dict[int, Truth] = {}
        if cache is not False:
            self._fill_cache(forced=cache is True)

    def __getstate__(self) -> dict[str, Any]:
        """For loader processes that are started anew: all pictures as one tensor, since each holds an open file."""
        if self._kept and self._joined is None:
            shapes = [(image.shape, hw) for image, hw in self._kept]
            self._joined = torch.cat([image.flatten() for image, _ in self._kept])
            self._kept = _pictures_in(self._joined, shapes)
        kept = None if self._kept is None else [(image.shape, hw) for image, hw in self._kept]
        return {**self.__dict__, "_kept": kept, "_truths": pickle.dumps(self._truths)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _truths=pickle.loads(state["_truths"]))
        if self._joined is not None:
            self._kept = _pictures_in(self._joined, state["_kept"])

    @property
    def cached_bytes(self) -> int:
        """Bytes of pictures in memory; 0 without a cache."""
        return sum(image.numel() for image, _ in self._kept) if self._kept is not None else 0

    def _fill_cache(self, forced: bool) -> None:
        """Decode and resize everything once, if it fits; workers share the memory."""
        if not self.records:
            return
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of this run that look at the same memory now
        limit = CACHE_LIMIT if forced else min(CACHE_LIMIT, _free_memory() // (4 * beside))
        if not forced and self._size_in_memory() > limit:
            return
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            # Forked workers see it as it is; share_memory_ would hold one open file a picture, of 1024 allowed.
            self._kept = list(pool.map(self._decode, self.records))
        if self.masks:  # decoding them takes longer than copying a picture
            sizes = [hw for _, hw in self._kept]
            self._truths = [self._resized_truth(*row) for row in zip(self.records, sizes, strict=True)]

    def _size_in_memory(self) -> int:
        """Bytes of all pictures at network size; one whose size is not known counts as the first picture."""
        sizes = [record.stated_hw for record in self.records]
        first = sizes[0] or image_size(self.records[0].path)
        plans = [resize_plan(hw or first, self.rule).size_hw for hw in sizes]
        return sum(3 * height * width for height, width in plans)

    def _decode(self, record: Record) -> tuple[Tensor, tuple[int, int]]:
        image = read_image(record.path, value_range=self.value_range)
        hw = (int(image.shape[1]), int(image.shape[2]))
        return resize_sample(Sample(image, Truth.empty()), self.rule).image, hw

    def __len__(self) -> int:
        return len(self.records)

    def base(self, index: int) -> Sample:
        """One resized picture, not augmented."""
        return self._with_size(index)[0]

    def _with_size(self, index: int) -> tuple[Sample, tuple[int, int]]:
        record = self.records[index]
        if self._kept is None:
            image = read_image(record.path, value_range=self.value_range)
            hw = (int(image.shape[1]), int(image.shape[2]))
            sample = Sample(image, truth_of(record, hw, masks=self.masks), self._proposed(record, hw))
            return resize_sample(sample, self.rule), hw
        image, hw = self._kept[index]
        truth = self._truths[index] if self._truths else self._resized_truth(record, hw)
        return Sample(image, truth, resize_proposals(self._proposed(record, hw), hw, self.rule)), hw

    def _proposed(self, record: Record, hw: tuple[int, int]) -> Tensor | None:
        return None if self.proposals is None else self.proposals.of(record.path, hw)

    def _resized_truth(self, record: Record, hw: tuple[int, int]) -> Truth:
        return resize_truth(truth_of(record, hw, masks=self.masks), hw, self.rule)

    def original(self, index: int) -> Tensor:
        """The picture (3, H, W) as it is in its file."""
        return read_image(self.records[index].path, value_range=self.value_range)

    def original_hw(self, index: int) -> tuple[int, int]:
        """Height and width of the picture in its file."""
        return self._kept[index][1] if self._kept is not None else image_size(self.records[index].path)

    def network_truth(self, index: int, hw: tuple[int, int], *, masks: bool = False) -> Truth:
        """The truth of a picture whose file has the size `hw`, in network pixels; with its masks where asked for."""
        if masks and self._truths:
            return self._truths[index]
        return resize_truth(truth_of(self.records[index], hw, masks=masks), hw, self.rule)

    def original_truth(self, index: int, hw: tuple[int, int]) -> Truth:
        """The truth of a picture whose file has the size `hw`, in its pixels; decoded once."""
        if index not in self._original_truths:
            self._original_truths[index] = truth_of(self.records[index], hw, masks=self.masks)
        return self._original_truths[index]

    def prepared(self, index: int) -> Prepared:
        """One picture as `predict` prepares it: resized, not augmented."""
        record = self.records[index]
        if self._kept is None:
            return prepare(record.path, self.rule, self.proposals, self.value_range)
        image, hw = self._kept[index]
        proposals = resize_proposals(self._proposed(record, hw), hw, self.rule)
        return Prepared(image, hw, resize_plan(hw, self.rule), str(record.path), proposals)

    def __getitem__(self, key: SampleKey | int) -> tuple[Sample, tuple[int, int], int]:
        if not isinstance(key, SampleKey) or self.augmentation is None:
            index = key.record if isinstance(key, SampleKey) else key
            return *self._with_size(index), index
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key.seed)
            sample, hw = self._with_size(key.record)
            if key.mosaic and self.augmentation.mosaic is not None:
                sample = self.augmentation.mosaic(self.base, len(self), sample)
            return self.augmentation.steps(sample), hw, key.record


def _pictures_in(
    joined: Tensor, shapes: Sequence[tuple[torch.Size, tuple[int, int]]]
) -> list[tuple[Tensor, tuple[int, int]]]:
    """Pictures of these shapes, which lie in one tensor one behind the other, and the sizes in their files; no copy."""
    parts = torch.split(joined, [shape.numel() for shape, _ in shapes])
    return [(part.view(shape), hw) for part, (shape, hw) in zip(parts, shapes, strict=True)]


class Collate:
    """Stack samples into a batch, padded at the right and bottom."""

    def __init__(self, rule: ResizeRule) -> None:
        self.rule = rule

    def __call__(self, rows: Sequence[tuple[Sample, tuple[int, int], int]]) -> Batch:
        plans = [resize_plan(hw, self.rule) for _, hw, _ in rows]
        images = ImageBatch.of(
            [sample.image for sample, _, _ in rows],
            [hw for _, hw, _ in rows],
            [plan.scale_xy for plan in plans],
            [plan.offset_xy for plan in plans],
        )
        targets = Targets.of([sample.truth for sample, _, _ in rows])
        given = [sample.proposals for sample, _, _ in rows if sample.proposals is not None]
        proposals = Proposals.of([part[:, :4] for part in given], [part[:, 4] for part in given]) if given else None
        return Batch(images, targets, tuple(index for *_, index in rows), proposals)


class StepSampler(Sampler[list[SampleKey]]):
    """The keys of the batch of each step, from `start` to `stop`, for one rank of `world`.

    Each epoch is a permutation of the records; batches run on over the end of an epoch. Pictures of like shape stand
    together, in blocks that are drawn at random, so that padding is small. `mosaic` says of a step whether its pictures
    may be mosaics; it is asked when the keys are drawn, up to `AHEAD` steps before they are used.
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
    """A well-mixed 63-bit seed for draw `number` of a run (splitmix64)."""
    value = (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & (2**64 - 1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = ((value ^ (value >> shift)) * factor) & (2**64 - 1)
    return (value ^ (value >> 31)) >> 1


def make_loader(
    pictures: PictureSet,
    batches: Sampler[list[SampleKey]] | Sequence[Sequence[int]],
    *,
    workers: int,
    pin: bool = False,
) -> Iterable[Batch]:
    """A loader of the given batches; workers run one torch thread each and hold no state."""
    loader: DataLoader[Any] = DataLoader(
        pictures,
        batch_sampler=batches,  # type: ignore[arg-type]
        collate_fn=Collate(pictures.rule),
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=max(1, min(4, (AHEAD - 1) // workers)) if workers else None,
        worker_init_fn=_leave_signals_to_the_run,
    )
    return loader


def _leave_signals_to_the_run(_: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach every process; a worker that died of it would keep the run from saving."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def aspects_of(split: Split) -> list[float]:
    """Width over height of every record, 1 where the annotation file does not say."""
    return [r.stated_hw[1] / r.stated_hw[0] if r.stated_hw and all(r.stated_hw) else 1.0 for r in split.records]


def _free_memory() -> int:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return CACHE_LIMIT
