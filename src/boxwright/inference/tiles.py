"""What was found in the tiles of an image, as the detections of the image.

Detections of different tiles that are one object (`ops.tiling.same_objects`) become one: the best that is whole, or
where all of them were cut, what they cover together (keypoints are those of the best, as is the angle of a rotated
box). Its score is the highest of theirs. What one tile found alone stays as it is, so that a single tile gives what the
whole image does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from boxwright.ops.rotated import rotated_hull
from boxwright.ops.rotated_tiling import around_along, same_rotated
from boxwright.ops.tiling import Tiling, Window, may_be_cut, same_objects
from boxwright.structures import CroppedMask, Detections, DetectSettings

AGREEMENT = 0.4
"""IoU from which on what two tiles see is one object, or `nms_iou` where that is lower: a tile has other cells than its
neighbour, so that boxes of small objects differ by a pixel or two."""
STRONG = 0.7
"""Of the highest score of an object: with less, a detection says nothing about where the object is."""
OVERLAP = 0.2
"""Share of its side that a tile has in common with its neighbour, if not given."""


def tiling_of(
    tiles: Tiling | int | Literal["recipe"] | None, overlap: float | None, own: Tiling | None
) -> Tiling | None:
    """The tiles that are asked for: `own` are the recipe's. Raises ValueError for an overlap of no tiles."""
    if isinstance(tiles, int):
        return Tiling(tiles, OVERLAP if overlap is None else overlap)
    if tiles == "recipe" and own is not None and overlap is not None:
        return Tiling(own.size, overlap)
    if overlap is not None:
        what = "it is part of the tiling that is given" if isinstance(tiles, Tiling) else "images are not cut"
        raise ValueError(f"overlap: goes with tiles in pixels, such as tiles=640; {what}")
    return own if tiles == "recipe" else tiles


def of_each_tile(most: int | None, settings: DetectSettings) -> int:
    """Detections of a tile at most, where `most` are wanted of the image: the recipe's, or more."""
    return max(settings.max_detections, most or 0)


def merged(
    found: Sequence[Detections], windows: Sequence[Window], hw: tuple[int, int], nms_iou: float, most: int | None
) -> Detections:
    """The detections of an image of size `hw`, best first, `most` at most, from those of its tiles (T,).

    Boxes and masks of `found` are in the pixels of each tile; the result's are in those of the image. Of rotated boxes,
    which may leave their tile, upright `boxes` are the hulls, cut to the image.
    """
    corners = [torch.tensor([x, y, x, y]) for x, y, _, _ in windows]
    boxes = [one.boxes + corner for one, corner in zip(found, corners, strict=True)]
    padded = pad_sequence(boxes, batch_first=True)  # (T, D, 4)
    scores = pad_sequence([one.scores for one in found], batch_first=True)
    labels = pad_sequence([one.labels for one in found], batch_first=True, padding_value=-1)
    places = torch.tensor(windows)
    cut = may_be_cut(padded, places, hw)
    rotated = _placed_rotated(found, windows)
    if rotated is None:
        pairs = same_objects(padded, scores, labels, places, cut, min(nms_iou, AGREEMENT))
    else:
        turned = pad_sequence(rotated, batch_first=True)  # (T, D, 5)
        pairs = same_rotated(turned, scores, labels, places, cut, min(nms_iou, AGREEMENT))
    real = labels.flatten() >= 0
    rows = real.nonzero()[:, 0]  # (N,): padded rows of the detections
    groups = _groups(pairs.tolist(), padded.shape[1]) if len(pairs) else []
    whole = Detections(
        padded.flatten(0, 1)[rows], torch.cat([one.scores for one in found]), labels.flatten()[rows], hw,
        found[0].classes, _placed_masks(found, windows), found[0].path, keypoints=_placed_keypoints(found, windows),
        rotated=None if rotated is None else torch.cat(rotated),
    )  # fmt: skip
    if groups:
        number = real.cumsum(0) - 1  # of a detection, by its padded row
        whole = _joined(whole, [number[group].tolist() for group in groups], cut.flatten()[rows])
    if len(found) == 1:
        return whole if most is None else whole[:most]
    if whole.rotated is not None:
        whole = replace(whole, boxes=_within_image(rotated_hull(whole.rotated), hw))
    return whole.select(whole.scores.argsort(descending=True, stable=True)[:most])


