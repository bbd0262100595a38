"""Two gloo processes on one machine: the same losses, weights and figures as one process with twice the batch."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from typer.testing import CliRunner

from boxwright.checkpoint import load_checkpoint
from boxwright.cli.main import app
from boxwright.data.dataset import DetectionDataset
from boxwright.data.formats.folder import open_folder
from boxwright.data.inputs import PreparedImage
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.evaluation import detect_split
from boxwright.evaluation.loss_sums import LossSums
from boxwright.ops.image import ResizeRule
from boxwright.recipes import load_recipe
from boxwright.structures import Classes, Detections, DetectSettings, Targets
from boxwright.training.accelerator import choose_accelerator
from boxwright.training.validate import validate

pytestmark = pytest.mark.usefixtures("without_charts")

SETTINGS = [
    "schedule.steps=6", "schedule.warmup_steps=1", "validation.times=2", "validation.batch_size=2",
    "optim.reference_batch=4", "precision=fp32", "model.fpn.channels=16", "model.head.stem_channels=[16]",
    "model.backbone.norm=frozen_bn", "detect.max_detections=20", "data.workers=0", "ema_decay=0.5",
    # AdamW would turn the rounding of gradients that are zero in ground truth (a bias before a norm) into whole steps
    "optim.kind=sgd", "optim.lr=0.01",
]  # fmt: skip
LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    # without --multi_gpu, or with --cpu, accelerate starts one process, whatever --num_processes says
    "accelerate": ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
                   "--mixed_precision", "no", "--dynamo_backend", "no"],
}  # fmt: skip


def launched(*words: str | Path, timeout: float = 300) -> str:
    """Run Python with these words, one thread a process; gives what it said."""
    command = [sys.executable, *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stderr


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def training(folder: Path, name: str, batch: int) -> list[str | Path]:
    return [
        "-m", "boxwright", "train", "fcos-shapes", *SETTINGS, f"data.batch_size={batch}",
        "--data", folder / "data", "--runs", folder / "runs", "--name", name, "--device", "cpu",
    ]  # fmt: skip


def command(folder: Path, name: str, batch: int, *options: str) -> None:
    """The command in this process, and in those that it starts."""
    done = CliRunner().invoke(app, [*map(str, training(folder, name, batch)[2:]), *options])
    assert done.exit_code == 0, done.exception


def measurements(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process with the whole batch.

    Some images are emptied, so that now and then a whole rank has no box: nothing may hang.
    """
    folder = tmp_path_factory.mktemp("distributed")
    write_shapes(folder / "data", 12, 5, "coco", ShapesConfig(size=96), 0)
    ground_truth = folder / "data" / "annotations" / "instances_train.json"
    content = json.loads(ground_truth.read_text())
    empty = {image["id"] for image in content["images"][::2]}
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] not in empty]
    ground_truth.write_text(json.dumps(content))
    command(folder, "one", 4)
    return folder / "runs" / "one"


