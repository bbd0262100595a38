"""A detector over a labelled split: detections beside the ground truth, and the losses where they are asked for.

The one way from a detector to figures: validation while training, the figures at the end of a run, `evaluate`, the gate
of `export` and `benchmark` all come through here, so the same checkpoint has the same digits everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from boxwright.data.dataset import DetectionDataset
from boxwright.data.ground_truth import clip_box
from boxwright.data.image_io.decode import Unreadable
from boxwright.data.image_io.memory_need import MEMORY, Need, need_of_image
from boxwright.data.inputs import WINDOW, PreparedImage, ahead_of_use
from boxwright.evaluation.loss_sums import LossSums
from boxwright.structures import Classes, Detections, DetectSettings, GroundTruth

HIGHEST_SCORE = 0.05
"""A higher score threshold would cut the tail off every precision-recall curve."""


class SplitDetector(Protocol):
    """What runs over a split; `inference.predictor.Detector` is one."""

    @property
    def evaluation_batch(self) -> int:
        """Images a forward pass."""

    def detect_prepared(
        self, held: Sequence[PreparedImage], settings: DetectSettings, batch: int, losses: LossSums | None = None
    ) -> list[Detections]:
        """Detections of resized images, in their order; `losses` gets those against its ground truths."""


@dataclass(frozen=True, slots=True)
class SplitDetections:
    """What one process found: by index of the record, detections in original pixels or what is wrong with the image.

    `losses` are sums over `count` images, as are `floors`, which some losses cannot fall below.
    """

    images: dict[int, Detections | Unreadable] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    count: int = 0
    notes: dict[int, str] = field(default_factory=dict)
    """What is amiss with images that were read all the same."""
    floors: dict[str, float] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Sequence[SplitDetections]) -> SplitDetections:
        """What several processes found together."""
        images = {index: one for part in parts for index, one in part.images.items()}
        notes = {index: note for part in parts for index, note in part.notes.items()}
        losses, floors = _added([part.losses for part in parts]), _added([part.floors for part in parts])
        return cls(images, losses, sum(part.count for part in parts), notes, floors)


def _added(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Sums of the numbers of one name."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


@dataclass(frozen=True, slots=True)
class EvaluationInputs:
    """Detections and ground truth of the same images in the same order, in original pixels.

    `areas` are those that the annotation file states, per object of the ground truth; `unreadable` is how many images
    could not be read and are left out; `losses` are means over the images, where they were asked for, as are the
    `floors` that some of them cannot fall below.
    """

    detections: list[Detections]
    ground_truths: list[GroundTruth]
    classes: Classes
    image_ids: list[int | str]
    paths: list[Path]
    areas: list[list[float | None]]
    unreadable: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)


def evaluation_settings(
    settings: DetectSettings, score_threshold: float | None = None, max_detections: int | None = None
) -> DetectSettings:
    """A recipe's settings for evaluation: its score threshold, `HIGHEST_SCORE` at most, but for what is given."""
    score = min(HIGHEST_SCORE, settings.score_threshold) if score_threshold is None else score_threshold
    most = settings.max_detections if max_detections is None else max_detections
    return replace(settings, score_threshold=score, max_detections=most)


def detect_split(
    detector: SplitDetector,
    images: DetectionDataset,
    settings: DetectSettings,
    *,
    batch: int | None = None,
    limit: int | None = None,
    losses: bool = False,
    share: tuple[int, int] = (0, 1),
) -> Iterator[SplitDetections]:
    """Run a detector over the images of a split, window by window (`WINDOW` images are sorted into batches together).

    Args:
        detector: what runs.
        images: the split, not augmented; each image is prepared as `predict` prepares it.
        settings: of detection.
        batch: images a forward pass; the recipe's if not given.
        limit: the first so many images only.
        losses: also compute the losses (not for exported files).
        share: process r of n takes the windows r, r + n, ... Windows are the same for any number of processes.
    """
    rank, world = share
    count = min(limit or len(images), len(images))
    blocks = [range(start, min(start + WINDOW, count)) for start in range(0, count, WINDOW)][rank::world]
    size = batch or detector.evaluation_batch

    def need_of(index: int) -> Need:  # of the file, so that windows are the same with a cache
        return need_of_image(images.records[index].path, images.rule, keep=False)

    def attempt(index: int) -> PreparedImage | Unreadable:
        try:
            return images.prepared(index)
        except (ValueError, OSError) as error:
            return error

    # a block is cut short only at the end of the split: what this process takes from `source` are its blocks again
    source = (index for block in blocks for index in block)
    for part, results in ahead_of_use(source, WINDOW, MEMORY, need_of, attempt):
        held = results
        if part.problem is not None:
            held = [ValueError(f"{images.records[part.images[0]].path}: {part.problem}")]
        good = [(index, one) for index, one in zip(part.images, held, strict=True) if isinstance(one, PreparedImage)]
        ground_truths = [
            images.network_ground_truth(i, one.original_hw, masks=images.masks) for i, one in good if losses
        ]
        sums = LossSums(ground_truths)
        found = detector.detect_prepared([one for _, one in good], settings, size, sums if losses else None)
        results_of: dict[int, Detections | Unreadable] = {
            index: one for index, one in zip(part.images, held, strict=True) if not isinstance(one, PreparedImage)
        }
        results_of.update(zip((index for index, _ in good), found, strict=True))
        notes = {index: one.note for index, one in good if one.note}
        added, floors = ({k: float(v) for k, v in part.items()} for part in (sums.sums, sums.floors))
        yield SplitDetections(results_of, added, sums.count, notes, floors)


def with_ground_truth(found: SplitDetections, images: DetectionDataset, classes: Classes) -> EvaluationInputs:
    """Detections with the ground truth of their images, in the order of the split; unreadable images are left out."""
    order = sorted(index for index, one in found.images.items() if isinstance(one, Detections))
    detections = [one for index in order if isinstance(one := found.images[index], Detections)]
    records = [images.records[index] for index in order]
    return EvaluationInputs(
        detections=[replace(one, classes=classes) for one in detections],
        ground_truths=[
            images.original_ground_truth(index, one.size_hw) for index, one in zip(order, detections, strict=True)
        ],
        classes=classes,
        image_ids=[record.image_id for record in records],
        paths=[record.path for record in records],
        areas=[
            [item.area for item in record.annotations if clip_box(item.box, one.size_hw) is not None]
            for record, one in zip(records, detections, strict=True)
        ],
        unreadable=len(found.images) - len(order),
        losses={name: value / max(1, found.count) for name, value in found.losses.items()},
        floors={name: value / max(1, found.count) for name, value in found.floors.items()},
    )
