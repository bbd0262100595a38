"""The whole result of `boxwright evaluate` in one record: metrics, the table of classes, and a diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from boxwright.evaluation.bootstrap import bootstrap_ap
from boxwright.evaluation.cityscapes_ap import cityscapes_ap
from boxwright.evaluation.coco_ap import KEYPOINT_LIMITS, Areas, CocoResult, coco_ap
from boxwright.evaluation.curves import best_threshold as find_best_threshold
from boxwright.evaluation.curves import curves_of
from boxwright.evaluation.diagnosis.diagnose import diagnose
from boxwright.evaluation.federated import Federation, counted
from boxwright.evaluation.matching import Gathered, Matches, gather, match
from boxwright.evaluation.pixel_counts import PixelFigures
from boxwright.evaluation.report import ClassRow, class_rows
from boxwright.evaluation.rotated_ap import have_rotated
from boxwright.evaluation.voc_ap import VocResult, voc_ap
from boxwright.structures import Classes, Detections, GroundTruth

PREFIXES = {"masks": "segm_", "rotated": "rotated_"}
"""Of the names of figures that are not of upright boxes."""
METRICS = ("coco", "lvis", "cityscapes", "voc")
NOT_FEDERATED = (
    "metric lvis is for LVIS data: the ground truth has no neg_category_ids, not_exhaustive_category_ids or frequency; "
    "give the LVIS file (lvis_v1_val.json), or use the metric coco"
)
NOT_CITYSCAPES = (
    "metric cityscapes is for masks on Cityscapes data: give a folder in its layout (gtFine/) and detections with "
    "masks, or use the metric coco"
)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of an evaluation: `figures` (one JSON object, fractions or None), rows of the table, and sentences.

    `notes` explain undefined or empty results, `diagnosis` an AP near zero; `per_class` is AP by class name; `voc` has
    precision and recall of every detection where the metric is VOC's; `iou` is the threshold of the table, and
    `federation` what the metrics of LVIS were computed with.
    """

    figures: dict[str, Any]
    per_class: dict[str, float | None]
    rows: list[ClassRow]
    notes: tuple[str, ...]
    diagnosis: tuple[str, ...]
    voc: VocResult | None = None
    iou: float = 0.5
    federation: Federation | None = None
    pixels: PixelFigures | None = None
    """Figures of the labels of pixels and of segments, where there are any."""


def check_metric(metric: str, iou: float) -> None:
    """ValueError for a metric that is none, or an overlap that is no fraction."""
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r}: expected {', '.join(METRICS[:-1])} or {METRICS[-1]}")
    if not 0 < iou <= 1:
        raise ValueError(f"iou {iou}: expected a fraction above 0, up to 1")


def evaluate_detections(
    detections: Sequence[Detections],
    ground_truths: Sequence[GroundTruth],
    classes: Classes,
    *,
    metric: str = "coco",
    iou: float = 0.5,
    max_detections: int | None = None,
    areas: Areas | None = None,
    federation: Federation | None = None,
    voids: Sequence[Any] | None = None,
    eleven_point: bool = False,
    plus_one: bool = True,
    pixels: PixelFigures | None = None,
    objects: bool = True,
) -> Evaluation:
    """Evaluate detections against the ground truth of the same images, in order, by COCO's, LVIS's or VOC's rule.

    `iou` is the IoU threshold of VOC AP, of the table's precision, recall and F1, and of the best score threshold; COCO
    AP has its own ten. `max_detections` is COCO's highest limit for each class of an image, 100 if not given; the lower
    ones are 1, 10 and 100; or LVIS's limit for each image, 300. With a `federation` COCO's rule is LVIS's, and "lvis"
    needs one, as "cityscapes" needs masks and the `voids` of its images. `pixels` are figures of the maps that images
    have beside their objects; without `objects`, or classes of them, they are all there is. Raises ValueError for an
    unknown metric, an `iou` outside (0, 1], or data that the metric is not for.
    """
    check_metric(metric, iou)
    if not objects or not classes.names:
        return _without_objects(pixels, metric, iou)
    if metric == "lvis" and federation is None:
        raise ValueError(NOT_FEDERATED)
    if metric == "cityscapes" and (voids is None or not have_masks(detections, ground_truths)):
        raise ValueError(NOT_CITYSCAPES)
    if metric in ("voc", "cityscapes"):
        federation = None
    elif federation is not None and max_detections is not None:
        federation = replace(federation, limit=max_detections)
    last_pixel, voc = metric == "voc" and plus_one, None
    counting = counted(detections, ground_truths, federation)
    gathered = gather(*counting)
    matches = match(gathered, len(classes), iou, plus_one=last_pixel)
    curves = curves_of(matches, iou)
    best = find_best_threshold(curves)
    if metric == "voc":
        voc = voc_ap(detections, ground_truths, classes, iou=iou, eleven_point=eleven_point, plus_one=plus_one)
        figures, per_class, notes = voc.figures(), voc.per_class, voc.notes
    elif metric == "cityscapes":
        cityscapes = cityscapes_ap(detections, ground_truths, classes, voids or ())
        figures, per_class, notes = cityscapes.figures(), cityscapes.per_class, cityscapes.notes
    else:
        most = max_detections or 100
        limits = sorted({1, min(10, most), min(100, most), most}) if federation is None else None

        def ap_of(kind: Literal["boxes", "rotated", "masks"]) -> CocoResult:
            return coco_ap(
                detections, ground_truths, classes, kind=kind, max_detections=limits, areas=areas, federation=federation
            )

        coco = ap_of("boxes")
        figures, per_class, notes = coco.figures(), coco.per_class, coco.notes
        for kind in _other_kinds(detections, ground_truths):
            figures |= ap_of(kind).figures(PREFIXES[kind])
        if have_keypoints(detections, ground_truths):
            points = coco_ap(
                detections, ground_truths, classes, kind="keypoints", max_detections=KEYPOINT_LIMITS, areas=areas
            )
            figures |= points.figures("keypoint_")
        several = len(ground_truths) > 1 and coco.ap50 is not None and iou == 0.5
        figures |= _intervals(gathered, matches, len(classes), several)
        notes = (*notes, *_how_matched(gathered))
    figures["best_f1"] = best and {
        "score_threshold": best.score,
        "f1": best.f1,
        "precision": best.precision,
        "recall": best.recall,
    }
    if pixels is not None:
        figures |= pixels.figures()
    diagnosis = diagnose(counting[0], ground_truths, classes)
    figures |= {"notes": list(notes), "diagnosis": list(diagnosis)}
    rows = class_rows(ground_truths, classes, curves, best, per_class)
    return Evaluation(figures, per_class, rows, notes, diagnosis, voc, iou, federation, pixels)


