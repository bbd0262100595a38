"""Batches that are drawn on the host and made on the device: what each image shows is sent, not its pixels nor boxes.

A loader draws exactly what `DetectionDataset` draws: the same steps run on views instead of images and on moved objects
instead of ground truth. All is collated as a `DrawnBatch` of a few kilobytes. `DrawnBatch.to` copies it to the device
without waiting and makes pixels and boxes there, from images that are stored there or come with the batch, and from the
ground truth of all images, which is stored there. Ground truth with masks, and proposals, are transformed by the host.

Shape legend: B = images, T = tiles (windows of stored images), N = stored pixels, S = changes of colours of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from boxwright.data.dataset import DetectionDataset, SampleKey
from boxwright.data.loader import Batch
from boxwright.data.moved_objects import DrawnObjects, MovedObjects, Part, StoredObjects, padded_count
from boxwright.data.transforms import Sample
from boxwright.data.view import View, tiles_of
from boxwright.ops.colours import BRIGHTNESS, HUE, change_colours
from boxwright.ops.image import PAD_COLOUR, resize_plan
from boxwright.ops.resample import Tiles, draw_tiles, padded_tiles
from boxwright.structures import ImageBatch, Proposals, Targets


class DrawnSample(NamedTuple):
    """One image as a view with its objects, the size of its file, its record; and the images that it shows.

    `images` (3, h, w) are those of the view's tiles, by index, where the device has not stored them.
    """

    sample: Sample
    original_hw: tuple[int, int]
    record: int
    images: dict[int, Tensor]


class DrawnDataset(Dataset[DrawnSample]):
    """What `images` would give for each key, drawn but not made; with `objects`, boxes are not made either."""

    def __init__(self, images: DetectionDataset, objects: StoredObjects | None, *, send_images: bool) -> None:
        self.images, self.objects, self.send_images = images, objects, send_images
        self._views: dict[int, tuple[Sample, tuple[int, int]]] = {}

    def __getitem__(self, key: SampleKey) -> DrawnSample:
        sample, hw, index = self.images.augmented(key, self._view)
        assert isinstance(sample.image, View)
        sources = {tile.source for tile in sample.image.tiles} if self.send_images else ()
        images = {source: self.images.pixels(source) for source in sources}
        for tile in sample.image.tiles:
            if tile.source in images and tuple(images[tile.source].shape[1:]) != tile.source_hw:
                raise ValueError(
                    f"{self.images.records[tile.source].path}: has another size than at the start of the run"
                )
        return DrawnSample(sample, hw, index, images)

    def _view(self, index: int) -> tuple[Sample, tuple[int, int]]:
        """The view of one whole image with its objects; made once."""
        if index not in self._views:
            hw = self.images.original_hw(index)
            view = View.whole(index, resize_plan(hw, self.images.rule).size_hw)
            if self.objects is None:
                images = self.images
                objects = images.network_ground_truth(index, hw, masks=images.masks, semantic=images.semantic)
                self._views[index] = Sample(view, objects, self.images.network_proposals(index, hw)), hw
            else:
                moved = MovedObjects(self.objects, (Part(index),))
                self._views[index] = Sample(view, moved, self.images.network_proposals(index, hw)), hw
        return self._views[index]


class Colours(NamedTuple):
    """Changes of colours: kinds (B, S) int64 and factors (B, S), and whether one is of hue."""

    kinds: Tensor
    factors: Tensor
    hue: bool


@dataclass(frozen=True, slots=True)
class DrawnBatch:
    """A batch before its pixels are made: tiles, changes of colours, and everything else that a `Batch` has.

    numbers (B, 4) int64: height, width, and those of the file; mapping (B, 4) float32: scale and offset of x and y.
    `images` (N, 3) uint8 are the pixels of the images that come with the batch, if they do. `targets` are made by the
    device too, if they are `DrawnObjects`.
    """

    tiles: Tiles
    colours: Colours | None
    size_hw: tuple[int, int]
    numbers: Tensor
    mapping: Tensor
    targets: Targets | DrawnObjects
    indices: tuple[int, ...]
    proposals: Proposals | None
    images: Tensor | None

    def pin_memory(self) -> DrawnBatch:
        """The same in pinned memory, for an asynchronous copy to a GPU."""
        targets, proposals = self.targets.pin_memory(), self.proposals
        return replace(
            self.changed(Tensor.pin_memory),
            targets=targets,
            proposals=None if proposals is None else proposals.pin_memory(),
        )

    def sent(self, device: torch.device) -> DrawnBatch:
        """The same on a device; nothing waits for it."""
        targets, proposals = self.targets.to(device, non_blocking=True), self.proposals
        return replace(
            self.changed(lambda tensor: tensor.to(device, non_blocking=True)),
            targets=targets,
            proposals=None if proposals is None else proposals.to(device, non_blocking=True),
        )

    def changed(self, change: Callable[[Tensor], Tensor]) -> DrawnBatch:
        """The batch with each tensor changed, but those of its targets and proposals."""
        tiles, colours, images = self.tiles, self.colours, self.images
        return replace(
            self,
            tiles=tiles._replace(whole=change(tiles.whole), placed=change(tiles.placed)),
            colours=colours and colours._replace(kinds=change(colours.kinds), factors=change(colours.factors)),
            numbers=change(self.numbers),
            mapping=change(self.mapping),
            images=None if images is None else change(images),
        )

    def made(self, stored: Tensor | None = None, objects: StoredObjects | None = None) -> Batch:
        """The batch, made where this one lies, of the images `stored` (N, 3) there, or of those that come with it.

        `objects` are those of all images there, of which drawn ones are made. Nothing waits for the device.
        """
        stored = self.images if stored is None else stored
        assert stored is not None
        # filled on the device: a tensor made on the host would make a GPU wait
        colour = torch.stack([torch.full((), float(level), device=stored.device) for level in PAD_COLOUR])
        pixels = draw_tiles(stored, self.tiles, len(self.numbers), self.size_hw, colour)
        inside = _inside(self.numbers, self.size_hw)
        if self.colours is not None:
            pixels = change_colours(pixels, self.colours.kinds, self.colours.factors, inside, hue=self.colours.hue)
        made = (pixels * inside).to(torch.uint8).contiguous()
        numbers, mapping = self.numbers, self.mapping
        images = ImageBatch(made, numbers[:, :2], numbers[:, 2:], mapping[:, :2], mapping[:, 2:])
        targets = self.targets
        if isinstance(targets, DrawnObjects):
            assert objects is not None
            targets = targets.targets(objects)
        return Batch(images, targets, self.indices, self.proposals)

    def to(self, device: torch.device, stored: Tensor | None = None, objects: StoredObjects | None = None) -> Batch:
        """The batch, sent to a device and made there; see `made`."""
        return self.sent(device).made(stored, objects)


def _inside(sizes_hw: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Which pixels (B, 1, H, W) of a batch belong to its images, whose heights and widths are the first columns."""
    rows = torch.arange(size_hw[0], device=sizes_hw.device) < sizes_hw[:, :1]
    columns = torch.arange(size_hw[1], device=sizes_hw.device) < sizes_hw[:, 1:2]
    return rows[:, None, :, None] & columns[:, None, None, :]


