"""A training state as it was before a step that may fail half-way."""

from __future__ import annotations

import torch
from torch import Tensor

from boxwright.training.state import TrainState


class Undo:
    """Copies of all that a step changes; call it to write them back. It takes the memory of the state once more."""

    def __init__(self, state: TrainState) -> None:
        self._state = state
        self._updates = 0 if state.average is None else state.average.updates
        self._kept = [(tensor, tensor.detach().clone()) for tensor in _tensors(state)]

    @torch.no_grad()
    def __call__(self) -> None:
        """Go back; gradients that the step left are dropped."""
        for tensor, before in self._kept:
            tensor.copy_(before)
        if self._state.average is not None:
            self._state.average.updates = self._updates
        if self._state.scaler is not None:  # it refuses a second step before the first is over
            self._state.scaler._per_optimizer_states.clear()
        self._state.optimizer.zero_grad(set_to_none=True)


def _tensors(state: TrainState) -> list[Tensor]:
    """Weights, statistics, their running mean, what the optimizer keeps, and the scale of gradients in float16."""
    found = list(state.model.state_dict(keep_vars=True).values())
    if state.average is not None:
        found += state.average.model.state_dict(keep_vars=True).values()
    found += [slot for slots in state.optimizer.state.values() for slot in slots.values() if isinstance(slot, Tensor)]
    if state.scaler is not None:
        found += [one for one in (state.scaler._scale, state.scaler._growth_tracker) if one is not None]
    return found
