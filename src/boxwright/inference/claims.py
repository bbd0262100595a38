"""How many objects of a data set no location or anchor of a recipe's detector can claim, and what helps.

Such an object is learnt as background: it is too small for the cells of the pyramid, too thin, or hidden by others.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from boxwright.data.ground_truth import ground_truth_of
from boxwright.data.placed_rotated import resized_by
from boxwright.data.proposals import StoredProposals
from boxwright.data.records import LabelledFolder, Problem, Split
from boxwright.data.transforms import SLIVER, resize_ground_truth
from boxwright.models.claims import claimed, held_detector, is_rotated, others, places, unit_of
from boxwright.ops.boxes import pairwise_iou
from boxwright.ops.image import ResizePlan, ResizeRule, resize_plan
from boxwright.ops.rotated import upright_rotated
from boxwright.ops.select import clip_boxes
from boxwright.ops.tiling import SMALLEST
from boxwright.recipes.schema import Recipe
from boxwright.structures import Classes, GroundTruth, Targets

Image = tuple[GroundTruth, tuple[int, int]]
"""The ground truth of an image in original pixels, and its size (H, W)."""
PAIRS = 40_000_000  # of locations or anchors and objects that are looked at: seconds
PAIRS_TRIED = 300_000  # that are tried again with other settings, some with many times the locations
AT_ONCE = 16  # images
FACTORS = (1.5, 2.0, 3.0, 4.0)  # of the network size that are tried
WORTH_A_WARNING = 0.01  # share of the objects of a class
SHOWN = 6  # classes in one sentence


@dataclass(frozen=True, slots=True)
class Unclaimed:
    """Objects that own nothing: counts by class name, of how many, in how many of the images; and what helps."""

    lost: dict[str, int]
    objects: dict[str, int]
    looked_at: int
    images: int
    unit: str
    helps: tuple[str, ...]

    @property
    def serious(self) -> bool:
        """Whether a class loses enough of its objects to be warned of."""
        return any(count >= WORTH_A_WARNING * self.objects[name] for name, count in self.lost.items())

    def sentence(self) -> str:
        """How many objects of each class, and what helps."""
        worst = sorted(self.lost, key=lambda name: -self.lost[name])
        some = ", ".join(f"{name} {self.lost[name]} of {self.objects[name]}" for name in worst[:SHOWN])
        more = f" and {len(worst) - SHOWN} classes more" if len(worst) > SHOWN else ""
        looked = f" of the {self.looked_at} images looked at" if self.looked_at < self.images else ""
        total, everything = sum(self.lost.values()), sum(self.objects.values())
        helps = f"; what helps: {'; '.join(self.helps)}" if self.helps else ""
        return (
            f"{total} of {everything} objects{looked} can be claimed by no {self.unit} with this recipe, so that they "
            f"are learnt as background ({some}{more}){helps}"
        )


def unclaimed_findings(dataset: LabelledFolder, recipe: Recipe) -> tuple[Problem, ...]:
    """A finding for each split that has objects which no location or anchor can claim with this recipe.

    And one for objects of a training split that a centre crop cuts off.

    The sizes of the images must be known (`stated_hw`), as they are after preflight.
    """
    findings = []
    for name, split in dataset.splits.items():
        found = unclaimed(_ground_truths(split, recipe.needs_rotated), recipe, split.classes)
        if found is not None:
            severity = "warning" if found.serious else "note"
            message = f"{name}: {found.sentence()}"
            findings.append(Problem("unclaimable-objects", str(dataset.root), message, severity=severity))
        lost = _cut_off(split, recipe) if name.startswith("train") else None
        findings += [lost] if lost is not None else []
    return tuple(findings)


def _ground_truths(split: Split, rotated: bool) -> list[Image]:
    return [
        (ground_truth_of(row, row.stated_hw, rotated=rotated), row.stated_hw)
        for row in split.records
        if row.stated_hw and row.annotations
    ]


def _cut_off(split: Split, recipe: Recipe) -> Problem | None:
    """How many objects of the training images lie outside of the centre crop, where the recipe's rule is one."""
    rule, objects, kept = recipe.data.resize.training_rule(), 0, 0
    for ground_truth, hw in _ground_truths(split, recipe.needs_rotated) if rule.mode == "centre_crop" else ():
        objects += len(ground_truth)
        kept += len(resize_ground_truth(replace(ground_truth, masks=None), hw, rule))
    if kept == objects:
        return None
    message = (
        f"{split.name}: {objects - kept} of {objects} objects lie outside of the centred square that "
        "data.resize.mode=centre_crop trains on, and are not learnt; short_side keeps them"
    )
    return Problem("objects-cut-off", split.name, message, severity="note")


