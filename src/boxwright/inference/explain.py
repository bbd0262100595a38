"""What an FCOS predicts for one image, location by location, and what the loss asks of each.

Shape legend: P = locations on all levels, K = classes, D = detections, G = ground-truth boxes. Coordinates are those
of the network's image (resized) unless a name says `original`; distances are (left, top, right, bottom) in its
pixels.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from boxwright.data.transforms import resize_ground_truth
from boxwright.inference.explain_panels import SIDES
from boxwright.inference.predictor import Detector, TorchEngine
from boxwright.models.fcos import FCOS, FCOSConfig, FCOSOutputs
from boxwright.models.fcos_mask import FCOSMask
from boxwright.ops.assign import assign_locations, gather_rows
from boxwright.ops.boxes import pairwise_iou
from boxwright.ops.image import ResizePlan, fit_image, resize_plan
from boxwright.ops.points import centerness, decode_ltrb, encode_ltrb, level_ranges
from boxwright.ops.select import clip_boxes
from boxwright.structures import Classes, Detections, GroundTruth, ImageBatch
from boxwright.wording import counted

FOUND_IOU = 0.5


class Level(NamedTuple):
    """One feature map: its name, stride and size, its rows among all P locations, and its size range [low, high)."""

    name: str
    stride: int
    size_hw: tuple[int, int]
    rows: slice
    low: float
    high: float

    @property
    def reach(self) -> str:
        """The half-open range of max(l, t, r, b) in words."""
        return f"{self.low:g} or more" if self.high == float("inf") else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class Lesson:
    """The targets of each location, exactly as the loss has them.

    `owner` (P,) is the index of the box that a location must find, or -1; `ignored` (P,) takes no part in the loss;
    `distances` (P, 4) and `centerness` (P,) are the targets of owned locations, and centerness is -1 elsewhere.
    """

    ground_truth: GroundTruth
    owner: Tensor
    ignored: Tensor
    distances: Tensor
    centerness: Tensor


@dataclass(frozen=True, slots=True)
class Explanation:
    """One image as a detector sees it: predictions and targets of every location, and the detections.

    class_scores and scores (P, K), centerness (P,), distances and boxes (P, 4); `found` are the detections in network
    pixels and `source` (D,) the location that each comes from. `lesson` holds the targets, where the ground truth is
    known.
    """

    image: Tensor
    plan: ResizePlan
    classes: Classes
    config: FCOSConfig
    levels: tuple[Level, ...]
    locations: Tensor
    strides: Tensor
    class_scores: Tensor
    centerness: Tensor
    scores: Tensor
    distances: Tensor
    boxes: Tensor
    found: Detections
    restored: Detections
    """The detections in the image's own pixels, with their masks if there are any."""
    source: Tensor
    score_threshold: float
    lesson: Lesson | None

    def level_of(self, location: int) -> Level:
        """The level that a location lies on."""
        return next(level for level in self.levels if location < level.rows.stop)

    def original(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) in the pixels of the image's file."""
        return (boxes - torch.tensor(self.plan.offset_xy * 2)) / torch.tensor(self.plan.scale_xy * 2)

    def ground_truth_box(self, index: int) -> Lesson:
        """The targets. Raises ValueError, with the numbers that there are, for another number than that of a box."""
        if self.lesson is None:
            raise ValueError(
                "a ground truth box can be explained only with the image's ground truth: give --data FOLDER"
            )
        _in_range(index, len(self.lesson.ground_truth), "box", "ground truth boxes")
        return self.lesson


def _in_range(index: int, count: int, word: str, words: str) -> None:
    if not 0 <= index < count:
        known = f"{count} {words}, numbered from 0" if count else f"no {words}"
        raise ValueError(f"{word} {index}: this image has {known}")


