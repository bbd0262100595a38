"""Validation: an image counts once in the mean losses, and a run's figures are those that `evaluate` prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.evaluation.loss_sums import LossSums
from boxwright.evaluation.summary import evaluate_detections
from boxwright.inference.evaluate import evaluate_checkpoint
from boxwright.training.run import train

SMALL = (
    "data.batch_size=2", "optim.reference_batch=2", "data.workers=0", "detect.max_detections=30",
    "detect.score_threshold=0.0",
    "schedule.warmup_steps=2", "schedule.steps=12", "ema_decay=0.9", "validation.times=3",
)  # fmt: skip
FCOS = ("model.fpn.channels=16", "model.head.stem_channels=[16]", "data.train_scales=[]")


def test_losses_are_means_over_images_and_not_over_batches() -> None:
    losses = LossSums([])
    losses.add({"box": torch.tensor(0.5)}, 3)
    losses.add({"box": torch.tensor(0.1)}, 1)
    assert losses.count == 4
    torch.testing.assert_close(losses.sums["box"], torch.tensor(3 * 0.5 + 0.1))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three shapes, so that batches are sorted and padded; the masks are the boxes."""
    folder = tmp_path_factory.mktemp("mixed") / "data"
    write_shapes(folder, 12, 9, "coco", ShapesConfig(size=96), 0)
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        for number, row in enumerate(content["images"]):
            row["width"], row["height"] = [(96, 96), (128, 100), (100, 150)][number % 3]
            (file,) = folder.rglob(Path(row["file_name"]).name)
            canvas = Image.new("RGB", (row["width"], row["height"]), (90, 90, 90))
            with Image.open(file) as image:
                canvas.paste(image)
            canvas.save(file)
        for row in content["annotations"]:
            x, y, w, h = row["bbox"]
            row["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        path.write_text(json.dumps(content), encoding="utf-8")
    return folder


def evaluated(result: Any, data: Path) -> dict[str, Any]:
    found = evaluate_checkpoint(result.last, data, "val", device="cpu")
    assert sum(map(len, found.detections)) > 20
    return evaluate_detections(found.detections, found.ground_truths, found.classes, areas=found.areas).figures


@pytest.mark.e2e
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recipe", ["fcos-shapes", "mask-rcnn-small"])
def test_a_runs_figures_are_those_of_its_checkpoint(tmp_path: Path, data: Path, recipe: str, precision: str) -> None:
    """Digit for digit: metrics.json, the returned figures and what `evaluate` finds with the last checkpoint."""
    small = FCOS if recipe == "fcos-shapes" else ("model.fpn.channels=32", "data.resize={mode: none}")
    result = train(
        recipe, data, overrides=[*SMALL, *small, f"precision={precision}"], runs=tmp_path / "runs", device="cpu"
    )
    expected = evaluated(result, data)
    result.metrics.pop("score_threshold")
    assert result.metrics == expected
    written = json.loads((result.folder / "metrics.json").read_text(encoding="utf-8"))
    assert {name: written[name] for name in expected} == json.loads(json.dumps(expected))
    row = json.loads((result.folder / "results.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert row["val/AP"] == expected["AP"]


@pytest.mark.e2e
def test_a_run_that_validates_on_some_images_reports_on_all(tmp_path: Path, data: Path) -> None:
    result = train(
        "fcos-shapes", data, overrides=[*SMALL, *FCOS, "validation.max_images=2", "validation.times=1"],
        runs=tmp_path / "runs", device="cpu",
    )  # fmt: skip
    result.metrics.pop("score_threshold")
    assert result.metrics == evaluated(result, data)
