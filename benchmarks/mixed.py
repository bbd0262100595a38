"""Images of many shapes: batches of one size, as `predict` makes them, against batches padded to their largest image.

Give --checkpoint: with random weights scores are nearly tied, and another box may be the best one by rounding.
"""

from __future__ import annotations

import argparse
import random

import torch
from torch import Tensor

from benchmarks.turns import in_turn, print_command, print_table
from boxwright.checkpoint import Checkpoint
from boxwright.data.synthetic.shapes import ShapesConfig, draw_shapes
from boxwright.inference.predictor import Detector
from boxwright.recipes import load_recipe
from boxwright.structures import Classes, Detections, ImageBatch

ASPECTS = (1 / 3, 1 / 2, 2 / 3, 3 / 4, 1.0, 4 / 3, 3 / 2, 16 / 9, 2.0, 3.0)
"""Width over height."""


def drawn(count: int, aspects: tuple[float, ...]) -> list[Tensor]:
    """Images (3, H, W) at network size, their short side 240, in a random order of shapes."""
    draw = random.Random(0)
    images = []
    for index in range(count):
        pixels = torch.from_numpy(draw_shapes(ShapesConfig(size=720), 0, index)[0]).permute(2, 0, 1)
        aspect = draw.choice(aspects)
        height, width = (240, round(240 * aspect)) if aspect >= 1 else (round(240 / aspect), 240)
        images.append(pixels[:, :height, :width].contiguous())
    return images


def padded(detector: Detector, images: list[Tensor], batch: int) -> list[Detections]:
    """Detections in batches of images of like shape, each padded to the largest of its batch, in the order given."""
    order = sorted(range(len(images)), key=lambda index: images[index].shape[2] / images[index].shape[1])
    found: dict[int, Detections] = {}
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        images_of = ImageBatch.of([images[row] for row in rows])
        found.update(zip(rows, detector.engine(images_of, detector.settings_with()).restore(images_of), strict=True))
    return [found[index] for index in range(len(images))]


def furthest(one: list[Detections], other: list[Detections]) -> float:
    """Pixels that the best box of an image moves at most."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if len(a) and len(b)]
    return max((float((a.boxes[0] - b.boxes[0]).abs().max()) for a, b in pairs), default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixed", description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpoint", help="a trained detector; fcos-small with random weights if not given")
    given = parser.parse_args()
    print_command()
    if given.checkpoint:
        detector = Detector.load(given.checkpoint)
    else:
        torch.manual_seed(0)
        recipe = load_recipe("fcos-small")
        classes = Classes.named(["a", "b", "c"])
        weights = recipe.build_model(3).state_dict()
        detector = Detector(Checkpoint(recipe, classes, weights, score_threshold=0.01))
    rows = []
    for title, aspects in (("ten shapes, 1:3 to 3:1", ASPECTS), ("two shapes, 3:2 and 2:3", (2 / 3, 3 / 2))):
        images = drawn(given.images, aspects)

        def alone(images: list[Tensor] = images) -> list[Detections]:
            return detector.predict(images, resize=None, batch=1)

        def of_one_size(images: list[Tensor] = images) -> list[Detections]:
            return detector.predict(images, resize=None, batch=given.batch)

        def to_the_largest(images: list[Tensor] = images) -> list[Detections]:
            return padded(detector, images, given.batch)

        seconds = in_turn(
            {"one size": of_one_size, "padded": to_the_largest, "one by one": alone}, given.rounds, warm=1
        )  # fmt: skip
        expected = alone()
        moved = {"one size": furthest(expected, of_one_size()), "padded": furthest(expected, to_the_largest())}
        for name, taken in seconds.items():
            rows.append([title, name, f"{seconds['padded'] / taken:.2f}", f"{moved.get(name, 0.0):.2f}"])
    print_table("Speed against padded batches, and how far the best box of an image moves from where it is alone",
                ("images", "batches", "speed", "pixels"), rows)  # fmt: skip


if __name__ == "__main__":
    main()
