"""The comparison of an exported file with its checkpoint, on images alone and in batches of mixed sizes.

Through rounding, a detection near a threshold may appear or disappear, and two of nearly equal score may swap places.
So detections are matched one to one, and those within a margin of the end of the list need no match.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from boxwright.data.proposals import StoredProposals
from boxwright.data.synthetic.shapes import ShapesConfig, draw_shapes
from boxwright.inference.predictor import Detector
from boxwright.models import MODELS
from boxwright.ops.boxes import pairwise_iou
from boxwright.ops.rotated_iou import rotated_iou
from boxwright.structures import Detections
from boxwright.wording import counted

IMAGES = 6
BATCHES = (1, 4)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far apart two matching detections may be, and the share of all detections that must match."""

    overlap: float
    """Least IoU of the two boxes."""
    score: float
    share: float
    keypoints: float
    """Share of the keypoints of matching detections that must lie at the same place: fewer, as a heatmap may have two
    peaks of nearly the same height."""

    def reach(self, side: float) -> float:
        """How many pixels the keypoints of an object of this longer side may be apart: one, and what a box may be."""
        return 1 + (1 - self.overlap) * side


TOLERANCES = {
    "fp32": Tolerance(overlap=0.99, score=1e-3, share=0.995, keypoints=0.95),
    "bf16": Tolerance(overlap=0.8, score=0.05, share=0.9, keypoints=0.7),
    "int8": Tolerance(overlap=0.5, score=0.2, share=0.7, keypoints=0.5),
}
"""By the precision of the exported file. What bf16 and int8 really cost is AP, compared where there is data."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well two detectors agree: detections that need a match, those that have one, their largest differences.

    Of the keypoints of matching detections, how many there are and how many lie at the same place.
    """

    asked: int
    found: int
    box_pixels: float
    score: float
    keypoints: int = 0
    same_keypoints: int = 0
    labels: float | None = None
    """Share of the pixels with one label in both semantic maps, where the model gives them."""

    @property
    def share(self) -> float:
        """Share of the detections that need a match; 1 where there are none."""
        return self.found / self.asked if self.asked else 1.0

    @property
    def keypoint_share(self) -> float:
        """Share of the keypoints; 1 where there are none."""
        return self.same_keypoints / self.keypoints if self.keypoints else 1.0


def agreement(
    expected: Sequence[Detections], got: Sequence[Detections], tolerance: Tolerance, least: float, most: int
) -> Agreement:
    """Match detections of the same images one to one; lists end at the score `least` and the number `most`."""
    asked = found = points = same_points = 0
    largest_box = largest_score = 0.0
    for one, other in zip(expected, got, strict=True):
        matches = _matched(one, other, tolerance)
        for mine, rows in ((one, matches[:, 0]), (other, matches[:, 1])):
            needed = mine.scores > _end(mine, least, most) + tolerance.score
            needed[rows] = True
            asked += int(needed.sum())
            found += len(rows)
        boxes = (one.boxes[matches[:, 0]] - other.boxes[matches[:, 1]]).abs()
        scores = (one.scores[matches[:, 0]] - other.scores[matches[:, 1]]).abs()
        apart = _keypoints_apart(one, other, matches, tolerance)
        points, same_points = points + len(apart), same_points + int((apart <= 1).sum())
        largest_box = max(largest_box, float(boxes.max()) if len(boxes) else 0.0)
        largest_score = max(largest_score, float(scores.max()) if len(scores) else 0.0)
    maps = [(one.semantic, other.semantic) for one, other in zip(expected, got, strict=True)]
    same = [float((a == b).float().mean()) for a, b in maps if a is not None and b is not None]
    return Agreement(asked, found, largest_box, largest_score, points, same_points, min(same, default=None))


def _keypoints_apart(one: Detections, other: Detections, matches: Tensor, tolerance: Tolerance) -> Tensor:
    """How far apart the keypoints (M P,) of matching detections (M, 2) lie, 1 being as far as the tolerance allows.

    Infinite where one side has no keypoints, or another number of them, and the other has some.
    """
    first, second = one.keypoints, other.keypoints
    if first is None or second is None or first.shape[1:] != second.shape[1:]:
        numbers = [points.shape[1] for points in (first, second) if points is not None]
        return torch.full((len(matches) * max(numbers, default=0),), torch.inf)
    boxes = one.boxes[matches[:, 0]]
    sides = (boxes[:, 2:] - boxes[:, :2]).amax(1)
    reach = torch.tensor([tolerance.reach(side) for side in sides.tolist()])
    steps = first[matches[:, 0], :, :2] - second[matches[:, 1], :, :2]  # (M, P, 2)
    return (steps.square().sum(-1).sqrt() / reach[:, None]).flatten()


def _end(one: Detections, least: float, most: int) -> float:
    """The score at which a list ends."""
    return max(least, float(one.scores[-1])) if len(one) >= most else least


