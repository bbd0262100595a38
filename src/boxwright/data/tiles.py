"""Training on tiles: the images of a split cut into overlapping tiles, each a record of its own.

What a tile shows of an object decides: enough of it (`min_visible` of its box), and it is learnt, with a box around
what is seen; less, and it is to be ignored there, since it is neither an object that can be recognised nor background.
A rotated box that is learnt stays whole and may leave its tile, as in crops (`data.placed_rotated`): what is seen of a
turned rectangle is none, and the smallest one around that has another angle than the object. Its own area decides, and
its hull is cut. Shape legend: T = tiles of an image, G = its objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from boxwright.data.records import Annotation, Record, Split, TileOf
from boxwright.data.rotated_annotations import rotated_of
from boxwright.data.transforms import place_ground_truth
from boxwright.ops.boxes import box_area, pairwise_intersection
from boxwright.ops.image import Placement
from boxwright.ops.rotated import upright_rotated
from boxwright.ops.rotated_iou import rotated_intersection
from boxwright.ops.tiling import Tiling, Window
from boxwright.structures import GroundTruth
from boxwright.wording import counted


class CutSplit(NamedTuple):
    """A split of tiles, and in one sentence what was cut and what is left of it."""

    split: Split
    sentence: str


def cut_split(
    split: Split, tiling: Tiling, *, min_visible: float, empty: float, rotated: bool = False
) -> CutSplit:  # fmt: skip
    """The tiles of the images of a split, after preflight, as its records.

    min_visible: share of a box that a tile must show for the object to be learnt there.
    empty: how many tiles without an object to learn are kept, as a share of those with one; evenly from all of them.
    rotated: whether rotated boxes are learnt, whose share is asked for then.
    An image that one tile covers stays as it is, with objects or without.
    """
    records = [tile for record in split.records for tile in _cut(record, tiling, min_visible, rotated)]
    idle = [index for index, tile in enumerate(records) if tile.tile is not None and not _learnt(tile)]
    kept = min(len(idle), round(empty * (len(records) - len(idle))))
    chosen = {idle[place * len(idle) // kept] for place in range(kept)}
    left = [tile for index, tile in enumerate(records) if index in chosen or tile.tile is None or _learnt(tile)]
    sentence = (
        f"{counted(len(split), 'image')} cut into {counted(len(records), 'tile')} of {tiling.size} pixels, of which "
        f"{len(records) - len(idle)} with objects and {kept} of {len(idle)} without are an epoch"
    )
    return CutSplit(replace(split, records=tuple(left)), sentence)


def _learnt(tile: Record) -> bool:
    return tile.semantic is not None or any(not item.ignore for item in tile.annotations)


def _cut(record: Record, tiling: Tiling, min_visible: float, rotated: bool) -> Iterator[Record]:
    """The tiles of an image, each with the objects of which it shows something."""
    hw = record.stated_hw
    if hw is None or tiling.tile_hw(hw) == hw:
        yield record
        return
    windows = tiling.windows(hw)
    if rotated:
        turned = torch.tensor([rotated_of(item, item.box) for item in record.annotations])
        shares = visible_rotated_shares(turned.reshape(-1, 5), windows, hw)
    else:
        shares = visible_shares([item.box for item in record.annotations], windows, hw)
    for window, row in zip(windows, shares.tolist(), strict=True):
        shown = tuple(
            _seen(item, share >= min_visible) for item, share in zip(record.annotations, row, strict=True) if share > 0
        )
        yield replace(record, stated_hw=tiling.tile_hw(hw), annotations=shown, tile=TileOf(window, hw))


def _seen(item: Annotation, enough: bool) -> Annotation:
    return item if enough or item.ignore else replace(item, ignore=True)


def visible_shares(boxes: Sequence[Sequence[float]], windows: Sequence[Window], hw: tuple[int, int]) -> Tensor:
    """The share of the area of each box, within an image of size `hw`, that each tile shows: (T, G) in [0, 1].

    >>> visible_shares([[-9, 0, 12, 4], [8, 0, 12, 4]], [(0, 0, 10, 10), (10, 0, 20, 10)], (10, 20)).tolist()
    [[0.8333333134651184, 0.5], [0.1666666716337204, 0.5]]
    """
    limits = torch.tensor([hw[1], hw[0]] * 2, dtype=torch.float32)
    inside = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4).clamp(min=0).minimum(limits)  # (G, 4)
    seen = pairwise_intersection(torch.tensor(windows, dtype=torch.float32), inside)  # (T, G)
    return seen / box_area(inside).clamp(min=1e-9)


ROUNDED = 1e-6
"""A smaller share of a rotated box is the rounding of 0."""


def visible_rotated_shares(rotated: Tensor, windows: Sequence[Window], hw: tuple[int, int]) -> Tensor:
    """The same for rotated boxes (G, 5), by their own area: (T, G) in [0, 1].

    >>> square = torch.tensor([[10.0, 5, 4, 4, 45]])
    >>> visible_rotated_shares(square, [(0, 0, 10, 10), (10, 0, 20, 10)], (10, 20)).tolist()
    [[0.5], [0.5]]
    """
    areas = upright_rotated(torch.tensor([*windows, (0, 0, hw[1], hw[0])], dtype=torch.float64))
    seen = rotated_intersection(areas, rotated.double())  # (T + 1, G), the last of the image
    shares = (seen[:-1] / seen[-1].clamp(min=1e-9)).clamp(max=1)
    return torch.where(shares > ROUNDED, shares, 0.0).float()


def cut_ground_truth(
    whole: GroundTruth, window: Window, hw: tuple[int, int], min_visible: float = 0.0
) -> GroundTruth:  # fmt: skip
    """What a tile shows of the ground truth of its image of size `hw`, in the pixels of the tile.

    Of which less than `min_visible` is seen is to be ignored. A box is cut at the border of the tile, and where its
    object has a mask, shrunk to what is left of that; a rotated box is not cut. Less than a pixel is nothing.
    """
    x1, y1, x2, y2 = window
    if whole.rotated is None:
        shares = visible_shares(whole.boxes.tolist(), [window], hw)
    else:
        shares = visible_rotated_shares(whole.rotated, [window], hw)
    marked = replace(whole, ignore=whole.ignore | (shares[0] < min_visible))
    return place_ground_truth(marked, Placement(window, (y2 - y1, x2 - x1), (0, 0)), min_visibility=0.0)
