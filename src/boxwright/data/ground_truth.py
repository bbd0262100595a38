"""An image's annotations as ground truth: clipped boxes, decoded masks, keypoints, and labels of pixels."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from boxwright.data.formats.numbered_pixels import ObjectPixels
from boxwright.data.records import Annotation, Record
from boxwright.data.rotated_annotations import is_flat, rotated_of
from boxwright.data.semantic_maps import semantic_map_of
from boxwright.data.tiles import cut_ground_truth
from boxwright.structures import CroppedMask, GroundTruth

Box = tuple[float, float, float, float]


def ground_truth_of(
    record: Record, hw: tuple[int, int], *, masks: bool = False, num_keypoints: int = 0, semantic: bool = False,
    rotated: bool = False,
) -> GroundTruth:  # fmt: skip
    """The ground truth of an image, or of a tile, of size `hw`: boxes clipped to it, with their masks if `masks`, and
    their `num_keypoints` keypoints, which stay where they are; an object that has none gets such of visibility 0.
    With `rotated` it has rotated boxes, which stay where they are too: of an object without an angle it is upright, of
    one whose outline is four corners the box around them.

    Boxes that are not finite or have no area inside the image are left out; preflight reports them. With `masks`, an
    object without a mask gets `CroppedMask.unknown`; with `semantic`, an image without a map one of 255. Raises
    ValueError with the annotation's place for a mask or map that cannot be decoded.
    """
    if record.tile is not None:
        whole = ground_truth_of(
            replace(record, tile=None), record.tile.image_hw, masks=masks, num_keypoints=num_keypoints,
            semantic=semantic, rotated=rotated,
        )  # fmt: skip
        return cut_ground_truth(whole, *record.tile)
    kept = [
        (item, box)
        for item in record.annotations
        if (box := clip_box(item.box, hw)) is not None and not (rotated and is_flat(item))
    ]
    return GroundTruth.of(
        [box for _, box in kept],
        [item.label for item, _ in kept],
        [item.ignore for item, _ in kept],
        [mask_of(item, hw, box) for item, box in kept] if masks else None,
        torch.tensor([_keypoints(item, num_keypoints) for item, _ in kept]).reshape(len(kept), num_keypoints, 3)
        if num_keypoints
        else None,
        semantic_map_of(record, hw) if semantic else None,
        torch.tensor([rotated_of(item, box) for item, box in kept]).reshape(-1, 5) if rotated else None,
    )


def _keypoints(item: Annotation, count: int) -> list[tuple[float, float, float]]:
    """The keypoints of one object; ValueError with its place where it has another number of them."""
    if item.keypoints is None:
        return [(0.0, 0.0, 0.0)] * count
    if len(item.keypoints) != count:
        raise ValueError(f"{item.where}: expected {count} keypoints, got {len(item.keypoints)}")
    return list(item.keypoints)


def clip_box(box: Box, hw: tuple[int, int]) -> Box | None:
    """The part of a box inside an image of size `hw`, None if there is none (or a coordinate is not finite).

    >>> clip_box((-5, 10, 20, 30), (100, 10)), clip_box((4, 4, 4, 9), (10, 10)), clip_box((12, 0, 15, 5), (10, 10))
    ((0.0, 10.0, 10.0, 30.0), None, None)
    """
    if not all(map(math.isfinite, box)):
        return None
    height, width = hw
    x1, x2 = (min(max(float(value), 0.0), float(width)) for value in (box[0], box[2]))
    y1, y2 = (min(max(float(value), 0.0), float(height)) for value in (box[1], box[3]))
    # Compared in float32, as boxes are stored: two different ends may be equal there.
    ends = torch.tensor([x1, y1, x2, y2])
    return (x1, y1, x2, y2) if bool((ends[2:] > ends[:2]).all()) else None


def mask_of(item: Annotation, hw: tuple[int, int], box: Box | None = None) -> CroppedMask:
    """The mask of one object, cropped to its extent; ValueError with the annotation's place if it is damaged.

    Polygons or a run-length code without a pixel give an empty mask. An object without them, or without a pixel in
    VOC's `SegmentationObject` image, was not annotated: `CroppedMask.unknown`.
    """
    corner = (int(box[0]), int(box[1])) if box else (0, 0)
    coded = item.segmentation
    try:
        if isinstance(coded, ObjectPixels):
            mask = coded.mask(hw)
        elif coded:
            mask = CroppedMask.decoded(coded, hw)
        else:
            mask = None
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise ValueError(f"{item.where}: the mask cannot be decoded ({error}); correct or remove it") from error
    if mask is None or (isinstance(coded, ObjectPixels) and not mask.bitmap.numel()):
        return CroppedMask.unknown(min(corner[0], hw[1] - 1), min(corner[1], hw[0] - 1))
    return mask
