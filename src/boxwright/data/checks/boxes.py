"""Checks of boxes: of one image, box by box, and of a whole split, if all boxes are wrong in the same way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from boxwright.data.checks.keypoints import checked_keypoints
from boxwright.data.checks.masks import checked_mask
from boxwright.data.checks.rotated import rotated_problem
from boxwright.data.ground_truth import Box, clip_box
from boxwright.data.records import Annotation, Problem, Record, Split
from boxwright.data.rotated_annotations import is_flat
from boxwright.structures import Classes

_SLACK = 1.0  # pixels that a box may end outside without a finding: labelling tools round
_ENOUGH = 3  # boxes from which a whole split can be judged


def checked_annotations(
    record: Record, hw: tuple[int, int], classes: Classes, *, masks: bool = False, need_masks: bool = False
) -> tuple[tuple[Annotation, ...], list[Problem]]:
    """The usable objects of an image of size `hw`, clipped to it, and a problem for each invalid box.

    `masks` checks every mask too, `need_masks` also reports missing masks; keypoints are checked if there are any. The
    second of two equal objects is reported and kept, as evaluation tools keep it.
    """
    kept: list[Annotation] = []
    problems: list[Problem] = []
    seen: dict[tuple[tuple[float, ...], int], str] = {}
    for item in record.annotations:
        name = classes.names[item.label]
        box = clip_box(item.box, hw)
        problem = _box_problem(item, name, hw, box) or rotated_problem(item, name)
        if problem:
            problems.append(problem)
        if box is None or (problem and problem.quarantined):
            continue
        first = seen.setdefault((item.rotated or item.box, item.label), item.where)
        if first is not item.where:
            message = f"the {name} is a duplicate of {first}; it counts twice"
            problems.append(Problem("duplicate-object", item.where, message, item.box))
        clean = item if box == item.box else replace(item, box=box)
        if masks or need_masks:
            clean, fault = checked_mask(clean, name, hw, box, needed=need_masks)
            problems.extend([fault] if fault else [])
        if classes.skeleton is not None:
            clean, fault = checked_keypoints(clean, name, hw, box, classes.skeleton)
            problems.extend([fault] if fault else [])
        kept.append(clean)
    return tuple(kept), problems


def _box_problem(item: Annotation, name: str, hw: tuple[int, int], clipped: Box | None) -> Problem | None:
    x1, y1, x2, y2 = item.box
    height, width = hw
    bad = Problem("", item.where, "", item.box, quarantined=True)
    if not all(map(math.isfinite, item.box)):
        return replace(bad, kind="non-finite-box", severity="error", message=f"the {name} has a box that is not finite")
    if x1 > x2 or y1 > y2:
        side = "left of its left" if x1 > x2 else "above its upper"
        message = f"the {name} has a reversed box: its {'right' if x1 > x2 else 'lower'} side lies {side} side"
        return replace(bad, kind="reversed-box", severity="error", message=message)
    if is_flat(item):
        return replace(bad, kind="zero-area-box", message=f"the {name} has a rotated box whose corners lie on a line")
    if x1 == x2 or y1 == y2:
        return replace(bad, kind="zero-area-box", message=f"the {name} has a box of {x2 - x1:g} x {y2 - y1:g} pixels")
    if clipped is None:
        message = f"the {name} lies outside its image of {width} x {height} pixels"
        return replace(bad, kind="outside-box", message=message)
    beyond = max(-x1, -y1, x2 - width, y2 - height)
    if beyond > _SLACK:
        message = f"the {name} reaches {beyond:.4g} pixels beyond its image of {width} x {height}; "
        message += "it is clipped" if item.rotated is None else "what lies outside is not seen"
        return replace(bad, kind="box-beyond-image", message=message, severity="note", quarantined=False)
    return None


def coordinate_problems(split: Split, sizes: Sequence[tuple[int, int] | None], data_format: str) -> list[Problem]:
    """Problems of nearly all boxes of a split: fractions instead of pixels, or sizes taken for corners."""
    pairs = [
        (item.box, hw)
        for record, hw in zip(split.records, sizes, strict=True)
        for item in record.annotations
        if hw is not None and all(map(math.isfinite, item.box))
    ]
    if len(pairs) < _ENOUGH or data_format == "yolo":  # its reader has already refused values that are not fractions
        return []
    where = split.records[0].where.split(": ")[0] if data_format == "coco" else f"split {split.name}"
    kind, message = "", ""
    if all(max(map(abs, box)) <= 1 and min(hw) > 4 for box, hw in pairs):
        kind, message = "boxes-look-normalised", "no coordinate is above 1: the boxes look like fractions, not pixels"
    elif _mostly_sizes(pairs):
        kind = "boxes-look-like-xywh"
        message = "many boxes are reversed, and all would fit as x, y, width, height: write x1, y1, x2, y2 instead"
    elif data_format == "coco" and _mostly_corners(pairs):
        kind = "boxes-look-like-xyxy"
        message = "most boxes leave their images, and all would fit as x1, y1, x2, y2: COCO expects x, y, width, height"
    return [Problem(kind, where, message, severity="error")] if kind else []


def _mostly_sizes(pairs: Sequence[tuple[Box, tuple[int, int]]]) -> bool:
    reversed_boxes = sum(box[2] < box[0] or box[3] < box[1] for box, _ in pairs)
    fitting = sum(box[0] + box[2] <= hw[1] + 1 and box[1] + box[3] <= hw[0] + 1 for box, hw in pairs)
    return reversed_boxes >= max(_ENOUGH, 0.1 * len(pairs)) and fitting >= 0.95 * len(pairs)


def _mostly_corners(pairs: Sequence[tuple[Box, tuple[int, int]]]) -> bool:
    leaving = sum(box[2] > hw[1] + 1 or box[3] > hw[0] + 1 for box, hw in pairs)
    fitting = 0
    for (x, y, right, bottom), hw in pairs:
        as_x2, as_y2 = right - x, bottom - y
        fitting += x < as_x2 <= hw[1] + 1 and y < as_y2 <= hw[0] + 1
    return leaving >= max(_ENOUGH, 0.2 * len(pairs)) and fitting >= 0.95 * len(pairs)
