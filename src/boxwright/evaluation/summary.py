"""The whole result of `boxwright evaluate` in one record: metrics, the table of classes, and a diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from boxwright.evaluation.bootstrap import bootstrap_ap
from boxwright.evaluation.coco_ap import KEYPOINT_LIMITS, Areas, coco_ap
from boxwright.evaluation.curves import best_threshold as find_best_threshold
from boxwright.evaluation.curves import curves_of
from boxwright.evaluation.diagnosis.diagnose import diagnose
from boxwright.evaluation.matching import gather, match
from boxwright.evaluation.report import ClassRow, class_rows
from boxwright.evaluation.voc_ap import VocResult, voc_ap
from boxwright.structures import Classes, Detections, GroundTruth

METRICS = ("coco", "voc")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of an evaluation: `figures` (one JSON object, fractions or None), rows of the table, and sentences.

    `notes` explain undefined or empty results, `diagnosis` an AP near zero; `per_class` is AP by class name; `voc` has
    precision and recall of every detection where the metric is VOC's; `iou` is the threshold of the table.
    """

    figures: dict[str, Any]
    per_class: dict[str, float | None]
    rows: list[ClassRow]
    notes: tuple[str, ...]
    diagnosis: tuple[str, ...]
    voc: VocResult | None = None
    iou: float = 0.5


def check_metric(metric: str, iou: float) -> None:
    """ValueError for a metric that is none, or an overlap that is no fraction."""
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r}: expected {' or '.join(METRICS)}")
    if not 0 < iou <= 1:
        raise ValueError(f"iou {iou}: expected a fraction above 0, up to 1")


def evaluate_detections(
    detections: Sequence[Detections],
    ground_truths: Sequence[GroundTruth],
    classes: Classes,
    *,
    metric: str = "coco",
    iou: float = 0.5,
    max_detections: int = 100,
    areas: Areas | None = None,
    eleven_point: bool = False,
    plus_one: bool = True,
) -> Evaluation:
    """Evaluate detections against the ground truth of the same images in the same order, by COCO's or VOC's rule.

    `iou` is the IoU threshold of VOC AP, of the table's precision, recall and F1, and of the best score threshold; COCO
    AP has its own ten. `max_detections` is COCO's highest limit for each class of an image; the lower ones are 1, 10
    and 100. Raises ValueError for an unknown metric or an `iou` outside (0, 1].
    """
    check_metric(metric, iou)
    pixels, voc = metric == "voc" and plus_one, None
    matches = match(gather(detections, ground_truths), len(classes), iou, plus_one=pixels)
    curves = curves_of(matches, iou)
    best = find_best_threshold(curves)
    if metric == "voc":
        voc = voc_ap(detections, ground_truths, classes, iou=iou, eleven_point=eleven_point, plus_one=plus_one)
        figures, per_class, notes = voc.figures(), voc.per_class, voc.notes
    else:
        limits = sorted({1, min(10, max_detections), min(100, max_detections), max_detections})
        coco = coco_ap(detections, ground_truths, classes, max_detections=limits, areas=areas)
        figures, per_class, notes = coco.figures(), coco.per_class, coco.notes
        if have_masks(detections, ground_truths):
            masks = coco_ap(detections, ground_truths, classes, kind="masks", max_detections=limits, areas=areas)
            figures |= masks.figures("segm_")
        if have_keypoints(detections, ground_truths):
            points = coco_ap(
                detections, ground_truths, classes, kind="keypoints", max_detections=KEYPOINT_LIMITS, areas=areas
            )
            figures |= points.figures("keypoint_")
        interval = bootstrap_ap(matches) if len(ground_truths) > 1 and coco.ap50 is not None and iou == 0.5 else None
        figures["AP50_interval"] = None if interval is None else list(interval)
    figures["best_f1"] = best and {
        "score_threshold": best.score,
        "f1": best.f1,
        "precision": best.precision,
        "recall": best.recall,
    }
    diagnosis = diagnose(detections, ground_truths, classes)
    figures |= {"notes": list(notes), "diagnosis": list(diagnosis)}
    rows = class_rows(ground_truths, classes, curves, best, per_class)
    return Evaluation(figures, per_class, rows, notes, diagnosis, voc, iou)


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
    else:
        recalls = [*(key for key in figures if key.startswith("AR")), "recall50"]
        lines = ["  ".join(map(show, keys)) for keys in (["AP", "AP50", "AP75"], ["APs", "APm", "APl"], recalls)]
        if "segm_AP" in figures:
            keys = (["segm_AP", "segm_AP50", "segm_AP75"], ["segm_APs", "segm_APm", "segm_APl"])
            lines += ["  ".join(map(show, row)) for row in keys]
        if "keypoint_AP" in figures:
            keys = (["keypoint_AP", "keypoint_AP50", "keypoint_AP75"], ["keypoint_APm", "keypoint_APl"])
            lines += ["  ".join(map(show, row)) for row in keys]
        interval = figures["AP50_interval"]
        if interval:
            lines.append(f"AP50 lies between {interval[0]:.3f} and {interval[1]:.3f} (95 % bootstrap interval)")
    best = figures["best_f1"]
    if best:
        lines.append(
            f"best F1 {best['f1']:.3f} at score {best['score_threshold']:.3f} (mean over classes; precision "
            f"{best['precision']:.3f}, recall {best['recall']:.3f})"
        )
    return lines
