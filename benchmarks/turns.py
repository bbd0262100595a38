"""Ours and its peers in turn: rounds in one process, so that whatever else the machine does slows all of them alike."""

from __future__ import annotations

import datetime
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.table import machine

REST = 0.1
"""Seconds between turns: threads of one runtime spin for a while after their work, on the cores of the next."""


def in_turn(functions: dict[str, Callable[[], Any]], rounds: int, *, warm: int = 2) -> dict[str, float]:
    """Median seconds of each function over so many rounds; the first `warm` rounds are not counted."""
    laps: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(-warm, rounds):
        for name, function in functions.items():
            time.sleep(REST)
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_ >= 0:
                laps[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in laps.items()}


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table below its title."""
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    sys.stdout.flush()


def print_command() -> None:
    """The command that was given, the machine, and the date."""
    arguments = " ".join(sys.argv[1:])
    print(f"`{' '.join(['python -m', f'benchmarks.{Path(sys.argv[0]).stem}', arguments]).strip()}`")
    print(f"{machine()}, {datetime.date.today().isoformat()}", flush=True)
