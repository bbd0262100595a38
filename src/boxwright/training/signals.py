"""SIGTERM and Ctrl-C as a wish to stop, which the loop sees after its step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator


class StopSignal:
    """Notes SIGTERM and SIGINT while it is entered; a second Ctrl-C interrupts at once."""

    def __init__(self, accelerator: Accelerator, log: Callable[[str], None]) -> None:
        self.accelerator, self.log = accelerator, log
        self._received = False
        self._before: dict[int, Any] = {}

    def wanted(self) -> bool:
        """Whether any process was asked to stop; all of them have to ask."""
        if self.accelerator.num_processes == 1:
            return self._received
        flag = torch.tensor(int(self._received), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag).item())

    def stop(self) -> None:
        """Ask for a stop, as a signal does."""
        if not self._received:
            self._received = True
            self.log("stopping after this step ...")

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # a notebook or server may train in a thread
            self._before = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _note(self, number: int, _frame: Any) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
