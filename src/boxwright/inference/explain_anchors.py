"""What a detector with anchors or proposals predicts for one image, beside what its loss asks of it.

RetinaNet, RPN, Fast, Faster, Mask and Keypoint R-CNN, and Rotated Faster R-CNN. Shape legend: N = anchors on all
levels, R = proposals, S = sampled regions, K = classes, D = detections. Boxes are absolute (x1, y1, x2, y2) in network
pixels; those of a rotated detector are (cx, cy, w, h, degrees), with 5 columns in place of 4, see `ops.rotated`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from boxwright.data.proposals import StoredProposals
from boxwright.data.transforms import resize_ground_truth, resize_proposals
from boxwright.inference.owners import (
    Owners,
    boxes_of,
    describe_owned_box,
    describe_owners,
    owners_of,
    pixels_words,
)
from boxwright.inference.predictor import Detector, TorchEngine
from boxwright.models.box_branch import BoxBranch, RegionLogits, SampledRegions
from boxwright.models.fast_rcnn import FastRCNN
from boxwright.models.faster_rcnn import FasterRCNN
from boxwright.models.keypoint_rcnn import KeypointRCNN
from boxwright.models.mask_rcnn import MaskRCNN
from boxwright.models.panoptic_fpn import PanopticFPN
from boxwright.models.proposal_network import AnchorOutputs
from boxwright.models.retinanet import RetinaNet
from boxwright.models.rotated_box_branch import RotatedBoxBranch
from boxwright.models.rotated_faster_rcnn import RotatedFasterRCNN
from boxwright.models.rpn import RPN
from boxwright.ops.box_kinds import ROTATED_COLUMNS, overlaps
from boxwright.ops.coding import decode_boxes
from boxwright.ops.image import ResizePlan, fit_image, resize_plan
from boxwright.ops.rotated import clip_rotated, restore_rotated
from boxwright.ops.rotated_coding import decode_rotated
from boxwright.ops.select import clip_boxes
from boxwright.structures import Classes, Detections, GroundTruth, ImageBatch, Proposals, Targets
from boxwright.wording import counted

FOUND_IOU = 0.5
SEED = 0
"""Of the sample that is drawn."""


@dataclass(frozen=True, slots=True)
class Regions:
    """Proposals of one image: boxes (R, 4) and scores (R,), best first, and what was drawn from them to learn from."""

    boxes: Tensor
    scores: Tensor
    sampled: SampledRegions | None
    """Of one image, without padding; None without ground truth."""


@dataclass(frozen=True, slots=True)
class AnchorExplanation:
    """One image as a detector with anchors or proposals sees it.

    `scores` (N, K) of the anchors (of a proposal network (N, 1), objectness) and their refined `boxes` (N, 4) are None
    for Fast R-CNN, `regions` for detectors of one stage. `source` (D,) is the row of the anchors, or of the regions,
    that each detection comes from.
    """

    image: Tensor
    plan: ResizePlan
    classes: Classes
    owners: Owners | None
    ground_truth: GroundTruth | None
    scores: Tensor | None
    boxes: Tensor | None
    regions: Regions | None
    found: Detections
    restored: Detections
    """The detections in the image's own pixels, with their masks or keypoints if there are any."""
    source: Tensor
    score_threshold: float
    semantic: Tensor | None = None
    """Logits (S, h, w) of a panoptic model's semantic map, at stride 4."""

    def original(self, boxes: Tensor) -> Tensor:
        """Boxes (D, 4), or rotated ones (D, 5), in the pixels of the image's file."""
        if boxes.shape[-1] == ROTATED_COLUMNS:
            scale, offset = torch.tensor([self.plan.scale_xy]), torch.tensor([self.plan.offset_xy])
            return restore_rotated(boxes[None], scale, offset, torch.tensor([self.image.shape[1:]]))[0]
        return (boxes - torch.tensor(self.plan.offset_xy * 2)) / torch.tensor(self.plan.scale_xy * 2)