@torch.inference_mode()
def explain(
    detector: Detector, image: Tensor, ground_truth: GroundTruth | None = None, *, score: float | None = None
) -> Explanation:
    """All that a detector predicts for an image (3, H, W) uint8, and the targets of its ground truth (original pixels).

    `score` is the score threshold of the detections, the checkpoint's own if not given. Raises ValueError for a
    detector without locations.
    """
    engine = detector.engine
    if not isinstance(engine, TorchEngine):
        raise ValueError("an exported file contains no torch network: use the checkpoint that it was made from")
    whole = engine.model  # what predicts: norms folded, in its precision
    model = whole.detector if isinstance(whole, FCOSMask) else whole
    if not isinstance(model, FCOS):
        raise ValueError(f"this draws the locations of FCOS; this checkpoint is a {type(model).__name__}")
    hw = (int(image.shape[1]), int(image.shape[2]))
    plan = resize_plan(hw, detector.resize)
    images = ImageBatch.of([fit_image(image, plan)], [hw], [plan.scale_xy], [plan.offset_xy])
    raw = engine.forward(images.to(detector.device))
    there: FCOSOutputs = raw.detector if isinstance(whole, FCOSMask) else raw
    moved: dict[str, Any] = {name: part.cpu() for name, part in there._asdict().items() if isinstance(part, Tensor)}
    outputs = there._replace(**moved)
    class_scores, central = outputs.class_logits[0].sigmoid(), outputs.centerness_logits[0].sigmoid()
    if model.config.compat.class_channels is not None:  # a reference's network has more channels than classes
        class_scores = class_scores[:, list(model.config.compat.class_channels)]
    units = outputs.strides[:, None] if model.config.head.normalise_targets else 1.0
    distances = outputs.distances[0].clamp(min=0) * units
    boxes = clip_boxes(decode_ltrb(outputs.locations, distances)[None], outputs.sizes_hw)[0]
    scores = class_scores * central[:, None]
    if model.config.compat.scoring == "joint":
        scores = scores.sqrt()
    least = detector.score_threshold if score is None else score
    padded = engine.detect(raw, replace(detector.settings, score_threshold=least)).cpu()
    kept_boxes, kept_scores, kept_labels, counts = padded[:4]
    rows = slice(0, int(counts[0]))
    found = Detections(kept_boxes[0, rows], kept_scores[0, rows], kept_labels[0, rows], plan.size_hw, detector.classes)
    levels = _levels(model, outputs)
    lesson = None
    if ground_truth is not None:
        lesson = _lesson(model.config, outputs, levels, resize_ground_truth(ground_truth, hw, detector.resize))
    return Explanation(
        image=image,
        plan=plan,
        classes=detector.classes,
        config=model.config,
        levels=levels,
        locations=outputs.locations,
        strides=outputs.strides,
        class_scores=class_scores,
        centerness=central,
        scores=scores,
        distances=distances,
        boxes=boxes,
        found=found,
        restored=replace(padded.restore(images, detector.paste)[0], classes=detector.classes),
        source=_sources(found, boxes, scores),
        score_threshold=least,
        lesson=lesson,
    )


def _levels(model: FCOS, outputs: FCOSOutputs) -> tuple[Level, ...]:
    levels: list[Level] = []
    ranges = level_ranges(model.config.assignment.level_bounds)
    for stride, size_hw, (low, high) in zip(model.strides, outputs.level_sizes, ranges, strict=True):
        start = levels[-1].rows.stop if levels else 0
        rows = slice(start, start + size_hw[0] * size_hw[1])
        levels.append(Level(f"P{stride.bit_length() - 1}", stride, size_hw, rows, low, high))
    return tuple(levels)


def _sources(found: Detections, boxes: Tensor, scores: Tensor) -> Tensor:
    """The location (D,) that each detection comes from: the one that gives its box and its score."""
    rows = [
        int(((boxes - box).abs().amax(1) + (scores[:, int(label)] - score).abs()).argmin())
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.int64)


def _ranges(config: FCOSConfig, levels: tuple[Level, ...]) -> Tensor:
    """The reach [low, high) (P, 2) that each location is for, with the ends that the checkpoint's rule has."""
    ranges = torch.tensor(level_ranges(config.assignment.level_bounds, config.compat.level_range_ends))
    return ranges.repeat_interleave(torch.tensor([level.rows.stop - level.rows.start for level in levels]), dim=0)


def _lesson(config: FCOSConfig, outputs: FCOSOutputs, levels: tuple[Level, ...], ground_truth: GroundTruth) -> Lesson:
    boxes = ground_truth.boxes[None]
    valid = torch.ones(1, len(ground_truth), dtype=torch.bool)
    owner, ignored = assign_locations(
        outputs.locations,
        outputs.strides,
        _ranges(config, levels),
        boxes,
        valid,
        ground_truth.ignore[None],
        center_radius=config.assignment.center_radius,
        coarse_areas=config.compat.level_range_ends == "open",
    )
    distances = encode_ltrb(outputs.locations, gather_rows(boxes, owner))[0]
    central = torch.where(owner[0] >= 0, centerness(distances), -1.0)
    return Lesson(ground_truth, owner[0], ignored[0], distances, central)