def _placed_masks(found: Sequence[Detections], windows: Sequence[Window]) -> tuple[CroppedMask, ...] | None:
    """The masks of all tiles, moved to their place in the image; None where the tiles have none."""
    if any(one.masks is None for one in found):
        return None
    return tuple(
        mask._replace(x=mask.x + x, y=mask.y + y)
        for one, (x, y, _, _) in zip(found, windows, strict=True)
        for mask in map(one.mask, range(len(one)))
    )


def _placed_keypoints(found: Sequence[Detections], windows: Sequence[Window]) -> Tensor | None:
    """The keypoints (N, P, 3) of all tiles in the pixels of the image; None where the tiles have none."""
    if any(one.keypoints is None for one in found):
        return None
    placed = [
        one.keypoints + torch.tensor([x, y, 0])
        for one, (x, y, _, _) in zip(found, windows, strict=True)
        if one.keypoints is not None
    ]
    return torch.cat(placed)


def _placed_rotated(found: Sequence[Detections], windows: Sequence[Window]) -> list[Tensor] | None:
    """The rotated boxes (D, 5) of each tile in the pixels of the image; None where the tiles have none."""
    if any(one.rotated is None for one in found):
        return None
    return [
        one.rotated + torch.tensor([x, y, 0, 0, 0])
        for one, (x, y, _, _) in zip(found, windows, strict=True)
        if one.rotated is not None
    ]


def _within_image(boxes: Tensor, hw: tuple[int, int]) -> Tensor:
    return boxes.clamp(min=0).minimum(torch.tensor([hw[1], hw[0]] * 2))


def _groups(pairs: Sequence[Sequence[int]], per_tile: int) -> list[list[int]]:
    """Rows that are one object, by pairs of rows, the surest first: a group never has two of one tile."""
    group_of: dict[int, list[int]] = {}
    for pair in pairs:
        one, two = (group_of.get(row, [row]) for row in pair)
        tiles = {row // per_tile for row in one} & {row // per_tile for row in two}
        if one is two or tiles:
            continue
        joined = one + two
        group_of.update(dict.fromkeys(joined, joined))
    return list({id(group): sorted(group) for group in group_of.values()}.values())


def _joined(found: Detections, groups: Sequence[Sequence[int]], cut: Tensor) -> Detections:
    """Each group as one detection, in place of its first that stays."""
    boxes, scores, keep = found.boxes.clone(), found.scores.clone(), torch.ones(len(found), dtype=torch.bool)
    masks = list(found.masks) if isinstance(found.masks, tuple) else None
    rotated = None if found.rotated is None else found.rotated.clone()
    for group in groups:
        highest = float(found.scores[list(group)].max())
        strong = [row for row in group if float(found.scores[row]) >= STRONG * highest]
        entire = [row for row in strong if not cut[row]]
        best = max(entire or strong, key=lambda row: float(found.scores[row]))
        if not entire:
            own = boxes[strong]
            boxes[best] = torch.cat([own[:, :2].amin(0), own[:, 2:].amax(0)])
            if rotated is not None:
                rotated[best] = around_along(rotated[strong], rotated[best, 4])
            if masks is not None:
                masks[best] = _together([masks[row] for row in strong])
        scores[best] = highest
        keep[[row for row in group if row != best]] = False
    placed = None if masks is None else tuple(masks)
    return replace(found, boxes=boxes, scores=scores, masks=placed, rotated=rotated).select(keep)


def _together(masks: Sequence[CroppedMask]) -> CroppedMask:
    """One mask of all the pixels of several."""
    some = [mask for mask in masks if mask.bitmap.numel()]
    if not some:
        return masks[0]
    left, top = min(mask.x for mask in some), min(mask.y for mask in some)
    width = max(mask.x + mask.bitmap.shape[1] for mask in some) - left
    height = max(mask.y + mask.bitmap.shape[0] for mask in some) - top
    plane = torch.zeros(height, width, dtype=torch.bool)
    for x, y, bitmap in some:
        plane[y - top : y - top + bitmap.shape[0], x - left : x - left + bitmap.shape[1]] |= bitmap
    return CroppedMask(left, top, plane)
