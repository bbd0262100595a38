"""What the maps of a split's images come to: counts that add up image by image, and the figures of both metrics.

So no map has to be kept until the end. Shape legend: K = labels of a semantic map, C = classes of objects and stuff.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from boxwright.data.segments import Segments, segments_of
from boxwright.evaluation.panoptic_quality import PanopticCounts, PanopticResult, panoptic_counts, panoptic_quality
from boxwright.evaluation.semantic_iou import SemanticResult, label_confusion, semantic_iou
from boxwright.structures import Classes, Detections, GroundTruth


@dataclass(frozen=True, slots=True)
class PixelCounts:
    """The confusion matrix (K, K + 1) of labels, and the counts of segments where the model gives them."""

    confusion: Tensor
    segments: PanopticCounts | None = None

    def __add__(self, other: PixelCounts) -> PixelCounts:
        segments = None
        if self.segments is not None and other.segments is not None:
            segments = self.segments + other.segments
        return PixelCounts(self.confusion + other.confusion, segments)

    def figures(self, classes: Classes) -> PixelFigures:
        """The figures of these counts."""
        segments = None
        if self.segments is not None:
            segments = panoptic_quality(self.segments, classes.names, classes.stuff)
        return PixelFigures(semantic_iou(self.confusion, classes.semantic_names), segments)


@dataclass(frozen=True, slots=True)
class PixelFigures:
    """Figures of the labels of pixels, and of segments where there are any."""

    semantic: SemanticResult
    panoptic: PanopticResult | None = None

    def figures(self) -> dict[str, Any]:
        """All of them, for one JSON object."""
        return self.semantic.figures() | ({} if self.panoptic is None else self.panoptic.figures())

    def summary(self) -> str:
        """mIoU, and PQ where there is one, for a line of the log."""
        figures = [("mIoU", self.semantic.mean_iou)]
        figures += [] if self.panoptic is None else [("PQ", self.panoptic.all.pq)]
        return "  ".join(f"{name} {'undefined' if value is None else f'{value:.4f}'}" for name, value in figures)

    def lines(self) -> list[str]:
        """The figures over all classes as lines of text."""

        def show(values: dict[str, Any], *keys: str) -> str:
            return "  ".join(f"{key} {'-' if values[key] is None else f'{values[key]:.4f}'}" for key in keys)

        lines = [show(self.semantic.figures(), "mIoU", "fwIoU", "pixel_accuracy", "mean_accuracy")]
        if self.panoptic is not None:
            values = self.panoptic.figures()
            lines += [show(values, *(f"{key}{end}" for key in ("PQ", "SQ", "RQ"))) for end in ("", "_things", "_stuff")]
        return lines


def pixel_counts(found: Detections, ground_truth: GroundTruth, classes: Classes) -> PixelCounts | None:
    """The counts of one image; None where there is no semantic map of both.

    The labels of `found` are those of `classes`. Raises ValueError for maps of different sizes.
    """
    if found.semantic is None or ground_truth.semantic is None:
        return None
    confusion = label_confusion(found.semantic.cpu(), ground_truth.semantic, len(classes.semantic_names))
    if found.panoptic is None or (len(ground_truth) and ground_truth.masks is None):
        return PixelCounts(confusion)
    counts = panoptic_counts(
        predicted_segments(found, classes), segments_of(ground_truth, classes), len(classes.names) + len(classes.stuff)
    )
    return PixelCounts(confusion, counts)


def predicted_segments(found: Detections, classes: Classes) -> Segments:
    """The segments that a model gave, numbered from 1 in their order."""
    panoptic = found.panoptic
    assert panoptic is not None
    number_of = panoptic.map.new_zeros(max([0, *(one.id for one in panoptic.segments)]) + 1)
    for number, one in enumerate(panoptic.segments, start=1):
        number_of[one.id] = number
    labels = tuple(one.label if one.thing else len(classes.names) + one.label for one in panoptic.segments)
    return Segments(number_of[panoptic.map.long()].cpu(), labels, (False,) * len(labels))
