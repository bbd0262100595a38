"""`python -m benchmarks [NAME ...]`: run the named benchmarks one after the other, or the quick ones; `--all` for all.

Each of them is also a command of its own with options: `python -m benchmarks.bccd --help`.
"""

from __future__ import annotations

import argparse
import runpy
import sys

BENCHMARKS = {
    "norms": "group norm of dense heads, ours and torch's: seconds",
    "nms": "our NMS in Python and torchvision's kernel: seconds",
    "detectors": "size and speed of the detectors beside each other: a minute",
    "inference": "FCOS against torchvision's, the course's network against its own loop: 4 minutes",
    "depthwise": "a training step of a depthwise backbone against timm's own loop: a minute",
    "mixed": "images of many shapes: batches of one size against padded ones: a minute",
    "steps": "a training step of each detector against torchvision's: 10 minutes",
    "loading": "images a second out of the loader against torchvision's references: a minute",
    "export": "FCOS in every runtime of this machine against torchvision: 8 minutes",
    "gpu": "the figures that one GPU is to reach, ours and torchvision's in one run: 8 minutes",
    "scaling": "how cost grows with image size, boxes, classes and batch: 15 minutes",
    "demo": "the demo's training, ours and torchvision's FCOS in the same time: 8 minutes",
    "fod": "the course variant and the improved variant of FCOS on fod: 12 minutes",
    "tiles": "objects of 12 pixels in images of 4000, on tiles and resized: 8 minutes",
    "imbalance": "rare classes of fod: repeated images, class weights, both, class by class: 20 minutes",
    "aligned": "improved FCOS against a task-aligned assignment on four datasets, 10 minutes each: 85 minutes",
    "nuclei": "masks of nuclei from random weights, ours and torchvision's Mask R-CNN in the same time: 42 minutes",
    "pretrained": "random weights against pretrained ones on four datasets, 10 minutes each: 80 minutes",
    "bccd": "blood cells from random weights, three of ours and torchvision's FCOS twice, 13 minutes each: 70 minutes",
    "against_yolo": "ours and Ultralytics' smallest network, which must be installed, 10 minutes each: 62 minutes",
}
QUICK = ("nms", "detectors", "inference")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Run benchmarks one after the other: " + "; ".join(f"{k}: {v}" for k, v in BENCHMARKS.items()),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--all", action="store_true", help="all of them, five hours on two cores")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    for name in BENCHMARKS if given.all else given.names or QUICK:
        print(f"\n## {name}: {BENCHMARKS[name]}\n", flush=True)
        sys.argv = [f"benchmarks/{name}.py"]
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")


if __name__ == "__main__":
    main()
