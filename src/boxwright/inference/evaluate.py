"""A trained detector on a labelled split: its detections beside the ground truth, and the figures of both."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from boxwright.data.checks.preflight import preflight
from boxwright.data.class_selection import relabelled
from boxwright.data.dataset import DetectionDataset
from boxwright.data.formats.folder import find_split, open_folder
from boxwright.data.proposals import read_proposals
from boxwright.evaluation.detect_split import (
    EvaluationInputs,
    SplitDetections,
    detect_split,
    evaluation_settings,
    with_ground_truth,
)
from boxwright.evaluation.diagnosis.diagnose import NEAR_ZERO
from boxwright.evaluation.federated import Federation
from boxwright.evaluation.map_files import MapFiles
from boxwright.evaluation.saving import save_evaluation
from boxwright.evaluation.summary import NOT_CITYSCAPES, NOT_FEDERATED, Evaluation, check_metric, evaluate_detections
from boxwright.inference.claims import unclaimed
from boxwright.inference.predictor import Detector
from boxwright.inference.tiles import of_each_tile, tiling_of
from boxwright.models import MODELS, refuse_of_objects, require_objects
from boxwright.ops.tiling import Tiling
from boxwright.structures import Classes, Detections, GroundTruth
from boxwright.wording import counted

UNREADABLE = ("missing-image", "unreadable-image")
"""Findings of preflight about an image that cannot be read."""
LOGGED = (
    *UNREADABLE, "no-usable-object", "bad-mask", "empty-mask", "mask-off-box", "missing-map", "bad-map", "map-size",
    "unknown-label", "unknown-segment",
)  # fmt: skip
"""Findings of preflight that change the figures, or what is compared."""
_LOG = logging.getLogger("boxwright.evaluate")


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The figures of a detector on a split, and what they were computed from."""

    evaluation: Evaluation
    """Figures, AP by class, the rows of the table, and sentences about what is undefined or why AP is near zero."""
    inputs: EvaluationInputs
    """Detections and ground truth of each image, in the order of the split, in original pixels."""

    @property
    def figures(self) -> dict[str, Any]:
        """What `boxwright evaluate --json` prints: by name, fractions in [0, 1] or None where one is undefined."""
        return self.evaluation.figures

    @property
    def detections(self) -> list[Detections]:
        """Detections of each image."""
        return self.inputs.detections

    @property
    def ground_truths(self) -> list[GroundTruth]:
        """Ground truth of each image."""
        return self.inputs.ground_truths

    def save(self, folder: str | Path) -> Path:
        """Write what `boxwright evaluate --save` writes (result files, tables, charts), and return the folder."""
        one = self.inputs
        return save_evaluation(
            folder, self.evaluation, one.detections, one.ground_truths, one.classes,
            image_ids=one.image_ids, paths=one.paths,
        )  # fmt: skip