# ---- in words -------------------------------------------------------------------------------------------------------


def describe(explanation: Explanation) -> list[str]:
    """Lines on the image as a whole: its size, its levels, its ground truth and its detections."""
    (height, width), (net_height, net_width) = explanation.image.shape[1:], explanation.plan.size_hw
    lines = [f"The image has {width} x {height} pixels (width x height); the network sees {net_width} x {net_height}."]
    for level in explanation.levels:
        rows, columns = level.size_hw
        line = (
            f"{level.name}: stride {level.stride}, {columns} x {rows} locations, for objects whose farthest side is "
            f"{level.reach} network pixels away"
        )
        if explanation.lesson is not None:
            line += f"; {learners(explanation.lesson.owner[level.rows])}"
        lines.append(f"{line}.")
    if explanation.lesson is not None:
        ground_truth = explanation.lesson.ground_truth
        names = Counter(explanation.classes.names[label] for label in ground_truth.labels.tolist())
        lines.append(f"Ground truth: {counted(len(ground_truth), 'box')}" + (f" ({_counts(names)})." if names else "."))
        lost = sorted(set((~ground_truth.ignore).nonzero()[:, 0].tolist()) - set(explanation.lesson.owner.tolist()))
        if lost:
            lines.append(f"No location must learn these ground truth boxes: {', '.join(map(str, lost))}.")
    found = explanation.found
    listed = f" ({_counts(Counter(found.names))})." if len(found) else "; a lower --score shows weaker ones."
    lines.append(f"Detections: {len(found)} from score {explanation.score_threshold:.2f}{listed}")
    return lines


def learners(owner: Tensor) -> str:
    """How many locations (N,) of a level must learn how many ground truth boxes."""
    owned = owner[owner >= 0]
    boxes = len(set(owned.tolist()))
    return (
        f"{len(owned)} must learn {boxes} ground truth {'box' if boxes == 1 else 'boxes'}"
        if boxes
        else "none must learn a box"
    )


def _counts(names: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in names.most_common())


def describe_box(explanation: Explanation, index: int) -> list[str]:
    """Lines on one ground-truth box: the locations assigned to it, what they predict, and whether it was found."""
    lesson = explanation.ground_truth_box(index)
    box, name = lesson.ground_truth.boxes[index], explanation.classes.names[int(lesson.ground_truth.labels[index])]
    lines = [
        f"Ground truth box {index}: {name}, {_size(explanation.original(box))} pixels in the image, "
        f"{_size(box)} as the network sees it."
    ]
    if lesson.ground_truth.ignore[index]:
        return [*lines, "  It is an ignored region: no location learns it, and what lies in it does not count."]
    owned = (lesson.owner == index).nonzero()[:, 0]
    per_level = ", ".join(f"{x.name} {int((lesson.owner[x.rows] == index).sum())}" for x in explanation.levels)
    lines.append(f"  Locations that must learn it: {per_level}.")
    if len(owned) == 0:
        lines.append(f"  {_why_unowned(explanation, index)}")
    else:
        location = most_central(lesson, index)
        label = int(lesson.ground_truth.labels[index])
        overlap = float(pairwise_iou(explanation.boxes[location][None], box[None]))
        lines += [
            f"  The most central one: {place(explanation, location)}.",
            f"  From there {_distances(explanation, location, lesson.distances[location])}; "
            f"centerness target {float(lesson.centerness[location]):.2f}.",
            f"  The model predicts there: {name} {float(explanation.class_scores[location, label]):.2f}, centerness "
            f"{float(explanation.centerness[location]):.2f}, a box with IoU {overlap:.2f}.",
        ]
    return [*lines, f"  {_whether_found(explanation, index)}"]


def most_central(lesson: Lesson, index: int) -> int:
    """The location with the largest centerness target among those that a ground truth box owns."""
    return int(torch.where(lesson.owner == index, lesson.centerness, -2.0).argmax())


