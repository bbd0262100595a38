"""One image explained, whatever the detector: in words, and as drawings."""

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
from boxwright.inference.predictor import Detector
from boxwright.models.claims import holds_locations
from boxwright.structures import Detections, GroundTruth


@dataclass(frozen=True, slots=True)
class Explained:
    """An explanation by locations (FCOS, FCOS-Mask) or by anchors and proposals (all others)."""

    made: Explanation | AnchorExplanation
    ground_truth: GroundTruth | None
    """In the image's own pixels, with its masks and keypoints if there are any."""

    @property
    def found(self) -> Detections:
        """The detections, in network pixels."""
        return self.made.found

    def lines(self, box: int | None, detection: int | None) -> list[str]:
        """The explanation in words, with a ground truth box and a detection by their numbers."""
        made = self.made
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
        return lines

    def write(self, folder: Path, *, box: int | None, detection: int | None, label: int | None) -> list[Path]:
        """Write the drawings as PNG files; `label` chooses the class of the score maps."""
        if isinstance(self.made, Explanation):
            return write_explanation(
                self.made, folder, box=box, detection=detection, label=label, masks=self.ground_truth
            )  # fmt: skip
        return write_anchor_explanation(
            self.made, folder, box=box, detection=detection, label=label, masks=self.ground_truth
        )  # fmt: skip


def explain_any(
    detector: Detector, image: Tensor, ground_truth: GroundTruth | None = None, *, score: float | None = None,
    proposals: Tensor | None = None,
) -> Explained:  # fmt: skip
    """All that a detector predicts for an image (3, H, W) uint8, and who must learn its ground truth (original pixels).

    `score` is the score threshold of the detections, the checkpoint's own if not given; `proposals` (R, 5) are boxes in
    network pixels and scores, for Fast R-CNN. Raises ValueError for an exported file.
    """
    if not detector.has_network:
        raise ValueError("an exported file contains no torch network: use the checkpoint that it was made from")
    if detector.recipe.needs_rotated:
        raise ValueError("explain knows upright anchors and regions only, not those of a detector of rotated boxes")
    boxes = None if ground_truth is None else replace(ground_truth, masks=None, keypoints=None)
    if holds_locations(detector.recipe.model):
        return Explained(explain(detector, image, boxes, score=score), ground_truth)
    return Explained(explain_anchors(detector, image, boxes, score=score, proposals=proposals), ground_truth)
