"""One table of what one GPU reaches: training, inference, and torchvision's detectors in the same run.

Rows run in order of value; each catches its own failure and says so, and none is begun when the time is over. Training
goes the public way (`boxwright.train`), so it has whatever a recipe has by default. The table is printed, and written
after every row, in the form of benchmarks/RESULTS.md. `--tiny --device cpu` runs the same code on tiny images.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

if not __package__:  # as a file: python benchmarks/gpu.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import gpu_inference, gpu_kernels, gpu_training
from benchmarks.gpu_setting import Figure, Setting
from benchmarks.table import machine
from boxwright.runtime.devices import device_called

COLUMNS = ("what", "measured", "peer", "ratio", "before", "to reach", "seconds")
LONGEST = 480.0
"""Seconds of the whole."""


class Part(NamedTuple):
    """Some rows of the table that are measured together: name, seconds that they take on an H100, and what does it."""

    name: str
    seconds: float
    measure: Callable[[Setting], Sequence[Figure]]


PARTS = (
    Part("small batches", 35, gpu_training.small),
    Part("course", 25, gpu_training.course),
    Part("inference", 40, gpu_inference.batches),
    Part("latency", 15, gpu_inference.latency),
    Part("fcos step", 45, gpu_training.fcos),
    Part("bccd", 50, gpu_training.bccd),
    Part("faster rcnn step", 45, gpu_training.faster_rcnn),
    Part("mask rcnn step", 50, gpu_training.mask_rcnn),
    Part("kernels", 15, gpu_kernels.kernels),
    Part("folder", 20, gpu_inference.folder),
    Part("depthwise", 15, gpu_training.depthwise),
    Part("compiled inference", 30, gpu_inference.compiled),
    Part("fcos step, compiled", 80, gpu_training.fcos_compiled),
    Part("faster rcnn step, compiled", 80, gpu_training.faster_rcnn_compiled),
    Part("mask rcnn step, compiled", 80, gpu_training.mask_rcnn_compiled),
    Part("kinds of step", 80, gpu_training.kinds),
)
"""In order of value; seconds are estimates, by which a part is left out that would not end in time."""


def device_name(device: torch.device) -> str:
    """The GPU's name, or that there is none."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"no GPU ({device.type})"


def table(figures: Sequence[Figure], device: torch.device) -> str:
    """The section of benchmarks/RESULTS.md: command, machine, date, and a Markdown table."""
    command = " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]).strip()
    lines = [
        f"## gpu: {device_name(device)}",
        "",
        f"`{command}`",
        f"{device_name(device)}, {machine()}, {datetime.date.today().isoformat()}",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    for figure in figures:
        cells = (figure.what, figure.measured, figure.peer, figure.ratio, figure.before, figure.to_reach)
        seconds = f"{figure.seconds:.0f}" if figure.seconds else "-"
        lines.append(f"| {' | '.join(cell.replace('|', '/') or '-' for cell in cells)} | {seconds} |")
    return "\n".join(lines) + "\n"


def run(setting: Setting, parts: Sequence[Part], longest: float, out: Path | None) -> list[Figure]:
    """Measure part after part until the time is over; after each, what there is goes to the file `out`."""
    start = time.perf_counter()
    figures: list[Figure] = []
    for part in parts:
        spent = time.perf_counter() - start
        if spent + (0.0 if setting.tiny else part.seconds) > longest:
            figures.append(Figure(part.name, f"left out: {spent:.0f} of {longest:.0f} s were over"))
        else:
            figures += _measured(part, setting)
        for figure in figures[-1:]:
            print(f"{spent:.0f} s: {part.name}: {figure.what}: {figure.measured}", file=sys.stderr, flush=True)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(table(figures, setting.device), encoding="utf-8")
    return figures


def _measured(part: Part, setting: Setting) -> list[Figure]:
    """The rows of one part, or one that says why there are none."""
    start = time.perf_counter()
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            found = list(part.measure(setting))  # what training prints is no part of the table
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        text = (str(error).splitlines() or [""])[0][:160]
        found = [Figure(part.name, f"failed: {type(error).__name__}: {text}")]
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()
    seconds = (time.perf_counter() - start) / max(1, len(found))
    return [figure._replace(seconds=seconds) for figure in found]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    names = [part.name for part in PARTS]
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    parser.add_argument("--tiny", action="store_true", help="tiny images and few steps, to see that all of it runs")
    parser.add_argument("--only", choices=names, action="append", help="these parts; may be repeated")
    parser.add_argument("--seconds", type=float, default=LONGEST, help="no part is begun that would end later")
    parser.add_argument("--bccd", type=Path, default=Path("../shared/data/bccd"), help="the bccd folder")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/gpu.md"), help="where the table is written")
    given = parser.parse_args()
    chosen = [part for part in PARTS if given.only is None or part.name in given.only]
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(device_called(given.device), given.tiny, Path(folder), given.bccd)
        figures = run(setting, chosen, given.seconds, given.out)
    print(table(figures, setting.device))


if __name__ == "__main__":
    main()
