"""All files of an evaluation: figures, detections and ground truth in the formats of other tools, tables and charts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from boxwright.evaluation import result_files
from boxwright.evaluation.federated import counted
from boxwright.evaluation.pixel_tables import write_pixel_tables
from boxwright.evaluation.report import write_report
from boxwright.evaluation.summary import Evaluation
from boxwright.evaluation.voc_report import write_voc_report
from boxwright.structures import Classes, Detections, GroundTruth
from boxwright.writing import writing


def save_evaluation(
    folder: Path | str,
    evaluation: Evaluation,
    detections: Sequence[Detections],
    ground_truths: Sequence[GroundTruth],
    classes: Classes,
    *,
    image_ids: Sequence[int | str],
    paths: Sequence[Path | str],
) -> Path:
    """Write what `boxwright evaluate --save` writes into a folder, which is made if there is none, and return it.

    detections, ground_truths, image_ids, paths: of the same images in the same order, those of the evaluation. Files of
    an earlier evaluation are overwritten.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with writing(folder / "metrics.json") as path:
        path.write_text(json.dumps(evaluation.figures, indent=1) + "\n", encoding="utf-8")
    if evaluation.pixels is not None:
        write_pixel_tables(folder, evaluation.pixels)
    if not evaluation.per_class:  # no objects: no result files nor curves of them
        return folder
    stems = result_files.unique_stems(paths)
    result_files.write_coco_results(folder / "predictions.json", detections, image_ids)
    result_files.write_text_results(folder / "detection-results", detections, stems)
    result_files.write_text_ground_truth(folder / "ground-truth", ground_truths, stems, classes)
    result_files.write_voc_results(folder / "voc", detections, stems, classes)
    plus_one = bool(evaluation.figures.get("plus_one"))
    found, wanted = counted(detections, ground_truths, evaluation.federation)
    write_report(folder, found, wanted, classes, evaluation.per_class, iou=evaluation.iou, plus_one=plus_one)
    if evaluation.voc is not None:
        write_voc_report(folder, evaluation.voc, detections)
    return folder
