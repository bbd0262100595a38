"""FCOS R50-FPN at 480 x 640 in every runtime of this machine, against torchvision's eager model on the same input.

Files are written from random weights and not gated (`boxwright export` does that). int8 is fitted to noise: its speed
is that of a real one, its detections are not. `python -m benchmarks.export`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

if not __package__:  # as a file: python benchmarks/export.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.inference import SCORE, fcos_r50, torchvision_fcos
from benchmarks.turns import in_turn, print_command, print_table
from boxwright.checkpoint import Checkpoint
from boxwright.deploy.benchmark import available_runtimes, build_runtimes
from boxwright.recipes import load_recipe
from boxwright.structures import Classes, ImageBatch

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="rounds in which all take turns; medians count")
    parser.add_argument("--size", default="480x640", help="height x width")
    parser.add_argument("--batch", type=int, default=1, help="examples at once")
    parser.add_argument("--calibration", type=int, default=8, help="examples that int8 is fitted to")
    given = parser.parse_args()
    height, width = (int(side) for side in given.size.split("x"))
    print_command()
    generator = torch.Generator().manual_seed(0)
    pixels = [
        torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
        for _ in range(max(given.batch, given.calibration))
    ]
    recipe = load_recipe("fcos-r50-fpn-1x-gn", ["model.backbone.weights=null", "data.resize.mode=none"])
    checkpoint = Checkpoint(recipe, Classes.named([f"class {k}" for k in range(91)]), fcos_r50().state_dict())
    reasons = available_runtimes(CPU, calibration=True, wide=True)
    names = [name for name, reason in reasons.items() if not reason and name != "torch-compiled"]
    for name, reason in reasons.items():
        if reason:
            print(f"left out: {name}, {reason}", flush=True)
    peer = torchvision_fcos(height, width, CPU)
    with tempfile.TemporaryDirectory() as folder:
        examples = Path(folder) / "examples"
        examples.mkdir()
        for number, one in enumerate(pixels[: given.calibration]):
            Image.fromarray(one.permute(1, 2, 0).numpy()).save(examples / f"{number}.png")
        size = sum(value.numel() * value.element_size() for value in checkpoint.weights.values())
        made = build_runtimes(
            checkpoint, names, Path(folder), device=CPU, weights_size=size, images=examples, log=lambda _: None
        )  # fmt: skip
        batch = pixels[: given.batch]
        images, floats = ImageBatch.of(batch), [one.float() / 255 for one in batch]
        functions: dict[str, Any] = {"torchvision eager": lambda: peer(floats)}
        for one in made:
            settings = replace(one.detector.settings, score_threshold=SCORE)
            functions[one.name] = lambda engine=one.detector.engine, settings=settings: engine(images, settings)
        with torch.inference_mode():
            times = in_turn(functions, given.rounds)
    sizes = {one.name: f"{one.size / 1e6:.0f} MB" for one in made}
    base = times["torchvision eager"]
    rows = [
        [name, f"{seconds / given.batch * 1000:.1f} ms", f"{given.batch / seconds:.2f}", f"{base / seconds:.2f}",
         sizes.get(name, "")]
        for name, seconds in times.items()
    ]  # fmt: skip
    columns = ("FCOS R50-FPN", "an image", "images/s", "times torchvision's", "file")
    print_table(f"{height} x {width}, 91 classes, batch {given.batch}", columns, rows)


if __name__ == "__main__":
    main()
