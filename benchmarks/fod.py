"""The course variant of FCOS and the improved one on fod (300 x 300, 31 classes): what the improvements are worth.

Backbone, pyramid, head width, optimiser, steps, images and seed are the same; only the fields of FCOS that the course
(seeds 000 and 001) and Table 3's row 9 decide differently change. Both start from random weights and are measured on
test with the weights that training ended with.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # as a file: python benchmarks/fod.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.both import measure_ours
from benchmarks.table import print_measurements
from boxwright.models.fcos import COURSE, FCOSConfig
from boxwright.recipes import load_recipe

RECIPE = "fcos-small"
SHARED = (
    "model.backbone=regnet_x_400mf",  # the course's
    "data.batch_size=16",
    "optim.reference_batch=16",
    "data.resize.mode=none",  # 300 x 300 as they are
    "optim.clip_norm=10",
    "validation.times=1",
)
"""Settings that both variants train with, besides the recipe's."""


def variants() -> dict[str, list[str]]:
    """Overrides of each variant: every field that the course sets and the recipe does not share with it."""
    recipe, improved = load_recipe(RECIPE, SHARED).model, FCOSConfig(num_classes=1)
    architecture = {
        "backbone", "backbone_norm", "frozen_stages", "fpn_channels", "extra_levels", "level_bounds", "stem_channels"
    }  # fmt: skip
    unlike = {key for key in architecture if getattr(recipe, key) != COURSE[key]}
    if unlike:
        raise SystemExit(f"{RECIPE} and the course differ in {', '.join(sorted(unlike))}: not the same network")
    fields = [key for key in COURSE if key not in architecture] + ["box_loss", "normalise_targets", "centerness_on"]
    course = {key: COURSE.get(key, getattr(improved, key)) for key in fields}
    return {
        "course": [_override(key, value) for key, value in course.items()],
        "improved": [_override(key, getattr(improved, key)) for key in fields],
    }


def _override(key: str, value: object) -> str:
    plain = {None: "null", True: "true", False: "false"}
    return f"model.{key}={plain[value] if value is None or isinstance(value, bool) else value}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fod", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/fod"), help="the fod folder")
    parser.add_argument("--steps", type=int, default=400, help="steps of 16 images of each variant")
    parser.add_argument("--seed", type=int, default=0, help="of weights and images")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"), help="where run folders are made")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="further settings of both variants")
    given = parser.parse_args()
    rows = []
    for name, own in variants().items():
        print(f"\n{name}: {' '.join(own)}", flush=True)
        overrides = [*SHARED, f"schedule.steps={given.steps}", *own, *given.overrides]
        row = measure_ours(
            name, RECIPE, given.data, overrides=overrides, train_split="train", val_split="test", test_split="test",
            runs=given.runs, seed=given.seed,
        )  # fmt: skip
        rows.append(row)
    print_measurements(rows)


if __name__ == "__main__":
    main()
