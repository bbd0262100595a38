"""Predicted keypoints beside those of the ground truth, in the image's own pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from boxwright.inference.explain_panels import (
    FOUND_COLOUR,
    GROUND_TRUTH_COLOUR,
    open_panels,
    own_pixels,
    rectangle,
    show_image,
    tag,
    zoom_to,
)
from boxwright.ops.boxes import pairwise_iou
from boxwright.structures import Classes, Detections, GroundTruth, Skeleton
from boxwright.visualize.skeletons import SHOWN, keypoint_colour
from boxwright.wording import counted

LEAST_IOU = 0.1
"""Of the boxes of a detection and of the object that its keypoints are compared with."""
_VISIBILITY = ("not annotated", "hidden", "visible")


def nearest_object(found: Detections, ground_truth: GroundTruth | None, detection: int) -> int | None:
    """The object with annotated keypoints whose box a detection overlaps most; None where it overlaps none."""
    if ground_truth is None or ground_truth.keypoints is None or not len(ground_truth):
        return None
    overlap = pairwise_iou(found.boxes[detection][None], ground_truth.boxes)[0]
    overlap = torch.where((ground_truth.keypoints[..., 2] > 0).any(1), overlap, 0.0)
    best = int(overlap.argmax())
    return best if float(overlap[best]) >= LEAST_IOU else None


def describe_keypoints(found: Detections, ground_truth: GroundTruth | None, detection: int) -> list[str]:
    """A line for each keypoint of a detection: its score, its place, and how far from the annotated one it is."""
    assert found.keypoints is not None
    row = nearest_object(found, ground_truth, detection)
    beside = "" if row is None else f", beside those of ground truth box {row}"
    lines = [f"  Its {counted(found.keypoints.shape[1], 'keypoint')}{beside}:"]
    names = _names(found.classes, found.keypoints.shape[1])
    for index, (x, y, score) in enumerate(found.keypoints[detection].tolist()):
        line = f"    {names[index]}: score {score:.2f} at x {x:.1f}, y {y:.1f}"
        if row is not None and ground_truth is not None and ground_truth.keypoints is not None:
            their_x, their_y, visible = ground_truth.keypoints[row, index].tolist()
            away = ((x - their_x) ** 2 + (y - their_y) ** 2) ** 0.5
            line += f"; {_VISIBILITY[int(visible)]}" + (f", {away:.1f} pixels away" if visible else "")
        lines.append(line + ".")
    return lines


def draw_keypoint_panels(
    image: Tensor, found: Detections, ground_truth: GroundTruth | None, detection: int | None
) -> Any:
    """All predicted keypoints beside those of the ground truth; below, those of one detection and of its object."""
    assert found.keypoints is not None
    scene = own_pixels(image)
    known = None if ground_truth is None or ground_truth.keypoints is None else ground_truth
    titles = [f"keypoints of {counted(len(found), 'detection')}"]
    titles += [] if known is None else [f"keypoints of {counted(len(known), 'ground truth object')}"]
    row = None if detection is None else nearest_object(found, known, detection)
    if detection is not None:
        titles.append(f"detection {detection}, {found.names[detection]}, score {float(found.scores[detection]):.2f}")
        if known is not None:
            titles.append("no object that it overlaps" if row is None else f"ground truth {row}")
    heading = f"Keypoints in the image's own pixels, predicted ones of a score above {SHOWN:g}; hollow: hidden."
    rows = 2 if len(titles) > 2 or (known is None and len(titles) == 2) else 1
    figure, panels = open_panels(scene, titles, heading, rows=rows)
    skeleton = None if found.classes is None else found.classes.skeleton
    shown: list[tuple[Tensor, bool]] = [(found.keypoints, False)]
    shown += [] if known is None or known.keypoints is None else [(known.keypoints, True)]
    for axes, (points, annotated) in zip(panels, shown, strict=False):
        show_image(axes, scene)
        for one in points:
            _skeleton(axes, one, skeleton, annotated=annotated, size=12)
    if detection is not None:
        parts: list[tuple[Tensor, Tensor, bool] | None] = [(found.keypoints[detection], found.boxes[detection], False)]
        if known is not None and known.keypoints is not None:
            parts.append(None if row is None else (known.keypoints[row], known.boxes[row], True))
        both = torch.stack([part[1] for part in parts if part is not None])
        names = _names(found.classes, found.keypoints.shape[1])
        for axes, part in zip(panels[len(shown) :], parts, strict=True):
            show_image(axes, scene)
            zoom_to(axes, scene, torch.cat([both[:, :2].amin(0), both[:, 2:].amax(0)]))
            if part is not None:
                rectangle(axes, part[1], GROUND_TRUTH_COLOUR if part[2] else FOUND_COLOUR, width=1.4)
                _skeleton(axes, part[0], skeleton, annotated=part[2], size=40, names=names)
    return figure


def _names(classes: Classes | None, count: int) -> tuple[str, ...]:
    """What the keypoints are called; their numbers where that is not known."""
    skeleton = None if classes is None else classes.skeleton
    known = skeleton is not None and len(skeleton) == count
    return skeleton.names if skeleton is not None and known else tuple(f"keypoint {index}" for index in range(count))


def _skeleton(
    axes: Any, points: Tensor, skeleton: Skeleton | None, *, annotated: bool, size: float, names: tuple[str, ...] = ()
) -> None:
    """One object's keypoints (P, 3) as dots, hollow where they are hidden, with the lines between them."""
    places = points.tolist()
    colours = [tuple(part / 255 for part in keypoint_colour(index, len(places))) for index in range(len(places))]
    for start, end in () if skeleton is None or len(skeleton) != len(places) else skeleton.lines:
        if min(places[start][2], places[end][2]) > SHOWN:
            (x1, y1, _), (x2, y2, _) = places[start], places[end]
            axes.plot([x1, x2], [y1, y2], color="black", linewidth=2.4, zorder=3)
            axes.plot([x1, x2], [y1, y2], color=colours[end], linewidth=1.2, zorder=3)
    for index, (x, y, value) in enumerate(places):
        if value > SHOWN:
            hollow = annotated and value == 1
            face, edge = ("none", colours[index]) if hollow else (colours[index], "black")
            axes.scatter(
                [x], [y], s=size, facecolors=face, edgecolors=edge, linewidths=1.2 if hollow else 0.5, zorder=4
            )
            if names:
                tag(axes, x + 0.02 * abs(axes.get_xlim()[1] - axes.get_xlim()[0]), y, names[index], "#404040", size=6)
