"""COCO average precision and recall for boxes, rotated boxes, masks and keypoints, with undefined cases handled.

The counting is done by faster-coco-eval, whose figures equal those of pycocotools. Its input is prepared here: image
and annotation ids run from 1 (the COCO tools take an id of 0 for "unmatched" and lose true positives), areas are always
present, and -1 ("undefined") becomes None. Limits on detections hold for each class of an image, as in COCO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boxwright.data.formats.federated import FREQUENCIES
from boxwright.evaluation.federated import Federation, counted_detections
from boxwright.evaluation.rotated_ap import by_rotated_overlap, rotated_fields
from boxwright.structures import Classes, CroppedMask, Detections, GroundTruth, Skeleton

KEYPOINT_LIMITS = (20,)
"""COCO's limit on detections in AP of keypoints."""
IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
AREA_RANGES = {"small": [0, 32**2], "medium": [32**2, 96**2], "large": [96**2, 1e5**2]}  # square pixels
NAMED = 20  # classes in a note; LVIS has 1203
AT_ONCE = 100  # classes that are counted together

Kind = Literal["boxes", "rotated", "masks", "keypoints"]
IOU_TYPE = {"boxes": "bbox", "rotated": "bbox", "masks": "segm", "keypoints": "keypoints"}

Areas = Sequence[Sequence[float | None] | None]