def evaluate(
    checkpoint: str | Path | Detector,
    data: str | Path,
    split: str = "val",
    *,
    classes: str | None = None,
    metric: str = "coco",
    iou: float = 0.5,
    eleven_point: bool = False,
    plus_one: bool = True,
    score_threshold: float | None = None,
    nms_iou: float | None = None,
    max_detections: int | None = None,
    limit: int | None = None,
    batch: int | None = None,
    proposals: str | Path | None = None,
    tiles: Tiling | int | Literal["recipe"] | None = "recipe",
    overlap: float | None = None,
    device: str = "auto",
    precision: str = "auto",
    compile: bool = False,
    maps: str | Path | None = None,
    log: Callable[[str], object] = _LOG.warning,
    progress: Callable[[int, int], object] | None = None,
) -> EvaluationResult:
    """Evaluate a detector on a labelled split: what `boxwright evaluate CHECKPOINT --data FOLDER` does.

    >>> evaluate("runs/fcos-small", "FOLDER", metric="voc").figures["mAP"]  # doctest: +SKIP
    0.873

    Args:
        checkpoint: whatever `Detector.load` takes, or a detector that is loaded (then with its device and precision).
        data: a folder of labelled images.
        split: the name of the split.
        classes: the subset or merge of classes that the detector was trained with.
        metric: "coco" (AP over ten overlaps; on LVIS data by the rule of LVIS), "lvis" (the same, for no other data),
            "cityscapes" (AP of masks by its own definition, for its data) or "voc" (mAP at the overlap `iou`).
        iou: least overlap of a hit for the voc metric and for precision, recall and F1.
        eleven_point: voc: precision at eleven points, as in VOC 2007.
        plus_one: voc: boxes include their last pixel, as in the VOC development kit.
        score_threshold: lowest score; the recipe's, and at most 0.05, if not given.
        nms_iou: overlap above which the weaker of two boxes of a class is dropped; the recipe's if not given.
        max_detections: most detections of an image; the recipe's, and COCO's 100 or LVIS's 300, if not given.
        limit: the first so many images only.
        batch: images a forward pass; the recipe's if not given.
        proposals: a proposal file, for a detector that finds no regions itself (Fast R-CNN).
        tiles, overlap: cut images into tiles of so many pixels, as `Detector.predict` does; the recipe's if not given.
            AP is that of whole images, and counts all their detections unless `max_detections` says how many.
        device, precision, compile: as for `Detector.load`.
        maps: a folder for the segments and labels of pixels that the model gives, in COCO's panoptic format and as PNG
            files: those of a large split do not fit into memory.
        log: is called with a sentence for whatever is left out; the logger "boxwright.evaluate" if not given.
        progress: is called with the images done and those to do.

    Raises ValueError where detector and data do not fit or no image can be read, FileNotFoundError where there is no
    such file or folder.
    """
    check_metric(metric, iou)  # before the minutes that detecting may take
    detector = (
        checkpoint
        if isinstance(checkpoint, Detector)
        else Detector.load(checkpoint, device, precision=precision, compile=compile)
    )
    model = detector.recipe.model.name
    refuse_of_objects(
        model, score_threshold=score_threshold, nms_iou=nms_iou, max_detections=max_detections,
        iou=None if iou == 0.5 else iou,
    )  # fmt: skip
    if metric != "coco":
        require_objects(model, f"leave out --metric {metric}")
    inputs = evaluate_checkpoint(
        detector,
        data,
        split,
        classes=classes,
        batch=batch,
        score_threshold=score_threshold,
        nms_iou=nms_iou,
        max_detections=max_detections,
        limit=limit,
        proposals=proposals,
        tiles=tiles,
        overlap=overlap,
        metric=metric,
        maps_folder=None if maps is None else Path(maps),
        log=log,
        progress=progress,
    )
    evaluation = evaluate_detections(
        inputs.detections,
        inputs.ground_truths,
        inputs.classes,
        metric=metric,
        iou=iou,
        max_detections=max_detections or inputs.most_detections,
        areas=inputs.areas,
        federation=inputs.federation,
        voids=inputs.voids,
        eleven_point=eleven_point,
        plus_one=plus_one,
        pixels=inputs.pixels,
        objects=inputs.objects,
    )
    return EvaluationResult(_with_unclaimed(evaluation, detector, inputs), inputs)


