"""What a model predicts for each pixel of one image, beside the ground truth: labels, confidence, mistakes, segments.

Semantic FPN, and the maps of Panoptic FPN. Shape legend: S = semantic classes, h w = height and width of the logits,
H W = those of the image in its own pixels, in which all maps are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from boxwright.data.segments import Segments, segments_of
from boxwright.evaluation.panoptic_quality import SegmentMatches, match_segments
from boxwright.evaluation.pixel_counts import pixel_counts, predicted_segments
from boxwright.evaluation.semantic_iou import SemanticResult, label_confusion, semantic_iou
from boxwright.inference.predictor import Detector, TorchEngine
from boxwright.ops.image import ResizePlan, fit_image, resize_plan
from boxwright.ops.semantic import IGNORED, semantic_confidence
from boxwright.structures import Classes, Detections, GroundTruth, ImageBatch
from boxwright.structures.detections import SEMANTIC_STRIDE
from boxwright.visualize.stuff import label_name
from boxwright.wording import counted

CONFUSED = 3
"""Pairs of classes that are listed."""


@dataclass(frozen=True, slots=True)
class SemanticExplanation:
    """One image as a model with a semantic map sees it: its logits (S, h, w) at stride 4 of the network.

    `found` has the maps that `predict` gives, `ground_truth` the true ones, both in the image's own pixels.
    """

    image: Tensor
    plan: ResizePlan
    classes: Classes
    logits: Tensor
    found: Detections
    ground_truth: GroundTruth | None

    @property
    def labels(self) -> Tensor:
        """The predicted label (H, W) uint8 of each pixel."""
        assert self.found.semantic is not None
        return self.found.semantic

    @property
    def wanted(self) -> Tensor | None:
        """The true label (H, W) uint8 of each pixel, 255 where it is not known; None without ground truth."""
        return None if self.ground_truth is None else self.ground_truth.semantic

    @property
    def wrong(self) -> Tensor | None:
        """The pixels (H, W) whose true label is known and another one; None without ground truth."""
        wanted = self.wanted
        return None if wanted is None else (wanted != IGNORED) & (self.labels != wanted)

    def confidence(self, label: int | None = None) -> Tensor:
        """The probability (H, W) of a label at each pixel, or of the one that it gets."""
        plan, hw = self.plan, (int(self.image.shape[1]), int(self.image.shape[2]))
        return semantic_confidence(
            self.logits, SEMANTIC_STRIDE, plan.size_hw, hw, plan.scale_xy, plan.offset_xy, label
        )  # fmt: skip

    def present(self) -> list[int]:
        """The labels that the image gets or should get, those of most pixels first."""
        counts = torch.bincount(self.labels.flatten(), minlength=IGNORED + 1)
        if self.wanted is not None:
            counts = counts + torch.bincount(self.wanted.flatten(), minlength=IGNORED + 1)
        counts[IGNORED] = 0
        order = counts.argsort(descending=True, stable=True)
        return [int(label) for label in order[: int((counts > 0).sum())]]

    def confusion(self) -> Tensor | None:
        """Pixels by true label (rows) and predicted one (columns), as evaluation counts them."""
        if self.wanted is None:
            return None
        return label_confusion(self.labels, self.wanted, len(self.classes.semantic_names))

    def figures(self) -> SemanticResult | None:
        """What evaluation would give for this image alone."""
        confusion = self.confusion()
        return None if confusion is None else semantic_iou(confusion, self.classes.semantic_names)


@torch.inference_mode()
def explain_semantic(
    detector: Detector, image: Tensor, ground_truth: GroundTruth | None = None
) -> SemanticExplanation:  # fmt: skip
    """All that a Semantic FPN predicts for an image (3, H, W) uint8, beside its ground truth (original pixels)."""
    engine = detector.engine
    assert isinstance(engine, TorchEngine)
    hw = (int(image.shape[1]), int(image.shape[2]))
    plan = resize_plan(hw, detector.resize)
    images = ImageBatch.of([fit_image(image, plan)], [hw], [plan.scale_xy], [plan.offset_xy])
    padded = engine.detect(engine.forward(images.to(detector.device)), detector.settings)
    (found,) = padded.restore(images, detector.paste)
    assert padded.semantic is not None
    return SemanticExplanation(image, plan, detector.classes, padded.semantic[0].cpu(), found, ground_truth)


class SegmentComparison(NamedTuple):
    """The predicted segments of an image beside the true ones; None for these without ground truth."""

    found: Segments
    ground_truth: Segments | None
    matches: SegmentMatches | None
    quality: float | None
    """Panoptic quality of this image alone."""


def compare_segments(made: SemanticExplanation) -> SegmentComparison | None:
    """The segments of a panoptic model; None for a model without them."""
    if made.found.panoptic is None:
        return None
    found, known = predicted_segments(made.found, made.classes), made.ground_truth
    if known is None or known.semantic is None or (len(known) and known.masks is None):
        return SegmentComparison(found, None, None, None)
    counts = pixel_counts(made.found, known, made.classes)
    assert counts is not None
    panoptic = counts.figures(made.classes).panoptic
    true = segments_of(known, made.classes)
    quality = None if panoptic is None else panoptic.all.pq
    return SegmentComparison(found, true, match_segments(found, true), quality)


# ---- in words -------------------------------------------------------------------------------------------------------


def describe_semantic(made: SemanticExplanation) -> list[str]:
    """Lines on the image of a model that labels pixels only."""
    (height, width), (net_height, net_width) = made.image.shape[1:], made.plan.size_hw
    size = f"The image has {width} x {height} pixels (width x height); the network sees {net_width} x {net_height}."
    return [size, *describe_maps(made)]


def describe_maps(made: SemanticExplanation) -> list[str]:
    """Lines on the semantic map: each class in the image, the share of right labels, and which are confused."""
    wanted, figures, confidence = made.wanted, made.figures(), made.confidence()
    lines = ["Pixels by class, as predicted" + (":" if wanted is None else " (and in the ground truth):")]
    for label in made.present():
        mine, name = made.labels == label, label_name(label, made.classes)
        text = f"{name}: {share_words(mine)}"
        if wanted is not None and figures is not None:
            text += f" ({share_words(wanted == label)})"
            iou = figures.per_class.get(name)
            text += "" if iou is None else f", IoU {iou:.2f}"
        if bool(mine.any()):
            text += f", mean confidence {float(confidence[mine].mean()):.2f}"
        lines.append(f"  {text}.")
    return [*lines, *_right_words(made, figures)]


def _right_words(made: SemanticExplanation, figures: SemanticResult | None) -> list[str]:
    """How many labels are right, and which are taken for which."""
    confusion = made.confusion()
    if confusion is None or figures is None:
        return []
    total = int(confusion.sum())
    if figures.pixel_accuracy is None or figures.mean_iou is None:
        return ["No pixel of the ground truth has a label."]
    there = sum(value is not None for value in figures.per_class.values())
    lines = [
        f"Of the pixels with a known label {figures.pixel_accuracy:.1%} get it; mIoU {figures.mean_iou:.2f}, the mean "
        f"over {counted(there, 'class')} in this image's ground truth."
    ]
    wrong = confusion.clone()
    wrong.fill_diagonal_(0)
    pairs = [divmod(int(place), wrong.shape[1]) for place in wrong.flatten().argsort(descending=True)[:CONFUSED]]
    told = [
        f"{label_name(row, made.classes)} taken for {_predicted(made, column)} ({int(wrong[row, column]) / total:.1%})"
        for row, column in pairs
        if wrong[row, column]
    ]
    return [*lines, f"Most confused, of all these pixels: {'; '.join(told)}." if told else "No label is wrong."]


def _predicted(made: SemanticExplanation, column: int) -> str:
    return "nothing" if column >= len(made.classes.semantic_names) else label_name(column, made.classes)


def share_words(pixels: Tensor) -> str:
    """The share of an image's pixels (H, W) bool."""
    return f"{float(pixels.float().mean()):.1%}" if bool(pixels.any()) else "none"


