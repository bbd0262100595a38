"""Normalisation layers by name, and how to change those that a backbone came with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d as TorchvisionFrozen

Norm = Literal["none", "gn", "bn", "sync_bn", "frozen_bn"]
BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
"""Layers whose statistics move in training."""


class FrozenBatchNorm2d(TorchvisionFrozen):  # type: ignore[misc]
    """torchvision's frozen BatchNorm with an output of its input's type, so that a bf16 or fp16 trunk stays in it.

    torchvision's own multiplies by float32 tensors, and every activation after it is float32.
    """

    absorbed = False
    """Whether the convolution before it computes it (`nn.fixed_norms`): its input is its output."""

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What channels (C,) are multiplied by, and what is added then."""
        scale: Tensor = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, maps: Tensor) -> Tensor:
        if self.absorbed:
            return maps
        scale, shift = (part.to(maps.dtype).reshape(1, -1, 1, 1) for part in self.scale_and_shift())
        return maps * scale + shift


def group_count(channels: int, groups: int = 32) -> int:
    """The largest number of groups up to `groups` that divides the channels.

    >>> group_count(256), group_count(48), group_count(64)
    (32, 24, 32)
    """
    return next(count for count in range(min(groups, channels), 0, -1) if channels % count == 0)


class ChannelNorm(nn.GroupNorm):
    """Group norm with one channel a group that also takes a map of a single pixel, where torch's own raises.

    A coarse level of a small image is such a map; what comes out is the shift alone.
    """

    def forward(self, input: Tensor) -> Tensor:
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


def make_norm(kind: Norm, channels: int, eps: float = 1e-5) -> nn.Module:
    """One normalisation layer for maps of `channels`."""
    if kind == "none":
        return nn.Identity()
    if kind == "gn":
        groups = group_count(channels)
        return (ChannelNorm if groups == channels else nn.GroupNorm)(groups, channels, eps=eps)
    if kind == "bn":
        return nn.BatchNorm2d(channels, eps=eps)
    if kind == "sync_bn":
        return nn.SyncBatchNorm(channels, eps=eps)
    if kind == "frozen_bn":
        return FrozenBatchNorm2d(channels, eps=eps)
    raise ValueError(f"norm: expected none, gn, bn, sync_bn or frozen_bn, got {kind!r}")


def replace_batch_norm(module: nn.Module, kind: Norm) -> None:
    """Turn every BatchNorm below `module` into another norm, in place, keeping weights and statistics.

    "bn" leaves them as they are; "gn" keeps scale and shift only, since group norm has no running statistics; "none"
    removes them. An activation that is part of the norm (timm's `BatchNormAct2d`) stays part of what it becomes.
    """
    if kind == "bn":
        return
    for name, child in list(module.named_modules()):
        if not isinstance(child, BATCH_NORMS):
            continue
        new = make_norm(kind, child.num_features, child.eps)
        state = child.state_dict()
        state.pop("num_batches_tracked", None)
        if kind in ("gn", "none"):
            state = {key: value for key, value in state.items() if kind == "gn" and not key.startswith("running")}
        new.load_state_dict(state, strict=kind != "sync_bn")
        if (activation := activation_in(child)) is not None:
            new.act = activation
            new.register_forward_hook(_activate)
        module.set_submodule(name, new)


def activation_in(norm: nn.Module) -> nn.Module | None:
    """The activation that a norm applies itself, as timm's `BatchNormAct2d` and what became of one do; else None."""
    activation = getattr(norm, "act", None)
    return None if isinstance(activation, nn.Identity) else activation


def _activate(norm: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """A forward hook, so that the weights keep the names that they have in a pretrained network."""
    activated: Tensor = norm.get_submodule("act")(output)
    return activated
