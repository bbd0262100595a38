"""What a training image is to show, without its pixels: which windows of which images, where, and in which colours.

The steps of `data.transforms` and `data.mosaic` take a view in place of an image and draw the same for it. Only then
are pixels made, once for all steps and for a whole batch (`ops.resample`). Lengths are pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import NamedTuple

import torch

from boxwright.ops.image import Placement
from boxwright.ops.resample import Tiles

Corners = tuple[float, float, float, float]
NEARLY = 1e-4
"""Of a pixel: how far a window may lie beyond whole pixels by rounding."""


class Tile(NamedTuple):
    """The window (x1, y1, x2, y2) of image `source`, of `source_hw`, fills the place (x1, y1, x2, y2) of a canvas.

    `mirrored`: whether it is shown mirrored along x, and along y.
    """

    source: int
    source_hw: tuple[int, int]
    window: Corners
    place: Corners
    mirrored: tuple[bool, bool] = (False, False)


class ColourChange(NamedTuple):
    """One change of colours, of a kind of `ops.colours`, by a factor as torchvision takes it."""

    kind: int
    factor: float


@dataclass(frozen=True, slots=True)
class View:
    """A canvas of `size_hw` with tiles on it that do not overlap, then changed in its colours."""

    size_hw: tuple[int, int]
    tiles: tuple[Tile, ...]
    colours: tuple[ColourChange, ...] = ()

    @classmethod
    def whole(cls, source: int, hw: tuple[int, int]) -> View:
        """All of one image."""
        corners = (0.0, 0.0, float(hw[1]), float(hw[0]))
        return cls(hw, (Tile(source, hw, corners, corners),))

    @property
    def shape(self) -> tuple[int, int, int]:
        """That of the image: 3, height, width."""
        return 3, *self.size_hw

    def placed(self, placement: Placement) -> list[Tile]:
        """What a placed window of this view shows.

        >>> View.whole(0, (10, 20)).placed(Placement((5, 0, 15, 10), (20, 20), (2, 3)))[0][2:4]
        ((5.0, 0.0, 15.0, 10.0), (2.0, 3.0, 22.0, 23.0))
        """
        if self.colours:
            raise ValueError("augmentation: colours are changed last, after every step that moves pixels")
        (x1, y1, x2, y2), scale, corner = placement.window, placement.scale_xy, placement.corner_xy
        x, y = _Axis(x1, x2, scale[0], corner[0]), _Axis(y1, y2, scale[1], corner[1])
        found = []
        for tile in self.tiles:
            across = x.cut(tile.place[::2], tile.window[::2], tile.mirrored[0])
            down = y.cut(tile.place[1::2], tile.window[1::2], tile.mirrored[1])
            if across is not None and down is not None:
                window, place = ((a[0], d[0], a[1], d[1]) for a, d in zip(across, down, strict=True))
                found.append(tile._replace(window=window, place=place))
        return found

    def flipped(self, axis: int) -> View:
        """The view mirrored along x (axis 0) or y (axis 1)."""
        height, width = self.size_hw
        tiles = []
        for tile in self.tiles:
            (x1, y1, x2, y2), (mirrored_x, mirrored_y) = tile.place, tile.mirrored
            if axis == 0:
                place, mirrored = (width - x2, y1, width - x1, y2), (not mirrored_x, mirrored_y)
            else:
                place, mirrored = (x1, height - y2, x2, height - y1), (mirrored_x, not mirrored_y)
            tiles.append(tile._replace(place=place, mirrored=mirrored))
        return replace(self, tiles=tuple(tiles))

    def coloured(self, changes: Sequence[ColourChange]) -> View:
        """The view with further changes of its colours."""
        return replace(self, colours=(*self.colours, *changes))


class _Axis(NamedTuple):
    """One axis of a placement: canvas = (image - low) * scale + corner, between low and high."""

    low: float
    high: float
    scale: float
    corner: float

    def cut(
        self, place: Sequence[float], window: Sequence[float], mirrored: bool
    ) -> tuple[tuple[float, float], tuple[float, float]] | None:
        """The part of a tile's window that is still seen, and its new place; None if nothing is."""
        start, stop = max(place[0], self.low), min(place[1], self.high)
        if stop <= start:
            return None
        scale = (window[1] - window[0]) / (place[1] - place[0])
        before, after = (start - place[0]) * scale, (place[1] - stop) * scale
        if mirrored:
            before, after = after, before
        new = (start - self.low) * self.scale + self.corner, (stop - self.low) * self.scale + self.corner
        return (window[0] + before, window[1] - after), new


def tiles_of(views: Sequence[View], starts: Mapping[int, int] | Sequence[int]) -> Tiles:
    """The tiles of all views; `starts` are the first stored pixels of their images."""
    whole, placed, largest = [], [], (1, 1)
    for canvas, view in enumerate(views):
        for tile in view.tiles:
            height, width = tile.source_hw
            x1, x2 = _whole_pixels(tile.window[0], tile.window[2], width)
            y1, y2 = _whole_pixels(tile.window[1], tile.window[3], height)
            largest = max(largest[0], y2 - y1), max(largest[1], x2 - x1)
            whole.append((canvas, starts[tile.source], width, x1, y1, x2, y2, *map(int, tile.mirrored)))
            placed.append((*_along(tile, 0, x1, x2), *_along(tile, 1, y1, y2)))
    exact = all(map(_is_exact, views))
    return Tiles(
        torch.tensor(whole, dtype=torch.int64).view(-1, 9), torch.tensor(placed, dtype=torch.float32).view(-1, 8),
        largest, exact,
    )  # fmt: skip


def _whole_pixels(low: float, high: float, extent: int) -> tuple[int, int]:
    """The pixels [first, end) of an image of so many that a window touches, one at least."""
    first = min(floor(low + NEARLY), extent - 1)
    return first, max(ceil(high - NEARLY), first + 1)


def _along(tile: Tile, axis: int, first: int, end: int) -> tuple[float, float, float, float]:
    """Scale, offset and filled range of a tile along one axis, as `Tiles.placed` has them."""
    (low, high), (begin, stop) = tile.window[axis::2], tile.place[axis::2]
    scale = (high - low) / (stop - begin)
    before = end - high if tile.mirrored[axis] else low - first
    return scale, before - begin * scale, begin, stop


def _is_exact(view: View) -> bool:
    """Whether a view is one window from its corner on, of whole pixels and not resampled."""
    height, width = view.size_hw
    if len(view.tiles) != 1 or view.tiles[0].place != (0, 0, width, height):
        return False
    x1, y1, x2, y2 = view.tiles[0].window
    return x1.is_integer() and y1.is_integer() and (x2 - x1, y2 - y1) == (width, height)
