"""Batches on their way through a GPU: assembled ahead, a few on the device at a time, results in order.

Three batches are under way: one is uploaded, one is computed, of one the results come back. Where a window of images
ends, they are those of two windows. How long the device had nothing to do is known to whoever passes a `DeviceUse`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch

from boxwright.runtime.graphed_detect import Launched
from boxwright.structures import ImageBatch, PaddedDetections

IN_FLIGHT = 3
"""Batches that a GPU has at a time."""
AHEAD = 2
"""Batches that are put together while the device computes."""
_Result = TypeVar("_Result")
_Result_co = TypeVar("_Result_co", covariant=True)


class DeviceUse:
    """How much of the time since it was made a device waited for work; on a GPU its own clock tells."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._marks = [self._mark()]  # the start, then begin and end of each batch

    def _mark(self) -> float | torch.cuda.Event:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def begin(self) -> None:
        """A batch is launched; what the device still does comes before it."""
        self._marks.append(self._mark())

    def end(self) -> None:
        """All of its work was launched."""
        self._marks.append(self._mark())

    @contextmanager
    def busy(self) -> Iterator[None]:
        """The device works from here to the end of what is launched within."""
        self.begin()
        yield
        self.end()

    @property
    def waited(self) -> float:
        """The part of the time until the end of the last batch; 0 before the first."""
        assert len(self._marks) % 2 == 1, "a batch was begun and not ended"
        if len(self._marks) == 1:
            return 0.0
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        idle = sum(self._seconds(*self._marks[place : place + 2]) for place in range(0, len(self._marks) - 1, 2))
        whole = self._seconds(self._marks[0], self._marks[-1])
        return min(1.0, max(0.0, idle / whole)) if whole > 0 else 0.0

    @staticmethod
    def _seconds(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
        if isinstance(start, float) or isinstance(end, float):
            assert isinstance(start, float), "marks of one clock"
            assert isinstance(end, float), "marks of one clock"
            return end - start
        return float(start.elapsed_time(end)) / 1000


class Window(Protocol[_Result_co]):
    """Images whose batches go through a device."""

    @property
    def parts(self) -> Sequence[list[int]]:
        """The numbers of the images of each batch."""

    def assemble(self, rows: list[int]) -> ImageBatch:
        """Make a batch; called in a thread."""

    def launch(self, rows: list[int], images: ImageBatch) -> Launched:
        """Start its detection on the device."""

    def restore(self, rows: list[int], images: ImageBatch, padded: PaddedDetections) -> None:
        """Take its detections, on the CPU; called in a thread."""

    def results(self) -> Iterator[_Result_co]:
        """What there is for each image, in their order, once all batches are restored."""

    def close(self) -> None:
        """Let go of the images."""


def overlapped(
    windows: Iterator[Window[_Result]], ready: Callable[[], bool], device: torch.device, use: DeviceUse | None
) -> Iterator[_Result]:
    """The results of windows in order, while a device always has a few batches: also those of the next window.

    Args:
        windows: each with its images in memory. The next is asked for when no batch of those before is left to launch.
        ready: whether the next window would come at once; if not, what is there is finished and given first.
        device: where.
        use: is told when the device has work.
    """
    with ThreadPoolExecutor(1) as assembling, ThreadPoolExecutor(1) as restoring:
        stream = _Stream(windows, ready, device, use, assembling, restoring)
        while (first := stream.first()) is not None:
            stream.finish(first)
            yield from stream.results(first)
            stream.close(first)


class _Begun(Generic[_Result]):
    """A window whose batches are under way: how many have not come back, and what failed in one of them."""

    def __init__(self, window: Window[_Result]) -> None:
        self.window = window
        self.missing = len(window.parts)
        self.restored: list[Future[None]] = []
        self.error: Exception | None = None


class _Flying(NamedTuple, Generic[_Result]):
    """A batch that the device has."""

    begun: _Begun[_Result]
    rows: list[int]
    images: ImageBatch
    launched: Launched


class _Stream(Generic[_Result]):
    """Batches on their way: first to be assembled (`_parts`), then ahead of use (`_ahead`), then on the device."""

    def __init__(
        self, windows: Iterator[Window[_Result]], ready: Callable[[], bool], device: torch.device,
        use: DeviceUse | None, assembling: Executor, restoring: Executor,
    ) -> None:  # fmt: skip
        self._windows, self._ready, self._device, self._use = windows, ready, device, use
        self._assembling, self._restoring = assembling, restoring
        self._uploads = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._begun: deque[_Begun[_Result]] = deque()
        self._parts: deque[tuple[_Begun[_Result], list[int]]] = deque()
        self._ahead: deque[tuple[_Begun[_Result], list[int], Future[ImageBatch]]] = deque()
        self._flying: deque[_Flying[_Result]] = deque()

    def first(self) -> _Begun[_Result] | None:
        """The window whose results are to be given next; waits for one if there is none. None after the last."""
        if not self._begun:
            self._begin()
        return self._begun[0] if self._begun else None

    def finish(self, first: _Begun[_Result]) -> None:
        """Until all of its detections are there. Raises what failed in it."""
        self.keep_busy()
        while first.missing and first.error is None:
            self._land()
            self.keep_busy()
        if first.error is not None:
            raise first.error
        for job in first.restored:
            job.result()

    def results(self, first: _Begun[_Result]) -> Iterator[_Result]:
        """Those of its images; the device works on while the caller uses them."""
        for one in first.window.results():
            yield one
            self.keep_busy()

    def close(self, first: _Begun[_Result]) -> None:
        """Let go of the window whose results were given."""
        self._begun.popleft()
        first.window.close()

    def keep_busy(self) -> None:
        """Give the device what it has room for; nothing waits for it here."""
        while self._flying and self._flying[0].launched.is_here:
            self._land()
        while len(self._flying) < IN_FLIGHT and self._assembled_ahead():
            self._launch()

    def _begin(self) -> None:
        window = next(self._windows, None)
        if window is not None:
            self._begun.append(_Begun(window))
            self._parts.extend((self._begun[-1], rows) for rows in window.parts)

    def _assembled_ahead(self) -> bool:
        """Let batches be assembled ahead, going on to the next window if it is there; whether there is one."""
        if any(begun.error is not None for begun in self._begun):
            return False  # the stream ends there
        while len(self._ahead) < AHEAD:
            if not self._parts and self._ready():
                self._begin()
            if not self._parts:
                break
            begun, rows = self._parts.popleft()
            self._ahead.append((begun, rows, self._assembling.submit(self._pinned, begun.window, rows)))
        return bool(self._ahead)

    def _pinned(self, window: Window[_Result], rows: list[int]) -> ImageBatch:
        images = window.assemble(rows)
        return images if self._uploads is None else images.pin_memory()

    def _launch(self) -> None:
        begun, rows, assembled = self._ahead.popleft()
        try:
            images = assembled.result()
            with nullcontext() if self._use is None else self._use.busy():
                there = _on_device(images, self._device, self._uploads)
                launched = begun.window.launch(rows, there).on_the_way()
            self._flying.append(_Flying(begun, rows, images, launched))
        except Exception as error:
            begun.error = error  # raised when the results of its window are due

    def _land(self) -> None:
        begun, rows, images, launched = self._flying.popleft()
        try:
            padded = launched.result().cpu()
        except Exception as error:
            begun.error = begun.error or error
            return
        begun.missing -= 1
        begun.restored.append(self._restoring.submit(begun.window.restore, rows, images, padded))


def _on_device(images: ImageBatch, device: torch.device, uploads: torch.cuda.Stream | None) -> ImageBatch:
    """A batch on its device, uploaded beside what is computed: who needs its pixels first waits, nobody else."""
    if uploads is None:
        return images.to(device)
    computing = torch.cuda.current_stream(device)
    with torch.cuda.stream(uploads):
        there = images.to(device, non_blocking=True)
    computing.wait_stream(uploads)
    for part in (there.pixels, there.sizes_hw, there.original_hw, there.scale_xy, there.offset_xy):
        part.record_stream(computing)
    return there
