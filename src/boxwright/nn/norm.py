"""Normalisation layers by name, and how to change those that a backbone came with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

Norm = Literal["none", "gn", "bn", "sync_bn", "frozen_bn"]
BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
"""Layers whose statistics move in training."""


def group_count(channels: int, groups: int = 32) -> int:
    """The largest number of groups up to `groups` that divides the channels.

    >>> group_count(256), group_count(48), group_count(64)
    (32, 24, 32)
    """
    return next(count for count in range(min(groups, channels), 0, -1) if channels % count == 0)


class GroupNorm(nn.GroupNorm):
    """Group norm that takes a single pixel with one channel a group too, where torch's own raises: its shift is left.

    A coarse level of a small picture is such a pixel.
    """

    def forward(self, input: Tensor) -> Tensor:
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


def make_norm(kind: Norm, channels: int, eps: float = 1e-5) -> nn.Module:
    """One normalisation layer for maps of `channels`."""
    if kind == "none":
        return nn.Identity()
    if kind == "gn":
        return GroupNorm(group_count(channels), channels, eps=eps)
    if kind == "bn":
        return nn.BatchNorm2d(channels, eps=eps)
    if kind == "sync_bn":
        return nn.SyncBatchNorm(channels, eps=eps)
    if kind == "frozen_bn":
        frozen: nn.Module = FrozenBatchNorm2d(channels, eps=eps)
        return frozen
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
