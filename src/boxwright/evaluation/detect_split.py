"""Running a detector over a labelled split: its detections with the ground truth, and the losses if requested.

All evaluation uses this function: validation while training, the metrics at the end of a run, `evaluate`, the gate of
`export`, and `benchmark`. So the same checkpoint gives the same digits everywhere.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

from boxwright.data.dataset import DetectionDataset
from boxwright.data.ground_truth import clip_box
from boxwright.data.image_io.decode import Unreadable
from boxwright.data.image_io.memory_need import MEMORY, Need, need_of_image
from boxwright.data.inputs import WINDOW, Ahead, PreparedImage, TiledImage
from boxwright.evaluation.coco_ap import image_order
from boxwright.evaluation.federated import Federation
from boxwright.evaluation.loss_sums import LossSums
from boxwright.evaluation.pixel_counts import PixelCounts, PixelFigures, pixel_counts
from boxwright.structures import Classes, Detections, DetectSettings, GroundTruth

MOST_DETECTIONS = 100
"""Of an image in COCO's AP."""
KEPT_PIXELS = 40_000_000
"""Of the first images of a split, whose maps are kept to be drawn: 200 MB."""
HIGHEST_SCORE = 0.05
"""Highest score threshold for evaluation: a higher one would cut off the tail of the precision-recall curves."""


class SplitDetector(Protocol):
    """The detector that is run over a split, such as `inference.predictor.Detector`."""

    @property
    def evaluation_batch(self) -> int:
        """Images per forward pass."""

    def detect_prepared(
        self,
        held: Sequence[PreparedImage | TiledImage],
        settings: DetectSettings,
        batch: int,
        losses: LossSums | None = None,
        most: int | None = None,
    ) -> list[Detections]:
        """Detections of resized or cut images, in their order, of cut ones `most` at most.

        `losses` accumulates the losses against its ground truth, of the tiles where images are cut.
        """


@dataclass(frozen=True, slots=True)
class SplitDetections:
    """The result of one process: by index of the record, detections in original pixels or the error of the image.

    `losses` are sums over `count` images, as are `floors`, which some losses cannot fall below.
    """

    images: dict[int, Detections | Unreadable] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    count: int = 0
    notes: dict[int, str] = field(default_factory=dict)
    """Notes on defects of images that could be read."""
    floors: dict[str, float] = field(default_factory=dict)
    pixels: PixelCounts | None = None
    """What the maps of all images come to, where data and model have them."""

    @classmethod
    def joined(cls, parts: Sequence[SplitDetections]) -> SplitDetections:
        """The results of several processes as one."""
        images = {index: one for part in parts for index, one in part.images.items()}
        notes = {index: note for part in parts for index, note in part.notes.items()}
        losses, floors = _added([part.losses for part in parts]), _added([part.floors for part in parts])
        pixels = [part.pixels for part in parts if part.pixels is not None]
        total = reduce(operator.add, pixels) if pixels else None
        return cls(images, losses, sum(part.count for part in parts), notes, floors, total)


