"""1 x 1 convolutions as products of matrices on a GPU, where their bias costs nothing.

cuDNN's convolution is followed by a pass over the whole map that adds the bias; a product of matrices adds it before
it writes its result. Of channels last a 1 x 1 convolution of stride 1 is such a product.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def is_pointwise(convolution: nn.Conv2d) -> bool:
    """Whether each output pixel depends on one input pixel, and every pixel has one."""
    one = (1, 1)
    return (
        convolution.kernel_size == one
        and convolution.stride == one
        and convolution.padding in ((0, 0), "valid", "same")
        and convolution.groups == 1
    )


def product_of(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a 1 x 1 convolution by weight (D, C, 1, 1) and bias (D,) makes of maps (B, C, H, W), channels last.

    >>> maps, layer = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last), nn.Conv2d(3, 6, 1)
    >>> found = product_of(maps, layer.weight, layer.bias)
    >>> torch.allclose(found, layer(maps), atol=1e-6), found.is_contiguous(memory_format=torch.channels_last)
    (True, True)
    """
    return F.linear(maps.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


def convolved(convolution: nn.Conv2d, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a convolution makes of maps (B, C, H, W) by other weights and another bias of their shapes."""
    on_gpu = maps.is_cuda and bias is not None and maps.is_contiguous(memory_format=torch.channels_last)
    if on_gpu and is_pointwise(convolution):
        return product_of(maps, weight, bias)
    found: Tensor = convolution._conv_forward(maps, weight, bias)
    return found


class PointwiseConv2d(nn.Conv2d):
    """A 1 x 1 convolution that is a product where it can be."""

    def forward(self, input: Tensor) -> Tensor:
        return convolved(self, input, self.weight, self.bias)


def use_products(model: nn.Module) -> int:
    """Let the 1 x 1 convolutions of a network that have a bias be products, in place; returns how many.

    >>> use_products(nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1, stride=2), nn.Conv2d(2, 2, 3)))
    1
    """
    chosen = [part for part in model.modules() if type(part) is nn.Conv2d and part.bias is not None]
    chosen = [part for part in chosen if is_pointwise(part)]
    for convolution in chosen:
        convolution.__class__ = PointwiseConv2d
    return len(chosen)
