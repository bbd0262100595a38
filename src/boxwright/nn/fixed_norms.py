"""BatchNorm with fixed statistics as part of the convolution before it, in training too.

It multiplies channels by a scale and adds a shift, which the convolution does by other weights and a bias:
scale * (W x) + shift = (scale * W) x + shift. The gradient of W is the same; maps are read and written once instead of
three times, and none is kept for the gradient. Parameters, buffers and their names stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, cast

from torch import Tensor, fx, nn

from boxwright.nn.norm import FrozenBatchNorm2d
from boxwright.nn.pointwise import convolved
from boxwright.nn.resnet import BasicBlock, Bottleneck, ResNet

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


Norms = tuple[FrozenBatchNorm2d, ...]
"""The norm of a convolution, or none. A module in a tuple is no part of it: the norm keeps its own place and name."""


class NormedConv2d(nn.Conv2d):
    """A convolution (B, C, H, W) with the settings and weights of the one that it replaces, and the norm after it."""

    def __init__(self, plain: nn.Conv2d) -> None:
        take_over(self, plain)
        self.norms: Norms = ()

    def weight_and_bias(self) -> tuple[Tensor, Tensor | None]:
        """Those that compute the norm too."""
        return normed_weights(self, self.norms)

    def forward(self, input: Tensor) -> Tensor:
        return convolved(self, input, *self.weight_and_bias())


def take_over(new: nn.Conv2d, plain: nn.Conv2d) -> None:
    """Make a new module of a convolution's settings and weights, which are not drawn anew."""
    nn.Module.__init__(new)
    for name in plain.__constants__:
        setattr(new, name, getattr(plain, name))
    new._reversed_padding_repeated_twice = plain._reversed_padding_repeated_twice
    new.weight, new.bias = plain.weight, plain.bias
    new.train(plain.training)


def normed_weights(convolution: nn.Conv2d, norms: Norms) -> tuple[Tensor, Tensor | None]:
    """Weights and bias (C,) with which the convolution computes its norm too."""
    weight, bias = convolution.weight, convolution.bias
    for norm in norms:
        scale, shift = norm.scale_and_shift()  # (C,)
        weight = weight * scale[:, None, None, None]
        bias = shift if bias is None else bias * scale + shift
    return weight, bias


def absorb_fixed_norms(body: nn.Module) -> int:
    """Let the convolutions of a network compute the frozen BatchNorm after them, in place; returns how many do."""
    count = 0
    for holder, name, norm in list(normed_pairs(body)):
        convolution, fixed = holder.get_submodule(name), holder.get_submodule(norm)
        if isinstance(convolution, nn.Conv2d) and isinstance(fixed, FrozenBatchNorm2d):
            if not hasattr(convolution, "norms"):
                convolution = NormedConv2d(convolution)
                holder.set_submodule(name, convolution)
            cast(Any, convolution).norms, fixed.absorbed = (fixed,), True
            count += 1
    return count


def without_norm(convolution: nn.Conv2d) -> nn.Conv2d:
    """The convolution alone, for whoever changes its weights; of torch's own class where it had no other task."""
    if isinstance(convolution, NormedConv2d):
        plain = nn.Conv2d.__new__(nn.Conv2d)
        take_over(plain, convolution)
        return plain
    if hasattr(convolution, "norms"):
        cast(Any, convolution).norms = ()
    return convolution


def normed_pairs(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
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
        elif isinstance(laterals := getattr(module, "lateral_norms", None), nn.ModuleList):  # `FeaturePyramid`
            for index in range(len(laterals)):
                yield module, f"laterals.{index}", f"lateral_norms.{index}"
                yield module, f"outputs.{index}", f"output_norms.{index}"
