"""Means over the processes that train together, in the middle of their steps.

All processes ask for the same means in the same order, whatever the shapes of their batches, and whether they take a
step operation by operation or replay it: else each would wait for the others for ever. So a mean is never part of a
CUDA graph (`outside_graphs.py`), and a process that takes a step again, after it failed half-way, does not ask again
(`Answers`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch import Tensor

from boxwright.ops.outside_graphs import outside


class Answers:
    """The means that one step of this process was given, in their order."""

    def __init__(self) -> None:
        self._known: list[Tensor] = []
        self._given = 0

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A try at the step: means that an earlier try was given are given again, others are asked for and kept."""
        self._given = 0
        _steps.append(self)
        try:
            yield
        finally:
            _steps.pop()

    def mean_(self, values: Tensor) -> Tensor:
        """The next mean of the step, written to the tensor itself."""
        if self._given == len(self._known):
            self._known.append(_mean_(values).clone())
        else:
            values.copy_(self._known[self._given])
        self._given += 1
        return values


_steps: list[Answers] = []
"""Steps that may have to be taken again; the last one counts."""


def meet_(values: Tensor) -> Tensor:
    """The mean of a tensor over all processes, written to the tensor itself, once in all tries at a step."""
    return outside(_next_mean_, values)


def _next_mean_(values: Tensor) -> Tensor:
    return _steps[-1].mean_(values) if _steps else _mean_(values)


def _mean_(values: Tensor) -> Tensor:
    dist.all_reduce(values)
    return values.div_(dist.get_world_size())