def unclaimed(
    ground_truths: Sequence[Image], recipe: Recipe, classes: Classes
) -> Unclaimed | None:  # fmt: skip
    """Objects of images (ground truth in original pixels, size) that own nothing with this recipe; None without any.

    With multi-scale training an object counts as claimed if it is so at one of the scales. Of a large set some images
    from all parts of it are looked at.
    """
    config = held_detector(recipe.model)
    images = [row for row in ground_truths if len(row[0])]
    if config is None or not images:
        return None
    rule = recipe.data.resize.training_rule()
    scales = recipe.data.train_scales or (1.0,)
    chosen = _some(config, images, rule, max(scales), PAIRS)
    objects: Counter[int] = Counter()
    lost: Counter[int] = Counter()
    hurt: list[Image] = []
    whole: list[Image] = []
    for (ground_truth, hw), own in zip(chosen, _claimed(config, chosen, rule, scales), strict=True):
        bare = ~ground_truth.ignore & ~own
        objects.update(ground_truth.labels[~ground_truth.ignore].tolist())
        lost.update(ground_truth.labels[bare].tolist())
        (hurt if bool(bare.any()) else whole).append((ground_truth, hw))
    if not lost:
        return None
    helps = tuple(_helps(config, hurt, whole, recipe, scales, lost.total()))
    names = classes.names
    return Unclaimed(
        {names[label]: count for label, count in lost.items()}, {names[label]: n for label, n in objects.items()},
        len(chosen), len(images), unit_of(config), helps,
    )  # fmt: skip


def without_proposal(stored: StoredProposals, split: Split, iou: float) -> str | None:
    """How many objects of a split have no stored proposal of at least this IoU, in one sentence; None if all have.

    Fast R-CNN detects in its proposals only, so that such an object is missed or found with a poor box.
    """
    objects: Counter[int] = Counter()
    lost: Counter[int] = Counter()
    for record in split.records:
        if record.stated_hw is None or not record.annotations:
            continue
        ground_truth = ground_truth_of(record, record.stated_hw)
        wanted = ~ground_truth.ignore
        boxes, labels = ground_truth.boxes[wanted], ground_truth.labels[wanted]
        regions = stored.of(record.path, record.stated_hw)[:, :4]
        best = torch.cat([pairwise_iou(boxes, regions), boxes.new_zeros(len(boxes), 1)], dim=1).amax(1)
        objects.update(labels.tolist())
        lost.update(labels[best < iou].tolist())
    if not lost:
        return None
    worst = [f"{split.classes.names[label]} {count} of {objects[label]}" for label, count in lost.most_common(SHOWN)]
    more = f" and {len(lost) - SHOWN} classes more" if len(lost) > SHOWN else ""
    return (
        f"{split.name}: {lost.total()} of {objects.total()} objects have no proposal with an IoU of {iou:g} or more in "
        f"{stored.path} ({', '.join(worst)}{more}), so that they can hardly be found; what helps: more proposals an "
        "image (boxwright proposals --max-proposals), or a better proposal network"
    )


