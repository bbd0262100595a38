"""Small objects in large images: one recipe trained and measured on tiles, and on images resized to fit the network.

The images are drawn (squares and circles of 12 pixels in 4000 x 4000); both variants have the same steps, seed and
random weights. A resized image has twice the pixels of a batch of tiles, and shows more objects. AP is that of
whole images, with all their detections. To reach: the AP of tiles is at least twice the other.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

if not __package__:  # as a file: python benchmarks/tiles.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.both import train_ours
from benchmarks.table import Measurement, print_measurements
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.evaluation.coco_ap import coco_ap
from boxwright.inference.evaluate import evaluate_checkpoint

RECIPE = "fcos-small"
SHARED = ("data.augment.mosaic=0", "data.augment.scale_jitter=null", "validation.times=1", "validation.max_images=1")
"""Settings of both: nothing that makes small objects smaller still."""


def draw_images(
    folder: Path, *, train: int, val: int, size: int, pixels: int, objects: tuple[int, int] = (60, 100)
) -> None:
    """Write a COCO folder of square images of `size` with objects of `pixels`, as many as the two numbers say."""
    least, most = objects
    shapes = ShapesConfig(
        size=size, num_classes=2, difficulty="easy", min_objects=least, max_objects=most, min_pixels=pixels,
        max_pixels=pixels,
    )  # fmt: skip
    write_shapes(folder, train, val, "coco", shapes)


def variants(tile: int, resized: int, steps: int) -> dict[str, tuple[str, ...]]:
    """The settings of each variant, by its name: tiles in their own size, 8 a step; a whole image a step."""
    length = (f"schedule.steps={steps}", f"schedule.warmup_steps={steps // 6}")
    whole = (f"data.resize.size={resized}", f"data.resize.max_size={resized}")
    return {
        f"tiles of {tile}": (*SHARED, *length, f"data.tiles.size={tile}", f"data.resize.size={tile}"),
        f"resized to {resized}": (*SHARED, *length, *whole, "data.batch_size=1", "optim.reference_batch=1"),
    }


def measure(name: str, data: Path, runs: Path, settings: tuple[str, ...], seed: int, device: str) -> Measurement:
    """Train one variant, then AP of whole images with its last weights."""
    folder = name.replace(" ", "-")
    run = train_ours(
        folder, RECIPE, data, train_split="train", val_split="val", runs=runs, overrides=settings, seed=seed,
        device=device,
    )  # fmt: skip
    found = evaluate_checkpoint(run.last, data, "val", device=device)
    limits = (1, 10, 100, found.most_detections)
    result = coco_ap(found.detections, found.ground_truths, found.classes, max_detections=limits)
    print(f"{name}: {found.seconds / len(found.detections):.1f} s an image to decode and detect", flush=True)
    return Measurement.of(name, result, run.steps, run.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tiles", description=__doc__)
    parser.add_argument("--train", type=int, default=3, help="images to train on")
    parser.add_argument("--val", type=int, default=2, help="images to measure on")
    parser.add_argument("--size", type=int, default=4000, help="height and width of an image")
    parser.add_argument("--pixels", type=int, default=12, help="longer side of an object")
    parser.add_argument("--tile", type=int, default=320, help="side of a tile")
    parser.add_argument("--resized", type=int, default=1333, help="height and width that images are resized to")
    parser.add_argument("--steps", type=int, default=100, help="steps of each variant")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    parser.add_argument("--device", default="cpu", help="where both train")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        data, runs = Path(folder, "data"), Path(folder, "runs")
        draw_images(data, train=given.train, val=given.val, size=given.size, pixels=given.pixels)
        rows = [
            measure(name, data, runs, settings, given.seed, given.device)
            for name, settings in variants(given.tile, given.resized, given.steps).items()
        ]
    print_measurements(rows)


if __name__ == "__main__":
    main()
