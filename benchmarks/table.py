"""What every benchmark prints: the machine, the command, and a Markdown table of what was measured."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision

from boxwright.evaluation.coco_ap import CocoResult


class Measurement(NamedTuple):
    """One trained detector: its name, COCO AP and AP50, optimiser steps, seconds of training, and AP of its masks."""

    name: str
    ap: float
    ap50: float
    steps: int
    seconds: float
    mask_ap: float | None = None
    mask_ap50: float | None = None

    @classmethod
    def of(
        cls, name: str, result: CocoResult, steps: int, seconds: float, masks: CocoResult | None = None
    ) -> Measurement:
        """From the figures of `coco_ap`; what is undefined counts as 0."""
        of_masks = (None, None) if masks is None else (masks.ap or 0.0, masks.ap50 or 0.0)
        return cls(name, result.ap or 0.0, result.ap50 or 0.0, steps, seconds, *of_masks)


def print_command() -> None:
    """The command of this process, and the machine."""
    arguments = " ".join(sys.argv[1:])
    print(f"\n`{' '.join(['python -m', f'benchmarks.{Path(sys.argv[0]).stem}', arguments]).strip()}`")
    print(f"{machine()}, {datetime.date.today().isoformat()}\n")


def print_measurements(rows: Sequence[Measurement]) -> None:
    """The command, the machine, and the rows as a Markdown table; the ratio is AP over that of the last row.

    Where all rows have masks it is that of the masks.
    """
    print_command()
    masked = all(row.mask_ap is not None for row in rows)
    titles = ["detector", "AP", "AP50", *(["mask AP", "mask AP50"] if masked else []), "steps", "seconds"]
    titles.append("mask AP ratio" if masked else "AP ratio")
    print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    base = (rows[-1].mask_ap if masked else rows[-1].ap) or 0.0
    for row in rows:
        own = (row.mask_ap if masked else row.ap) or 0.0
        cells = [row.name, f"{row.ap:.4f}", f"{row.ap50:.4f}"]
        cells += [f"{row.mask_ap:.4f}", f"{row.mask_ap50:.4f}"] if masked else []
        cells += [f"{row.steps}", f"{row.seconds:.0f}", f"{own / base:.3f}" if base > 0 and len(rows) > 1 else "-"]
        print(f"| {' | '.join(cells)} |")
    sys.stdout.flush()


def commit() -> str:
    """The commit of this checkout, as in "commit 1a2b3c4", with "and changes" where files differ from it."""
    here = Path(__file__).resolve().parent
    try:
        name, changes = (
            subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
            for arguments in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return "no commit"
    return f"commit {name}{' and changes' if changes else ''}"


def machine() -> str:
    """Processor, cores that torch uses, versions and commit, in one line."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{name}, {cores} cores, {torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, {commit()}"
    )
