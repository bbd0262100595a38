"""Checks of keypoints: of one object (outside the image, away from its box, at one point) and of a whole split.

An object with bad keypoints keeps its box, since without it the object would be learned as background. Numbers that are
no keypoints at all (another count, a visibility that is none of 0, 1 and 2) are found when a file is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from boxwright.data.ground_truth import Box
from boxwright.data.records import Annotation, Problem, Split
from boxwright.structures import Skeleton
from boxwright.wording import counted, listed

_SLACK = 2.0  # pixels that a keypoint may lie outside its image: labelling tools round
_LEAST_INSIDE = 0.5  # share of the keypoints that must lie in their box, which is widened by a tenth


def checked_keypoints(
    item: Annotation, name: str, hw: tuple[int, int], box: Box, skeleton: Skeleton
) -> tuple[Annotation, Problem | None]:
    """The object of an image of size `hw` without keypoints outside of it, and the problem of its keypoints.

    An object whose keypoints mostly lie elsewhere than its box loses them all.
    """
    if item.keypoints is None:
        return item, None
    known = [index for index, (_, _, visible) in enumerate(item.keypoints) if visible]
    height, width = hw
    beyond = [index for index in known if _beyond(item.keypoints[index], (0, 0, width, height)) > _SLACK]
    margin = 0.1 * max(box[2] - box[0], box[3] - box[1]) + _SLACK
    near = [index for index in known if _beyond(item.keypoints[index], box) <= margin]
    if len(near) < _LEAST_INSIDE * len(known):
        message = (
            f"{len(known) - len(near)} of the {counted(len(known), 'keypoint')} of the {name} lie outside its box; "
            "only the box is used"
        )
        return replace(item, keypoints=None), Problem("keypoints-off-box", item.where, message, item.box)
    if beyond:
        names = listed([skeleton.names[index] for index in beyond], 3)
        lie = "lies" if len(beyond) == 1 else "lie"
        message = f"{names} of the {name} {lie} outside its image of {width} x {height} and count as not annotated"
        left = tuple((0.0, 0.0, 0.0) if index in beyond else point for index, point in enumerate(item.keypoints))
        return replace(item, keypoints=left), Problem("keypoint-outside-image", item.where, message, item.box)
    if len(known) > 1 and len({item.keypoints[index][:2] for index in known}) == 1:
        message = f"all {len(known)} keypoints of the {name} are at one point"
        return item, Problem("keypoints-at-one-point", item.where, message, item.box)
    return item, None


def unannotated_keypoints(split: Split, root: Path) -> Iterable[Problem]:
    """How many objects of a split have no annotated keypoint, and which keypoints none of its objects has."""
    skeleton = split.classes.skeleton
    objects = [item for record in split.records for item in record.annotations if not item.ignore]
    if skeleton is None or not objects:
        return
    known = [{index for index, point in enumerate(item.keypoints or ()) if point[2]} for item in objects]
    bare = sum(not one for one in known)
    if bare:
        have = "has" if bare == 1 else "have"
        message = (
            f"{bare} of {counted(len(objects), 'object')} of {split.name} {have} no annotated keypoint: only the "
            "box is used"
        )
        yield Problem("missing-keypoints", str(root), message, severity="note")
    never = [name for index, name in enumerate(skeleton.names) if not any(index in one for one in known)]
    if never and bare < len(objects):
        message = f"no object of {split.name} has the {'keypoint' if len(never) == 1 else 'keypoints'} {listed(never)}"
        severity = "warning" if split.name == "train" else "note"
        yield Problem("keypoint-never-annotated", str(root), message, severity=severity)


def _beyond(point: tuple[float, float, float], box: Box) -> float:
    """How far a point lies outside a box, in pixels along x or y; negative inside."""
    x, y, _ = point
    return max(box[0] - x, box[1] - y, x - box[2], y - box[3])
