"""Triton kernels for group norm of maps with channels last, and ReLU after it, forwards and backwards.

Shape legend: B = images, P = pixels of one, C = channels, G = groups of C / G channels, N = P C / G numbers of a group.
Maps are (B, P, C) in memory. With the mean m and the deviation s of a group, h = (x - m) / s and y = w h + b; of a
gradient g of y (0 where ReLU cut it) the weight gets sum(g h), the bias sum(g), and x gets
(w g - mean(w g) - h mean(w g h)) / s, the means over a group. Source: Wu and He 2018, "Group Normalization".

Arithmetic is float32 (float64 for such maps), each number is rounded once, when it is written, and sums have a fixed
order. Imported only where Triton is there (`gpu_kernels.py`).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from boxwright.nn.rectify_kernels import MOST_PARTS, arithmetic, language_type, tile

WAVES = 1024
"""Programs below which a sum over few pixels is cut into more parts: they should fill a card."""


@triton.jit
def _sums(
    maps, sums, pixels, channels, parts, rounds, kind: tl.constexpr, high: tl.constexpr, wide: tl.constexpr
):  # fmt: skip
    """Of one part of an image's pixels, for each channel: the sum of x - pivot and of its square.

    The pivot is the channel's first pixel, so that numbers far from 0 lose nothing.
    """
    image, part = tl.program_id(0) // parts, tl.program_id(0) % parts
    channel = tl.program_id(1) * wide + tl.arange(0, wide)
    real = channel < channels
    own = maps + image.to(tl.int64) * pixels * channels
    pivot = tl.load(own + channel, mask=real, other=0.0).to(kind)
    first, second = tl.zeros((high, wide), kind), tl.zeros((high, wide), kind)
    for number in range(0, rounds):
        row = (part * rounds + number) * high + tl.arange(0, high)
        inside = (row < pixels)[:, None] & real[None]
        value = tl.load(own + row.to(tl.int64)[:, None] * channels + channel[None], mask=inside, other=0.0).to(kind)
        value = tl.where(inside, value - pivot[None], 0.0)
        first += value
        second += value * value
    place = sums + (image * parts + part) * 2 * channels + channel  # (B, parts, 2, C)
    tl.store(place, tl.sum(first, 0), mask=real)
    tl.store(place + channels, tl.sum(second, 0), mask=real)


@triton.jit
def _statistics(
    maps, sums, mean, inverse, pixels, channels, groups, width, parts, eps, kind: tl.constexpr,
    some: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Mean and 1 / deviation of one group, from the sums of its channels."""
    image, group = tl.program_id(0) // groups, tl.program_id(0) % groups
    member = tl.arange(0, wide)
    real = member < width
    channel = group * width + member
    first, second = tl.zeros((some, wide), kind), tl.zeros((some, wide), kind)
    for start in range(0, parts, some):
        part = start + tl.arange(0, some)
        inside = (part < parts)[:, None] & real[None]
        place = sums + (image * parts + part)[:, None] * 2 * channels + channel[None]
        first += tl.load(place, mask=inside, other=0.0)
        second += tl.load(place + channels, mask=inside, other=0.0)
    shift, squares = tl.sum(first, 0), tl.sum(second, 0)
    pivot = tl.load(maps + image.to(tl.int64) * pixels * channels + channel, mask=real, other=0.0).to(kind)
    own = pivot + shift / pixels  # the mean of each channel
    found = tl.sum(tl.where(real, own, 0.0), 0) / width
    apart = tl.where(real, own - found, 0.0)
    within = tl.sum(tl.where(real, squares - shift * shift / pixels, 0.0), 0)
    variance = (within / pixels + tl.sum(apart * apart, 0)) / width
    tl.store(mean + tl.program_id(0), found)
    tl.store(inverse + tl.program_id(0), 1.0 / tl.sqrt(tl.maximum(variance, 0.0) + eps))


