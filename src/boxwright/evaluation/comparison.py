"""Ground truth and detections from files of any supported format, paired by image for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from boxwright.data.class_selection import parse_classes, select_classes
from boxwright.data.formats.folder import READERS, find_split, open_folder
from boxwright.data.ground_truth import clip_box, ground_truth_of, mask_of
from boxwright.data.image_io.decode import image_size
from boxwright.data.records import Annotation, Record, Split
from boxwright.data.rotated_annotations import has_corners, is_flat
from boxwright.evaluation.coco_ap import image_order
from boxwright.evaluation.federated import Federation
from boxwright.evaluation.joining import Image, join_results, read_text_ground_truth
from boxwright.evaluation.matching import one_pixel_kept
from boxwright.evaluation.result_files import holds_text_ground_truth, read_results
from boxwright.structures import Classes, Detections, GroundTruth
from boxwright.wording import counted

Areas = list[list[float | None]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Detections and ground truth of the same images in the same order, ready for evaluation.

    `areas` are those given in a COCO file for its objects; `warnings` are sentences on what was left out.
    """

    detections: list[Detections]
    ground_truths: list[GroundTruth]
    classes: Classes
    image_ids: list[int | str]
    paths: list[str]
    areas: Areas | None
    warnings: tuple[str, ...]
    federation: Federation | None = None
    voids: list[Any] | None = None


def compare_files(
    ground_truth: Path,
    detections: Path,
    *,
    split: str | None = None,
    classes: str | None = None,
    plus_one: bool = False,
) -> Comparison:
    """Read ground truth (a COCO JSON file, a VOC, COCO or YOLO folder, or text files) and detections for it.

    `split` is needed if a folder has several. `classes` selects a subset or merges, by the ground truth's names. Boxes
    are not clipped to the image, but for the hulls of rotated boxes. With `plus_one` they include their last pixel, so
    that one with x2 = x1 is one pixel wide. Raises ValueError or FileNotFoundError with one sentence.
    """
    if not ground_truth.exists():
        raise FileNotFoundError(f"{ground_truth}: there is no such file or folder of ground truth")
    if holds_text_ground_truth(ground_truth):
        text = read_text_ground_truth(ground_truth, plus_one=plus_one)
        images, ground_truths, known = text.images, text.ground_truths, text.classes
        areas: Areas | None = None
        federation, voids = None, None
        warnings = text.warnings
    else:
        part = ground_truth_split(ground_truth, split)
        records = sorted(part.records, key=lambda record: image_order(record.image_id))
        known = part.classes
        voids = [record.void for record in records] if any(record.void for record in records) else None
        if classes:  # what is known of merged classes
            chosen = select_classes(part, classes)
            said = {record.image_id: record.federated for record in chosen.records}
            federation = Federation.of([said[record.image_id] for record in records], chosen.frequencies)
        else:
            federation = Federation.of([record.federated for record in records], part.frequencies)
        images = [Image(row.image_id, str(row.path), row.stated_hw or (0, 0)) for row in records]
        if plus_one:
            records = [_with_last_pixels(record) for record in records]
        ground_truths, areas, warnings = _ground_truths(part, records)
    table = read_results(detections, known.names)
    if table.segmentations is not None and not holds_text_ground_truth(ground_truth):
        ground_truths, more = _with_masks(records, ground_truths)
        warnings += more
    if table.keypoints is not None and not holds_text_ground_truth(ground_truth):
        ground_truths, more = _with_keypoints(records, ground_truths, known, table.keypoints.shape[1])
        warnings += more
    if table.rotated is not None and areas is not None:
        ground_truths, areas, more = _with_rotated(records, ground_truths, areas)
        warnings += more
    if table.format in ("yolo", "dota"):
        images = [_measured(image) for image in images]
    joined = join_results(table, images, known)
    found = joined.detections
    if classes:
        known, mapping = parse_classes(known, classes)
        found, ground_truths, areas = _reclassed(found, ground_truths, areas, known, mapping)
    return Comparison(
        detections=found,
        ground_truths=ground_truths,
        classes=known,
        image_ids=[image.image_id for image in images],
        paths=[image.file_name for image in images],
        areas=areas,
        warnings=warnings + joined.warnings,
        federation=federation,
        voids=voids,
    )


def ground_truth_split(path: Path, name: str | None) -> Split:
    """The requested split, or the only one."""
    if name is not None:
        return find_split(open_folder(path), name)
    # Read without open_folder, which would make a validation split.
    reader = next((reader for reader in READERS if reader.recognises(path)), None)
    dataset = open_folder(path) if reader is None else reader.read(path, None)
    if len(dataset.splits) > 1:
        raise ValueError(f"{path}: it has the splits {', '.join(dataset.splits)}; choose one with --split")
    return next(iter(dataset.splits.values()))


def _with_last_pixels(record: Record) -> Record:
    rows = [
        replace(row, box=one_pixel_kept(row.box)) if min(row.box[2] - row.box[0], row.box[3] - row.box[1]) == 0
        else row for row in record.annotations
    ]  # fmt: skip
    return replace(record, annotations=tuple(rows))


