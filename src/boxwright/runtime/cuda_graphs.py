"""Work that is recorded once as a CUDA graph and then run again as one launch, on whatever lies in the same buffers.

Device-neutral but for `CudaCapture`: on a CPU another `Capture` takes its place, and everything around it stays.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch

_T = TypeVar("_T")


class Recording(NamedTuple, Generic[_T]):
    """Recorded work: call `replay` to do it again; `result` holds the tensors that it writes its results to."""

    replay: Callable[[], None]
    result: _T


class Capture(Protocol):
    """How work is recorded: `CudaCapture`, or a stand-in for it in tests on a CPU."""

    does_the_work: bool
    """Whether recording also does the work once."""

    def __call__(self, work: Callable[[], _T]) -> Recording[_T]:
        """Record the work. Raises RuntimeError where it waits for the device, or its shapes depend on values."""


class CudaCapture:
    """CUDA graphs that share one pool of memory: together they take little more than the largest.

    What a graph gives is therefore overwritten by any other one, and must be copied before.
    """

    does_the_work = False

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], _T]) -> Recording[_T]:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        # other threads decode and copy meanwhile, which a graph of this thread is not disturbed by
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = work()
        return Recording(graph.replay, result)


class Kept(Generic[_T]):
    """At most `most` things by what they were made for; of more, the one that was not used for longest is dropped.

    `due` says whether a key came so often that it is worth making something for it.
    """

    def __init__(self, most: int, seen_before: int) -> None:
        self.most, self.seen_before = most, seen_before
        self._made: OrderedDict[Hashable, _T] = OrderedDict()
        self._seen: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return len(self._made)

    def find(self, key: Hashable) -> _T | None:
        """What was made for this key, if it is still there."""
        if key in self._made:
            self._made.move_to_end(key)
        return self._made.get(key)

    def due(self, key: Hashable) -> bool:
        """Count the key; whether it was there more than `seen_before` times."""
        self._seen[key] += 1
        return self._seen[key] > self.seen_before

    def add(self, key: Hashable, made: _T) -> None:
        """Keep what was made for a key. Its count starts again, should it be dropped."""
        if len(self._made) == self.most:
            self._made.popitem(last=False)
        self._made[key] = made
        del self._seen[key]
