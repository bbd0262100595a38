"""How the cost of a training step and of a detection grows: with image size, boxes an image, classes, and batch.

One quantity grows, the others stay; a row is at most linear if the cost grows by no more than the quantity does (pixels
for the size), with 15 % for noise. Detection is at its worst: every candidate passes the score threshold. Memory is the
peak above what the process held before the step. `python -m benchmarks.scaling fcos faster_rcnn`.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

if not __package__:  # as a file: python benchmarks/scaling.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.turns import print_command, print_table
from boxwright.models import MODELS
from boxwright.recipes import load_recipe
from boxwright.structures import CroppedMask, GroundTruth, ImageBatch, Targets

RECIPES = {
    "fcos": "fcos-small",
    "retinanet": "retinanet-small",
    "faster_rcnn": "faster-rcnn-small",
    "mask_rcnn": "mask-rcnn-small",
    "fcos_mask": "fcos-mask-small",
}
NOISE = 1.15


class Work(NamedTuple):
    """What a step works on: side of the square images, boxes an image, classes, images."""

    side: int = 320
    boxes: int = 10
    classes: int = 20
    batch: int = 2


AXES: dict[str, tuple[int, ...]] = {
    "side": (160, 320, 640, 1280),
    "boxes": (1, 10, 100, 500, 2000),
    "classes": (1, 20, 300, 1200),
    "batch": (1, 2, 4, 8, 16),
}
AMOUNT: dict[str, Callable[[int], int]] = {"side": lambda side: side * side}
"""By how much a value is more work, where it is not the value itself."""


class Cost(NamedTuple):
    """Seconds and peak MiB of a training step, and of a detection."""

    train_seconds: float
    train_mib: float
    detect_seconds: float
    detect_mib: float


def scene(work: Work, masks: bool) -> tuple[ImageBatch, Targets]:
    """Random images, with boxes of 8 to 60 pixels anywhere."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (work.batch, 3, work.side, work.side), dtype=torch.uint8, generator=generator)
    ground_truths = []
    for _ in range(work.batch):
        sides = torch.rand(work.boxes, 2, generator=generator) * 52 + 8
        corner = torch.rand(work.boxes, 2, generator=generator) * (work.side - sides)
        boxes = torch.cat([corner, corner + sides], dim=1).round()
        labels = torch.randint(0, work.classes, (work.boxes,), generator=generator)
        shapes = [CroppedMask(x1, y1, torch.ones(y2 - y1, x2 - x1, dtype=torch.bool))
                  for x1, y1, x2, y2 in boxes.int().tolist()] if masks else None  # fmt: skip
        ground_truths.append(GroundTruth.of(boxes, labels, masks=shapes))
    return ImageBatch.of(list(pixels)), Targets.of(ground_truths)


def measure(name: str, work: Work, rounds: int) -> Cost:
    """The cost of one detector at one amount of work: medians of seconds, the largest memory."""
    torch.manual_seed(0)
    recipe = load_recipe(RECIPES[name])
    model: Any = recipe.build_model(work.classes).to(memory_format=torch.channels_last)
    images, targets = scene(work, MODELS[name].needs_masks)
    everything = replace(recipe.detect.settings(), score_threshold=0.0)

    def train() -> None:
        model.train().zero_grad(set_to_none=True)
        losses = model.loss(model(images, targets), targets)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def detect() -> None:
        model.eval().detect_padded(model(images), everything)

    return Cost(*_timed(train, rounds), *_timed(detect, rounds))


def _timed(function: Callable[[], None], rounds: int) -> tuple[float, float]:
    function()
    before = _reset_peak()
    laps = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        laps.append(time.perf_counter() - start)
    return statistics.median(laps), (_memory("VmHWM") - before) / 2**10


def _reset_peak() -> int:
    """Give what is free back to the kernel and let it forget the peak; gives what this process holds now, in KiB."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _memory("VmRSS")


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def growth(amounts: Sequence[int], costs: Sequence[float]) -> list[float]:
    """By how much each cost grew over the one before, as a part of what the amount of work grew by (1: linear)."""
    pairs = list(zip(amounts, costs, strict=True))
    return [(after / before) / (more / less) for (less, before), (more, after) in pairwise(pairs)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(RECIPES)}; all if not given")
    parser.add_argument("--axis", choices=AXES, action="append", help="only this; may be given more than once")
    parser.add_argument("--rounds", type=int, default=5, help="medians count")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in RECIPES]
    if unknown:
        parser.error(f"no detector {unknown[0]!r}; there are {', '.join(RECIPES)}")
    if not Path("/proc/self/clear_refs").exists():
        parser.error("memory is read from /proc, which Linux has")
    print_command()
    worse = []
    for name in given.names or RECIPES:
        for axis in given.axis or AXES:
            rows = []
            values = AXES[axis]
            amounts = [AMOUNT.get(axis, int)(value) for value in values]
            costs = [measure(name, Work()._replace(**{axis: value}), given.rounds) for value in values]
            trained, detected = (
                [1.0, *growth(amounts, seconds)]
                for seconds in ([cost.train_seconds for cost in costs], [cost.detect_seconds for cost in costs])
            )
            for index, (value, cost) in enumerate(zip(values, costs, strict=True)):
                cells = [f"{cost.train_seconds:.3f} s", f"{cost.train_mib:.0f} MiB",
                         f"{cost.detect_seconds:.3f} s", f"{cost.detect_mib:.0f} MiB"]  # fmt: skip
                highest = max(trained[index], detected[index])
                linear = index == 0 or highest <= NOISE
                rows.append([str(value), *cells, "-" if index == 0 else f"{highest:.2f}"])
                if not linear:
                    worse.append(f"{name}, {axis} {value}: {highest:.2f}")
            columns = (axis, "training step", "its memory", "detection", "its memory", "growth / linear growth")
            rest = ", ".join(f"{field} {number}" for field, number in Work()._asdict().items() if field != axis)
            print_table(f"{name} ({RECIPES[name]}): {axis}; {rest}", columns, rows)
    print(f"\nworse than linear: {'; '.join(worse) or 'nothing'}")


if __name__ == "__main__":
    main()
