"""Batches on their way through a GPU: assembled ahead, a few on the device at a time, results in order.

Three batches are under way: one is uploaded, one is computed, of one the results come back. How long the device had
nothing to do is known to whoever passes a `DeviceUse`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch

from boxwright.runtime.graphed_detect import Launched
from boxwright.structures import ImageBatch, PaddedDetections

IN_FLIGHT = 3
"""Batches that a GPU has at a time."""
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


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


def made_ahead(items: Iterable[_Item], make: Callable[[_Item], _Made], pool: Executor, ahead: int) -> Iterator[_Made]:
    """What `make` gives for each item, in order; `ahead` of them are made in the pool while one is used."""
    waiting = deque(items)
    made = deque(pool.submit(make, waiting.popleft()) for _ in range(min(ahead, len(waiting))))
    while made:
        first = made.popleft()
        if waiting:
            made.append(pool.submit(make, waiting.popleft()))
        yield first.result()


def under_way(items: Iterable[_Item], launch: Callable[[_Item], _Made], most: int) -> Iterator[_Made]:
    """What `launch` gives for each item, in order, each when `most` of them are under way or no item is left."""
    launched: deque[_Made] = deque()
    for item in items:
        launched.append(launch(item))
        if len(launched) >= most:
            yield launched.popleft()
    yield from launched


def overlapped(
    parts: Iterable[list[int]],
    assemble: Callable[[list[int]], tuple[list[int], ImageBatch]],
    launch: Callable[[list[int], ImageBatch], Launched],
    restore: Callable[[list[int], ImageBatch, PaddedDetections], None],
    device: torch.device,
    use: DeviceUse | None,
) -> None:
    """Take the batches of some images through a device.

    Args:
        parts: the numbers of the images of each batch.
        assemble: makes a batch; called in a thread.
        launch: starts the detection of a batch on the device, with the numbers of its images.
        restore: takes the detections of a batch on the CPU; called in a thread.
        device: where.
        use: is told when the device has work.
    """
    uploads = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def pinned(rows: list[int]) -> tuple[list[int], ImageBatch]:
        rows, images = assemble(rows)
        return rows, images.pin_memory() if uploads is not None else images

    def launched(one: tuple[list[int], ImageBatch]) -> tuple[list[int], ImageBatch, Launched]:
        rows, images = one
        with nullcontext() if use is None else use.busy():
            return rows, images, launch(rows, _on_device(images, device, uploads)).on_the_way()

    with ThreadPoolExecutor(1) as assembling, ThreadPoolExecutor(1) as restoring:
        jobs = []
        for rows, images, one in under_way(made_ahead(parts, pinned, assembling, 2), launched, IN_FLIGHT):
            jobs.append(restoring.submit(restore, rows, images, one.result().cpu()))
        for job in jobs:
            job.result()


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
