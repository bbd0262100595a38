"""Group norm that keeps the type and the memory format of its maps on a GPU, and takes ReLU in the same pass.

Torch's own runs in float32 under autocast, and with channels first: between two convolutions in bf16 with channels last
a map is then copied four times. Source: Wu and He, "Group Normalization", ECCV 2018.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from boxwright.nn.gpu_kernels import takes_kernels


class NormalisedGroups(Function):
    """Group norm of maps (B, C, H, W), channels last, with weight and bias (C,); `rectifies`: ReLU of it.

    Kept for the gradient are the maps and the statistics of each group.
    """

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, rectifies: bool
    ) -> Tensor:
        from boxwright.nn.group_norm_kernels import normalised, statistics

        mean, inverse = statistics(maps, groups, eps)
        ctx.save_for_backward(maps, mean, inverse, weight, bias)
        ctx.rectifies = rectifies
        return normalised(maps, mean, inverse, weight, bias, rectifies)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        from boxwright.nn.group_norm_kernels import gradients

        maps, mean, inverse, weight, bias = ctx.saved_tensors
        gradient = gradient.to(maps.dtype).contiguous(memory_format=torch.channels_last)
        of_maps, of_weight, of_bias = gradients(gradient, maps, mean, inverse, weight, bias, ctx.rectifies)
        return of_maps, of_weight.to(weight.dtype), of_bias.to(bias.dtype), None, None, None


class GroupNorm(nn.GroupNorm):
    """Group norm of maps (B, C, ...), by a kernel of ours where they can be given to one."""

    def forward(self, input: Tensor) -> Tensor:
        return self.of(input)

    def of(self, maps: Tensor, *, rectifies: bool = False) -> Tensor:
        """The norm of maps (B, C, ...), or the ReLU of it."""
        if maps.dim() == 4 and takes_kernels(maps, "group norm"):
            found: Tensor = NormalisedGroups.apply(
                maps, self.weight, self.bias, self.num_groups, self.eps, rectifies
            )  # fmt: skip
            return found
        plain = torch.group_norm(maps, self.num_groups, self.weight, self.bias, self.eps)
        return F.relu(plain, inplace=True) if rectifies else plain
