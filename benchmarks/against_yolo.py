"""Ours and Ultralytics' smallest current network from random weights: same images, minutes, machine, and COCO AP.

Ultralytics is run by its own command, `yolo`, installed by whoever runs this (in an environment of its own: its
licence is the AGPL, and nothing of it is imported here), with its defaults and without the network. It is given the
images as links, labels in its format, the pixels that ours is given, and every core. Both are measured by pycocotools
on images that play no part in training.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

if not __package__:  # as a file: python benchmarks/against_yolo.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.both import train_ours
from benchmarks.table import Measurement, print_measurements
from benchmarks.yolo_folder import read_yolo_results, write_yolo_folder
from boxwright.data.checks.preflight import preflight
from boxwright.data.formats.folder import find_split, open_folder
from boxwright.inference.evaluate import evaluate_checkpoint
from boxwright.ops.image import resize_plan
from boxwright.recipes import load_recipe
from boxwright.structures import Classes, Detections, GroundTruth
from boxwright.writing import free_folder


class Case(NamedTuple):
    """A dataset's splits: trained on, looked at while training, measured on; and how often its images are upside down.

    The last is for both, what a user would add for a microscope, which knows no up.
    """

    train: str
    val: str
    test: str
    vertical_flip: float = 0.0


CASES = {
    "bccd": Case("trainval", "val", "test", 0.5),
    "fod": Case("train", "val", "test"),
    "nuclei": Case("train", "val", "val", 0.5),
}
MISSING = (
    "there is no command {!r}: install Ultralytics (AGPL-3.0) in an environment of its own, as in `python -m venv "
    "yolo && yolo/bin/pip install ultralytics`, and name its command: --yolo yolo/bin/yolo"
)
GRAIN = 32
"""Sides of the peer's network are multiples of this."""


class PeerRun(NamedTuple):
    """The peer's last weights, its optimiser steps, and the seconds of training that it counts."""

    weights: Path
    steps: int
    seconds: float