def _matched(one: Detections, other: Detections, tolerance: Tolerance) -> Tensor:
    """Pairs (M, 2) of rows, each row once: same class, similar score, box (and mask); largest overlap first."""
    if not len(one) or not len(other):
        return torch.empty(0, 2, dtype=torch.int64)
    if one.rotated is None or other.rotated is None:
        overlap = pairwise_iou(one.boxes, other.boxes)
    else:
        overlap = rotated_iou(one.rotated, other.rotated)
    near = (one.scores[:, None] - other.scores).abs() <= tolerance.score
    alike = (overlap >= tolerance.overlap) & near & (one.labels[:, None] == other.labels)
    pairs: list[tuple[int, int]] = []
    used: tuple[set[int], set[int]] = (set(), set())
    rows = alike.nonzero()
    # among equal boxes the nearest score decides, so that a list matches itself row by row
    gaps = (one.scores[rows[:, 0]] - other.scores[rows[:, 1]]).abs()
    for a, b in rows[(gaps - overlap[rows[:, 0], rows[:, 1]]).argsort(stable=True)].tolist():
        if a not in used[0] and b not in used[1] and _masks_alike(one, other, a, b, tolerance):
            used[0].add(a)
            used[1].add(b)
            pairs.append((a, b))
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def _masks_alike(one: Detections, other: Detections, a: int, b: int, tolerance: Tolerance) -> bool:
    if one.masks is None or other.masks is None:
        return one.masks is other.masks
    first, second = (_plane(side, row) for side, row in ((one, a), (other, b)))
    union = int((first | second).sum())
    return (
        union == 0 or int((first & second).sum()) / union >= tolerance.overlap - 0.05
    )  # in small masks one pixel counts for much


def _plane(found: Detections, row: int) -> Tensor:
    plane = torch.zeros(found.size_hw, dtype=torch.bool)
    found.mask(row).draw(plane)
    return plane


def prove(checkpoint: Detector, exported: Detector, images: Sequence[Tensor], precision: str) -> Agreement:
    """Compare both on images (3, H, W), alone and in batches of mixed sizes.

    Raises ValueError where their detections differ by more than the tolerance.
    """
    least = max(exported.settings.score_threshold, checkpoint.score_threshold if precision != "fp32" else 0.0)
    tolerance, most = TOLERANCES[precision], exported.settings.max_detections
    settings: dict[str, Any] = {"score": least, "nms_iou": exported.settings.nms_iou, "max_detections": most}
    results = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index:03}.png" for index in range(len(images))]
        for path, pixels in zip(paths, images, strict=True):
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
        if MODELS[checkpoint.recipe.model.name].needs_proposals:
            settings["proposals"] = _random_proposals(paths, images)
        for batch in BATCHES:
            expected, got = (one.predict(paths, batch=batch, **settings) for one in (checkpoint, exported))
            results.append(agreement(expected, got, tolerance, least, most))
    total = Agreement(
        sum(one.asked for one in results),
        sum(one.found for one in results),
        max(one.box_pixels for one in results),
        max(one.score for one in results),
        sum(one.keypoints for one in results),
        sum(one.same_keypoints for one in results),
        min((one.labels for one in results if one.labels is not None), default=None),
    )
    if total.labels is not None and total.labels < tolerance.share:
        raise ValueError(
            f"the exported file does not label pixels as the checkpoint does: of an image {total.labels:.1%} have the "
            f"same label, expected {tolerance.share:.1%}"
        )
    if total.share < tolerance.share:
        raise ValueError(
            f"the exported file does not find what the checkpoint finds: {total.found} of "
            f"{counted(total.asked, 'detection')} were found again ({total.share:.1%}, expected "
            f"{tolerance.share:.1%}) on {counted(len(images), 'image')}"
        )
    if total.keypoint_share < tolerance.keypoints:
        raise ValueError(
            f"the exported file does not find the keypoints that the checkpoint finds: {total.same_keypoints} of "
            f"{counted(total.keypoints, 'keypoint')} lie at the same place ({total.keypoint_share:.1%}, expected "
            f"{tolerance.keypoints:.1%}) on {counted(len(images), 'image')}"
        )
    return total


def _random_proposals(paths: Sequence[Path], images: Sequence[Tensor]) -> StoredProposals:
    """Random regions of all sizes, for a detector that finds none itself."""
    generator = torch.Generator().manual_seed(0)
    boxes, sizes = [], [(int(image.shape[1]), int(image.shape[2])) for image in images]
    for height, width in sizes:
        corner, far = torch.rand(2, 50, 2, generator=generator).sort(dim=0).values
        boxes.append(torch.cat([corner, far], dim=1) * torch.tensor([width, height, width, height]))
    arrays = {
        "names": np.array([path.name for path in paths]),
        "sizes": np.array(sizes),
        "counts": np.array([len(rows) for rows in boxes]),
        "boxes": torch.cat(boxes).numpy(),
        "scores": np.ones(sum(len(rows) for rows in boxes)),
    }
    return StoredProposals(Path("random"), arrays)


def gate_images(whole: Sequence[Tensor]) -> list[Tensor]:
    """Images (3, H, W), and a crop of each with another shape."""
    cut = []
    for index, pixels in enumerate(whole):
        height, width = pixels.shape[1:]
        cut.append(pixels[:, : height * 3 // 4] if index % 2 else pixels[:, :, : width * 3 // 5])
    return [*whole, *(one.contiguous() for one in cut)]


def synthetic_images() -> list[Tensor]:
    """Images (3, H, W) of coloured shapes, all of one size."""
    images = [draw_shapes(ShapesConfig(), 0, index)[0] for index in range(IMAGES)]
    return [torch.from_numpy(pixels).permute(2, 0, 1) for pixels in images]
