"""Normalisation layers by name, and how to change those that a backbone came with."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d as TorchvisionFrozen

Norm = Literal["none", "gn", "bn", "sync_bn", "frozen_bn"]
BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
"""Layers whose statistics move in training."""


class FrozenBatchNorm2d(TorchvisionFrozen):  # type: ignore[misc]
    """torchvision's, whose output keeps the type of its input: in bf16 or fp16 the whole trunk stays in it.

    torchvision's own multiplies by float32 numbers, and every activation after it is float32.
    """

    def forward(self, maps: Tensor) -> Tensor:
        weight, bias, mean, variance = (
            part.reshape(1, -1, 1, 1) for part in (self.weight, self.bias, self.running_mean, self.running_var)
        )
        scale = weight * (variance + self.eps).rsqrt()
        normal: Tensor = maps * scale.to(maps.dtype) + (bias - mean * scale).to(maps.dtype)
        return normal


def group_count(channels: int, groups: int = 32) -> int:
    """The largest number of groups up to `groups` that divides the channels and leaves each at least two of them.

    A group of one channel has no variance on a single pixel, which a coarse level of a small picture is, and torch
    refuses it.

    >>> group_count(256), group_count(48), group_count(32)
    (32, 24, 16)
    """
    return next(count for count in range(min(groups, max(1, channels // 2)), 0, -1) if channels % count == 0)


def make_norm(kind: Norm, channels: int, eps: float = 1e-5) -> nn.Module:
    """One normalisation layer for maps of `channels`."""
    if kind == "none":
        return nn.Identity()
    if kind == "gn":
        return nn.GroupNorm(group_count(channels), channels, eps=eps)
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
    takes them out.
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
        module.set_submodule(name, new)