@pytest.mark.e2e
@pytest.mark.parametrize(  # torchrun starts the tests of validation and of buffers below
    "launcher", ["num_gpus", *(pytest.param(name, marks=pytest.mark.slow) for name in ("torchrun", "accelerate"))]
)
def test_two_processes_equal_one_with_twice_the_batch(
    one: Path, launcher: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, two = one.parents[1], one.with_name(launcher)
    if launcher == "num_gpus":
        command(folder, launcher, 2, "--num-gpus", "2")
        said = capfd.readouterr().err
    else:
        port = ["--main_process_port", free_port()] if launcher == "accelerate" else []
        said = launched(*LAUNCHERS[launcher], *port, *training(folder, launcher, 2))
    assert said.count("folder:") == 1  # only the main process talks
    assert [path.name for path in two.parent.iterdir() if path.name.startswith(f"{launcher}-")] == []
    assert_same_learning(one, two)


@pytest.mark.e2e
@pytest.mark.slow
def test_two_machines_equal_one_process_with_twice_the_batch(one: Path, tmp_path: Path) -> None:
    """Two launchers that meet at an address, each with a folder of its own: the second writes no run."""
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        shutil.copytree(one.parents[1] / "data", folder / "data")
    meeting = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", free_port()]
    with ThreadPoolExecutor(2) as machines:
        said = list(machines.map(
            lambda rank: launched(
                "-m", "torch.distributed.run", *meeting, "--node-rank", str(rank), *training(folders[rank], "two", 2)
            ), (0, 1),
        ))  # fmt: skip
    assert [text.count("folder:") for text in said] == [1, 0]
    assert not (folders[1] / "runs").exists()
    assert_same_learning(one, folders[0] / "runs" / "two")


def assert_same_learning(one: Path, two: Path) -> None:
    assert "on 2 x cpu, fp32, batch 4," in (two / "log.txt").read_text()  # the number of processes of the run itself
    first, second = (load_checkpoint(path / "weights" / "last.pt") for path in (one, two))
    for key, value in first.weights.items():
        # sums are taken in another order: float32 rounding, grown over six steps
        torch.testing.assert_close(second.weights[key], value, rtol=1e-3, atol=1e-5, msg=key)
    for row, expected in zip(measurements(two), measurements(one), strict=True):
        # losses of training and of validation alike; each is a mean over processes or over all images
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert expected["train/loss"] > 0.1


# ---- validation, shared out -----------------------------------------------------------------------------------------

WINDOW = 4
"""Images that a process looks at in a row."""


class Shifted:
    """Finds the objects at a distance that differs by image, with losses over the objects of a batch."""

    evaluation_batch = 2

    def __init__(self, classes: Classes) -> None:
        self.recipe = load_recipe("fcos-shapes")
        self.settings, self.classes = self.recipe.detect.settings(), classes

    def detect_prepared(
        self,
        held: Sequence[PreparedImage],
        settings: DetectSettings,
        batch: int,
        losses: LossSums,
        most: int | None,
    ) -> list[Detections]:
        found = []
        for one, ground_truth in zip(held, losses.ground_truths, strict=True):
            away = float(one.pixels.float().mean()) / 40  # pixels
            found.append(Detections(ground_truth.boxes + away, torch.linspace(0.9, 0.5, len(ground_truth)),
            ground_truth.labels,
                                    one.original_hw))  # fmt: skip
        for start in range(0, len(held), batch):
            targets = Targets.of(losses.ground_truths[start : start + batch])
            sides = (targets.boxes[..., 2:] - targets.boxes[..., :2])[targets.valid]
            losses.add({"box": sides.mean(), "object": 1 / targets.valid.sum()}, len(targets))
        return found


def validation_images(data: Path) -> DetectionDataset:
    """Not kept in memory, so that a process decodes no images but those of its share."""
    return DetectionDataset(open_folder(data).splits["val"], ResizeRule("none"), cache=False)


def validation(data: Path) -> dict[str, Any]:
    """What the processes of this run find together: losses, COCO figures, and how many they are."""
    accelerator, _ = choose_accelerator("cpu", "fp32")
    images, classes = validation_images(data), open_folder(data).classes
    detector, share = Shifted(classes), (accelerator.process_index, accelerator.num_processes)
    found = validate(cast(Any, detector), images, limit=9, share=share)
    return {"losses": found.inputs.losses, **found.figures(), "processes": accelerator.num_processes}


@pytest.fixture(scope="module")
def shared_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes found in images, and what they said of those where the second process meets a damaged one."""
    folder = tmp_path_factory.mktemp("shared_out")
    for name in ("whole", "damaged"):
        write_shapes(folder / name, 1, 10, "coco", ShapesConfig(size=96), 0)
    damaged = validation_images(folder / "damaged").records[5].path
    damaged.write_bytes(damaged.read_bytes()[:200])
    launched(*LAUNCHERS["torchrun"], Path(__file__), folder)
    return folder


@pytest.mark.e2e
def test_validation_that_is_shared_out_finds_the_same_figures(
    shared_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine images in windows of four and batches of two: the first and last window for one process, one for one."""
    monkeypatch.setattr(detect_split, "WINDOW", WINDOW)
    together, alone = json.loads((shared_out / "found.json").read_text()), validation(shared_out / "whole")
    assert (together.pop("processes"), alone.pop("processes")) == (2, 1)
    assert 0 < alone["AP"] < alone["AP50"] < 1
    assert together.pop("losses") == pytest.approx(alone.pop("losses"), rel=1e-6)
    assert together == alone


@pytest.mark.e2e
def test_a_damaged_image_of_one_process_ends_validation_in_all(shared_out: Path) -> None:
    """The second process meets it, in its only window; the first one must not wait for it for ever."""
    damaged = validation_images(shared_out / "damaged").records[5].path
    told = [(shared_out / f"error{rank}.txt").read_text() for rank in (0, 1)]
    assert told[0] == told[1]
    assert damaged.name in told[0]


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), os.environ["RANK"]
    detect_split.WINDOW = WINDOW
    found = validation(folder / "whole")
    if rank == "0":
        (folder / "found.json").write_text(json.dumps(found))
    try:
        validation(folder / "damaged")
    except ValueError as error:
        (folder / f"error{rank}.txt").write_text(str(error))
