"""A split as a dataset: resized images with their ground truth, augmented if asked for, cached if they fit."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from boxwright.data.ground_truth import ground_truth_of
from boxwright.data.image_io.decode import image_size, read_image
from boxwright.data.image_io.value_range import ValueRange
from boxwright.data.inputs import PreparedImage, TiledImage, prepare, prepare_tiles
from boxwright.data.mosaic import Mosaic
from boxwright.data.proposals import StoredProposals
from boxwright.data.records import Record, Split
from boxwright.data.semantic_maps import semantic_map_of
from boxwright.data.tiles import cut_ground_truth
from boxwright.data.transforms import Compose, Sample, resize_ground_truth, resize_proposals, resize_sample
from boxwright.ops.image import ResizeRule, fit_image, resize_plan
from boxwright.ops.tiling import Tiling
from boxwright.structures import GroundTruth

CACHE_LIMIT = 4 << 30
"""Maximum number of bytes of decoded images in the cache; a quarter of the machine's free memory is another limit."""


class SampleKey(NamedTuple):
    """One training sample: the index of its record, the seed of its augmentation, and whether mosaics are still on."""

    record: int
    seed: int
    mosaic: bool = False


@dataclass(frozen=True)
class Augmentation:
    """What is applied to a training image after resizing: sometimes a mosaic, then the other steps."""

    steps: Compose
    mosaic: Mosaic | None = None


