"""BatchNorm folded into the convolution before it: the same function with one operation less, for inference.

BatchNorm with fixed statistics computes scale * x + shift per channel, which the convolution's weights can include.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, fx, nn
from torchvision.ops import FrozenBatchNorm2d

from boxwright.nn.backbones import FeaturePyramid
from boxwright.nn.norm import activation_in
from boxwright.nn.resnet import BasicBlock, Bottleneck, ResNet

FIXED_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)
"""Norms whose output at a position depends only on the input at that position."""

OUR_PAIRS = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))
"""Convolutions and their norms in our residual blocks."""
TIMM_PAIRS = {
    "EfficientNetFeatures": (("conv_stem", "bn1"),),
    "MobileNetV3Features": (("conv_stem", "bn1"),),
    "ConvBnAct": (("conv", "bn1"),),
    "DepthwiseSeparableConv": (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    "InvertedResidual": (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
}
"""Convolutions and their norms in timm's EfficientNets and MobileNets, by the class that calls one after the other
(timm is not imported here)."""


@torch.no_grad()
def fold_norms(model: nn.Module) -> int:
    """Fold every BatchNorm of `model` that follows a convolution, in place; returns how many.

    Only where nothing else uses the output of the convolution: in sequences, in torchvision's backbones (by their
    graph), in our own residual blocks and pyramids, in timm's EfficientNets. Other norms stay, and so do activations
    within a norm. For inference only.
    """
    count = 0
    for holder, convolution, norm in list(_pairs(model)):
        first, second = holder.get_submodule(convolution), holder.get_submodule(norm)
        if isinstance(first, nn.Conv2d) and isinstance(second, FIXED_NORMS) and not second.training:
            _fold(first, second)
            holder.set_submodule(norm, activation_in(second) or nn.Identity())
            count += 1
    return count


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Modules with the names of two of their parts, the second of which is the only user of the first's output."""
    for module in model.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                readers = list(node.users)
                if node.op == "call_module" and len(readers) == 1 and readers[0].op == "call_module":
                    yield module, str(node.target), str(readers[0].target)
        elif isinstance(module, nn.Sequential):
            for first, second in pairwise(name for name, _ in module.named_children()):
                yield module, first, second
        elif isinstance(module, (BasicBlock, Bottleneck, ResNet)) or type(module).__name__ in TIMM_PAIRS:
            pairs = TIMM_PAIRS.get(type(module).__name__, OUR_PAIRS)
            yield from ((module, *pair) for pair in pairs if hasattr(module, pair[0]))
        elif isinstance(module, FeaturePyramid):
            for index in range(len(module.laterals)):
                yield module, f"laterals.{index}", f"lateral_norms.{index}"
                yield module, f"outputs.{index}", f"output_norms.{index}"


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