class DrawnCollate:
    """Collate drawn samples of `images`; `starts` are the first pixels of each, where a device has stored them.

    With `few_shapes` there are more tiles and larger windows than needed, so that the shapes of a batch repeat.
    """

    def __init__(
        self, images: DetectionDataset, starts: Sequence[int] | None = None, *, few_shapes: bool = False
    ) -> None:
        self.rule, self.starts, self.few_shapes = images.rule, starts, few_shapes

    def __call__(self, rows: Sequence[DrawnSample]) -> DrawnBatch:
        views = [row.sample.image for row in rows if isinstance(row.sample.image, View)]
        sent = {source: image for row in rows for source, image in row.images.items()}
        ends = accumulate(image[0].numel() for image in sent.values())
        starts = self.starts or dict(zip(sent, (0, *ends), strict=False))
        plans = [resize_plan(row.original_hw, self.rule) for row in rows]
        given = [row.sample.proposals for row in rows if row.sample.proposals is not None]
        return DrawnBatch(
            tiles=padded_tiles(tiles_of(views, starts), len(rows)) if self.few_shapes else tiles_of(views, starts),
            colours=colours_of(views),
            size_hw=(max(view.size_hw[0] for view in views), max(view.size_hw[1] for view in views)),
            numbers=torch.tensor([(*view.size_hw, *row.original_hw) for view, row in zip(views, rows, strict=True)]),
            mapping=torch.tensor([(*plan.scale_xy, *plan.offset_xy) for plan in plans]),
            targets=targets_of([row.sample for row in rows]),
            indices=tuple(row.record for row in rows),
            proposals=Proposals.of([part[:, :4] for part in given], [part[:, 4] for part in given]) if given else None,
            images=torch.cat([as_pixels(image) for image in sent.values()]) if sent else None,
        )


def targets_of(samples: Sequence[Sample]) -> Targets | DrawnObjects:
    """The objects of a batch, made or not, padded to one of few counts."""
    moved = [sample.ground_truth for sample in samples if isinstance(sample.ground_truth, MovedObjects)]
    if moved:
        return DrawnObjects.of(moved)
    ground_truths = [sample.objects for sample in samples]
    return Targets.of(ground_truths, at_least=padded_count(max(map(len, ground_truths))))


def as_pixels(image: Tensor) -> Tensor:
    """An image (3, h, w) uint8 as pixels (h * w, 3), row after row, as a device stores it."""
    if image.dtype != torch.uint8:
        raise ValueError(f"images made on the device: expected uint8, got {image.dtype}")
    return image.flatten(1).T.contiguous()


def colours_of(views: Sequence[View]) -> Colours | None:
    """The changes of colours of all views, padded with changes to the same; None where there are none."""
    count = max(len(view.colours) for view in views)
    if not count:
        return None
    rows = [[*view.colours, *[(BRIGHTNESS, 1.0)] * (count - len(view.colours))] for view in views]
    kinds = torch.tensor([[kind for kind, _ in row] for row in rows])
    return Colours(kinds, torch.tensor([[factor for _, factor in row] for row in rows]), bool((kinds == HUE).any()))
