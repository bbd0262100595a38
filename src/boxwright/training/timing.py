"""Seconds a step: laps of the training loop, the waiting in them, and what a lap typically is."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from statistics import mean, median
from typing import Any


def typical(laps: list[float]) -> float:
    """The mean of laps, none of which counts for more than three times their median.

    The mean, because a batch of mosaics or of large images takes its time too; bounded, because now and then the
    machine does something else.
    """
    most = 3 * median(laps)
    return mean(min(lap, most) for lap in laps)


def now() -> float:
    """Seconds on a clock that only goes forward: the one clock of training, which tests move."""
    return time.monotonic()


class Timer:
    """Seconds a step: what lies between two laps, data loading included."""

    def __init__(self) -> None:
        self._last = now()
        self.laps: list[float] = []
        """The last laps, 64 at most."""
        self.waits: list[float] = []
        """Of each of them, the seconds that went into waiting for its images."""
        self._waited = 0.0

    def fetched(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches, with the time taken that each lets the step wait."""
        source = iter(batches)
        while True:
            start = now()
            batch = next(source, None)
            if batch is None:
                return
            self._waited = now() - start
            yield batch

    def restart(self) -> None:
        """Begin the next lap now (after something that was no step)."""
        self._last = now()

    def lap(self) -> float:
        """Seconds since the last lap."""
        seconds = now() - self._last
        self._last += seconds
        self.laps = [*self.laps[-63:], seconds]
        self.waits = [*self.waits[-63:], min(self._waited, seconds)]
        return seconds