def label_shares(semantic: Tensor, classes: Classes) -> str:
    """The share of each label of a map (H, W), or of several maps' pixels, most frequent first, in one sentence."""
    counts = torch.bincount(semantic.flatten(), minlength=IGNORED + 1)
    total, order = max(1, int(counts.sum())), counts.argsort(descending=True, stable=True).tolist()
    parts = [
        f"{label_name(one, classes)} {int(counts[one]) / total:.1%}" for one in order if counts[one] and one < IGNORED
    ]
    parts += [f"without a label {int(counts[IGNORED]) / total:.1%}"] if counts[IGNORED] else []
    return f"Pixels by class: {', '.join(parts)}."


def describe_segments(made: SemanticExplanation) -> list[str]:
    """Lines on the segments of a panoptic model: how many are right, which are missed and which are wrong."""
    compared = compare_segments(made)
    if compared is None:
        return []
    found, true, matches, quality = compared
    every = (*made.classes.names, *made.classes.stuff)
    if true is None or matches is None:
        return [f"Segments: {len(found.labels)} ({_names(found.labels, every)})."]
    wanted = len(true.labels) - sum(true.crowd)
    matched, told = int(matches.match.any(1).sum()), "undefined" if quality is None else f"{quality:.2f}"
    lines = [
        f"Segments: {len(found.labels)} predicted; of {wanted} in the ground truth {matched} have one of their class "
        f"with IoU above 0.5. PQ of this image: {told}."
    ]
    for word, flags, labels in (("Missed", matches.missed, true.labels), ("Wrong", matches.wrong, found.labels)):
        listed = [label for label, flag in zip(labels, flags.tolist(), strict=True) if flag]
        lines += [f"{word}: {_names(listed, every)}."] if listed else []
    return lines


def _names(labels: Sequence[int], every: tuple[str, ...]) -> str:
    """Class names, most frequent first, with the number of those that are several."""
    counts = Counter(labels).most_common()
    return ", ".join(f"{every[label]} ({count})" if count > 1 else every[label] for label, count in counts)
