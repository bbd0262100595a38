"""Validation while training: losses and detections from one pass over the images, then COCO AP."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from boxwright.checkpoint import Checkpoint
from boxwright.data.dataset import DetectionDataset
from boxwright.evaluation.coco_ap import KEYPOINT_LIMITS, CocoResult, coco_ap
from boxwright.evaluation.detect_split import (
    EvaluationInputs,
    SplitDetections,
    detect_split,
    evaluation_settings,
    with_ground_truth,
)
from boxwright.evaluation.pixel_counts import PixelFigures
from boxwright.evaluation.rotated_ap import have_rotated
from boxwright.evaluation.summary import Evaluation, evaluate_detections, have_keypoints, have_masks
from boxwright.inference.predictor import Detector
from boxwright.models import MODELS
from boxwright.recipes.schema import Recipe
from boxwright.structures import Classes
from boxwright.training.columns import FLOOR, Row


class ValidationResult(NamedTuple):
    """COCO figures of boxes and, where the model gives them, of masks, keypoints or rotated boxes; and their inputs."""

    coco: CocoResult
    inputs: EvaluationInputs
    segm: CocoResult | None = None
    points: CocoResult | None = None
    rotated: CocoResult | None = None

    @property
    def pixels(self) -> PixelFigures | None:
        """Figures of the labels of pixels and of segments, where the model gives them."""
        return self.inputs.pixels

    @property
    def objects(self) -> bool:
        """Whether the model finds objects: without, the figures of boxes are undefined."""
        return self.inputs.objects

    @property
    def _beside(self) -> list[tuple[str, str, CocoResult]]:
        """The figures of what objects have beside upright boxes: prefix of their names, name in the log, figures."""
        every = (
            ("segm_", "mask AP", self.segm),
            ("keypoint_", "keypoint AP", self.points),
            ("rotated_", "rotated AP", self.rotated),
        )
        return [(prefix, name, one) for prefix, name, one in every if one is not None]

    @property
    def ap(self) -> float | None:
        """The figure that says which weights are best: PQ, else AP of masks, keypoints or rotated boxes where there are
        any, else AP of boxes; mIoU of a model that finds no objects.
        """
        if self.pixels is not None and self.pixels.panoptic is not None:
            return self.pixels.panoptic.all.pq
        if self.pixels is not None and not self.objects:
            return self.pixels.semantic.mean_iou
        return self._beside[0][2].ap if self._beside else self.coco.ap

    @property
    def best_by(self) -> str:
        """What `ap` is called in a line of the log."""
        if self.pixels is not None and self.pixels.panoptic is not None:
            return "PQ"
        if not self.objects:
            return "mIoU"
        return self._beside[0][1] if self._beside else "AP"

    def columns(self) -> Row:
        """What a row of results says of it; mean losses over the images, their total first."""
        found = {"loss": sum(self.inputs.losses.values()), **self.inputs.losses}
        found |= {name + FLOOR: value for name, value in self.inputs.floors.items()}
        row: Row = {f"val/{name}": value for name, value in found.items()}
        row |= {"val/AP": self.coco.ap, "val/AP50": self.coco.ap50, "val/AP75": self.coco.ap75}
        for prefix, _, one in self._beside:
            row |= {f"val/{prefix}AP": one.ap, f"val/{prefix}AP50": one.ap50}
        if self.pixels is not None:
            figures = self.pixels.figures()
            row |= {f"val/{key}": figures[key] for key in ("mIoU", "PQ", "SQ", "RQ") if key in figures}
        return row

    def figures(self) -> dict[str, Any]:
        """The COCO figures as one JSON object; those of masks are called `segm_AP`, of keypoints `keypoint_AP`, ..."""
        figures = self.coco.figures()
        for prefix, _, one in self._beside:
            figures |= one.figures(prefix)
        return figures | ({} if self.pixels is None else self.pixels.figures())

    def evaluation(self) -> Evaluation:
        """Everything that `evaluate` says of the same checkpoint and split."""
        one = self.inputs
        return evaluate_detections(
            one.detections, one.ground_truths, one.classes,
            max_detections=one.most_detections, areas=one.areas, federation=one.federation, pixels=one.pixels,
            objects=one.objects,
        )  # fmt: skip

    def summary(self) -> str:
        """AP and AP50 of the boxes, and of masks, keypoints and maps where there are any, for a line of the log."""
        pixels = "" if self.pixels is None else self.pixels.summary()
        if not self.objects:
            return pixels or "mIoU undefined (no pixel of the validation images has a label)"
        return "  ".join(filter(None, (self._objects(), pixels)))

    def _objects(self) -> str:
        if self.coco.ap is None or self.coco.ap50 is None:
            return "AP undefined (no object in the validation images)"
        words = [f"AP {self.coco.ap:.4f}  AP50 {self.coco.ap50:.4f}"]
        for _, name, one in self._beside:
            known = one.ap is not None and one.ap50 is not None
            words.append(f"{name} {one.ap:.4f}  AP50 {one.ap50:.4f}" if known else f"{name} undefined")
        return "  ".join(words)


def validate(
    detector: Detector, images: DetectionDataset, *, limit: int | None = None, share: tuple[int, int] = (0, 1)
) -> ValidationResult:
    """Evaluate a detector on the first `limit` images of a split; figures are those of all processes together.

    `share` is the rank of this process and the number of processes. ValueError or OSError, in all of them, where one
    found an image damaged.
    """
    settings = evaluation_settings(detector.settings)
    own = SplitDetections.joined(list(detect_split(detector, images, settings, limit=limit, losses=True, share=share)))
    joined = SplitDetections.joined(gather_object([own]))
    for _, one in sorted(joined.images.items()):
        if isinstance(one, Exception):  # not before the gathering, where the other processes would wait for this one
            raise one
    objects = MODELS[detector.recipe.model.name].detects and bool(detector.classes.names)
    inputs = replace(with_ground_truth(joined, images, detector.classes), objects=objects)
    if not objects:
        return ValidationResult(CocoResult.undefined(), inputs)
    found, ground_truths, areas = inputs.detections, inputs.ground_truths, inputs.areas
    most, federation = inputs.most_detections, inputs.federation
    limits = None if most is None or federation is not None else (1, 10, 100, most)
    if most is not None and federation is not None:
        federation = replace(federation, limit=most)

    def ap_of(kind: Literal["boxes", "rotated", "masks"]) -> CocoResult:
        return coco_ap(
            found, ground_truths, detector.classes,
            kind=kind, max_detections=limits, areas=areas, federation=federation,
        )  # fmt: skip

    segm = ap_of("masks") if have_masks(found, ground_truths) else None
    points = None
    if have_keypoints(found, ground_truths):
        points = coco_ap(
            found, ground_truths, detector.classes, kind="keypoints", max_detections=KEYPOINT_LIMITS, areas=areas
        )
    turned = ap_of("rotated") if have_rotated(found, ground_truths) else None
    return ValidationResult(ap_of("boxes"), inputs, segm, points, turned)


@dataclass(frozen=True, slots=True)
class Validator:
    """Evaluates a model on the validation images, as `evaluate` would a checkpoint of its weights."""

    recipe: Recipe
    classes: Classes
    images: DetectionDataset
    accelerator: Accelerator
    precision: str
    limit: int | None = None
    """The first so many images only."""

    def __call__(self, model: nn.Module) -> ValidationResult:
        """The figures of all processes together."""
        share = (self.accelerator.process_index, self.accelerator.num_processes)
        if share[1] > 1:  # BatchNorm's statistics are each process's own; those of the first one are saved
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)
        checkpoint = Checkpoint(self.recipe, self.classes, model.state_dict())
        detector = Detector(checkpoint, self.accelerator.device, precision=self.precision)
        return validate(detector, self.images, limit=self.limit, share=share)
