"""Convolutions of mobile networks (EfficientNet, MobileNet): fast kernels, and padding that a graph can hold.

**Depthwise**, one filter a channel. On a CPU their gradients take up to eight times as long in bf16 as in float32, so
they are computed in float32 where a gradient is asked for (`python -m benchmarks.depthwise --layers` prints the times
of both). On a GPU torch hands every convolution that is channels last to cuDNN, with which a step of EfficientNet-Lite0
in bf16 took seconds; contiguous maps in float32 and bf16 go to torch's own depthwise kernels.

**"Same" padding**, TensorFlow's, of timm's `tf_` networks: outputs of ceil(H / stride) rows. There the rows above
depend on whether the stride divides H, which is slow to export for free sizes, and which moves the grid of locations
against the image by a pixel. Here the padding is that of sides that the stride divides, for all sides: equal to timm's
where sides are multiples of 32, and the same grid everywhere.
"""

from __future__ import annotations

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


class DepthwiseConv2d(nn.Conv2d):
    """A convolution (B, C, H, W) of one filter a channel, with the weights of the one that it replaces.

    `same` pads as `same_padding` says.
    """

    def __init__(self, plain: nn.Conv2d, *, same: bool) -> None:
        take_over(self, plain)
        self.norms: Norms = ()
        self.same = same_padding(plain) if same else None

    def forward(self, input: Tensor) -> Tensor:
        maps = input if self.same is None else F.pad(input, self.same)
        weight, bias = normed_weights(self, self.norms)
        device = maps.device.type
        if device == "cuda":
            # the filters' strides decide too: flat and back makes them those of contiguous filters
            weight = weight.flatten().view(weight.shape)
            found: Tensor = self._conv_forward(maps.contiguous(), weight, bias)
            return found.contiguous(memory_format=torch.channels_last)
        learns = torch.is_grad_enabled() and (maps.requires_grad or weight.requires_grad)
        if device == "cpu" and learns and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                found = self._conv_forward(maps.float(), weight, bias)
            return found.to(torch.get_autocast_dtype("cpu"))
        found = self._conv_forward(maps, weight, bias)
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