def _some(
    config: Any, images: Sequence[Image], rule: ResizeRule, scale: float, most: int
) -> Sequence[Image]:  # fmt: skip
    """All images, or every so manieth where they are too many to look at each; if only one, that of least work which
    has objects.
    """
    pairs = _pairs(config, images, rule, scale)
    chosen = images[:: max(1, -(-sum(pairs) // most))]
    return chosen if len(chosen) != 1 else [images[pairs.index(min(filter(None, pairs), default=0))]]


def _pairs(config: Any, images: Sequence[Image], rule: ResizeRule, scale: float) -> list[int]:
    """How many locations or anchors are compared with how many objects, in each image."""
    counts: dict[tuple[int, int], int] = {}
    pairs = []
    for ground_truth, hw in images:
        size = _times(resize_plan(hw, rule).size_hw, scale)
        if size not in counts:
            counts[size] = places(config, size)
        pairs.append(len(ground_truth) * counts[size])
    return pairs


def _times(size_hw: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale))


def _claimed(config: Any, images: Sequence[Image], rule: ResizeRule, scales: Sequence[float]) -> list[Tensor]:
    """Whether each object (G,) of each image owns something at one of the scales.

    One that a centre crop leaves nothing of is not learnt as background, and counts as if it did.
    """
    by_size: dict[tuple[int, int], list[int]] = {}
    boxes: list[Tensor] = []
    rotated: list[Tensor | None] = []
    for index, (ground_truth, hw) in enumerate(images):
        plan = resize_plan(hw, rule)
        by_size.setdefault(plan.size_hw, []).append(index)
        boxes.append(ground_truth.boxes * torch.tensor(plan.scale_xy * 2) + torch.tensor(plan.offset_xy * 2))
        rotated.append(_rotated(ground_truth, plan) if is_rotated(config) else None)
        if plan.crop is not None:
            boxes[-1] = clip_boxes(boxes[-1][None], torch.tensor([plan.size_hw]))[0]
    cut_off = [(rows[:, 2:] - rows[:, :2] < SLIVER).any(1) for rows in boxes]
    owns = [torch.zeros(len(ground_truth), dtype=torch.bool) for ground_truth, _ in images]
    for size, members in by_size.items():
        members.sort(key=lambda index: len(boxes[index]))  # so that little is padding
        for start in range(0, len(members), AT_ONCE):
            rows = members[start : start + AT_ONCE]
            targets = Targets.of([_shown(images[row][0], boxes[row], cut_off[row], rotated[row]) for row in rows])
            found = torch.zeros_like(targets.valid)
            for scale in scales:
                scaled = _times(size, scale)
                factors = torch.tensor([scaled[1] / size[1], scaled[0] / size[0]])
                found |= claimed(config, scaled, targets.scaled(factors))
                if bool((found | targets.ignore | ~targets.valid).all()):
                    break
            for row, own in zip(rows, found, strict=True):
                owns[row] = own[: len(boxes[row])] | cut_off[row]
    return owns


def _rotated(ground_truth: GroundTruth, plan: ResizePlan) -> Tensor:
    """The rotated boxes (G, 5) in network pixels, as `resize_ground_truth` has them; upright without any."""
    boxes = upright_rotated(ground_truth.boxes) if ground_truth.rotated is None else ground_truth.rotated
    return resized_by(boxes, plan.scale_xy, plan.offset_xy)


def _shown(ground_truth: GroundTruth, boxes: Tensor, cut_off: Tensor, rotated: Tensor | None) -> GroundTruth:
    """Other boxes (G, 4) and rotated ones (G, 5) in their place; what is cut off is an ignored region in a corner."""
    corner = torch.tensor([0.0, 0.0, 1.0, 1.0])
    boxes = torch.where(cut_off[:, None], corner, boxes)
    if rotated is not None:
        rotated = torch.where(cut_off[:, None], upright_rotated(corner), rotated)
    return GroundTruth(boxes, ground_truth.labels, ground_truth.ignore | cut_off, rotated=rotated)


def _helps(
    config: Any, hurt: Sequence[Image], whole: Sequence[Image], recipe: Recipe, scales: Sequence[float], lost: int
) -> Iterator[str]:  # fmt: skip
    """Settings that leave fewer objects unclaimed, with how many they leave, of images that lose some and of others.

    What would take too long to try is left out.
    """
    rule = recipe.data.resize.training_rule()
    tried = [_some(config, part, rule, max(scales), PAIRS_TRIED) for part in (hurt, whole)]
    times = [len(part) / max(1, len(some)) for part, some in zip((hurt, whole), tried, strict=True)]
    about = "about " if max(times) > 1 else ""

    def left(other: Any, other_rule: ResizeRule) -> float:
        if sum(sum(_pairs(other, some, other_rule, max(scales))) for some in tried) > PAIRS:
            return math.inf  # it would take too long to find out
        total = 0.0
        for some, factor in zip(tried, times, strict=True):
            owns = _claimed(other, some, other_rule, scales)
            total += factor * sum(
                int((~ground_truth.ignore & ~own).sum()) for (ground_truth, _), own in zip(some, owns, strict=True)
            )
        return round(total)

    now = best = min(left(config, rule), lost)  # an estimate of what is known to be lost, or the known number
    advice, enlarged = "", 1.0
    for factor in FACTORS:  # the smallest that leaves few, or else the one that leaves fewest
        larger, words = _larger(recipe, factor, hurt)
        count = left(config, larger)
        if count < 0.9 * best:
            advice, best, enlarged = f"a larger {words} leaves {about}{count}", count, factor
        if count <= 0.1 * now:
            break
    if advice:
        yield advice
    for other in others(config):
        count = left(other.config, rule)
        if count < 0.8 * now:
            yield f"{other.words} leaves {about}{count}"
    if advice and recipe.data.resize.mode != "none" and recipe.data.tiles.size is None:
        side = round(min(min(hw) for _, hw in hurt) / enlarged)
        if side >= SMALLEST:
            yield f"data.tiles.size={side} does the same"


def _larger(
    recipe: Recipe, factor: float, hurt: Sequence[Image]
) -> tuple[ResizeRule, str]:  # fmt: skip
    """The recipe's resizing to a size as many times as large, and the settings that say so."""
    resize = recipe.data.resize
    if resize.mode == "none":  # images as they are: as many times the largest of those that lose objects
        size = max(min(hw) for _, hw in hurt)
        longest = max(max(hw) * size / min(hw) for _, hw in hurt)
        resize = resize.model_copy(update={"mode": "short_side", "size": size, "max_size": round(longest)})
    names = ("size", "max_size") if resize.mode in ("short_side", "centre_crop") else ("height", "width")
    values = {name: round(factor * getattr(resize, name)) for name in names}
    larger = resize.model_copy(update=values)
    shown = {"mode": "short_side", **values} if recipe.data.resize.mode == "none" else values
    return larger.training_rule(), _settings(shown)


def _settings(values: Mapping[str, object]) -> str:
    return " ".join(f"data.resize.{name}={value}" for name, value in values.items())