class DetectionDataset(Dataset[tuple[Sample, tuple[int, int], int]]):
    """Resized images of a split with their ground truth; augmented if `augmentation` is given and a key has a seed."""

    def __init__(
        self,
        split: Split,
        rule: ResizeRule,
        *,
        augmentation: Augmentation | None = None,
        masks: bool = False,
        num_keypoints: int = 0,
        semantic: bool = False,
        rotated: bool = False,
        cache: bool | None = None,
        proposals: StoredProposals | None = None,
        value_range: ValueRange = "auto",
        tiling: Tiling | None = None,
        min_visible: float = 0.0,
    ) -> None:
        """Args:

        split: the images.
        rule: how they are resized.
        augmentation: for keys with a seed.
        masks: whether ground truth has masks.
        num_keypoints: how many keypoints each of its objects has; 0 for none.
        semantic: whether it has the label of every pixel.
        rotated: whether it has rotated boxes; that of an object without an angle is upright.
        cache: whether decoded, resized images are kept in memory; if not given, where they fit.
        proposals: those of the images.
        value_range: of pixels of more than 8 bits.
        tiling: cut the images that `prepared` gives into tiles, each resized by the rule. They are not kept in memory.
        min_visible: share of its box that a tile must show of an object; else the object is to be ignored there.
        """
        self.tiling, self.min_visible = tiling, min_visible
        self.value_range = value_range
        self.records, self.classes = split.records, split.classes
        self.frequencies = split.frequencies
        self.rule = rule
        self.augmentation = augmentation
        self.masks = masks
        self.num_keypoints, self.semantic, self.rotated = num_keypoints, semantic, rotated
        self.proposals = proposals
        self._kept: list[tuple[Tensor, tuple[int, int]]] | None = None
        self._joined: Tensor | None = None
        self._ground_truths: list[GroundTruth] | None = None
        self._original_ground_truths: dict[int, GroundTruth] = {}
        if cache is not False and tiling is None:
            self._fill_cache(forced=cache is True)

    def __getstate__(self) -> dict[str, Any]:
        """For spawned loader processes: all images as one tensor, since each shared tensor holds an open file."""
        if self._kept and self._joined is None:
            shapes = [(image.shape, hw) for image, hw in self._kept]
            self._joined = torch.cat([image.flatten() for image, _ in self._kept])
            self._kept = _images_in(self._joined, shapes)
        kept = None if self._kept is None else [(image.shape, hw) for image, hw in self._kept]
        return {**self.__dict__, "_kept": kept, "_ground_truths": pickle.dumps(self._ground_truths)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _ground_truths=pickle.loads(state["_ground_truths"]))
        if self._joined is not None:
            self._kept = _images_in(self._joined, state["_kept"])

    @property
    def cached_bytes(self) -> int:
        """Bytes of cached images; 0 without a cache."""
        return sum(image.numel() for image, _ in self._kept) if self._kept is not None else 0

    def _fill_cache(self, forced: bool) -> None:
        """Decode and resize all images once, if they fit; workers share the memory."""
        if not self.records:
            return
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of this run on the same machine
        limit = CACHE_LIMIT if forced else min(CACHE_LIMIT, _free_memory() // (4 * beside))
        if not forced and self.size_in_memory() > limit:
            return
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            # Forked workers see it without share_memory_, which would hold one open file per image, of 1024 allowed.
            files = [[self.records[index] for index in tiles] for tiles in self.of_each_file()]
            self._kept = [kept for part in pool.map(self._decode_tiles, files) for kept in part]
        if self.masks or self.semantic:  # decoding them takes longer than copying an image
            sizes = [hw for _, hw in self._kept]
            self._ground_truths = [self._resized_ground_truth(*row) for row in zip(self.records, sizes, strict=True)]

    def network_sizes(self) -> list[tuple[int, int]]:
        """Height and width of each image at network size; an image of unknown size counts as the first image."""
        sizes = [record.stated_hw for record in self.records]
        first = sizes[0] or image_size(self.records[0].path)
        return [resize_plan(hw or first, self.rule).size_hw for hw in sizes]

    def size_in_memory(self) -> int:
        """Bytes of all images at network size, with the labels of their pixels if they have them."""
        each = 4 if self.semantic else 3
        return sum(each * height * width for height, width in self.network_sizes())

    def _decode_tiles(self, records: Sequence[Record]) -> list[tuple[Tensor, tuple[int, int]]]:
        """Records of one file, each as a resized image and its size before; the file is decoded once."""
        whole = read_image(records[0].path, value_range=self.value_range)
        images = [_part(whole, record) for record in records]
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        return [(fit_image(image, resize_plan(hw, self.rule)), hw) for image, hw in zip(images, sizes, strict=True)]

    def __len__(self) -> int:
        return len(self.records)

    def base(self, index: int) -> Sample:
        """One resized image, not augmented."""
        return self._with_size(index)[0]

    def pixels(self, index: int) -> Tensor:
        """One resized image (3, h, w), not augmented."""
        return self.pixels_together([index])[0]

    def pixels_together(self, indices: Sequence[int]) -> list[Tensor]:
        """Resized images (3, h, w) of one file, which is decoded once."""
        if self._kept is None:
            return [image for image, _ in self._decode_tiles([self.records[index] for index in indices])]
        return [self._kept[index][0] for index in indices]

    def of_each_file(self) -> list[list[int]]:
        """The indices of each file: one, or those of its tiles, which follow each other."""
        return [list(of) for _, of in groupby(range(len(self)), key=lambda index: self.records[index].path)]

    def _with_size(self, index: int) -> tuple[Sample, tuple[int, int]]:
        record = self.records[index]
        if self._kept is None:
            image = self.original(index)
            hw = (int(image.shape[1]), int(image.shape[2]))
            own = self._ground_truth(record, hw, masks=self.masks, semantic=self.semantic)
            sample = Sample(image, own, self._proposed(record, hw))
            return resize_sample(sample, self.rule), hw
        image, hw = self._kept[index]
        ground_truth = self._ground_truths[index] if self._ground_truths else self._resized_ground_truth(record, hw)
        return Sample(image, ground_truth, self.network_proposals(index, hw)), hw

    def network_proposals(self, index: int, hw: tuple[int, int]) -> Tensor | None:
        """The stored proposals (R, 5) of an image whose file has the size `hw`, in network pixels, if there are any."""
        return resize_proposals(self._proposed(self.records[index], hw), hw, self.rule)

    def _proposed(self, record: Record, hw: tuple[int, int]) -> Tensor | None:
        return None if self.proposals is None else self.proposals.of(record.path, hw)

    def _resized_ground_truth(self, record: Record, hw: tuple[int, int]) -> GroundTruth:
        own = self._ground_truth(record, hw, masks=self.masks, semantic=self.semantic)
        return resize_ground_truth(own, hw, self.rule)

    def _ground_truth(self, record: Record, hw: tuple[int, int], *, masks: bool, semantic: bool) -> GroundTruth:
        """The ground truth of an image whose file has the size `hw`, in its pixels."""
        return ground_truth_of(
            record, hw, masks=masks, num_keypoints=self.num_keypoints, semantic=semantic, rotated=self.rotated
        )

    def original(self, index: int) -> Tensor:
        """The image, or the tile (3, H, W) as it is in its file."""
        record = self.records[index]
        return _part(read_image(record.path, value_range=self.value_range), record)

    def original_hw(self, index: int) -> tuple[int, int]:
        """Height and width of the image, or the tile, in its file."""
        record = self.records[index]
        if record.tile is not None and record.stated_hw is not None:
            return record.stated_hw
        return self._kept[index][1] if self._kept is not None else image_size(record.path)

    def network_ground_truth(
        self, index: int, hw: tuple[int, int], *, masks: bool = False, semantic: bool = False
    ) -> GroundTruth:
        """The ground truth of an image whose file has the size `hw`, in network pixels; masks and map if asked for."""
        if (masks, semantic) == (self.masks, self.semantic) and self._ground_truths:
            return self._ground_truths[index]
        own = self._ground_truth(self.records[index], hw, masks=masks, semantic=semantic)
        return resize_ground_truth(own, hw, self.rule)

    def original_ground_truth(self, index: int, hw: tuple[int, int], *, with_map: bool = True) -> GroundTruth:
        """The ground truth of an image whose file has the size `hw`, in its pixels; decoded once, but for its map.

        The map of an image, which takes as much memory as a third of it, can be left out.
        """
        record = self.records[index]
        if index not in self._original_ground_truths:
            self._original_ground_truths[index] = self._ground_truth(record, hw, masks=self.masks, semantic=False)
        known = self._original_ground_truths[index]
        return replace(known, semantic=semantic_map_of(record, hw)) if self.semantic and with_map else known

    def network_ground_truths(self, index: int, prepared: PreparedImage | TiledImage) -> list[GroundTruth]:
        """The ground truth of an image as it was prepared, in network pixels: its own, or that of each of its tiles."""
        if isinstance(prepared, PreparedImage):
            hw = prepared.original_hw
            return [self.network_ground_truth(index, hw, masks=self.masks, semantic=self.semantic)]
        hw = prepared.original_hw
        whole = self.original_ground_truth(index, hw)
        return [
            resize_ground_truth(cut_ground_truth(whole, window, hw, self.min_visible), tile.original_hw, self.rule)
            for window, tile in zip(prepared.windows, prepared.tiles, strict=True)
        ]

    def prepared(self, index: int) -> PreparedImage | TiledImage:
        """One image as `predict` prepares it: resized, or cut into tiles that are; not augmented."""
        record = self.records[index]
        if self.tiling is not None:
            return prepare_tiles(record.path, self.rule, self.tiling, self.value_range)
        if self._kept is None:
            return prepare(record.path, self.rule, self.proposals, self.value_range)
        image, hw = self._kept[index]
        return PreparedImage(image, hw, resize_plan(hw, self.rule), str(record.path), self.network_proposals(index, hw))

    def __getitem__(self, key: SampleKey | int) -> tuple[Sample, tuple[int, int], int]:
        return self.augmented(key, self._with_size)

    def augmented(
        self, key: SampleKey | int, fetch: Callable[[int], tuple[Sample, tuple[int, int]]]
    ) -> tuple[Sample, tuple[int, int], int]:
        """The sample of a key, the size of its file and its index; `fetch` gives the sample and size of any index."""
        if not isinstance(key, SampleKey) or self.augmentation is None:
            index = key.record if isinstance(key, SampleKey) else key
            return *fetch(index), index
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(
                key.seed
            )  # torch.manual_seed seeds GPUs too, in a third of a millisecond
            sample, hw = fetch(key.record)
            if key.mosaic and self.augmentation.mosaic is not None:
                sample = self.augmentation.mosaic(lambda other: fetch(other)[0], len(self), sample)
            return self.augmentation.steps(sample), hw, key.record


def _part(image: Tensor, record: Record) -> Tensor:
    """The image of a record: all of it (3, H, W), or its tile."""
    if record.tile is None:
        return image
    (x1, y1, x2, y2), hw = record.tile
    if tuple(image.shape[1:]) != tuple(hw):
        raise ValueError(f"{record.path}: has another size than at the start of the run")
    return image[:, y1:y2, x1:x2].contiguous()


def _images_in(
    joined: Tensor, shapes: Sequence[tuple[torch.Size, tuple[int, int]]]
) -> list[tuple[Tensor, tuple[int, int]]]:
    """Images of these shapes, stored one after the other in one tensor, and the sizes in their files; no copy."""
    parts = torch.split(joined, [shape.numel() for shape, _ in shapes])
    return [(part.view(shape), hw) for part, (shape, hw) in zip(parts, shapes, strict=True)]


def _free_memory() -> int:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return CACHE_LIMIT