class Yolo:
    """The peer's command line, without the network: no settings are shared, no fonts or weights fetched."""

    def __init__(self, command: str, folder: Path) -> None:
        found = shutil.which(command)
        if found is None:
            raise SystemExit(f"against_yolo: {MISSING.format(command)}")
        self.command, self.folder = found, folder.resolve()
        home = self.folder / "settings" / "Ultralytics"
        home.mkdir(parents=True)
        drawing = find_spec("matplotlib")  # not imported: it would make a folder in the user's home
        assert drawing is not None
        assert drawing.origin is not None
        font = Path(drawing.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        for name in ("Arial.ttf", "Arial.Unicode.ttf"):  # what it would fetch for its drawings
            shutil.copy(font, home / name)
        self.environment = {
            **os.environ, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(home.parent),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0)))),
        }  # fmt: skip
        self("settings", "sync=False", "tensorboard=False")

    def __call__(self, *words: str) -> None:
        """Run the command; SystemExit with its last lines where it fails."""
        log = self.folder / f"{words[0]}.log"
        with log.open("w") as file:
            done = subprocess.run(
                [self.command, *words], cwd=self.folder, env=self.environment, stdout=file, stderr=subprocess.STDOUT
            )  # fmt: skip
        if done.returncode:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise SystemExit(f"against_yolo: `{' '.join([self.command, *words])}` failed ({log}):\n{last}")

    def train(self, data: Path, side: int, flip: float, given: argparse.Namespace) -> PeerRun:
        """Train from random weights for the given minutes."""
        self(
            "train", f"model={given.network}", f"data={data}", f"imgsz={side}", f"batch={given.peer_batch}",
            f"time={given.minutes / 60:.6f}", f"flipud={flip}", f"seed={given.seed}", f"device={_device(given)}",
            "pretrained=False", "amp=False", "val=False", "plots=False", "workers=0", "cache=ram",
            f"project={self.folder}", "name=run", "exist_ok=True",
        )  # fmt: skip
        epochs = list(csv.DictReader((self.folder / "run" / "results.csv").open(), skipinitialspace=True))
        images = len(list((data.parent / "images" / "train").iterdir()))
        steps = len(epochs) * -(-images // given.peer_batch)
        return PeerRun(self.folder / "run" / "weights" / "last.pt", steps, float(epochs[-1]["time"]))

    def predict(self, weights: Path, images: Path, side: int, given: argparse.Namespace) -> Path:
        """Detect in a folder of images, at most COCO's 100 each; gives the folder of text files."""
        self(
            "predict", f"model={weights}", f"source={images}", f"imgsz={side}", f"device={_device(given)}",
            "conf=0.001", "max_det=100", "save=False", "save_txt=True", "save_conf=True",
            f"project={self.folder}", "name=found", "exist_ok=True",
        )  # fmt: skip
        return self.folder / "found" / "labels"


def _device(given: argparse.Namespace) -> str:
    """The device as the peer names it."""
    return str(given.device).removeprefix("cuda:") if given.device != "cuda" else "0"


def coco_figures(
    detections: Sequence[Detections], ground_truths: Sequence[GroundTruth], classes: Classes
) -> tuple[float, float]:
    """AP and AP50 by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows, found_rows, images = [], [], []
    for index, (found, ground_truth) in enumerate(zip(detections, ground_truths, strict=True), start=1):
        images.append({"id": index, "height": found.size_hw[0], "width": found.size_hw[1]})
        for (x1, y1, x2, y2), label, ignore in zip(
            ground_truth.boxes.tolist(), ground_truth.labels.tolist(), ground_truth.ignore.tolist(), strict=True
        ):
            row = {"id": len(rows) + 1, "image_id": index, "category_id": label, "iscrowd": int(ignore)}
            rows.append(row | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
        for (x1, y1, x2, y2), label, score in zip(
            found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
        ):
            box = [x1, y1, x2 - x1, y2 - y1]
            found_rows.append({"image_id": index, "category_id": label, "bbox": box, "score": score})
    if not found_rows:
        return 0.0, 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        table = COCO()
        categories = [{"id": label, "name": name} for label, name in enumerate(classes.names)]
        table.dataset = {"info": {}, "images": images, "annotations": rows, "categories": categories}
        table.createIndex()
        evaluation = COCOeval(table, table.loadRes(found_rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def compare(name: str, given: argparse.Namespace) -> list[Measurement]:
    """Train and measure both on one dataset."""
    case, data = CASES[name], given.data / name
    folder = free_folder(given.runs / f"yolo-{name}")
    yolo = Yolo(given.yolo, folder)  # before minutes of training
    dataset = open_folder(data)
    wanted = {part: find_split(dataset, part) for part in (case.train, case.val, case.test)}
    splits = preflight(replace(dataset, splits=wanted)).dataset.splits
    overrides = [f"data.augment.vertical_flip={case.vertical_flip}", "validation.times=1", *given.overrides]
    rule = load_recipe(given.recipe, overrides).data.resize.rule()
    sizes = [record.stated_hw for record in splits[case.train].records if record.stated_hw]
    side = max(max(resize_plan(size, rule).size_hw) for size in sizes)
    side = given.peer_size or -(-side // GRAIN) * GRAIN

    run = train_ours(
        given.recipe, given.recipe, data, train_split=case.train, val_split=case.val, runs=given.runs,
        overrides=overrides, minutes=given.minutes, seed=given.seed, device=given.device,
    )  # fmt: skip
    evaluated = evaluate_checkpoint(run.last, data, case.test, device=given.device)
    ground_truths, classes = evaluated.ground_truths, evaluated.classes
    figures = coco_figures(evaluated.detections, ground_truths, classes)
    rows = [Measurement(f"{name}: boxwright {given.recipe}", *figures, run.steps, run.seconds)]
    print(rows[-1], flush=True)

    yaml = write_yolo_folder(
        folder / "data", {"train": splits[case.train], "val": splits[case.val], "test": splits[case.test]},
        dataset.classes,
    )  # fmt: skip
    peer = yolo.train(yaml, side, case.vertical_flip, given)
    labels = yolo.predict(peer.weights, folder / "data" / "images" / "test", side, given)
    found = read_yolo_results(labels, [one.size_hw for one in evaluated.detections], classes)
    figures = coco_figures(found, ground_truths, classes)
    rows.append(Measurement(f"{name}: Ultralytics {Path(given.network).stem}, {side}", *figures, *peer[1:]))
    print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against_yolo", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="DATASET", help=f"of {', '.join(CASES)}; all if none is given")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder of the datasets")
    parser.add_argument("--minutes", type=float, default=10.0, help="training time of each")
    parser.add_argument("--recipe", default="fcos-small", help="ours")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="of ours")
    parser.add_argument("--yolo", default="yolo", help="the peer's command")
    parser.add_argument("--network", default="yolo26n.yaml", help="the peer's network, built with random weights")
    parser.add_argument("--peer-batch", type=int, default=16, help="images a step of the peer (its own default)")
    parser.add_argument("--peer-size", type=int, help="side of the peer's images; ours' longer one if not given")
    parser.add_argument("--seed", type=int, default=0, help="of weights and images")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for both")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"), help="where run folders are made")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in CASES]
    if unknown:
        parser.error(f"no dataset {unknown[0]!r}; there are {', '.join(CASES)}")
    rows = [row for name in given.names or CASES for row in compare(name, given)]
    for start in range(0, len(rows), 2):
        print_measurements(rows[start : start + 2])


if __name__ == "__main__":
    main()
