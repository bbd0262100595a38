"""Validation: an image counts once in the mean losses, and a run's figures are those that `evaluate` prints."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from boxwright.data.dataset import DetectionDataset
from boxwright.data.records import Record, Split
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.evaluation.detect_split import SplitDetections, with_ground_truth
from boxwright.evaluation.loss_sums import LossSums
from boxwright.evaluation.summary import evaluate_detections
from boxwright.inference.evaluate import evaluate_checkpoint
from boxwright.ops.image import ResizeRule
from boxwright.structures import Classes, Detections
from boxwright.training import report
from boxwright.training.run import train

pytestmark = pytest.mark.usefixtures("without_charts")

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
@pytest.mark.parametrize(
    ("recipe", "precision"),
    [
        ("fcos-shapes", "bf16"),
        ("mask-rcnn-small", "fp32"),
        pytest.param("mask-rcnn-small", "bf16", marks=pytest.mark.slow),
    ],
)
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


def test_sheets_show_each_image_with_its_own_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is evaluated is ordered by image id, which need not be the order of the files."""
    records, classes = [], Classes.named(["a"])
    for number, image_id in enumerate((30, 10, 20)):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (20 + number, 20), (number, 0, 0)).save(path)
        records.append(Record(path, image_id, None, (), str(path)))
    images = DetectionDataset(Split("val", tuple(records), classes), ResizeRule("none"))
    box = torch.tensor([[0.0, 0.0, 5.0, 5.0]])
    found = SplitDetections({
        number: Detections(box, torch.ones(1), torch.zeros(1).long(), (20, 20 + number)) for number in range(3)
    })  # fmt: skip
    inputs = with_ground_truth(found, images, classes)
    assert inputs.image_ids == [10, 20, 30]
    shown: list[Any] = []
    monkeypatch.setattr(report, "save_batch", lambda pixels, found, *_, **__: shown.append((pixels, found)))
    result = SimpleNamespace(inputs=inputs)
    report.draw_validation(images, result, classes, 0.3, tmp_path)
    (pixels, _), (_, detections) = shown
    assert [int(one[0, 0, 0]) for one in pixels] == [1, 2, 0]
    assert [one.size_hw for one in detections] == [tuple(one.shape[1:]) for one in pixels]