@torch.inference_mode()
def explain_anchors(
    detector: Detector, image: Tensor, ground_truth: GroundTruth | None = None, *, score: float | None = None,
    proposals: Tensor | None = None,
) -> AnchorExplanation:  # fmt: skip
    """All that a detector predicts for an image (3, H, W) uint8, and who must learn its ground truth (original pixels).

    `proposals` (R, 5), boxes in network pixels and scores, are for Fast R-CNN. `score` is the score threshold of the
    detections, the checkpoint's own if not given.
    """
    engine = detector.engine
    if not isinstance(engine, TorchEngine):
        raise ValueError("an exported file contains no torch network: use the checkpoint that it was made from")
    model: Any = engine.model
    held: Any = model.instances if isinstance(model, PanopticFPN) else model
    inner: Any = held.detector if isinstance(held, MaskRCNN | KeypointRCNN) else held
    if not isinstance(inner, RetinaNet | RPN | FastRCNN | FasterRCNN | RotatedFasterRCNN):
        raise ValueError(f"explain does not know the parts of this detector, a {type(inner).__name__}")
    hw = (int(image.shape[1]), int(image.shape[2]))
    plan = resize_plan(hw, detector.resize)
    images = ImageBatch.of([fit_image(image, plan)], [hw], [plan.scale_xy], [plan.offset_xy])
    stored = None if proposals is None else Proposals.of([proposals[:, :4]], [proposals[:, 4]]).to(detector.device)
    raw = engine.forward(images.to(detector.device), None, stored)
    least = detector.score_threshold if score is None else score
    padded = engine.detect(raw, replace(detector.settings, score_threshold=least)).cpu()
    rows = slice(0, int(padded.counts[0]))
    found = Detections(
        padded.boxes[0, rows], padded.scores[0, rows], padded.labels[0, rows], plan.size_hw, detector.classes,
        rotated=None if padded.rotated is None else padded.rotated[0, rows],
    )  # fmt: skip
    merging = getattr(detector.recipe.model, "panoptic", None)  # of a model with segments
    restored = replace(padded.restore(images, detector.paste, merging)[0], classes=detector.classes)
    resized = None if ground_truth is None else resize_ground_truth(ground_truth, hw, detector.resize)
    outputs = raw.instances if isinstance(model, PanopticFPN) else raw
    outputs = outputs.detector if isinstance(held, MaskRCNN | KeypointRCNN) else outputs
    scores: Tensor | None = None
    boxes: Tensor | None = None
    regions: Regions | None = None
    if not isinstance(inner, FastRCNN):
        scores, boxes = _of_anchors(inner, outputs)
    by_row, made = scores, boxes
    if isinstance(inner, FastRCNN | FasterRCNN | RotatedFasterRCNN):
        regions = _regions(inner.box, outputs.proposals, resized)
        with engine.autocast():
            logits = _logits(inner.box, outputs)
        by_row, made = logits.class_logits[0].softmax(-1).cpu()[: len(regions.boxes)], None
    channels = getattr(inner.config.compat, "class_channels", None)
    assert by_row is not None
    by_row = by_row if channels is None else by_row[:, list(channels)]
    return AnchorExplanation(
        image=image,
        plan=plan,
        classes=detector.classes,
        owners=owners_of(inner.config, image, plan, detector.classes, resized or GroundTruth.empty()),
        ground_truth=resized,
        scores=scores if channels is None or scores is None or scores.shape[1] == 1 else scores[:, list(channels)],
        boxes=boxes,
        regions=regions,
        found=found,
        restored=restored,
        source=_sources(found, by_row, made),
        score_threshold=least,
        semantic=None if padded.semantic is None else padded.semantic[0],
    )


def _of_anchors(inner: RetinaNet | RPN | FasterRCNN | RotatedFasterRCNN, outputs: Any) -> tuple[Tensor, Tensor]:
    """Probabilities (N, K), or of an object (N, 1), of the anchors, and the boxes (N, 4) that they are refined to."""
    if isinstance(inner, RotatedFasterRCNN):
        anchors: AnchorOutputs = outputs.anchors
        turned = clip_rotated(decode_rotated(anchors.anchors[None], anchors.offsets), anchors.sizes_hw)
        return anchors.objectness[0].sigmoid()[:, None].cpu(), turned[0].cpu()
    if isinstance(inner, RetinaNet):
        scores, limited = outputs.class_logits[0].sigmoid(), inner.config.compat.shrink_limited
    else:
        outputs = outputs if isinstance(outputs, AnchorOutputs) else outputs.anchors
        scores, limited = outputs.objectness[0].sigmoid()[:, None], inner.config.rpn.shrink_limited
    boxes = decode_boxes(outputs.anchors[None], outputs.offsets, shrink_limited=limited)
    return scores.cpu(), clip_boxes(boxes, outputs.sizes_hw)[0].cpu()


