"""The course variant of FCOS and the improved one on fod (300 x 300, 31 classes): what the improvements are worth.

Backbone, pyramid, head width, optimiser, steps, images and seed are the same; only the fields of FCOS that the course's
assignment and Table 3's row 9 decide differently change. Both start from random weights and are measured on
test with the weights that training ended with.
"""

from __future__ import annotations

import argparse
import sys
from operator import attrgetter
from pathlib import Path

if not __package__:  # as a file: python benchmarks/fod.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.both import measure_ours
from benchmarks.table import print_measurements
from boxwright.models.fcos import FCOSConfig
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


ARCHITECTURE = (
    "backbone.name", "backbone.norm", "backbone.frozen_stages", "fpn.channels", "fpn.extra_levels",
    "assignment.level_bounds", "head.stem_channels",
)  # fmt: skip
COURSE = (
    "head.norm", "head.centerness_on", "head.normalise_targets", "head.box_output", "head.box_bias",
    "head.scale_per_level", "assignment.center_radius", "loss.box", "loss.box_weighting", "loss.normaliser",
    "compat.multi_label",
)  # fmt: skip
"""Settings that the course and row 9 decide differently, or that belong to those."""


def variants() -> dict[str, list[str]]:
    """Overrides of each variant: what the course sets and the recipe does not share with it."""
    recipe, improved = load_recipe(RECIPE, SHARED).model, FCOSConfig()
    own = ["model.fpn.channels=64", "model.head.stem_channels=[64, 64]"]
    course = load_recipe("fcos-regnetx400mf-224", own).model
    unlike = {key for key in ARCHITECTURE if attrgetter(key)(recipe) != attrgetter(key)(course)}
    if unlike:
        raise SystemExit(f"{RECIPE} and the course differ in {', '.join(sorted(unlike))}: not the same network")
    return {
        name: [_override(key, attrgetter(key)(config)) for key in COURSE]
        for name, config in (("course", course), ("improved", improved))
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
