"""Work that is recorded once as a CUDA graph and then run again as one launch, on whatever lies in the same buffers.

Written as the notes on CUDA graphs in torch's documentation demand: training's first steps run on the stream that
captures (libraries make their handles and workspaces there), all graphs take their memory from one pool, gradients do
not exist before a capture, and nothing that waits for the device is captured. Device-neutral but for `CudaCapture`: on
a CPU another `Capture` takes its place, and everything around it stays.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from boxwright.ops.outside_graphs import splitting

_T = TypeVar("_T")


class Recording(NamedTuple, Generic[_T]):
    """Recorded work: call `replay` to do it again; `result` holds the tensors that it writes its results to."""

    replay: Callable[[], None]
    result: _T


class Stopwatch(Protocol):
    """The time that the device needs for what is started between two calls."""

    def stop(self) -> None:
        """What follows does not count."""

    def seconds(self) -> float | None:
        """Seconds between start and stop; None while the device still works on it. Waits for nothing."""


class Capture(Protocol):
    """How work is recorded: `CudaCapture`, or a stand-in for it in tests on a CPU."""

    def __call__(self, work: Callable[[], _T]) -> Recording[_T]:
        """Do the work, and record it. RuntimeError where it waits for the device, or its shapes depend on values."""

    def aside(self, work: Callable[[], _T]) -> _T:
        """Do the work where others are captured, unrecorded."""

    def start_stopwatch(self) -> Stopwatch:
        """Begin to measure time."""

    def has_room(self) -> bool:
        """Whether the memory suffices for graphs and, beside them, for work that is none."""

    def memory(self) -> int:
        """Bytes that graphs hold."""

    def forget(self) -> None:
        """Every recording was dropped: their memory is free again."""


class CudaCapture:
    """CUDA graphs that share one pool of memory: together they take little more than the largest.

    What a graph gives is therefore overwritten by any other one, and must be copied before.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._held = 0

    def __call__(self, work: Callable[[], _T]) -> Recording[_T]:
        """Do the work and record it: one graph, or several with what waits for the device between them.

        Capturing launches nothing. So each graph is replayed as soon as it is whole, and what comes after it finds real
        values: at the end the work has been done once.
        """
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved(self._device)
        parts: list[Callable[[], object]] = []
        with ExitStack() as capturing:

            def begin() -> None:
                graph = torch.cuda.CUDAGraph()
                # by threads: others decode, copy and pin memory meanwhile, which only their own capture forbids
                capturing.enter_context(
                    torch.cuda.graph(graph, pool=self._pool, stream=self._side, capture_error_mode="thread_local")
                )
                parts.append(graph.replay)

            def end() -> None:
                capturing.close()
                parts[-1]()

            def split(waiting: Callable[..., Tensor], *inputs: Any) -> Tensor:
                end()
                result = waiting(*inputs)
                parts.append(lambda: result.copy_(waiting(*inputs)))
                begin()
                return result

            begin()
            with splitting(split):
                result = work()
            end()
        self._held += max(0, torch.cuda.memory_reserved(self._device) - before)

        def replay() -> None:
            for part in parts:
                part()

        return Recording(replay, result)

    def aside(self, work: Callable[[], _T]) -> _T:
        """Do the work on the stream that captures; each stream waits for the other, the host for none."""
        current = torch.cuda.current_stream(self._device)
        self._side.wait_stream(current)
        with torch.cuda.stream(self._side):
            result = work()
        current.wait_stream(self._side)
        return result

    def start_stopwatch(self) -> Stopwatch:
        """Begin to measure time between two events of the current stream."""
        return _EventStopwatch(self._device)

    def has_room(self) -> bool:
        """Whether twice what a step needs at most is free or held by graphs: once for these, once for other steps."""
        in_use = torch.cuda.memory_allocated(self._device)
        step = torch.cuda.max_memory_allocated(self._device) - in_use
        free, _ = torch.cuda.mem_get_info(self._device)
        cached = torch.cuda.memory_reserved(self._device) - in_use
        return 2 * step <= free + cached

    def memory(self) -> int:
        """Bytes that the pool has grown to."""
        return self._held

    def forget(self) -> None:
        """Begin with a new pool; the old one is freed with the graphs that were dropped."""
        self._pool, self._held = torch.cuda.graph_pool_handle(), 0
        torch.cuda.empty_cache()


class _EventStopwatch:
    """Two events of a stream."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device)
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        self._start.record(self._stream)

    def stop(self) -> None:
        self._end.record(self._stream)

    def seconds(self) -> float | None:
        done: bool = self._end.query()  # type: ignore[no-untyped-call]
        return self._start.elapsed_time(self._end) / 1000 if done else None


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