def _logits(branch: BoxBranch | RotatedBoxBranch, outputs: Any) -> RegionLogits:
    """What the second stage makes of all proposals."""
    proposals = outputs.proposals
    if isinstance(branch, RotatedBoxBranch):
        logits: RegionLogits = branch(outputs.levels, proposals.boxes)
    else:
        logits = branch(outputs.levels, proposals.boxes, branch.level_of(proposals))
    return logits


def _regions(
    branch: BoxBranch | RotatedBoxBranch, proposals: Proposals, ground_truth: GroundTruth | None
) -> Regions:  # fmt: skip
    """The proposals of an image, and the sample that training would draw from them (with the seed 0)."""
    sampled = None
    if ground_truth is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            drawn = branch.sample(proposals, Targets.of([ground_truth]).to(proposals.boxes.device))
        real = drawn.real[0]
        sampled = SampledRegions(*(part[0][real].cpu() for part in drawn))
    keep = proposals.valid[0]
    return Regions(proposals.boxes[0][keep].cpu(), proposals.scores[0][keep].cpu(), sampled)


def network_proposals(stored: StoredProposals, detector: Detector, path: Any, hw: tuple[int, int]) -> Tensor:
    """The stored proposals (R, 5) of an image file of this size, in network pixels."""
    resized = resize_proposals(stored.of(path, hw), hw, detector.resize)
    assert resized is not None
    return resized


def _sources(found: Detections, scores: Tensor, boxes: Tensor | None) -> Tensor:
    """The row (D,) of each detection: the one that gives its score, and its box where that is known."""
    rows = []
    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
        distance = (scores[:, int(label)] - score).abs()
        if boxes is not None:
            distance = distance + (boxes - box).abs().amax(1)
        rows.append(int(distance.argmin()))
    return torch.tensor(rows, dtype=torch.int64)


# ---- in words -------------------------------------------------------------------------------------------------------


def describe_anchors(made: AnchorExplanation) -> list[str]:
    """Lines on the image as a whole."""
    (height, width), (net_height, net_width) = made.image.shape[1:], made.plan.size_hw
    lines = [f"The image has {width} x {height} pixels (width x height); the network sees {net_width} x {net_height}."]
    if made.owners is not None and made.ground_truth is not None:
        lines += describe_owners(made.owners)
    if made.regions is not None:
        sampled = made.regions.sampled
        lines += [proposal_words(made), *([] if sampled is None else [sample_words(sampled)])]
    weaker = "" if len(made.found) else "; a lower --score shows weaker ones"
    lines.append(f"Detections: {len(made.found)} from score {made.score_threshold:.2f}{weaker}.")
    return lines


def proposal_words(made: AnchorExplanation) -> str:
    """How many proposals there are, and how many objects they cover."""
    assert made.regions is not None
    text = counted(len(made.regions.boxes), "proposal")
    if made.owners is not None:
        text += f", kept of {counted(len(made.owners.places), 'anchor')}"
    if made.ground_truth is not None:
        objects = boxes_of(made.ground_truth)[~made.ground_truth.ignore]
        covered = 0
        if len(objects) and len(made.regions.boxes):
            covered = int((overlaps(objects, made.regions.boxes).amax(1) >= FOUND_IOU).sum())
        text += f"; objects with one of IoU {FOUND_IOU} or more: {covered} of {len(objects)}"
    return f"{text}."


def sample_words(sampled: SampledRegions) -> str:
    """What was drawn from the proposals of an image."""
    positive = int(sampled.positive.sum())
    objects = len(set(sampled.owner[sampled.positive].tolist()))
    return (
        f"Of the proposals and the ground truth itself {len(sampled.boxes)} would be drawn to learn from: {positive} "
        f"must learn {counted(objects, 'object')}, {len(sampled.boxes) - positive} are background."
    )


