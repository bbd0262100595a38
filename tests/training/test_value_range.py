"""Training on values of more than 8 bits: one range for the whole set, kept in the checkpoint for whoever uses it."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from boxwright.checkpoint import load_checkpoint
from boxwright.data.dataset import DetectionDataset
from boxwright.inference.evaluate import evaluate_checkpoint
from boxwright.inference.predictor import Detector
from boxwright.training.prepare import image_sets, open_checked
from boxwright.training.run import train

pytestmark = pytest.mark.usefixtures("without_charts")

SMALL = [
    "model.head.stem_channels=[16]",
    "model.fpn.channels=16",
    "data.resize.size=48",
    "data.batch_size=2",
    "data.workers=0",
    "schedule.steps=2",
    "validation.times=1",
    "precision=fp32",
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A YOLO folder of 16-bit images whose values lie from 51000 to 51900."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            values = 51_000 + rng.integers(0, 60, (48, 64))
            values[10:30, 10:30] += 840
            values[0, :8], values[-1, :8] = 51_000, 51_900
            image, label = (tmp_path / "data" / kind / split / f"{number}" for kind in ("images", "labels"))
            image.parent.mkdir(parents=True, exist_ok=True)
            label.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint16)).save(image.with_suffix(".png"))
            label.with_suffix(".txt").write_text("0 0.3125 0.41667 0.3125 0.41667\n")
    (tmp_path / "data" / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [hot]\n")
    return tmp_path / "data"


def test_the_range_of_the_training_images_is_said_kept_and_used(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train("fcos-small", data, overrides=SMALL, runs=tmp_path / "runs", device="cpu")
    printed = capsys.readouterr()
    assert "training scales 51000 to 51900 of all images to 0 to 255" in printed.out + printed.err
    assert load_checkpoint(result.last).recipe.data.value_range == (51_000, 51_900)
    arguments = yaml.safe_load((result.folder / "args.yaml").read_text())
    assert arguments["recipe"]["data"]["value_range"] == [51_000, 51_900]
    detector = Detector.load(result.last, "cpu", precision="fp32")
    assert detector.value_range == (51_000, 51_900)
    hotter = tmp_path / "hotter.png"  # an image of another range is scaled as those that were trained on
    values = np.array(Image.open(data / "images" / "train" / "0.png")) + np.uint16(400)
    Image.fromarray(values).save(hotter)
    levels = ((values.astype(float) - 51_000) / 900 * 255).round().clip(0, 255).astype(np.uint8)
    (found,), (expected,) = detector.predict(hotter, score=0), detector.predict(levels, score=0)
    assert torch.equal(found.scores, expected.scores)
    evaluated = evaluate_checkpoint(detector, data, "val", batch=1)
    assert len(evaluated.detections) == 2


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize(("setting", "low", "high"), [("auto", 51_000, 51_900), ("type", 0, 65_535)])
def test_what_is_trained_on_is_what_the_recipe_says(
    data: Path, cache: bool, setting: str, low: float, high: float
) -> None:
    from boxwright.recipes import load_recipe

    recipe = load_recipe("fcos-small", [*SMALL, f"data.value_range={setting}", f"data.cache={str(cache).lower()}",
                                        "data.resize.mode=none"])  # fmt: skip
    said: list[str] = []
    opened = open_checked(data, classes=None, train_split="train", val_split="val", overfit=None, recipe=recipe,
                          log=said.append)  # fmt: skip
    recipe = opened.settled(recipe)
    assert any("set data.value_range to image, or to [51000,51900]" in line for line in said) is (setting == "type")
    for images in image_sets(recipe, opened, augment=False)[:2]:
        assert isinstance(images, DetectionDataset)
        for index, record in enumerate(images.records):
            values = np.asarray(Image.open(record.path)).astype(float)
            expected = ((values - low) / (high - low) * 255).round().clip(0, 255).astype(np.uint8)
            assert (images.base(index).image[0].numpy() == expected).all()
            assert (images.original(index)[0].numpy() == expected).all()


@pytest.mark.parametrize("value", ["[5,5]", "[9,3]", "bits"])
def test_a_range_that_is_none_is_refused(value: str) -> None:
    from boxwright.recipes import load_recipe

    with pytest.raises(ValueError, match=r"value_range"):
        load_recipe("fcos-small", [f"data.value_range={value}"])
