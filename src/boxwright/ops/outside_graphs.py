"""Work that waits for its device, in the middle of work that may be captured as a CUDA graph.

A graph replays kernels and asks nothing in between, so an algorithm whose number of rounds depends on values cannot be
part of one. It is done between two graphs then: whoever captures splits his graph there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

Split = Callable[..., Tensor]
"""Called with the work and its inputs: ends a graph, does the work (now, and in each replay again), begins the next
graph, and gives the result in memory that stays."""

_splits: list[Split] = []


def outside_graphs(work: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """The result of `work(*inputs)`; where a graph is being captured, it is no part of it.

    >>> import torch
    >>> outside_graphs(lambda values, least: values[values > least], torch.tensor([1, 5]), 3).tolist()
    [5]
    """
    return _splits[-1](work, *inputs) if _splits else work(*inputs)


@contextmanager
def splitting(split: Split) -> Iterator[None]:
    """From here on `outside_graphs` leaves its work to `split`."""
    _splits.append(split)
    try:
        yield
    finally:
        _splits.pop()