def _ground_truths(part: Split, records: Sequence[Record]) -> tuple[list[GroundTruth], Areas, tuple[str, ...]]:
    ground_truths, areas = [], []
    bad = [problem.where for problem in part.problems if problem.quarantined]
    for record in records:
        good = [row for row in record.annotations if _has_area(row)]
        bad += [row.where for row in record.annotations if not _has_area(row)]
        ground_truths.append(GroundTruth.of([r.box for r in good], [r.label for r in good], [r.ignore for r in good]))
        areas.append([row.area for row in good])
    warnings = (
        (f"{len(bad)} entries of the ground truth cannot be used and are left out, the first: {bad[0]}.",)
        if bad
        else ()
    )
    return ground_truths, areas, warnings


def _with_masks(
    records: Sequence[Record], ground_truths: list[GroundTruth]
) -> tuple[list[GroundTruth], tuple[str, ...]]:
    """The ground truth with its masks, if the dataset has any; damaged ones are left out with a warning."""
    if not any(row.segmentation for record in records for row in record.annotations):
        return ground_truths, ("The detections have masks and the ground truth has none: only boxes are evaluated.",)
    masked, bad = [], []
    for record, ground_truth in zip(records, ground_truths, strict=True):
        hw = record.stated_hw or image_size(record.path)
        masks = []
        for row in filter(_has_area, record.annotations):
            try:
                masks.append(mask_of(row, hw))
            except ValueError as error:
                bad.append(str(error))
                masks.append(mask_of(replace(row, segmentation=None), hw))
        masked.append(replace(ground_truth, masks=tuple(masks)))
    return masked, (f"{len(bad)} masks of the ground truth cannot be used, the first: {bad[0]}.",) if bad else ()


def _with_keypoints(
    records: Sequence[Record], ground_truths: list[GroundTruth], classes: Classes, count: int
) -> tuple[list[GroundTruth], tuple[str, ...]]:
    """The ground truth with its keypoints, if the dataset has as many as the detections."""
    has = "none" if classes.skeleton is None else str(len(classes.skeleton))
    if has != str(count):
        return ground_truths, (
            f"The detections have {counted(count, 'keypoint')} each and the ground truth has {has}: only boxes are "
            "evaluated.",
        )
    bare = ((0.0, 0.0, 0.0),) * count
    rows = [[item.keypoints or bare for item in record.annotations if _has_area(item)] for record in records]
    return [
        replace(one, keypoints=torch.tensor(points, dtype=torch.float32).reshape(len(one), count, 3))
        for one, points in zip(ground_truths, rows, strict=True)
    ], ()


def _with_rotated(
    records: Sequence[Record], ground_truths: list[GroundTruth], areas: Areas
) -> tuple[list[GroundTruth], Areas, tuple[str, ...]]:
    """The ground truth with its rotated boxes, if the dataset has any, and `areas` of what is left of it."""
    if not any(item.rotated is not None or has_corners(item) for record in records for item in record.annotations):
        return ground_truths, areas, (
            "The detections have rotated boxes and the ground truth has none: only upright boxes are evaluated.",
        )  # fmt: skip
    turned, kept = [], []
    for record in records:
        hw = record.stated_hw or image_size(record.path)
        turned.append(ground_truth_of(record, hw, rotated=True))
        kept.append([item.area for item in record.annotations if clip_box(item.box, hw) and not is_flat(item)])
    return turned, kept, ()


def _has_area(row: Annotation) -> bool:
    box = torch.tensor(row.box, dtype=torch.float32)  # compared in the precision in which it is stored
    return bool(torch.isfinite(box).all() and (box[2:] > box[:2]).all())


def _measured(image: Image) -> Image:
    known = image.size_hw != (0, 0) or not Path(image.file_name).is_file()
    return image if known else replace(image, size_hw=image_size(image.file_name))


def _reclassed(
    detections: list[Detections],
    ground_truths: list[GroundTruth],
    areas: Areas | None,
    classes: Classes,
    mapping: Sequence[int | None],
) -> tuple[list[Detections], list[GroundTruth], Areas | None]:
    """The same images with other labels; objects whose class is dropped are removed."""
    label_of = torch.tensor([-1 if label is None else label for label in mapping])
    found = []
    for old in detections:
        kept = old.select(label_of[old.labels] >= 0)
        found.append(replace(kept, labels=label_of[kept.labels], classes=classes))
    wanted, wanted_areas = [], []
    for index, ground_truth in enumerate(ground_truths):
        keep = label_of[ground_truth.labels] >= 0
        masks = ground_truth.masks and tuple(
            mask for mask, stays in zip(ground_truth.masks, keep.tolist(), strict=True) if stays
        )
        points = None if ground_truth.keypoints is None else ground_truth.keypoints[keep]
        turned = None if ground_truth.rotated is None else ground_truth.rotated[keep]
        boxes, labels, ignore = ground_truth.boxes[keep], label_of[ground_truth.labels[keep]], ground_truth.ignore[keep]
        wanted.append(GroundTruth(boxes, labels, ignore, masks, points, rotated=turned))
        if areas is not None:
            wanted_areas.append([area for area, stays in zip(areas[index], keep.tolist(), strict=True) if stays])
    return found, wanted, None if areas is None else wanted_areas
