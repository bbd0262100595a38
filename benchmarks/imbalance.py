"""Rare classes of fod (31, the commonest 34 times as common as the rarest): repeated images and class weights.

The plain recipe, `data.repeat_threshold`, `class_weights=balanced`, and both, with the same steps, images a step and
seed, from random weights; measured on test, class by class, rarest first. Classes are called rare that are in fewer
training images than the median class.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

if not __package__:  # as a file: python benchmarks/imbalance.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.both import train_ours
from benchmarks.table import Measurement, print_measurements
from boxwright.data.class_balance import images_by_class
from boxwright.data.formats.folder import find_split, open_folder
from boxwright.evaluation.coco_ap import CocoResult, coco_ap
from boxwright.inference.evaluate import evaluate_checkpoint

RECIPE = "fcos-small"
VARIANTS = {
    "plain": (),
    "repeated": ("data.repeat_threshold={threshold:g}",),
    "weighted": ("class_weights=balanced",),
    "both": ("data.repeat_threshold={threshold:g}", "class_weights=balanced"),
}
"""Settings of each; the threshold is an option."""


def print_classes(results: dict[str, CocoResult], images: dict[str, int]) -> None:
    """AP of each class in each variant, rarest class first, then the means of the rare and of the other classes."""
    names = sorted(images, key=lambda name: (images[name], name))
    print(f"\n| class | images | {' | '.join(results)} |\n{'|---' * (len(results) + 2)}|")
    for name in names:
        cells = [_figure([result.per_class.get(name)]) for result in results.values()]
        print(f"| {name} | {images[name]} | {' | '.join(cells)} |")
    half = len(names) // 2
    for title, part in (("rare classes", names[:half]), ("other classes", names[half:])):
        cells = [_figure([result.per_class.get(name) for name in part]) for result in results.values()]
        print(f"| {title}, mean | {sum(images[name] for name in part)} | {' | '.join(cells)} |")


def _figure(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{mean(known):.3f}" if known else "-"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imbalance", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/fod"), help="the fod folder, or another")
    parser.add_argument("--train-split", default="train", help="images to train on")
    parser.add_argument("--test-split", default="test", help="images to measure on")
    parser.add_argument("--steps", type=int, default=1500, help="steps of each variant")
    parser.add_argument("--threshold", type=float, default=0.1, help="data.repeat_threshold of the variants with it")
    parser.add_argument("--seed", type=int, default=0, help="of weights and images")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"), help="where run folders are made")
    parser.add_argument("--device", default="cpu", help="where all train")
    parser.add_argument("--only", choices=VARIANTS, action="append", help="one of them; may be repeated")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="further settings of all")
    given = parser.parse_args()
    split = find_split(open_folder(given.data), given.train_split)
    counts = images_by_class(split.records)
    images = {name: counts.get(label, 0) for label, name in enumerate(split.classes.names)}
    rows, results = [], {}
    for name in given.only or VARIANTS:
        own = [setting.format(threshold=given.threshold) for setting in VARIANTS[name]]
        settings = ["validation.times=1", f"schedule.steps={given.steps}", *own, *given.overrides]
        run = train_ours(
            name, RECIPE, given.data, train_split=given.train_split, val_split=given.test_split, runs=given.runs,
            overrides=settings, seed=given.seed, device=given.device,
        )  # fmt: skip
        found = evaluate_checkpoint(run.last, given.data, given.test_split, device=given.device)
        results[name] = coco_ap(found.detections, found.ground_truths, found.classes)
        rows.append(Measurement.of(name, results[name], run.steps, run.seconds))
        print(rows[-1], flush=True)
    print_measurements(rows)
    print_classes(results, images)


if __name__ == "__main__":
    main()