@dataclass(frozen=True, slots=True)
class CocoResult:
    """COCO's metrics, fractions in [0, 1], or None if undefined (no ground truth of that kind).

    `ar` is keyed by the limit on detections, `per_class*` by class name; `recall50` is the recall at IoU 0.5 with the
    highest limit on detections; `notes` are sentences on undefined or empty results. `by_frequency` is given for
    federated data: AP of LVIS's rare (r), common (c) and frequent (f) classes, empty where it does not say which are.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar: dict[int, float | None]
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    recall50: float | None
    per_class: dict[str, float | None]
    per_class_ap50: dict[str, float | None]
    kind: str
    notes: tuple[str, ...]
    by_frequency: dict[str, float | None] | None = None

    @classmethod
    def undefined(cls) -> CocoResult:
        """That of a model that finds no objects."""
        recalls = dict.fromkeys((1, 10, 100))
        return cls(None, None, None, None, None, None, recalls, None, None, None, None, {}, {}, "boxes", ())

    def figures(self, prefix: str = "") -> dict[str, Any]:
        """The result as one JSON object, under the usual names (AP50, ARs, ...).

        With a prefix ("segm_") only the metrics, with the prefix in front of each name.
        """
        metric = "coco" if self.by_frequency is None else "lvis"
        figures: dict[str, Any] = {"metric": metric, "kind": self.kind, "AP": self.ap, "AP50": self.ap50}
        figures |= {"AP75": self.ap75, "APs": self.ap_small, "APm": self.ap_medium, "APl": self.ap_large}
        figures |= {f"AP{group}": value for group, value in (self.by_frequency or {}).items()}
        figures |= {f"AR{limit}": value for limit, value in self.ar.items()}
        figures |= {"ARs": self.ar_small, "ARm": self.ar_medium, "ARl": self.ar_large}
        figures |= {"recall50": self.recall50}
        figures |= {"per_class": self.per_class, "per_class_AP50": self.per_class_ap50}
        if not prefix:
            return figures
        return {prefix + name: value for name, value in figures.items() if name not in ("metric", "kind")}


def coco_ap(
    detections: Sequence[Detections],
    ground_truths: Sequence[GroundTruth],
    classes: Classes,
    *,
    kind: Kind = "boxes",
    max_detections: Sequence[int] | None = None,
    iou_thresholds: Sequence[float] | None = None,
    areas: Areas | None = None,
    federation: Federation | None = None,
) -> CocoResult:
    """COCO AP and AR of detections against the ground truth of the same images in the same order.

    Ignored ground truth counts as COCO crowd. The largest of `max_detections` (1, 10, 100 if not given) is used for AP.
    With a `federation` AP is that of LVIS, and the federation has the limit, on all classes of an image together.
    `areas` (per image, per object) are those of the annotation file and decide what is small, medium or large; if
    missing, the number of mask pixels is used, or else the area of the box. In AP of masks, an object of unknown mask
    is an ignore region, like a crowd; one with an empty mask is always missed.

    In AP of keypoints the overlap is COCO's object keypoint similarity with the sigmas of `classes.skeleton`, an object
    without an annotated keypoint is an ignore region, and COCO's own limit is 20 detections (`KEYPOINT_LIMITS`).

    In AP of "rotated" boxes the overlap is that of the rotated boxes, and the area is theirs (`rotated_ap`).

    Raises ValueError if lengths differ, a score is NaN, or masks, keypoints or rotated boxes are requested and missing.
    """
    _check(detections, ground_truths, classes, kind, areas)
    if federation is not None:
        if max_detections is not None:
            raise ValueError(f"max_detections {list(max_detections)}: a federation has its limit, {federation.limit}")
        max_detections = (federation.limit,)
        detections = counted_detections(detections, ground_truths, federation)
    limits = sorted(set((1, 10, 100) if max_detections is None else max_detections))
    if not limits or limits[0] < 1:
        raise ValueError(f"max_detections: expected numbers from 1, got {limits}")
    thresholds = np.array(IOU_THRESHOLDS if iou_thresholds is None else sorted(iou_thresholds))
    ground_truth_rows = _ground_truth_rows(detections, ground_truths, kind, areas)
    found_rows = _found_rows(detections, kind)
    parts = [  # classes do not depend on each other, and each pair of image and class takes memory
        _count(
            [row for row in ground_truth_rows if row["category_id"] - 1 in labels],
            [row for row in found_rows if row["category_id"] - 1 in labels],
            detections, labels, kind, limits, thresholds, federation, classes.skeleton,
        )
        for labels in (range(len(classes))[at : at + AT_ONCE] for at in range(0, len(classes), AT_ONCE))
    ]  # fmt: skip
    precision = np.concatenate([part[0] for part in parts], axis=2)
    recall = np.concatenate([part[1] for part in parts], axis=1)

    def at(iou: float) -> NDArray[np.bool_]:
        return np.asarray(np.isclose(thresholds, iou))

    everything, largest = 0, -1  # first area range, last limit on detections
    by_frequency: dict[str, float | None] | None = None
    if federation is not None:
        groups = np.array(federation.frequencies)
        by_frequency = {
            group: _mean(precision[:, :, groups == group, everything, largest])
            for group in (FREQUENCIES if len(groups) else ())
        }
    small = slice(1, -2)  # COCO has no small objects in AP of keypoints
    return CocoResult(
        ap=_mean(precision[..., everything, largest]),
        ap50=_mean(precision[at(0.5)][..., everything, largest]),
        ap75=_mean(precision[at(0.75)][..., everything, largest]),
        ap_small=_mean(precision[..., small, largest]),
        ap_medium=_mean(precision[..., -2, largest]),
        ap_large=_mean(precision[..., -1, largest]),
        ar={limit: _mean(recall[..., everything, index]) for index, limit in enumerate(limits)},
        ar_small=_mean(recall[..., small, largest]),
        ar_medium=_mean(recall[..., -2, largest]),
        ar_large=_mean(recall[..., -1, largest]),
        recall50=_mean(recall[at(0.5)][..., everything, largest]),
        per_class={name: _mean(precision[:, :, k, everything, largest]) for k, name in enumerate(classes.names)},
        per_class_ap50={
            name: _mean(precision[at(0.5)][:, :, k, everything, largest]) for k, name in enumerate(classes.names)
        },
        kind=kind,
        notes=_notes(ground_truth_rows, found_rows, classes),
        by_frequency=by_frequency,
    )


def image_order(image_id: int | str) -> tuple[bool, int | str]:
    """What images are sorted by before AP: pycocotools ranks equal scores by image id, whether ids are numbers or text.

    If there are both, numbers come before text; pycocotools cannot evaluate such a file.
    """
    return isinstance(image_id, str), image_id


def _mean(values: NDArray[np.float64]) -> float | None:
    """The mean of the defined values (COCO marks undefined ones with -1), or None if there are none."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _check(
    detections: Sequence[Detections],
    ground_truths: Sequence[GroundTruth],
    classes: Classes,
    kind: str,
    areas: Areas | None,
) -> None:
    if len(detections) != len(ground_truths):
        raise ValueError(f"detections of {len(detections)} images but ground truth of {len(ground_truths)}")
    if areas is not None and len(areas) != len(ground_truths):
        raise ValueError(f"areas of {len(areas)} images but ground truth of {len(ground_truths)}")
    for index, (found, ground_truth) in enumerate(zip(detections, ground_truths, strict=True)):
        highest = max([*ground_truth.labels.tolist(), *found.labels.tolist()], default=0)
        if highest >= len(classes):
            raise ValueError(f"image {index}: label {highest}, but the number of classes is {len(classes)}")
        if bool(torch.isnan(found.scores).any()):
            raise ValueError(f"image {index}: a score is not a number")
        if kind == "masks" and (
            (len(ground_truth) and ground_truth.masks is None) or (len(found) and found.masks is None)
        ):
            raise ValueError(f"image {index}: AP of masks needs masks in the ground truth and in the detections")
        if kind == "rotated" and any(len(one) and one.rotated is None for one in (ground_truth, found)):
            raise ValueError(f"image {index}: AP of rotated boxes needs them in the ground truth and in the detections")
        if kind == "keypoints":
            _check_keypoints(found, ground_truth, index, classes.skeleton)
        given = None if areas is None else areas[index]
        if given is not None and len(given) != len(ground_truth):
            raise ValueError(f"image {index}: {len(given)} areas for {len(ground_truth)} objects")