def describe_box_of(made: AnchorExplanation, index: int) -> list[str]:
    """Lines on one ground truth box: its anchors, the proposals that learn it, and whether it was found."""
    ground_truth = ground_truth_box_of(made, index)
    name = made.classes.names[int(ground_truth.labels[index])]
    lines = (
        describe_owned_box(made.owners, index) if made.owners is not None else [f"Ground truth box {index}: {name}."]
    )
    if ground_truth.ignore[index]:
        return lines
    box = boxes_of(ground_truth)[index][None]
    if made.regions is not None and len(made.regions.boxes):
        overlap = overlaps(box, made.regions.boxes)[0]
        sampled = made.regions.sampled
        drawn = 0 if sampled is None else int((sampled.owner == index).sum())
        lines.append(
            f"  Its best proposal is number {int(overlap.argmax())}, IoU {float(overlap.max()):.2f}; {drawn} of the "
            "regions that would be drawn must learn it."
        )
    found = made.found
    ious = torch.where(found.labels == ground_truth.labels[index], overlaps(box, boxes_of(found))[0], 0.0)
    if len(found) and float(ious.max()) >= FOUND_IOU:
        best = int(ious.argmax())
        lines.append(f"  Found: detection {best}, score {float(found.scores[best]):.2f}, IoU {float(ious[best]):.2f}.")
    else:
        lines.append(f"  Not found: no detection of its class overlaps it by IoU {FOUND_IOU} or more.")
    return lines


def ground_truth_box_of(made: AnchorExplanation, index: int) -> GroundTruth:
    """The ground truth. Raises ValueError, with the numbers that there are, for another number than that of a box."""
    if made.ground_truth is None:
        raise ValueError("a ground truth box can be explained only with the image's ground truth: give --data FOLDER")
    check_number(index, len(made.ground_truth), "box", "ground truth boxes")
    return made.ground_truth


def check_number(index: int, count: int, word: str, words: str) -> None:
    """Raise ValueError for a number of something that an image has not."""
    if not 0 <= index < count:
        known = f"{count} {words}, numbered from 0" if count else f"no {words}"
        raise ValueError(f"{word} {index}: this image has {known}")


def describe_detection_of(made: AnchorExplanation, index: int) -> list[str]:
    """Lines on one detection: its anchor or proposal, its score, and the ground truth."""
    found = made.found
    check_number(index, len(found), "detection", f"detections from score {made.score_threshold:.2f}")
    box = boxes_of(found)[index][None]
    numbers = ", ".join(f"{value:.1f}" for value in made.original(box)[0].tolist())
    names = "cx, cy, w, h, degrees" if found.rotated is not None else "x1, y1, x2, y2"
    return [
        f"Detection {index}: {found.names[index]}, score {float(found.scores[index]):.2f}.",
        f"  It comes from {source_words(made, index)}.",
        f"  Its box in the image's own pixels ({names}): {numbers}.",
        *(
            []
            if made.ground_truth is None
            else [f"  {nearest_words(made, index) or 'It overlaps no ground truth box.'}"]
        ),
    ]


def source_box(made: AnchorExplanation, index: int) -> Tensor:
    """The anchor or proposal (4,) that a detection was refined from."""
    row = int(made.source[index])
    if made.regions is not None:
        return made.regions.boxes[row]
    assert made.owners is not None
    return made.owners.places[row]


def source_words(made: AnchorExplanation, index: int) -> str:
    """That anchor or proposal in words."""
    row, box = int(made.source[index]), source_box(made, index)
    overlap = float(overlaps(box[None], boxes_of(made.found)[index][None]))
    size = f"{pixels_words(box)}, IoU {overlap:.2f} with the box that it was refined to"
    if made.regions is not None:
        return f"proposal {row} (of {len(made.regions.boxes)}, best first), {size}"
    assert made.owners is not None
    level = made.owners.level_of(row)
    cell, each = divmod(row - level.rows.start, level.each)
    down, across = divmod(cell, level.size_hw[1])
    return f"{level.name} (stride {level.stride}), row {down}, column {across}, anchor {each}: {size}"


def nearest_words(made: AnchorExplanation, index: int) -> str | None:
    """A sentence on the ground truth box that a detection overlaps most; None where it overlaps none."""
    nearest = nearest_box(made, index)
    if nearest is None or made.ground_truth is None:
        return None
    name = made.classes.names[int(made.ground_truth.labels[nearest])]
    overlap = float(overlaps(boxes_of(made.found)[index][None], boxes_of(made.ground_truth)[nearest][None]))
    return f"The ground truth box that it overlaps most: {nearest}, {name}, IoU {overlap:.2f}."


def nearest_box(made: AnchorExplanation, index: int) -> int | None:
    """The ground truth box that a detection overlaps most, if any."""
    if made.ground_truth is None or not len(made.ground_truth):
        return None
    ious = overlaps(boxes_of(made.found)[index][None], boxes_of(made.ground_truth))[0]
    return int(ious.argmax()) if float(ious.max()) > 0 else None
