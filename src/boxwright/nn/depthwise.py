"""Depthwise convolutions, one filter a channel, by the kernels that are fast at them.

On a CPU the gradients of a depthwise convolution take up to 150 times as long in bf16 as in float32, so they are
computed in float32 (`python -m benchmarks.depthwise --layers` prints the times of both). On a GPU torch hands every
convolution that is channels last to cuDNN, with which a step of EfficientNet-Lite0 in bf16 took seconds; contiguous
maps in float32 and bf16 go to torch's own depthwise kernels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DepthwiseConv2d(nn.Conv2d):
    """A convolution (B, C, H, W) of one filter a channel, with the weights of the one that it replaces.

    `same` pads like TensorFlow, as timm's `tf_` networks do: an output of ceil(H / stride) rows, and where the padding
    is odd the larger half of it below.
    """

    def __init__(self, plain: nn.Conv2d, *, same: bool) -> None:
        nn.Module.__init__(self)  # weights are taken over, not drawn
        for name in plain.__constants__:
            setattr(self, name, getattr(plain, name))
        self._reversed_padding_repeated_twice = plain._reversed_padding_repeated_twice
        self.weight, self.bias = plain.weight, plain.bias
        self.same = same
        self.train(plain.training)

    def forward(self, input: Tensor) -> Tensor:
        maps = self._padded(input) if self.same else input
        device = maps.device.type
        if device == "cuda":
            # the filters' strides decide too: flat and back makes them those of contiguous filters
            weight = self.weight.flatten().view(self.weight.shape)
            found: Tensor = self._conv_forward(maps.contiguous(), weight, self.bias)
            return found.contiguous(memory_format=torch.channels_last)
        if device == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                found = self._conv_forward(maps.float(), self.weight, self.bias)
            return found.to(torch.get_autocast_dtype("cpu"))
        found = self._conv_forward(maps, self.weight, self.bias)
        return found

    def _padded(self, maps: Tensor) -> Tensor:
        """Maps with zeros around them; where the padding is odd, one more at the right and bottom."""
        sides = zip(maps.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True)
        down, across = (
            max((-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
            for side, kernel, stride, dilation in sides
        )
        if down == across == 0:
            return maps
        return F.pad(maps, (across // 2, across - across // 2, down // 2, down - down // 2))


def speed_up_depthwise(body: nn.Module) -> int:
    """Replace the depthwise convolutions of a network in place, names and weights unchanged; returns how many."""
    count = 0
    for name, part in list(body.named_modules()):
        same = type(part).__name__ == "Conv2dSame"  # timm's
        if not isinstance(part, nn.Conv2d) or not (same or type(part) is nn.Conv2d):
            continue
        if part.groups == part.in_channels == part.out_channels > 1 and part.padding_mode == "zeros":
            body.set_submodule(name, DepthwiseConv2d(part, same=same))
            count += 1
    return count
