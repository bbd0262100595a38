"""Unfinished runs of version 0.1 go on and end where its own code ended; a damaged one is refused in one sentence."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.training.run import train

pytestmark = pytest.mark.usefixtures("without_charts")

HERE = Path(__file__).parent / "v0_1"
EXPECTED: dict[str, Any] = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))
UNFINISHED = [name for name in EXPECTED["files"] if name.endswith("_unfinished.pt")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images that the runs began with, drawn anew."""
    folder = tmp_path_factory.mktemp("v0_1") / "data"
    about: dict[str, Any] = EXPECTED["data"]
    written = about["write_shapes"]
    config = ShapesConfig(**about["ShapesConfig"])
    write_shapes(folder, written["train"], written["val"], written["layout"], config, written["seed"])
    pixels = hashlib.sha256()
    for path in sorted((folder / "JPEGImages").iterdir()):
        pixels.update(np.asarray(Image.open(path)).tobytes())
    if pixels.hexdigest() != about["decoded_pixels_sha256"]:
        pytest.skip("this machine's JPEG library decodes other pixels than the recorded runs learned from")
    return folder


def run_folder(name: str, parent: Path) -> Path:
    """A run folder that holds an old checkpoint, and rows of results as version 0.1 wrote them."""
    run = parent / "old"
    (run / "weights").mkdir(parents=True)
    shutil.copy(HERE / name, run / "weights" / "last.pt")
    row = {"step": 60, "epoch": 30.0, "train/loss": 2.0, "train/centerness": 0.7, "train/centerness_floor": 0.6,
           "val/loss": 2.1, "val/centerness_floor": 0.59, "val/AP": 0.01, "val/AP50": 0.02, "val/AP75": 0.0,
           "lr": 0.01, "seconds": 5.0}  # fmt: skip
    (run / "results.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return run


def absolute_sum(tensors: Any) -> float:
    return float(sum(torch.as_tensor(tensor).double().abs().sum() for tensor in tensors))


def state_of(run: Path) -> dict[str, Any]:
    """What the last checkpoint of a run holds, in the numbers of `v0_1/make.py`, and the run's last row."""
    checkpoint = load_checkpoint(run / "weights" / "last.pt")
    training = checkpoint.training
    assert training is not None
    row = json.loads((run / "results.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    slots = [value for state in training["optimizer"]["state"].values() for value in state.values()]
    parts = EXPECTED["files"][UNFINISHED[0]]["resume"]["ends_at"]["of_parts"]
    return {
        "step": training["progress"]["step"],
        "finished": training["progress"]["finished"],
        "average_updates": training["average_updates"],
        "sum_of_absolute_weights": absolute_sum(checkpoint.weights.values()),
        "of_parts": {
            part: absolute_sum(value for name, value in checkpoint.weights.items() if name.startswith(f"{part}."))
            for part in parts
        },
        "sum_of_absolute_model": absolute_sum(training["model"].values()),
        "sum_of_absolute_optimizer_state": absolute_sum(slot for slot in slots if slot is not None),
        "row": {key: value for key, value in row.items() if key != "seconds"},
    }


@pytest.mark.e2e
@pytest.mark.parametrize("name", UNFINISHED)
def test_a_run_of_version_01_goes_on_and_ends_where_its_own_code_ended(name: str, data: Path, tmp_path: Path) -> None:
    """A lost optimizer state or average moves the sum of a part by 1e-4 to 6e-2, another processor by 1e-7."""
    run = run_folder(name, tmp_path)
    resumed = train(resume=run, data=data)
    assert resumed.finished
    expected, found = EXPECTED["files"][name]["resume"]["ends_at"], state_of(run)
    for key in ("row", "of_parts"):
        assert found.pop(key) == pytest.approx(expected[key], rel=1e-5, abs=1e-7), key
    assert found == pytest.approx({key: expected[key] for key in found}, rel=1e-5)
    with (run / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["60", "80"]
    assert [float(row["train/centerness_floor"]) > 0.5 for row in rows] == [True, True]


BROKEN: dict[str, Any] = {
    "no progress": lambda training: training.pop("progress"),
    "no model": lambda training: training.pop("model"),
    "no precision": lambda training: training.pop("precision"),
    "an unknown precision": lambda training: training.update(precision="fp7"),
    "no arguments": lambda training: training.pop("arguments"),
    "arguments without data": lambda training: training["arguments"].pop("data"),
    "a seed that is no number": lambda training: training["arguments"].update(seed="many"),
    "a step that is no number": lambda training: training["progress"].update(step="nine"),
    "progress without a length": lambda training: [training["progress"].pop(key, 0) for key in ("steps", "horizon")],
    "no optimizer": lambda training: training.pop("optimizer"),
    "an optimizer of other groups": lambda training: training["optimizer"].update(param_groups=[]),
    "an optimizer state of another shape": lambda training: training["optimizer"]["state"][0].update(
        {key: torch.zeros(3, 5, 7) for key in training["optimizer"]["state"][0]}
    ),
    "an average of another network": lambda training: training.update(average={"a": torch.zeros(1)}),
    "updates that are no number": lambda training: training.update(average_updates="x"),
    "weights of another shape": lambda training: training["model"].update(
        {key: value.new_zeros(2, 2, 2, 2, 2) for key, value in training["model"].items()}
    ),
}


@pytest.mark.e2e
@pytest.mark.parametrize("damage", BROKEN)
def test_a_damaged_state_of_training_is_one_sentence(damage: str, data: Path, tmp_path: Path) -> None:
    """Its checksums are right: another program wrote it so."""
    run = run_folder(UNFINISHED[0], tmp_path)
    last = run / "weights" / "last.pt"
    whole = load_checkpoint(last)
    assert whole.training is not None
    BROKEN[damage](whole.training)
    save_checkpoint(
        Checkpoint(whole.recipe, whole.classes, whole.weights, whole.score_threshold, whole.metrics, whole.training),
        last,
    )
    with pytest.raises(ValueError, match="state of its training is damaged or incomplete") as caught:
        train(resume=run, data=data)
    assert str(caught.value).startswith(f"{last}: ")
    assert str(caught.value).endswith(f"a new run can start from it with --weights {last}")
    assert "\n" not in str(caught.value)
