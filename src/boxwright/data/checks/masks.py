"""Checks of masks, object by object: damaged, of another image's size, away from their box, or missing.

Such an object keeps its box, since without it the object would be learned as background. It loses its mask, except for
an empty one of COCO or YOLO, which evaluation counts as missed.
"""

from __future__ import annotations

from dataclasses import replace

from boxwright.data.formats.numbered_pixels import ObjectPixels
from boxwright.data.ground_truth import Box, clip_box, mask_of
from boxwright.data.records import Annotation, Problem
from boxwright.ops.masks import check_outline

_SLACK = 2.0  # pixels that a polygon may end outside without a finding
_HUGE = 1e12
_LEAST_OVERLAP = 0.2  # IoU of a mask's extent and its box


def checked_mask(
    item: Annotation, name: str, hw: tuple[int, int], box: Box, *, needed: bool
) -> tuple[Annotation, Problem | None]:
    """The object of an image of size `hw`, without its mask if that is invalid, and the problems of the mask.

    `needed`: also report a missing mask (ignored regions need none).
    """
    if not item.segmentation:
        missing = f"the {name} has no mask: only its box is used in training"
        return item, Problem("missing-mask", item.where, missing, item.box) if needed and not item.ignore else None
    bare = replace(item, segmentation=None)
    try:
        extent = _extent(item, hw)
    except ValueError as error:
        message = str(error).removeprefix(f"{item.where}: ")
        return bare, Problem("bad-mask", item.where, f"{message}; its box is kept", item.box, severity="error")
    if extent is None:
        drawn = not isinstance(item.segmentation, ObjectPixels)  # VOC leaves difficult objects without pixels
        left = item if drawn else bare
        if item.ignore:
            return left, None
        rest = "its box is used, and evaluation counts it as missed" if drawn else "its box is kept without it"
        message = f"the mask of the {name} covers no pixel of its image; {rest}"
        return left, Problem("empty-mask", item.where, message, item.box)
    if _overlap(extent, box) < _LEAST_OVERLAP and not item.ignore:
        x1, y1, x2, y2 = extent
        message = (
            f"the mask of the {name} lies elsewhere than its box (x {x1:g} to {x2:g}, y {y1:g} to {y2:g}); the box is "
            "kept without it"
        )
        return bare, Problem("mask-off-box", item.where, message, item.box, severity="error")
    beyond = _beyond(item, hw) if item.rotated is None else 0.0  # its corners may lie outside: `box-beyond-image` tells
    if beyond > _SLACK:
        message = (
            f"the mask of the {name} reaches {beyond:.4g} pixels beyond its image of {hw[1]} x {hw[0]}; it is "
            "clipped, and may belong to another version of the image"
        )
        return item, Problem("mask-beyond-image", item.where, message, item.box)
    return item, None


def _extent(item: Annotation, hw: tuple[int, int]) -> Box | None:
    """The box around the part of a mask inside its image, None if there is none; ValueError if it is damaged.

    Polygons are not filled for this: a large dataset has a million of them.
    """
    polygons = item.segmentation
    if isinstance(polygons, list) and polygons and all(map(_is_polygon, polygons)):
        if all(map(_is_line, polygons)):
            return None
        try:
            for polygon in polygons:
                check_outline(polygon, hw)
        except ValueError as error:
            raise ValueError(f"the mask cannot be decoded ({error}); correct or remove it") from error
        columns = [value for polygon in polygons for value in polygon[0::2]]
        rows = [value for polygon in polygons for value in polygon[1::2]]
        return clip_box((min(columns), min(rows), max(columns), max(rows)), hw)
    mask = mask_of(item, hw)
    height, width = mask.bitmap.shape
    return (mask.x, mask.y, mask.x + width, mask.y + height) if bool(mask.bitmap.any()) else None


def _is_polygon(polygon: object) -> bool:
    """Whether this is a flat list of three or more points."""
    return (
        isinstance(polygon, list)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and all(isinstance(value, int | float) and -_HUGE < value < _HUGE for value in polygon)
    )


def _is_line(polygon: list[float]) -> bool:
    """Whether the points of a polygon lie on one line, or are one point."""
    x0, y0, *rest = polygon
    steps = [(x - x0, y - y0) for x, y in zip(rest[0::2], rest[1::2], strict=True)]
    across, down = max(steps, key=lambda step: abs(step[0]) + abs(step[1]))
    return all(across * y == down * x for x, y in steps)


def _overlap(first: Box, second: Box) -> float:
    """IoU of two boxes; of plain numbers, as a data set has a million pairs, and tensors of one box are slow."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared)


def _beyond(item: Annotation, hw: tuple[int, int]) -> float:
    """How far polygons leave their image, in pixels."""
    if isinstance(item.segmentation, (dict, ObjectPixels)):
        return 0.0
    nested = not isinstance(item.segmentation[0], int | float)
    polygons = [part for part in item.segmentation if len(part) > 1] if nested else [item.segmentation]
    columns = [value for polygon in polygons for value in polygon[0::2]]
    rows = [value for polygon in polygons for value in polygon[1::2]]
    return float(max(-min(columns), -min(rows), max(columns) - hw[1], max(rows) - hw[0]))
