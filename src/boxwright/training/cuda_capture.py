"""Work captured as CUDA graphs: kernels recorded once and launched again together, without Python.

Written as the notes on CUDA graphs in torch's documentation demand: the first steps run on the stream that captures
(libraries make their handles and workspaces there), all graphs take their memory from one pool, gradients do not exist
before a capture, and nothing that waits for the device is captured.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from boxwright.ops.outside_graphs import splitting
from boxwright.training.step import StepLosses

Result = TypeVar("Result")


class Recording(NamedTuple):
    """Captured work: call `replay` to do it again; `losses` are the tensors that it writes its results to."""

    replay: Callable[[], None]
    losses: StepLosses


class Stopwatch(Protocol):
    """The time that the device needs for what is started between two calls."""

    def stop(self) -> None:
        """What follows does not count."""

    def seconds(self) -> float | None:
        """Seconds between start and stop; None while the device still works on it. Waits for nothing."""


class Capture(Protocol):
    """How work is recorded: `CudaCapture`, or a stand-in for it in tests on a CPU."""

    def __call__(self, work: Callable[[], StepLosses]) -> Recording:
        """Do the work, and record it."""

    def aside(self, work: Callable[[], Result]) -> Result:
        """Do the work where others are captured, unrecorded."""

    def start_stopwatch(self) -> Stopwatch:
        """Begin to measure time."""

    def has_room(self) -> bool:
        """Whether the memory suffices for graphs and, beside them, for steps that are none."""

    def memory(self) -> int:
        """Bytes that graphs hold."""

    def forget(self) -> None:
        """Every recording was dropped: their memory is free again."""


class CudaCapture:
    """CUDA graphs that share one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._held = 0

    def __call__(self, work: Callable[[], StepLosses]) -> Recording:
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
                # by threads: a loader's thread pins memory meanwhile, which only its own capture forbids
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
                losses = work()
            end()
        self._held += max(0, torch.cuda.memory_reserved(self._device) - before)

        def replay() -> None:
            for part in parts:
                part()

        return Recording(replay, losses)

    def aside(self, work: Callable[[], Result]) -> Result:
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
