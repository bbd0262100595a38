"""The running mean of the weights (EMA), which is what a run validates and ships."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """A copy of a model whose weights follow it: w = d w + (1 - d) model, with d ramping up to `decay`.

    d = min(decay, (1 + n) / (10 + n)) at update n, so that the random start is soon forgotten. Buffers (BatchNorm
    statistics, the loss normaliser) are averaged too where they are floats, else copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._own = list(self.model.state_dict(keep_vars=True).values())

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards the model, in a handful of fused operations."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        theirs = list(model.state_dict(keep_vars=True).values())
        pairs = list(zip(self._own, theirs, strict=True))
        floats = [(a, b) for a, b in pairs if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floats], [b for _, b in floats], 1 - decay)
        for own, other in pairs:
            if not own.is_floating_point():
                own.copy_(other)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights."""
        return self.model.state_dict()
