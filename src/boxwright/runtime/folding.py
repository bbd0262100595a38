"""BatchNorm folded into the convolution before it: the same function with one operation less, for inference.

BatchNorm with fixed statistics computes scale * x + shift per channel, which the convolution's weights can include.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from boxwright.nn.fixed_norms import normed_pairs, without_norm
from boxwright.nn.norm import activation_in

FIXED_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)
"""Norms whose output at a position depends only on the input at that position."""


@torch.no_grad()
def fold_norms(model: nn.Module) -> int:
    """Fold every BatchNorm of `model` that follows a convolution, in place; returns how many.

    Only where nothing else uses the output of the convolution: in sequences, in torchvision's backbones (by their
    graph), in our own residual blocks and pyramids, in timm's EfficientNets. Other norms stay, and so do activations
    within a norm. For inference only.
    """
    count = 0
    for holder, convolution, norm in list(normed_pairs(model)):
        first, second = holder.get_submodule(convolution), holder.get_submodule(norm)
        if isinstance(first, nn.Conv2d) and isinstance(second, FIXED_NORMS) and not second.training:
            first = without_norm(first)
            holder.set_submodule(convolution, first)
            _fold(first, second)
            holder.set_submodule(norm, activation_in(second) or nn.Identity())
            count += 1
    return count


def _fold(convolution: nn.Conv2d, norm: nn.Module) -> None:
    """Set weights and bias so that the convolution includes the norm (computed in float64)."""
    mean, variance = (cast(Tensor, getattr(norm, name)).double() for name in ("running_mean", "running_var"))
    weight, shift = (getattr(norm, name, None) for name in ("weight", "bias"))
    scale = (variance + cast(float, norm.eps)).rsqrt()
    scale = scale if weight is None else scale * weight.double()
    bias = -mean if convolution.bias is None else convolution.bias.double() - mean
    new_bias = bias * scale + (0.0 if shift is None else shift.double())
    weights = convolution.weight
    convolution.weight = nn.Parameter((weights.double() * scale[:, None, None, None]).to(weights.dtype))
    convolution.bias = nn.Parameter(new_bias.to(weights.dtype))
    convolution.requires_grad_(False)
