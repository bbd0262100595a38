"""Validation while training: losses and detections from one pass over the images, then AP."""

from __future__ import annotations

from typing import Any, NamedTuple

from accelerate.utils import gather_object

from boxwright.data.dataset import DetectionDataset
from boxwright.evaluation.coco_ap import CocoResult, coco_ap
from boxwright.evaluation.detect_split import (
    EvaluationInputs,
    SplitDetections,
    detect_split,
    evaluation_settings,
    with_ground_truth,
)
from boxwright.evaluation.summary import evaluate_detections, have_masks
from boxwright.inference.predictor import Detector


class Measured(NamedTuple):
    """Results of a validation: COCO figures, each image's detections and ground truth, and the mean losses.

    `segm` are the figures of the masks, where the model gives masks.
    """

    coco: CocoResult
    evaluated: EvaluationInputs
    segm: CocoResult | None = None

    @property
    def ap(self) -> float | None:
        """The figure that says which weights are best: AP of the masks where there are masks, else of the boxes."""
        return (self.segm or self.coco).ap

    def figures(self) -> dict[str, Any]:
        """The COCO figures as one JSON object; those of the masks are called `segm_AP` and so on."""
        return self.coco.figures() | (self.segm.figures("segm_") if self.segm else {})

    def all_figures(self) -> dict[str, Any]:
        """Everything that `evaluate` says of the same checkpoint and split, as one JSON object."""
        one = self.evaluated
        return evaluate_detections(one.detections, one.ground_truths, one.classes, areas=one.areas).figures


def measure(
    detector: Detector, images: DetectionDataset, *, limit: int | None = None, share: tuple[int, int] = (0, 1)
) -> Measured:
    """Validate a detector on the first `limit` images of a split; figures are those of all processes together.

    `share` is the rank of this process and the number of processes.
    """
    settings = evaluation_settings(detector.settings)
    own = SplitDetections.joined(list(detect_split(detector, images, settings, limit=limit, losses=True, share=share)))
    joined = SplitDetections.joined(gather_object([own]))
    for _, one in sorted(joined.images.items()):
        if isinstance(one, Exception):  # no figures without it; after the gathering, so that no process waits for ever
            raise one
    evaluated = with_ground_truth(joined, images, detector.classes)
    found, ground_truths, areas = evaluated.detections, evaluated.ground_truths, evaluated.areas
    segm = None
    if have_masks(found, ground_truths):
        segm = coco_ap(found, ground_truths, detector.classes, kind="masks", areas=areas)
    return Measured(coco_ap(found, ground_truths, detector.classes, areas=areas), evaluated, segm)