def evaluate_checkpoint(
    checkpoint: str | Path | Detector,
    data: str | Path,
    split: str,
    *,
    classes: str | None = None,
    batch: int | None = None,
    device: str = "auto",
    score_threshold: float | None = None,
    nms_iou: float | None = None,
    max_detections: int | None = None,
    limit: int | None = None,
    proposals: str | Path | None = None,
    tiles: Tiling | int | Literal["recipe"] | None = "recipe",
    overlap: float | None = None,
    metric: str = "coco",
    maps_folder: Path | None = None,
    log: Callable[[str], object] = _LOG.warning,
    progress: Callable[[int, int], object] | None = None,
) -> EvaluationInputs:
    """Detections of a checkpoint (or a loaded detector) on a split, beside the ground truth; arguments of `evaluate`.

    An image that cannot be read is logged and left out, and its ground truth with it. Raises ValueError with both class
    lists where the classes of the detector are not those of the data, and where the `metric` is not for the data.
    """
    data = Path(data)
    detector = checkpoint if isinstance(checkpoint, Detector) else Detector.load(checkpoint, device)
    dataset = open_folder(data, classes=classes)
    part = relabelled(find_split(dataset, split), detector.classes)
    # before the minutes that detecting may take
    if metric == "lvis" and Federation.of([record.federated for record in part.records], part.frequencies) is None:
        raise ValueError(f"{data}: {NOT_FEDERATED}")
    if metric == "cityscapes" and not (detector.recipe.needs_masks and any(record.void for record in part.records)):
        raise ValueError(f"{data}: {NOT_CITYSCAPES}")
    needed, maps = detector.recipe.needs_masks, detector.recipe.needs_semantic
    report = preflight(
        replace(dataset, splits={part.name: part}, classes=part.classes), check_masks=needed, check_maps=maps
    )
    checked = report.dataset.splits[part.name]
    if not len(checked):
        raise ValueError(f"{data}: split {split} has no usable image")
    masks = needed and any(item.segmentation for record in checked.records for item in record.annotations)
    tiling = tiling_of(tiles, overlap, detector.tiling)
    detector.check_tiles(tiling)
    stored = None if proposals is None else read_proposals(Path(proposals))
    if stored is not None:
        stored.check(checked.records[:limit])
    detector.check_proposals(stored)
    images = DetectionDataset(
        checked, detector.resize, masks=masks, num_keypoints=_evaluated_keypoints(detector, part.classes, data, log),
        semantic=maps, rotated=detector.recipe.needs_rotated, cache=False, proposals=stored,
        value_range=detector.value_range, tiling=tiling,
    )  # fmt: skip
    most = max_detections if tiling is None else of_each_tile(max_detections, detector.settings)
    settings = evaluation_settings(detector.settings, score_threshold, most, nms_iou)
    for finding in report.findings:
        if finding.kind in LOGGED:
            log(f"{finding.where}: {finding.message}")
    if needed and not masks:
        log(f"{data} has no masks: only boxes are evaluated")
    count, started = min(limit or len(images), len(images)), time.monotonic()
    writer = MapFiles(maps_folder, images) if maps_folder is not None and maps else None
    parts = detect_split(
        detector,
        images,
        settings,
        batch=batch,
        limit=limit,
        most=max_detections,
        on_maps=None if writer is None else writer.add,
    )
    joined = SplitDetections.joined(list(_told(parts, count, progress)))
    seconds = time.monotonic() - started
    if writer is not None:
        writer.close()
    _log_images(joined, images, log)
    objects = MODELS[detector.recipe.model.name].detects and bool(part.classes.names)
    evaluated = replace(with_ground_truth(joined, images, part.classes), objects=objects)
    if not evaluated.detections:
        raise ValueError(f"{data}: split {split} has no usable image")
    if evaluated.unreadable:
        log(
            f"{evaluated.unreadable} of {counted(count, 'image')} could not be decoded: left out, with all objects; "
            "the figures are those of the others"
        )
    before = sum(finding.kind in UNREADABLE for finding in report.findings)
    return replace(evaluated, unreadable=evaluated.unreadable + before, seconds=seconds)


def _told(
    parts: Iterator[SplitDetections], count: int, progress: Callable[[int, int], object] | None
) -> Iterator[SplitDetections]:
    """The same parts; `progress` is told how many images they have come to."""
    done = 0
    for part in parts:
        done += len(part.images)
        if progress is not None:
            progress(done, count)
        yield part


def _evaluated_keypoints(detector: Detector, classes: Classes, data: Path, log: Callable[[str], object]) -> int:
    """How many keypoints are evaluated: the detector's, or none where the data has others, which is logged."""
    count, skeleton = detector.recipe.num_keypoints, classes.skeleton
    if count and (skeleton is None or len(skeleton) != count):
        has = "no keypoints" if skeleton is None else counted(len(skeleton), "keypoint")
        log(f"{data} has {has}, the detector finds {count}: only boxes are evaluated")
        return 0
    return count


def _log_images(found: SplitDetections, images: DetectionDataset, log: Callable[[str], object]) -> None:
    """Name the images that could not be decoded, then those that were decoded with a flaw."""
    for _, one in sorted(found.images.items()):
        if isinstance(one, Exception):
            log(str(one))
    for index, note in sorted(found.notes.items()):
        log(f"{images.records[index].path}: {note}")


def _with_unclaimed(evaluation: Evaluation, detector: Detector, inputs: EvaluationInputs) -> Evaluation:
    """The same, and where AP50 is near zero how many objects no location or anchor of the detector can claim."""
    value = evaluation.figures.get("AP50", evaluation.figures.get("mAP"))
    if value is None or value >= NEAR_ZERO or inputs.tiled:
        return evaluation
    sizes = [found.size_hw for found in inputs.detections]
    lost = unclaimed(list(zip(inputs.ground_truths, sizes, strict=True)), detector.recipe, inputs.classes)
    if lost is None:
        return evaluation
    diagnosis = (f"{lost.sentence()}.", *evaluation.diagnosis)
    return replace(evaluation, figures=evaluation.figures | {"diagnosis": list(diagnosis)}, diagnosis=diagnosis)
