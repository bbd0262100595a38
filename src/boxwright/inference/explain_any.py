"""One image explained, whatever the model: in words, and as drawings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from boxwright.inference.explain import Explanation, describe, describe_box, describe_detection, explain
from boxwright.inference.explain_anchors import (
    AnchorExplanation,
    describe_anchors,
    describe_box_of,
    describe_detection_of,
    explain_anchors,
)
from boxwright.inference.explain_anchors_drawing import write_anchor_explanation
from boxwright.inference.explain_drawing import write_explanation
from boxwright.inference.explain_keypoints import describe_keypoints
from boxwright.inference.explain_masks import describe_mask
from boxwright.inference.explain_panels import save_figures
from boxwright.inference.explain_semantic import (
    SemanticExplanation,
    describe_maps,
    describe_segments,
    describe_semantic,
    explain_semantic,
)
from boxwright.inference.explain_semantic_drawing import semantic_figures, write_semantic_explanation
from boxwright.inference.predictor import Detector
from boxwright.models import MODELS
from boxwright.models.claims import holds_locations
from boxwright.structures import Classes, Detections, GroundTruth


@dataclass(frozen=True, slots=True)
class Explained:
    """An explanation by locations (FCOS, FCOS-Mask), by the labels of pixels (Semantic FPN), or by anchors and
    proposals (all others).
    """

    made: Explanation | AnchorExplanation | SemanticExplanation
    ground_truth: GroundTruth | None
    """In the image's own pixels, with its masks and keypoints if there are any."""
    maps: SemanticExplanation | None = None
    """The maps of a panoptic model, beside its objects."""

    @property
    def found(self) -> Detections:
        """The detections, in network pixels; none of a model that labels pixels only."""
        return self.made.found

    def lines(self, box: int | None, detection: int | None) -> list[str]:
        """The explanation in words, with a ground truth box and a detection by their numbers.

        Raises ValueError for such a number where the image has no such box, and of a model that finds no objects.
        """
        made = self.made
        if isinstance(made, SemanticExplanation):
            _refuse_objects(box, detection)
            return describe_semantic(made)
        if isinstance(made, Explanation):
            lines = describe(made)
            lines += describe_box(made, box) if box is not None else []
            lines += describe_detection(made, detection) if detection is not None else []
        else:
            lines = describe_anchors(made)
            lines += describe_box_of(made, box) if box is not None else []
            lines += describe_detection_of(made, detection) if detection is not None else []
        if detection is not None and made.restored.masks is not None:
            lines.append(describe_mask(made.restored, self.ground_truth, detection))
        if detection is not None and made.restored.keypoints is not None:
            lines += describe_keypoints(made.restored, self.ground_truth, detection)
        return lines if self.maps is None else [*lines, *describe_maps(self.maps), *describe_segments(self.maps)]

    def write(self, folder: Path, *, box: int | None, detection: int | None, label: int | None) -> list[Path]:
        """Write the drawings as PNG files; `label` chooses a class of `class_names` for score or probability maps."""
        made = self.made
        if isinstance(made, SemanticExplanation):
            _refuse_objects(box, detection)
            return write_semantic_explanation(made, folder, label=label)
        if isinstance(made, Explanation):
            return write_explanation(made, folder, box=box, detection=detection, label=label, masks=self.ground_truth)
        of_objects = label if self.maps is None else None
        written = write_anchor_explanation(
            made, folder, box=box, detection=detection, label=of_objects, masks=self.ground_truth
        )  # fmt: skip
        if self.maps is None:
            return written
        drawn = semantic_figures(self.maps, label)
        named = [("9_segments" if name == "segments" else f"9_semantic_{name}", figure) for name, figure in drawn]
        return [*written, *save_figures(named, folder)]


def _refuse_objects(box: int | None, detection: int | None) -> None:
    """Raise ValueError where an object is asked for, of a model that labels pixels only."""
    if box is not None or detection is not None:
        raise ValueError("a model that labels pixels finds no objects: there is no box or detection to explain")


def class_names(detector: Detector) -> tuple[str, ...]:
    """The classes of which maps can be drawn: those of the objects, or of the semantic map where there is one."""
    classes: Classes = detector.classes
    return classes.semantic_names if detector.recipe.needs_semantic else classes.names


def explain_any(
    detector: Detector, image: Tensor, ground_truth: GroundTruth | None = None, *, score: float | None = None,
    proposals: Tensor | None = None,
) -> Explained:  # fmt: skip
    """All that a model predicts for an image (3, H, W) uint8, and who must learn its ground truth (original pixels).

    `score` is the score threshold of the detections, the checkpoint's own if not given; `proposals` (R, 5) are boxes in
    network pixels and scores, for Fast R-CNN. Raises ValueError for an exported file.
    """
    if not detector.has_network:
        raise ValueError("an exported file contains no torch network: use the checkpoint that it was made from")
    recipe = detector.recipe
    if not MODELS[recipe.model.name].detects:
        return Explained(explain_semantic(detector, image, ground_truth), ground_truth)
    boxes = None if ground_truth is None else replace(ground_truth, masks=None, keypoints=None, semantic=None)
    if boxes is not None and not recipe.needs_rotated:
        boxes = replace(boxes, rotated=None)
    if holds_locations(recipe.model):
        return Explained(explain(detector, image, boxes, score=score), ground_truth)
    made = explain_anchors(detector, image, boxes, score=score, proposals=proposals)
    if made.semantic is None:
        return Explained(made, ground_truth)
    maps = SemanticExplanation(image, made.plan, made.classes, made.semantic, made.restored, ground_truth)
    return Explained(made, ground_truth, maps)
