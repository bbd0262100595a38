"""Which layers of a network take our kernels: its group norms, and its towers of convolutions, norms and ReLUs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from boxwright.nn.group_norm import GroupNorm
from boxwright.nn.kernel_trial import try_kernels
from boxwright.nn.norm import ChannelNorm
from boxwright.nn.pointwise import use_products
from boxwright.nn.rectify import passes_on, rectified


class Tower(nn.Sequential):
    """Layers one after the other; a convolution or group norm and the ReLU after it in one pass on a GPU."""

    def forward(self, input: Tensor) -> Tensor:
        layers = [layer for layer in self if not passes_on(layer)]
        rest, maps = iter(zip(layers, [*layers[1:], nn.Identity()], strict=True)), input
        for layer, following in rest:
            if not isinstance(following, nn.ReLU):
                maps = layer(maps)
                continue
            maps = layer.of(maps, rectifies=True) if isinstance(layer, GroupNorm) else rectified(layer, maps)
            next(rest)  # the ReLU
        return maps


def use_kernels(model: nn.Module) -> int:
    """Let group norms and towers of a network take our kernels, in place, weights and names unchanged; how many do.

    Where maps cannot be given to a kernel, the layers compute as before.

    >>> use_kernels(nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU()))
    2
    """
    count = 0
    for part in model.modules():
        if type(part) in (nn.GroupNorm, ChannelNorm) and part.weight is not None:
            part.__class__ = GroupNorm
        elif type(part) is nn.Sequential and _is_tower(part):
            part.__class__ = Tower
        count += isinstance(part, (GroupNorm, Tower))
    return count


def use_tried_kernels(
    model: nn.Module, device: torch.device, dtype: torch.dtype, log: Callable[[str], None] = lambda text: None
) -> None:
    """On a GPU, `use_kernels`, and try them there if any layer takes them; `log` is told what came out."""
    if device.type == "cuda" and use_kernels(model):
        try_kernels(device, dtype, log)


def ready_for_gpu(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Let a network that detects on a GPU multiply matrices for 1 x 1 convolutions and take our kernels, in place."""
    use_products(model)
    use_tried_kernels(model, device, dtype)


def _is_tower(part: nn.Sequential) -> bool:
    """Whether a sequence begins with a convolution and has nothing but such layers, a ReLU among them."""
    kinds = (nn.Conv2d, nn.GroupNorm, nn.ReLU, nn.Identity)
    plain = all(isinstance(layer, kinds) or passes_on(layer) for layer in part)
    return plain and isinstance(next(iter(part), None), nn.Conv2d) and any(isinstance(one, nn.ReLU) for one in part)
