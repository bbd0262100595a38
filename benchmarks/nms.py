"""Our NMS, the algorithm in a dozen lines of Python, and torchvision's kernel, which the library runs on a CPU.

Both get the same boxes in turn in one process, and must keep the same ones. `python -m benchmarks.nms`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchvision.ops import nms as kernel

if not __package__:  # as a file: python benchmarks/nms.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from boxwright.ops.select import nms

Nms = Callable[[Tensor, Tensor, float], Tensor]
COUNTS = (100, 300, 1000, 3000)
IOU = 0.6


def crowded_boxes(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) and scores (N,) as a detector gives them: about ten around each object of an 800-pixel image."""
    objects = torch.rand(max(1, count // 10), 4, generator=generator) * torch.tensor([700.0, 700.0, 150.0, 150.0])
    rows = objects[torch.randint(len(objects), (count,), generator=generator)]
    rows = rows + torch.randn(count, 4, generator=generator) * 6
    corner, side = rows[:, :2], rows[:, 2:].clamp(min=0) + 8
    return torch.cat([corner, corner + side], 1), torch.rand(count, generator=generator)


def seconds(function: Nms, boxes: Tensor, scores: Tensor) -> tuple[float, Tensor]:
    """How long one call takes, and what it keeps."""
    start = time.perf_counter()
    keep = function(boxes, scores, IOU)
    return time.perf_counter() - start, keep


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nms", description=__doc__)
    parser.add_argument("--repeats", type=int, default=15, help="calls of each, of which the median counts")
    given = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    print("| boxes | kept | ours | torchvision | ours / torchvision |")
    print("|---|---|---|---|---|")
    for count in COUNTS:
        boxes, scores = crowded_boxes(count, generator)
        times: dict[str, list[float]] = {"ours": [], "torchvision": []}
        for _ in range(given.repeats):
            taken, ours = seconds(nms, boxes, scores)
            times["ours"].append(taken)
            taken, theirs = seconds(kernel, boxes, scores)
            times["torchvision"].append(taken)
            if not torch.equal(ours, theirs):
                raise SystemExit(f"{count} boxes: ours keeps {len(ours)}, torchvision {len(theirs)}, or another order")
        one, other = (statistics.median(values) * 1000 for values in times.values())
        print(f"| {count} | {len(ours)} | {one:.3f} ms | {other:.3f} ms | {one / other:.1f} |", flush=True)


if __name__ == "__main__":
    main()
