"""Triton kernels for ReLU(maps + bias + shortcut) of maps with channels last, forwards and backwards.

The maps are a matrix (N, C) of N = B H W pixels. Arithmetic is float32 (float64 for such maps); each number is rounded
once, when it is written. Imported only where Triton is there (`gpu_kernels.py`).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 4096
"""Of a map that a program has in registers at a time."""
WIDEST = 256
"""Channels of a program."""
MOST_PARTS = 256
"""Parts that a sum over pixels is made of, so that it comes out the same each time."""


def tile(channels: int) -> tuple[int, int]:
    """Pixels and channels that a program has at a time, powers of two.

    >>> tile(256), tile(48)
    ((16, 256), (64, 64))
    """
    wide = min(triton.next_power_of_2(channels), WIDEST)
    return ELEMENTS // wide, wide


def arithmetic(maps: Tensor) -> torch.dtype:
    """The type of sums over maps."""
    return torch.float64 if maps.dtype == torch.float64 else torch.float32


@triton.jit
def _rectify(
    maps, bias, shortcut, out, pixels, channels, has_bias: tl.constexpr, has_shortcut: tl.constexpr,
    kind: tl.constexpr, high: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """One tile of ReLU(maps + bias + shortcut)."""
    row = tl.program_id(0).to(tl.int64) * high + tl.arange(0, high)
    channel = tl.program_id(1) * wide + tl.arange(0, wide)
    inside = (row < pixels)[:, None] & (channel < channels)[None]
    place = row[:, None] * channels + channel[None]
    value = tl.load(maps + place, mask=inside, other=0.0).to(kind)
    if has_bias:
        value += tl.load(bias + channel, mask=channel < channels, other=0.0).to(kind)[None]
    if has_shortcut:
        value += tl.load(shortcut + place, mask=inside, other=0.0).to(kind)
    value = tl.where(value < 0, 0.0, value)  # not maximum, which hides what is not a number
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _rectify_backward(
    gradient, out, given, sums, pixels, channels, rounds, wants_sums: tl.constexpr,
    kind: tl.constexpr, high: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Of `rounds` tiles: the gradient where the output is above 0, and its sum over their pixels."""
    part = tl.program_id(0)
    channel = tl.program_id(1) * wide + tl.arange(0, wide)
    total = tl.zeros((high, wide), kind)
    for number in range(0, rounds):
        row = (part * rounds + number).to(tl.int64) * high + tl.arange(0, high)
        inside = (row < pixels)[:, None] & (channel < channels)[None]
        place = row[:, None] * channels + channel[None]
        value = tl.load(gradient + place, mask=inside, other=0.0)
        value = tl.where(tl.load(out + place, mask=inside, other=0.0) > 0, value, 0.0)
        tl.store(given + place, value.to(given.dtype.element_ty), mask=inside)
        if wants_sums:
            total += value.to(kind)
    if wants_sums:
        tl.store(sums + part * channels + channel, tl.sum(total, 0), mask=channel < channels)


def rectify_(maps: Tensor, bias: Tensor | None, shortcut: Tensor | None) -> Tensor:
    """Maps (B, C, H, W) overwritten by ReLU of them plus bias (C,) plus shortcut (B, C, H, W), all channels last."""
    channels = maps.shape[1]
    pixels = maps.numel() // channels
    high, wide = tile(channels)
    with torch.cuda.device_of(maps):
        _rectify[(triton.cdiv(pixels, high), triton.cdiv(channels, wide))](
            maps, maps if bias is None else bias, maps if shortcut is None else shortcut, maps, pixels, channels,
            has_bias=bias is not None, has_shortcut=shortcut is not None, kind=language_type(maps), high=high,
            wide=wide,
        )  # fmt: skip
    return maps


def rectify_backward(gradient: Tensor, out: Tensor, wants_sums: bool) -> tuple[Tensor, Tensor | None]:
    """The gradient (B, C, H, W) of what `rectify_` took ReLU of, and its sum (C,), both channels last."""
    channels = out.shape[1]
    pixels = out.numel() // channels
    high, wide = tile(channels)
    rounds = triton.cdiv(triton.cdiv(pixels, high), 4 * MOST_PARTS)
    parts = triton.cdiv(triton.cdiv(pixels, high), rounds)
    given = torch.empty_like(out)
    sums = out.new_empty((parts, channels) if wants_sums else (1, 1), dtype=arithmetic(out))
    with torch.cuda.device_of(out):
        _rectify_backward[(parts, triton.cdiv(channels, wide))](
            gradient, out, given, sums, pixels, channels, rounds, wants_sums=wants_sums, kind=language_type(out),
            high=high, wide=wide,
        )  # fmt: skip
    return given, sums.sum(0) if wants_sums else None


def language_type(maps: Tensor) -> tl.dtype:
    """`arithmetic` as Triton calls it."""
    return tl.float64 if maps.dtype == torch.float64 else tl.float32
