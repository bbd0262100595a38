"""Windows of stored images on the canvases of a batch: gathered, mirrored and resampled in a few operations.

A window is placed by a scale and an offset along each axis, so resampling is a product with one matrix of weights along
each. The weights are those of the antialiased bilinear filter of torchvision and Pillow: a triangle, as wide as an
output pixel where the window shrinks. Nothing here waits for the device.

Shape legend: T = tiles (placed windows), B = canvases, N = stored pixels of all images, H W = height and width of the
canvases, h w = those of the largest window.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1 << 26
"""Values (of four bytes) that are resampled at a time: bounds the memory where images or batches are large."""


class Tiles(NamedTuple):
    """Which windows are placed where; two tensors, so that a batch takes two copies to a device.

    whole (T, 9) int64: the canvas; the first stored pixel of the image, and its width; the window x1, y1, x2, y2 in
    whole pixels; whether it is mirrored along x and y (0 or 1). placed (T, 8) float32: for x and then y, scale and
    offset (pixels in the window = canvas * scale + offset, counted from its far end if mirrored) and the range of the
    canvas that is filled. `window_hw` are h and w. `exact`: every canvas is one window from its corner on, not
    resampled.
    """

    whole: Tensor
    placed: Tensor
    window_hw: tuple[int, int]
    exact: bool

    def pin_memory(self) -> Tiles:
        """The same in pinned memory, for an asynchronous copy to a GPU."""
        return self._replace(whole=self.whole.pin_memory(), placed=self.placed.pin_memory())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Tiles:
        """The same on another device."""
        return self._replace(
            whole=self.whole.to(device, non_blocking=non_blocking),
            placed=self.placed.to(device, non_blocking=non_blocking),
        )


WINDOW_GRAIN = 64
"""Pixels: sides of windows are padded to a multiple of so many."""


def padded_tiles(tiles: Tiles, canvases: int) -> Tiles:
    """The same with 1, 2, 4, ... tiles a canvas on average, and windows of few sizes: what is added shows nothing.

    >>> two, window = Tiles(torch.ones(3, 9, dtype=torch.int64), torch.ones(3, 8), (60, 70), exact=False), 2
    >>> len(padded_tiles(two, window).whole), padded_tiles(two, window).window_hw
    (4, (64, 128))
    """
    if tiles.exact:
        return tiles
    count = canvases << max(0, -(-len(tiles.whole) // canvases) - 1).bit_length()
    missing = count - len(tiles.whole)
    # the first pixel of all, on no part of the first canvas
    nothing = tiles.whole.new_tensor([0, 0, 1, 0, 0, 1, 1, 0, 0]).expand(missing, -1)
    nowhere = tiles.placed.new_tensor([1.0, 0.0, 0.0, 0.0] * 2).expand(missing, -1)
    height, width = (-(-side // WINDOW_GRAIN) * WINDOW_GRAIN for side in tiles.window_hw)
    return Tiles(torch.cat([tiles.whole, nothing]), torch.cat([tiles.placed, nowhere]), (height, width), exact=False)


def draw_tiles(stored: Tensor, tiles: Tiles, canvases: int, size_hw: tuple[int, int], colour: Tensor) -> Tensor:
    """Canvases (B, 3, H, W) float32 in whole levels 0 to 255, with the tiles of stored pixels (N, 3) uint8 on them.

    `colour` (3,) is what no tile covers. Where tiles are `exact`, what lies outside of them is not defined.
    """
    if tiles.exact:
        return windows(stored, tiles.whole, size_hw).permute(0, 3, 1, 2).float()
    # the differences to the colour are added up, so that it stays where nothing is added
    canvas = colour.view(3, 1).expand(canvases, size_hw[0], 3, size_hw[1]).clone()
    height, width = (max(pair) for pair in zip(size_hw, tiles.window_hw, strict=True))
    step = max(1, CHUNK // (3 * height * width))
    for first in range(0, len(tiles.whole), step):
        whole, placed = tiles.whole[first : first + step], tiles.placed[first : first + step]
        seen = windows(stored, whole, tiles.window_hw).transpose(2, 3) - colour.view(3, 1)  # (T, h, 3, w)
        across = axis_weights(placed[:, :4], whole[:, 5] - whole[:, 3], size_hw[1], tiles.window_hw[1])  # (T, W, w)
        down = axis_weights(placed[:, 4:], whole[:, 6] - whole[:, 4], size_hw[0], tiles.window_hw[0])  # (T, H, h)
        rows = seen.flatten(1, 2) @ across.mT  # (T, 3h, W)
        shown = down @ rows.view(len(whole), tiles.window_hw[0], -1)  # (T, H, 3W)
        # at a pixel all tiles but one add 0, so the order, which a GPU chooses, makes no difference
        canvas.index_add_(0, whole[:, 0], shown.view(len(whole), *canvas.shape[1:]))
    return canvas.permute(0, 2, 1, 3).round().clamp(0, 255)


def windows(stored: Tensor, whole: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """The windows (T, h, w, 3) of stored images, mirrored; beyond its end a window repeats its last pixels."""
    _, start, width, x1, y1, x2, y2, mirrored_x, mirrored_y = whole.unbind(1)
    columns = _pixels(x1, x2, mirrored_x, size_hw[1])  # (T, w)
    rows = _pixels(y1, y2, mirrored_y, size_hw[0]) * width[:, None] + start[:, None]  # (T, h)
    return stored[rows[:, :, None] + columns[:, None]]


def _pixels(first: Tensor, end: Tensor, mirrored: Tensor, count: int) -> Tensor:
    """Which rows or columns (T, count) of an image are those of the windows [first, end)."""
    number = torch.arange(count, device=first.device).minimum((end - first)[:, None] - 1)
    return torch.where(mirrored[:, None] > 0, end[:, None] - 1 - number, first[:, None] + number)


def axis_weights(placed: Tensor, length: Tensor, size_out: int, size_in: int) -> Tensor:
    """How much each pixel of a window adds to each of the canvas (T, size_out, size_in); rows sum to 1, or are 0.

    placed (T, 4): scale, offset and range of the canvas that is filled; length (T,): pixels of the window.

    >>> axis_weights(torch.tensor([[0.5, 0.0, 0.0, 4.0]]), torch.tensor([2]), 5, 2)[0].tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0], [0.0, 0.0]]
    """
    scale, offset, begin, end = placed[:, :, None].unbind(1)  # (T, 1) each
    pixel = torch.arange(size_out, device=placed.device) + 0.5
    seen = pixel * scale + offset  # (T, size_out)
    inside = (pixel >= begin) & (pixel < end)
    number = torch.arange(size_in, device=placed.device)
    distance = (seen[:, :, None] - (number + 0.5)).abs() / scale.clamp(min=1)[:, :, None]
    weights = (1 - distance).clamp(min=0) * (number < length[:, None])[:, None]
    return weights / weights.sum(2, keepdim=True).clamp(min=1e-6) * inside[:, :, None]
