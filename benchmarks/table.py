"""What every benchmark prints: the machine, the command, and a Markdown table of what was measured."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision

from boxwright.metrics.coco_ap import CocoResult


class Measurement(NamedTuple):
    """One trained detector: its name, COCO AP and AP50, optimiser steps, and seconds of training."""

    name: str
    ap: float
    ap50: float
    steps: int
    seconds: float

    @classmethod
    def of(cls, name: str, result: CocoResult, steps: int, seconds: float) -> Measurement:
        """From the figures of `coco_ap`; what is undefined counts as 0."""
        return cls(name, result.ap or 0.0, result.ap50 or 0.0, steps, seconds)


def print_measurements(rows: Sequence[Measurement]) -> None:
    """The command, the machine, and the rows as a Markdown table; the ratio is AP over that of the last row."""
    arguments = " ".join(sys.argv[1:])
    print(f"\n`{' '.join(['python -m', f'benchmarks.{Path(sys.argv[0]).stem}', arguments]).strip()}`")
    print(f"{machine()}, {datetime.date.today().isoformat()}\n")
    print("| detector | AP | AP50 | steps | seconds | AP ratio |\n|---|---|---|---|---|---|")
    base = rows[-1].ap
    for row in rows:
        ratio = f"{row.ap / base:.3f}" if base > 0 and len(rows) > 1 else "-"
        print(f"| {row.name} | {row.ap:.4f} | {row.ap50:.4f} | {row.steps} | {row.seconds:.0f} | {ratio} |")
    sys.stdout.flush()


def machine() -> str:
    """Processor, cores that torch uses, and versions, in one line."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{name}, {cores} cores, {torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    )
