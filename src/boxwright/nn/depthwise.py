"""Convolutions of mobile networks (EfficientNet, MobileNet): fast kernels, and padding that a graph can hold.

**Depthwise**, one filter a channel. On a CPU two of their gradients have slow kernels: that of filters wider than three
columns, which is put together from filters of three, and that of maps in bf16 at a stride, which is computed in float32
(`python -m benchmarks.depthwise --layers` prints the times). On a GPU torch hands every convolution that is channels
last to cuDNN, with which a step of EfficientNet-Lite0 in bf16 took seconds; contiguous maps in float32 and bf16 go to
torch's own depthwise kernels.

**"Same" padding**, TensorFlow's, of timm's `tf_` networks: outputs of ceil(H / stride) rows. There the rows above
depend on whether the stride divides H, which is slow to export for free sizes, and which moves the grid of locations
against the image by a pixel. Here the padding is that of sides that the stride divides, for all sides: equal to timm's
where sides are multiples of 32, and the same grid everywhere.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boxwright.nn.fixed_norms import Norms, normed_weights, take_over

Padding = tuple[int, int, int, int]
"""Zeros at the left, right, top and bottom."""


def same_padding(convolution: nn.Conv2d) -> Padding:
    """The padding of a convolution that pads like TensorFlow, for sides of any length.

    An extent of k pixels (the kernel with its dilation) at stride s needs k - s in all where s divides the side, the
    smaller half before it; up to s - 1 more behind give ceil(H / s) rows elsewhere and change nothing there.

    >>> same_padding(nn.Conv2d(3, 3, 3, stride=2)), same_padding(nn.Conv2d(3, 3, 5))
    ((0, 2, 0, 2), (2, 2, 2, 2))
    """
    sides = []
    for kernel, stride, dilation in zip(
        reversed(convolution.kernel_size), reversed(convolution.stride), reversed(convolution.dilation), strict=True
    ):  # the width first
        extent = (kernel - 1) * dilation + 1
        before = max(extent - stride, 0) // 2
        sides += [before, max(extent - 1 - before, 0)]
    return sides[0], sides[1], sides[2], sides[3]


class SameConv2d(nn.Conv2d):
    """A convolution (B, C, H, W) to ceil(H / stride) rows, with the weights of the one that it replaces."""

    def __init__(self, plain: nn.Conv2d) -> None:
        take_over(self, plain)
        self.norms: Norms = ()
        self.same = same_padding(plain)

    def forward(self, input: Tensor) -> Tensor:
        found: Tensor = self._conv_forward(F.pad(input, self.same), *normed_weights(self, self.norms))
        return found


FAST_COLUMNS = 3
"""The widest filters whose gradient has a fast kernel on a CPU."""


class DepthwiseGradients(torch.autograd.Function):
    """Maps (B, C, H, W) filtered by one filter (C, 1, M, N) a channel; `sides` are zeros around the maps.

    The gradient of the filters is computed a few columns at a time: that of columns n to n + 2 is the gradient of
    filters of three columns over maps that begin n columns later.
    """

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], sides: Padding
    ) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.stride, ctx.sides, ctx.has_bias = stride, sides, bias is not None
        left, right, top, bottom = sides
        if left == right and top == bottom:  # no copy
            return torch.conv2d(maps, weight, bias, stride, (top, left), 1, len(weight))
        return torch.conv2d(F.pad(maps, sides), weight, bias, stride, 0, 1, len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, up: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        (left, right, top, bottom), width, groups = ctx.sides, weight.shape[3], len(weight)

        def gradients(up: Tensor, of: Tensor, filters: Tensor, mask: list[bool]) -> tuple[Tensor, ...]:
            found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
                up, of, filters, None, ctx.stride, (0, 0), (1, 1), False, (0, 0), groups, mask
            )
            return found

        of_maps = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            height, across = maps.shape[2:]
            shape = (*maps.shape[:2], height + top + bottom, across + left + right)
            slow = maps.element_size() == 2 and ctx.stride != (1, 1)  # bf16 at a stride
            kind = torch.float32 if slow else maps.dtype
            padded = torch.empty(shape, dtype=kind, memory_format=torch.channels_last)  # only its shape is read
            whole = gradients(up.to(kind), padded, weight.to(kind), [True, False, False])[0]
            of_maps = whole[:, :, top : top + height, left : left + across].to(maps.dtype)
        if ctx.needs_input_grad[1]:
            padded, parts = F.pad(maps, ctx.sides), []
            for start in range(0, width, FAST_COLUMNS):
                filters = weight[..., start : start + FAST_COLUMNS]
                seen = padded[..., start : padded.shape[3] - (width - start - filters.shape[3])]
                parts.append(gradients(up, seen, filters, [False, True, False])[1])
            of_weight = torch.cat(parts, dim=3)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            of_bias = up.sum((0, 2, 3))
        return of_maps, of_weight, of_bias, None, None


class DepthwiseConv2d(nn.Conv2d):
    """A convolution (B, C, H, W) of one filter a channel, with the weights of the one that it replaces.

    `same` pads as `same_padding` says.
    """

    def __init__(self, plain: nn.Conv2d, *, same: bool) -> None:
        take_over(self, plain)
        self.norms: Norms = ()
        self.same = same_padding(plain) if same else None

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = normed_weights(self, self.norms)
        device = input.device.type
        found: Tensor
        if device == "cpu" and torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad):
            kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
            with torch.autocast("cpu", enabled=False):
                found = self._learning(input.to(kind), weight.to(kind), None if bias is None else bias.to(kind))
            return found
        maps = input if self.same is None else F.pad(input, self.same)
        if device == "cuda":
            # the filters' strides decide too: flat and back makes them those of contiguous filters
            weight = weight.flatten().view(weight.shape)
            found = self._conv_forward(maps.contiguous(), weight, bias)
            return found.contiguous(memory_format=torch.channels_last)
        found = self._conv_forward(maps, weight, bias)
        return found

    def _learning(self, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution on a CPU with gradients to come."""
        slow = weight.shape[3] > FAST_COLUMNS or maps.dtype == torch.bfloat16
        if slow and self.dilation == (1, 1) and not isinstance(self.padding, str):
            rows, columns = self.padding
            sides = self.same or (columns, columns, rows, rows)
            found: Tensor = DepthwiseGradients.apply(maps, weight, bias, self.stride, sides)
        else:
            found = self._conv_forward(maps if self.same is None else F.pad(maps, self.same), weight, bias)
        return found


def speed_up_depthwise(body: nn.Module) -> int:
    """Replace such convolutions of a network in place, names and weights unchanged; returns how many are depthwise."""
    count = 0
    for name, part in list(body.named_modules()):
        same = type(part).__name__ == "Conv2dSame"  # timm's
        if not isinstance(part, nn.Conv2d) or not (same or type(part) is nn.Conv2d):
            continue
        if part.groups == part.in_channels == part.out_channels > 1 and part.padding_mode == "zeros":
            body.set_submodule(name, DepthwiseConv2d(part, same=same))
            count += 1
        elif same:
            body.set_submodule(name, SameConv2d(part))
    return count
