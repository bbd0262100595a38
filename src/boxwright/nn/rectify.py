"""ReLU of a convolution's output, with its bias and a shortcut, in one pass over the map where a GPU computes it.

cuDNN's convolution is followed by a pass that adds the bias; ReLU and the shortcut of a residual block are passes too.
Torch's own fused convolution (`cudnn_convolution_relu`) is not used: it gives cuDNN the memory of the output, which
nobody has written yet, as a shortcut times 0, and what is not a number there may stay so.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from boxwright.nn.gpu_kernels import Kernel, takes_kernels
from boxwright.nn.pointwise import is_pointwise

KERNEL: Kernel = "bias and ReLU"


class Rectified(Function):
    """ReLU(maps + bias + shortcut), written over maps (B, C, H, W); channels last, as is the shortcut."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, bias: Tensor | None, shortcut: Tensor | None) -> Tensor:
        from boxwright.nn.rectify_kernels import rectify_

        out = rectify_(maps, bias, shortcut)
        ctx.mark_dirty(maps)
        ctx.save_for_backward(out)
        ctx.bias_type = None if bias is None else bias.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        from boxwright.nn.rectify_kernels import rectify_backward

        (out,) = ctx.saved_tensors
        of_maps, of_bias, of_shortcut = ctx.needs_input_grad
        gradient = gradient.to(out.dtype).contiguous(memory_format=torch.channels_last)
        given, sums = rectify_backward(gradient, out, of_bias)
        return (
            given if of_maps else None,
            None if sums is None else sums.to(ctx.bias_type),
            given if of_shortcut else None,
        )


def rectified(layer: nn.Module, maps: Tensor, shortcut: Tensor | None = None) -> Tensor:
    """ReLU(layer(maps) + shortcut) for a layer from maps to maps (B, C, H, W).

    >>> layer, maps = nn.Conv2d(2, 3, 1), torch.randn(1, 2, 4, 5)
    >>> torch.equal(rectified(layer, maps), layer(maps).relu())
    True
    """
    parts = _without_bias(layer, maps) if isinstance(layer, nn.Conv2d) and takes_kernels(maps, KERNEL) else None
    out, bias = (layer(maps), None) if parts is None else parts
    alone = bias is None and shortcut is None  # ReLU by itself is one pass anyhow
    if not alone and takes_kernels(out, KERNEL) and out.data_ptr() != maps.data_ptr():
        same = shortcut is None or (takes_kernels(shortcut, KERNEL) and shortcut.dtype == out.dtype)
        if same and (shortcut is None or shortcut.shape == out.shape):
            found: Tensor = Rectified.apply(out, bias, shortcut)
            return found
    if bias is not None:
        out = out + bias.to(out.dtype)[:, None, None]
    return F.relu(out if shortcut is None else out + shortcut, inplace=True)


def passes_on(layer: nn.Module) -> bool:
    """Whether a layer's output is its input: a norm that is folded into, or computed by, the convolution before it."""
    return isinstance(layer, nn.Identity) or getattr(layer, "absorbed", False) is True


def _without_bias(layer: nn.Conv2d, maps: Tensor) -> tuple[Tensor, Tensor] | None:
    """A convolution's output before its bias (C,), and the bias; None where both come in one pass, or it has none."""
    if is_pointwise(layer):
        return None
    if type(layer) is nn.Conv2d:
        weight, bias = layer.weight, layer.bias
    elif hasattr(layer, "weight_and_bias"):  # `fixed_norms.NormedConv2d`
        weight, bias = cast(Any, layer).weight_and_bias()
    else:
        return None
    return None if bias is None else (layer._conv_forward(maps, weight, None), bias)