def _intervals(gathered: Gathered, matches: Matches, num_classes: int, several: bool) -> dict[str, list[float] | None]:
    """The 95 % interval of AP50 over images, and that of rotated boxes where these are matched; None of one image."""
    of = {"AP50_interval": matches}
    if gathered.rotated is not None:
        of = {"AP50_interval": match(gathered.upright, num_classes), "rotated_AP50_interval": matches}
    found = {key: bootstrap_ap(one) if several else None for key, one in of.items()}
    return {key: None if interval is None else list(interval) for key, interval in found.items()}


def _how_matched(gathered: Gathered) -> tuple[str, ...]:
    if gathered.rotated is None:
        return ()
    return ("Precision, recall, F1 and the best threshold are by the overlap of rotated boxes.",)


def _other_kinds(
    detections: Sequence[Detections], ground_truths: Sequence[GroundTruth]
) -> list[Literal["rotated", "masks"]]:
    """What AP is computed of beside upright boxes."""
    masks = have_masks(detections, ground_truths)
    rotated = have_rotated(detections, ground_truths)
    return [*(["masks"] if masks else []), *(["rotated"] if rotated else [])]  # type: ignore[list-item]


def _without_objects(pixels: PixelFigures | None, metric: str, iou: float) -> Evaluation:
    """The evaluation of a model that labels pixels and finds no objects: AP is undefined."""
    if metric != "coco":
        raise ValueError(f"metric {metric} is for objects, and there are none: leave it out")
    figures: dict[str, Any] = {"metric": "semantic", "AP": None, "AP50": None, "AP75": None, "AP50_interval": None}
    figures |= {"best_f1": None, "notes": [], "diagnosis": []} | ({} if pixels is None else pixels.figures())
    return Evaluation(figures, {}, [], (), (), iou=iou, pixels=pixels)


def have_masks(detections: Sequence[Detections], ground_truths: Sequence[GroundTruth]) -> bool:
    """Whether all ground truth objects and all detections have masks (and there are some)."""
    known = all(ground_truth.masks is not None for ground_truth in ground_truths if len(ground_truth))
    return known and any(one.masks is not None for one in detections) and all(
        one.masks is not None for one in detections if len(one)
    )  # fmt: skip


def have_keypoints(detections: Sequence[Detections], ground_truths: Sequence[GroundTruth]) -> bool:
    """Whether all ground truth objects and all detections have keypoints (and there are some)."""
    known = all(ground_truth.keypoints is not None for ground_truth in ground_truths if len(ground_truth))
    return known and any(one.keypoints is not None for one in detections) and all(
        one.keypoints is not None for one in detections if len(one)
    )  # fmt: skip


def headline(evaluation: Evaluation) -> list[str]:
    """The metrics over all classes as lines of text."""
    figures = evaluation.figures

    def show(key: str) -> str:
        value = figures[key]
        return f"{key} {'-' if value is None else f'{value:.4f}'}"

    if figures["metric"] == "voc":
        points = "eleven points" if figures["eleven_point"] else "all points"
        pixels = "with" if figures["plus_one"] else "without"
        lines = [f"{show('mAP')} (IoU {figures['iou']:g}, {points}, boxes {pixels} their last pixel)"]
    elif figures["metric"] == "cityscapes":
        lines = [f"{show('AP')}  {show('AP50')} (masks, by Cityscapes's definition)"]
    elif figures["metric"] == "semantic":
        lines = []
    else:
        recalls = [*(key for key in figures if key.startswith("AR")), "recall50"]
        rows = [["AP", "AP50", "AP75"], ["APs", "APm", "APl"], *([["APr", "APc", "APf"]] if "APr" in figures else [])]
        lines = ["  ".join(map(show, keys)) for keys in (*rows, recalls)]
        if "segm_AP" in figures:
            lines += ["  ".join(show(f"segm_{key}") for key in row) for row in rows]
        if "rotated_AP" in figures:
            lines += ["  ".join(show(f"rotated_{key}") for key in row) for row in rows[:2]]
        if "keypoint_AP" in figures:
            keys = (["keypoint_AP", "keypoint_AP50", "keypoint_AP75"], ["keypoint_APm", "keypoint_APl"])
            lines += ["  ".join(map(show, row)) for row in keys]
        interval = figures["AP50_interval"]
        if interval:
            lines.append(f"AP50 lies between {interval[0]:.3f} and {interval[1]:.3f} (95 % bootstrap interval)")
    if evaluation.pixels is not None:
        lines += evaluation.pixels.lines()
    best = figures["best_f1"]
    if best:
        lines.append(
            f"best F1 {best['f1']:.3f} at score {best['score_threshold']:.3f} (mean over classes; precision "
            f"{best['precision']:.3f}, recall {best['recall']:.3f})"
        )
    return lines
