"""Work that waits for its device or for other processes, amid work that may be captured as a CUDA graph.

A graph replays kernels and asks nothing in between, so an algorithm whose number of rounds depends on values cannot be
part of one, nor should processes meet in one that take other graphs. It is done between two graphs then: whoever
captures splits his graph there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

Split = Callable[..., Tensor]
"""Called with the work and its inputs: ends a graph, does the work (now, and in each replay again), begins the next
graph, and gives the result in memory that stays."""

splits: list[Split] = []
"""Of captures that are under way; the last one counts."""


@contextmanager
def splitting(split: Split) -> Iterator[None]:
    """From here on, work that waits is left to `split`.

    >>> with splitting(lambda work, *inputs: ("between two graphs", work(*inputs))):
    ...     outside(max, 3, 5)
    ('between two graphs', 5)
    """
    splits.append(split)
    try:
        yield
    finally:
        splits.pop()


def outside(work: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Do the work, between two graphs where one is being captured."""
    return splits[-1](work, *inputs) if splits else work(*inputs)