@triton.jit
def _normalise(
    maps, out, mean, inverse, weight, bias, pixels, channels, groups, width, tiles, rectifies: tl.constexpr,
    kind: tl.constexpr, high: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """One tile of w (x - m) / s + b, and its ReLU."""
    image = tl.program_id(0) // tiles
    row = (tl.program_id(0) % tiles) * high + tl.arange(0, high)
    channel = tl.program_id(1) * wide + tl.arange(0, wide)
    real = channel < channels
    inside = (row < pixels)[:, None] & real[None]
    place = image.to(tl.int64) * pixels * channels + row.to(tl.int64)[:, None] * channels + channel[None]
    group = image * groups + channel // width
    middle, scale = tl.load(mean + group, mask=real, other=0.0), tl.load(inverse + group, mask=real, other=0.0)
    factor, shift = tl.load(weight + channel, mask=real, other=0.0), tl.load(bias + channel, mask=real, other=0.0)
    value = tl.load(maps + place, mask=inside, other=0.0).to(kind)
    value = (value - middle[None]) * scale[None] * factor.to(kind)[None] + shift.to(kind)[None]
    if rectifies:
        value = tl.where(value < 0, 0.0, value)
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gradient_sums(
    gradient, maps, mean, inverse, weight, bias, sums, pixels, channels, groups, width, parts, rounds,
    rectifies: tl.constexpr, kind: tl.constexpr, high: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Of one part of an image's pixels, for each channel: the sum of g and of g h."""
    image, part = tl.program_id(0) // parts, tl.program_id(0) % parts
    channel = tl.program_id(1) * wide + tl.arange(0, wide)
    real = channel < channels
    group = image * groups + channel // width
    middle, scale = tl.load(mean + group, mask=real, other=0.0), tl.load(inverse + group, mask=real, other=0.0)
    factor, shift = tl.load(weight + channel, mask=real, other=0.0), tl.load(bias + channel, mask=real, other=0.0)
    first, second = tl.zeros((high, wide), kind), tl.zeros((high, wide), kind)
    for number in range(0, rounds):
        row = (part * rounds + number) * high + tl.arange(0, high)
        inside = (row < pixels)[:, None] & real[None]
        place = image.to(tl.int64) * pixels * channels + row.to(tl.int64)[:, None] * channels + channel[None]
        value = (tl.load(maps + place, mask=inside, other=0.0).to(kind) - middle[None]) * scale[None]
        given = tl.load(gradient + place, mask=inside, other=0.0).to(kind)
        if rectifies:
            given = tl.where(value * factor.to(kind)[None] + shift.to(kind)[None] > 0, given, 0.0)
        first += given
        second += tl.where(inside, given * value, 0.0)
    place = sums + (image * parts + part) * 2 * channels + channel
    tl.store(place, tl.sum(first, 0), mask=real)
    tl.store(place + channels, tl.sum(second, 0), mask=real)


@triton.jit
def _gradient_means(
    sums, weight, of_parameters, means, pixels, channels, groups, width, parts, kind: tl.constexpr,
    some: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """Of one group: the sums over an image of g and g h for each channel, and the means of w g and w g h."""
    image, group = tl.program_id(0) // groups, tl.program_id(0) % groups
    member = tl.arange(0, wide)
    real = member < width
    channel = group * width + member
    first, second = tl.zeros((some, wide), kind), tl.zeros((some, wide), kind)
    for start in range(0, parts, some):
        part = start + tl.arange(0, some)
        inside = (part < parts)[:, None] & real[None]
        place = sums + (image * parts + part)[:, None] * 2 * channels + channel[None]
        first += tl.load(place, mask=inside, other=0.0)
        second += tl.load(place + channels, mask=inside, other=0.0)
    plain, along = tl.sum(first, 0), tl.sum(second, 0)
    place = of_parameters + image * 2 * channels + channel  # (B, 2, C)
    tl.store(place, plain, mask=real)
    tl.store(place + channels, along, mask=real)
    factor = tl.load(weight + channel, mask=real, other=0.0).to(kind)
    tl.store(means + tl.program_id(0) * 2, tl.sum(factor * plain, 0) / width / pixels)  # (B, G, 2)
    tl.store(means + tl.program_id(0) * 2 + 1, tl.sum(factor * along, 0) / width / pixels)


@triton.jit
def _gradient(
    gradient, maps, mean, inverse, weight, bias, means, given, pixels, channels, groups, width, tiles,
    rectifies: tl.constexpr, kind: tl.constexpr, high: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """One tile of (w g - mean(w g) - h mean(w g h)) / s."""
    image = tl.program_id(0) // tiles
    row = (tl.program_id(0) % tiles) * high + tl.arange(0, high)
    channel = tl.program_id(1) * wide + tl.arange(0, wide)
    real = channel < channels
    inside = (row < pixels)[:, None] & real[None]
    place = image.to(tl.int64) * pixels * channels + row.to(tl.int64)[:, None] * channels + channel[None]
    group = image * groups + channel // width
    middle, scale = tl.load(mean + group, mask=real, other=0.0), tl.load(inverse + group, mask=real, other=0.0)
    factor, shift = tl.load(weight + channel, mask=real, other=0.0), tl.load(bias + channel, mask=real, other=0.0)
    plain, along = (
        tl.load(means + group * 2, mask=real, other=0.0),
        tl.load(means + group * 2 + 1, mask=real, other=0.0),
    )
    value = (tl.load(maps + place, mask=inside, other=0.0).to(kind) - middle[None]) * scale[None]
    own = tl.load(gradient + place, mask=inside, other=0.0).to(kind)
    if rectifies:
        own = tl.where(value * factor.to(kind)[None] + shift.to(kind)[None] > 0, own, 0.0)
    found = (own * factor.to(kind)[None] - plain[None] - value * along[None]) * scale[None]
    tl.store(given + place, found.to(given.dtype.element_ty), mask=inside)


def _parts(images: int, pixels: int, high: int) -> tuple[int, int]:
    """Parts that the pixels of an image are summed in, and tiles of each."""
    tiles = triton.cdiv(pixels, high)
    rounds = max(min(8, images * tiles // WAVES), triton.cdiv(tiles, MOST_PARTS), 1)
    return triton.cdiv(tiles, rounds), rounds


def statistics(maps: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / deviation (B, G) of each group of maps (B, C, H, W), channels last."""
    images, channels, pixels = maps.shape[0], maps.shape[1], maps.shape[2] * maps.shape[3]
    (high, wide), kind, width = tile(channels), language_type(maps), channels // groups
    parts, rounds = _parts(images, pixels, high)
    sums = maps.new_empty((images, parts, 2, channels), dtype=arithmetic(maps))
    mean, inverse = maps.new_empty((2, images, groups), dtype=arithmetic(maps)).unbind()
    with torch.cuda.device_of(maps):
        _sums[(images * parts, triton.cdiv(channels, wide))](
            maps, sums, pixels, channels, parts, rounds, kind=kind, high=high, wide=wide
        )
        _statistics[(images * groups,)](
            maps, sums, mean, inverse, pixels, channels, groups, width, parts, eps, kind=kind,
            some=min(32, triton.next_power_of_2(parts)), wide=triton.next_power_of_2(width),
        )  # fmt: skip
    return mean, inverse


def normalised(
    maps: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor, bias: Tensor, rectifies: bool
) -> Tensor:  # fmt: skip
    """Maps (B, C, H, W) by their statistics (B, G), times weight (C,), plus bias (C,); `rectifies`: the ReLU of it."""
    images, channels, pixels, groups = maps.shape[0], maps.shape[1], maps.shape[2] * maps.shape[3], mean.shape[1]
    high, wide = tile(channels)
    tiles = triton.cdiv(pixels, high)
    out = torch.empty_like(maps)
    with torch.cuda.device_of(maps):
        _normalise[(images * tiles, triton.cdiv(channels, wide))](
            maps, out, mean, inverse, weight, bias, pixels, channels, groups, channels // groups, tiles,
            rectifies=rectifies, kind=language_type(maps), high=high, wide=wide,
        )  # fmt: skip
    return out


def gradients(
    gradient: Tensor, maps: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor, bias: Tensor, rectifies: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of maps (B, C, H, W), weight (C,) and bias (C,), from that of what `normalised` made of them."""
    images, channels, pixels, groups = maps.shape[0], maps.shape[1], maps.shape[2] * maps.shape[3], mean.shape[1]
    (high, wide), kind, width = tile(channels), language_type(maps), channels // groups
    parts, rounds = _parts(images, pixels, high)
    tiles = triton.cdiv(pixels, high)
    sums = maps.new_empty((images, parts, 2, channels), dtype=arithmetic(maps))
    of_parameters = sums.new_empty((images, 2, channels))
    means, given = sums.new_empty((images, groups, 2)), torch.empty_like(maps)
    with torch.cuda.device_of(maps):
        _gradient_sums[(images * parts, triton.cdiv(channels, wide))](
            gradient, maps, mean, inverse, weight, bias, sums, pixels, channels, groups, width, parts, rounds,
            rectifies=rectifies, kind=kind, high=high, wide=wide,
        )  # fmt: skip
        _gradient_means[(images * groups,)](
            sums, weight, of_parameters, means, pixels, channels, groups, width, parts, kind=kind,
            some=min(32, triton.next_power_of_2(parts)), wide=triton.next_power_of_2(width),
        )  # fmt: skip
        _gradient[(images * tiles, triton.cdiv(channels, wide))](
            gradient, maps, mean, inverse, weight, bias, means, given, pixels, channels, groups, width, tiles,
            rectifies=rectifies, kind=kind, high=high, wide=wide,
        )  # fmt: skip
    of_bias, of_weight = of_parameters.sum(0)
    return given, of_weight, of_bias