def _check_keypoints(found: Detections, ground_truth: GroundTruth, index: int, skeleton: Skeleton | None) -> None:
    for name, one in (("ground truth", ground_truth), ("detections", found)):
        if len(one) and one.keypoints is None:
            raise ValueError(
                f"image {index}: AP of keypoints needs keypoints in the ground truth and in the detections"
            )
        if one.keypoints is not None and skeleton is not None and one.keypoints.shape[1] != len(skeleton):
            raise ValueError(
                f"image {index}: {one.keypoints.shape[1]} keypoints in the {name}, expected {len(skeleton)}"
            )


def _keypoint_numbers(keypoints: Tensor) -> list[float]:
    """Keypoints (P, 3) as COCO writes them, from the centre of a pixel."""
    shift = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    numbers: list[float] = (keypoints.detach().cpu().double() - shift).flatten().tolist()
    return numbers


def _ground_truth_rows(
    detections: Sequence[Detections], ground_truths: Sequence[GroundTruth], kind: str, areas: Areas | None
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for index, (found, ground_truth) in enumerate(zip(detections, ground_truths, strict=True)):
        given = None if areas is None else areas[index]
        for thing, (box, label, ignore) in enumerate(
            zip(_xywh(ground_truth.boxes), ground_truth.labels.tolist(), ground_truth.ignore.tolist(), strict=True)
        ):
            mask = None if ground_truth.masks is None else ground_truth.masks[thing]
            area = box[2] * box[3]
            if mask is not None and (bool(mask.bitmap.any()) or (kind == "masks" and mask.known)):
                area = int(mask.bitmap.sum())
            stated = None if given is None else given[thing]
            row = {"id": len(rows) + 1, "image_id": index + 1, "category_id": label + 1, "iscrowd": int(ignore)}
            row |= {"bbox": box, "area": area if stated is None else stated}
            if kind == "masks" and mask is not None:
                if not mask.known:  # detections in its box are neither true nor false positives
                    mask, row["iscrowd"] = _filled(ground_truth.boxes[thing], found.size_hw), 1
                row["segmentation"] = mask.encoded(found.size_hw)
            if kind == "keypoints" and ground_truth.keypoints is not None:
                points = ground_truth.keypoints[thing]
                row |= {"keypoints": _keypoint_numbers(points), "num_keypoints": int((points[:, 2] > 0).sum())}
            if kind == "rotated" and ground_truth.rotated is not None:
                row |= rotated_fields(ground_truth.rotated[thing])
            rows.append(row)
    return rows


def _found_rows(detections: Sequence[Detections], kind: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for index, found in enumerate(detections):
        scores, labels = found.scores.tolist(), found.labels.tolist()
        for thing, (box, score, label) in enumerate(zip(_xywh(found.boxes), scores, labels, strict=True)):
            row = {"id": len(rows) + 1, "image_id": index + 1, "category_id": label + 1, "iscrowd": 0, "score": score}
            row |= {"bbox": box, "area": box[2] * box[3]}
            if kind == "masks" and found.masks is not None:
                mask = found.mask(thing)
                row |= {"segmentation": mask.encoded(found.size_hw), "area": int(mask.bitmap.sum())}
            if kind == "keypoints" and found.keypoints is not None:
                row["keypoints"] = _keypoint_numbers(found.keypoints[thing])
            if kind == "rotated" and found.rotated is not None:
                row |= rotated_fields(found.rotated[thing])
            rows.append(row)
    return rows


def _xywh(boxes: Tensor) -> list[list[float]]:
    wide = boxes.detach().cpu().double()
    rows: list[list[float]] = torch.cat([wide[:, :2], wide[:, 2:] - wide[:, :2]], 1).tolist()
    return rows


def _filled(box: Tensor, size_hw: tuple[int, int]) -> CroppedMask:
    """A box as a mask: every pixel that it touches."""
    x1, y1 = (max(0, int(value)) for value in box[:2].floor().tolist())
    x2, y2 = (int(value) for value in box[2:].ceil().tolist())
    shape = (max(0, min(y2, size_hw[0]) - y1), max(0, min(x2, size_hw[1]) - x1))
    return CroppedMask(x1, y1, torch.ones(shape, dtype=torch.bool))


def _count(
    ground_truth_rows: list[dict[str, Any]],
    found_rows: list[dict[str, Any]],
    detections: Sequence[Detections],
    labels: range,
    kind: str,
    limits: list[int],
    thresholds: NDArray[np.float64],
    federation: Federation | None,
    skeleton: Skeleton | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision (T, 101, K, 4, M) and recall (T, K, 4, M) over overlaps, recalls, `labels`, areas, limits."""
    if not detections:
        shape = (len(thresholds), 101, len(labels), 4, len(limits))
        return np.full(shape, -1.0), np.full((shape[0], *shape[2:]), -1.0)
    # Imported here, since it takes a second that only an evaluation should cost.
    from faster_coco_eval.core.coco import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    def quiet(*_: object) -> None:
        """Suppress the output of the COCO tools."""

    images: list[dict[str, Any]] = [
        {"id": index + 1, "height": found.size_hw[0], "width": found.size_hw[1]}
        for index, found in enumerate(detections)
    ]
    categories = [{"id": label + 1, "name": str(label), "frequency": "f"} for label in labels]
    for image, known in zip(images, federation.images if federation else (), strict=False):
        everything = labels if known is None else known.absent
        image["neg_category_ids"] = [label + 1 for label in everything]
        image["not_exhaustive_category_ids"] = [] if known is None else [label + 1 for label in known.incomplete]
    tables = [
        COCO({"info": {}, "images": images, "annotations": rows, "categories": categories}, print_function=quiet)
        for rows in (ground_truth_rows, found_rows)
    ]
    evaluator = COCOeval_faster
    if kind == "rotated":
        evaluator = by_rotated_overlap(COCOeval_faster, ground_truth_rows, found_rows)
    evaluation = evaluator(
        *tables,
        iouType=IOU_TYPE[kind],
        ranges=AREA_RANGES,
        print_function=quiet,
        lvis_style=federation is not None,
        kpt_oks_sigmas=None if skeleton is None else list(skeleton.sigmas),
    )
    evaluation.params.catIds = [category["id"] for category in categories]
    evaluation.params.maxDets = limits
    evaluation.params.iouThrs = thresholds
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])


def _notes(
    ground_truth_rows: list[dict[str, Any]], found_rows: list[dict[str, Any]], classes: Classes
) -> tuple[str, ...]:
    notes = []
    present = {row["category_id"] - 1 for row in ground_truth_rows if not row["iscrowd"]}
    absent = [name for label, name in enumerate(classes.names) if label not in present]
    if not present:
        notes.append("No ground truth at all: AP is undefined.")
    elif absent:
        more = f" and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
        notes.append(f"Without ground truth, so left out of the mean: {', '.join(absent[:NAMED])}{more}.")
    if present and not found_rows:
        notes.append("No detections at all: AP is 0.")
    return tuple(notes)