def _added(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Sums of the numbers of one name."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


@dataclass(frozen=True, slots=True)
class EvaluationInputs:
    """Detections and ground truth of the same images in the same order, in original pixels: the inputs of the metrics.

    `areas` are those given in the annotation file, per object of the ground truth; `unreadable` is the number of images
    that could not be read and are left out; `losses` are means over the images, if they were requested, as are the
    `floors` that some of them cannot fall below.
    """

    detections: list[Detections]
    ground_truths: list[GroundTruth]
    classes: Classes
    image_ids: list[int | str]
    paths: list[Path]
    areas: list[list[float | None]]
    federation: Federation | None = None
    """What is known of the classes of each image, where not all were looked for (LVIS)."""
    voids: list[Any] | None = None
    """Run-length codes of the pixels of each image that count for nothing, in the metric of Cityscapes."""
    unreadable: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    """What decoding and detecting took, wall time; 0 where it was not measured."""
    pixels: PixelFigures | None = None
    """Figures of the labels of pixels and of segments, where data and model have them."""
    objects: bool = True
    """Whether the model finds objects at all."""
    tiled: bool = False
    """Whether images were cut into tiles, so that one may have more detections than a network gives."""

    @property
    def most_detections(self) -> int | None:
        """How many detections of an image count in AP unless told otherwise: all of cut images.

        That is 200, 500, 1000 and so on, so that figures have few names. None: as many as the metric says.
        """
        longest = max((len(one) for one in self.detections if self.tiled), default=0)
        limit, steps = MOST_DETECTIONS, cycle((2.0, 2.5, 2.0))
        while limit < longest:
            limit = int(limit * next(steps))
        return limit if limit > (MOST_DETECTIONS if self.federation is None else self.federation.limit) else None


def evaluation_settings(
    settings: DetectSettings,
    score_threshold: float | None = None,
    max_detections: int | None = None,
    nms_iou: float | None = None,
) -> DetectSettings:
    """A recipe's settings for evaluation: its score threshold, at most `HIGHEST_SCORE`, unless others are given."""
    score = min(HIGHEST_SCORE, settings.score_threshold) if score_threshold is None else score_threshold
    most = settings.max_detections if max_detections is None else max_detections
    iou = settings.nms_iou if nms_iou is None else nms_iou
    return replace(settings, score_threshold=score, max_detections=most, nms_iou=iou)


def detect_split(
    detector: SplitDetector,
    images: DetectionDataset,
    settings: DetectSettings,
    *,
    batch: int | None = None,
    limit: int | None = None,
    losses: bool = False,
    share: tuple[int, int] = (0, 1),
    most: int | None = None,
    on_maps: Callable[[int, Detections], object] | None = None,
) -> Iterator[SplitDetections]:
    """Run a detector over the images of a split, window by window (`WINDOW` images are sorted into batches together).

    Args:
        detector: the detector.
        images: the split, not augmented; each image is prepared as in `predict`.
        settings: thresholds and limits of the detections.
        batch: images per forward pass; the recipe's if not given.
        limit: only the first `limit` images.
        losses: also compute the losses (not for exported files).
        share: (r, n): process r of n takes the windows r, r + n, ... Windows are the same for any number of processes.
        most: detections of an image that is cut into tiles; all if not given.
        on_maps: is given each record's index with its detections, while they have their maps: those of a large split
            do not fit into memory, so only the first images keep theirs (`KEPT_PIXELS`).
    """
    rank, world = share
    count = min(limit or len(images), len(images))
    blocks = [range(start, min(start + WINDOW, count)) for start in range(0, count, WINDOW)][rank::world]
    size = batch or detector.evaluation_batch

    def need_of(index: int) -> Need:  # of the file, so that windows are the same with a cache
        return need_of_image(images.records[index].path, images.rule, keep=False, tiling=images.tiling)

    def attempt(index: int) -> PreparedImage | TiledImage | Unreadable:
        try:
            return images.prepared(index)
        except (ValueError, OSError) as error:
            return error

    def refused(index: int, problem: str) -> Unreadable:
        return ValueError(f"{images.records[index].path}: {problem}")

    room = KEPT_PIXELS
    # only the last block of the split is shorter, so the windows taken from `source` are this process's blocks
    source = (index for block in blocks for index in block)
    for indices, held in Ahead(source, WINDOW, MEMORY, need_of, attempt, refused):
        good = [(index, one) for index, one in zip(indices, held, strict=True) if not isinstance(one, Exception)]
        sums = LossSums([part for i, one in good if losses for part in images.network_ground_truths(i, one)])
        found = detector.detect_prepared([one for _, one in good], settings, size, sums if losses else None, most)
        pixels: PixelCounts | None = None
        for place, (index, _) in enumerate(good if images.semantic else ()):
            one = found[place]
            ground_truth = images.original_ground_truth(index, one.size_hw)
            counts = pixel_counts(one, ground_truth, images.classes)
            if counts is not None:
                pixels = counts if pixels is None else pixels + counts
            if on_maps is not None:
                on_maps(index, one)
            room -= one.size_hw[0] * one.size_hw[1]
            found[place] = one if room >= 0 else replace(one, semantic=None, panoptic=None)
        results_of: dict[int, Detections | Unreadable] = {
            index: one for index, one in zip(indices, held, strict=True) if isinstance(one, Exception)
        }
        results_of.update(zip((index for index, _ in good), found, strict=True))
        notes = {index: one.note for index, one in good if one.note}
        added, floors = ({k: float(v) for k, v in part.items()} for part in (sums.sums, sums.floors))
        yield SplitDetections(results_of, added, sums.count, notes, floors, pixels)


def with_ground_truth(found: SplitDetections, images: DetectionDataset, classes: Classes) -> EvaluationInputs:
    """The detections with the ground truth of their images, in the order of the image ids, without unreadable images.

    So equal scores are ranked as pycocotools ranks them, and the written result files have the same AP there.
    """
    readable = sorted(index for index, one in found.images.items() if isinstance(one, Detections))
    order = sorted(readable, key=lambda index: image_order(images.records[index].image_id))
    detections = [one for index in order if isinstance(one := found.images[index], Detections)]
    records = [images.records[index] for index in order]
    return EvaluationInputs(
        detections=[replace(one, classes=classes) for one in detections],
        ground_truths=[
            images.original_ground_truth(index, one.size_hw, with_map=one.semantic is not None)
            for index, one in zip(order, detections, strict=True)
        ],
        classes=classes,
        image_ids=[record.image_id for record in records],
        paths=[record.path for record in records],
        areas=[
            [item.area for item in record.annotations if clip_box(item.box, one.size_hw) is not None]
            for record, one in zip(records, detections, strict=True)
        ],
        federation=Federation.of([record.federated for record in records], images.frequencies),
        voids=[record.void for record in records] if any(record.void for record in records) else None,
        unreadable=len(found.images) - len(order),
        pixels=None if found.pixels is None else found.pixels.figures(classes),
        tiled=images.tiling is not None,
        losses={name: value / max(1, found.count) for name, value in found.losses.items()},
        floors={name: value / max(1, found.count) for name, value in found.floors.items()},
    )