def _why_unowned(explanation: Explanation, index: int) -> str:
    assert explanation.lesson is not None
    box, alone = explanation.lesson.ground_truth.boxes[index], torch.ones(1, 1, dtype=torch.bool)
    owner, _ = assign_locations(
        explanation.locations,
        explanation.strides,
        _ranges(explanation.config, explanation.levels),
        box[None, None],
        alone,
        ~alone,
        center_radius=explanation.config.assignment.center_radius,
    )
    wanted = int((owner >= 0).sum())
    if wanted:
        return f"Smaller boxes own all of the {counted(wanted, 'location')} that it could have had."
    radius = explanation.config.assignment.center_radius
    near = "" if radius is None else f" and within {radius:g} strides of its centre"
    return f"It is too small or too narrow: no location of a level for its size lies inside it{near}."


def _whether_found(explanation: Explanation, index: int) -> str:
    assert explanation.lesson is not None
    ground_truth, found = explanation.lesson.ground_truth, explanation.found
    overlaps = pairwise_iou(ground_truth.boxes[index][None], found.boxes)[0]
    overlaps = torch.where(found.labels == ground_truth.labels[index], overlaps, 0.0)
    best = int(overlaps.argmax()) if len(found) else -1
    if best < 0 or float(overlaps[best]) < FOUND_IOU:
        close = f"; the nearest of its class is {best}, IoU {float(overlaps[best]):.2f}" if overlaps.any() else ""
        return f"Not found: no detection of its class overlaps it by IoU {FOUND_IOU} or more{close}."
    return f"Found: detection {best}, score {float(found.scores[best]):.2f}, IoU {float(overlaps[best]):.2f}."


def describe_detection(explanation: Explanation, index: int) -> list[str]:
    """Lines on one detection: its location and level, its scores, its distances, and the ground truth."""
    found = explanation.found
    _in_range(index, len(found), "detection", f"detections from score {explanation.score_threshold:.2f}")
    location = int(explanation.source[index])
    corners = ", ".join(f"{value:.1f}" for value in explanation.original(found.boxes[index]).tolist())
    lines = [
        f"Detection {index}: {found.names[index]}, {score_sum(explanation, index)}.",
        f"  It comes from {place(explanation, location)}.",
        f"  From there {_distances(explanation, location, explanation.distances[location])}.",
        f"  Its box in the image's own pixels (x1, y1, x2, y2): {corners}.",
    ]
    nearest = nearest_ground_truth(explanation, index)
    if explanation.lesson is not None:
        lines.append(f"  {nearest[1] if nearest else 'No ground-truth box overlaps it.'}")
    return lines


def nearest_ground_truth(explanation: Explanation, index: int) -> tuple[int, str] | None:
    """The ground truth box that a detection overlaps most, and a sentence on it; None where it overlaps none."""
    if explanation.lesson is None or not len(explanation.lesson.ground_truth):
        return None
    ground_truth = explanation.lesson.ground_truth
    overlaps = pairwise_iou(explanation.found.boxes[index][None], ground_truth.boxes)[0]
    best = int(overlaps.argmax())
    if not float(overlaps[best]):
        return None
    name = explanation.classes.names[int(ground_truth.labels[best])]
    return best, f"The ground truth box that it overlaps most: {best}, {name}, IoU {float(overlaps[best]):.2f}."


def score_sum(explanation: Explanation, index: int) -> str:
    """The score of a detection with what it is made of."""
    location, label = int(explanation.source[index]), int(explanation.found.labels[index])
    parts = (float(explanation.class_scores[location, label]), float(explanation.centerness[location]))
    product = f"class {parts[0]:.2f} x centerness {parts[1]:.2f}"
    if explanation.config.compat.scoring == "joint":
        product = f"sqrt({product})"
    return f"score {float(explanation.found.scores[index]):.2f} = {product}"


def place(explanation: Explanation, location: int) -> str:
    """A location in words: its level, its cell, and its pixel."""
    level = explanation.level_of(location)
    row, column = divmod(location - level.rows.start, level.size_hw[1])
    x, y = explanation.locations[location].tolist()
    return f"{level.name} (stride {level.stride}), row {row}, column {column}, at pixel ({x:g}, {y:g})"


def _distances(explanation: Explanation, location: int, distances: Tensor) -> str:
    stride = explanation.level_of(location).stride
    pixels = ", ".join(f"{side} {value:.1f}" for side, value in zip(SIDES, distances.tolist(), strict=True))
    strides = ", ".join(f"{value / stride:.2f}" for value in distances.tolist())
    return f"{pixels} network pixels ({strides} strides)"


def _size(box: Tensor) -> str:
    x1, y1, x2, y2 = box.tolist()
    return f"{x2 - x1:.0f} x {y2 - y1:.0f}"
