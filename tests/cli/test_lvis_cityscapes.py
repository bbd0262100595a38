"""LVIS and Cityscapes through whole commands: trained on, evaluated by their rules, and refused with one sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boxwright.data.formats.folder import open_folder
from boxwright.data.ground_truth import ground_truth_of
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes

TINY = ("model.backbone=mobilenet_v3_small", "model.fpn.channels=16", "model.head.stem_channels=[16]",
        "model.mask.conv_channels=[8]", "model.mask.upsampled_channels=8", "data.batch_size=2", "schedule.steps=2",
        "validation.times=1", "data.resize.size=64", "detect.score_threshold=0.0001", "data.repeat_threshold=0.5",
        "detect.max_detections=300")  # fmt: skip


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ShapesConfig(size=64, num_classes=2, max_objects=3, min_pixels=16)
    return write_shapes(tmp_path_factory.mktemp("shapes") / "coco", 4, 3, "coco", config)


@pytest.fixture(scope="module")
def lvis(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shapes in LVIS's layout: their second class is searched for in every image, the first where it is."""
    root = tmp_path_factory.mktemp("lvis")
    for split in ("train", "val"):
        content = json.loads((shapes / "annotations" / f"instances_{split}.json").read_text())
        first, second = (row["id"] for row in content["categories"])
        for row, frequency in zip(content["categories"], "rf", strict=True):
            row["frequency"] = frequency
        record = {one.image_id: one.path for one in open_folder(shapes).splits[split].records}
        for row in content["images"]:
            shown = {one["category_id"] for one in content["annotations"] if one["image_id"] == row["id"]}
            folder = "train2017" if row["id"] % 2 else "val2017"
            (root / folder).mkdir(exist_ok=True)
            (root / folder / f"{split}{row['id']:012}.png").write_bytes(record[row["id"]].read_bytes())
            row["coco_url"] = f"http://images.cocodataset.org/{folder}/{split}{row['id']:012}.png"
            del row["file_name"]
            row |= {
                "neg_category_ids": sorted({second} - shown),
                "not_exhaustive_category_ids": sorted({first} & shown),
            }
        (root / f"lvis_v1_{split}.json").write_text(json.dumps(content))
    return root


def test_a_detector_is_trained_and_evaluated_on_lvis(boxwright: Callable[..., Any], lvis: Path) -> None:
    done = boxwright(
        "train", "fcos-mask-small", *TINY, "--data", lvis, "--device", "cpu", "--runs", ".", "--name", "run"
    )
    assert done.code == 0, done.err
    run = json.loads(Path("run/metrics.json").read_text())
    done = boxwright("evaluate", "run", "--data", lvis, "--metric", "lvis", "--json", "--save", "saved")
    assert done.code == 0, done.err
    figures = json.loads(done.out)
    assert figures["metric"] == "lvis"
    assert {"APr", "APc", "APf", "AR300", "segm_APr", "segm_AP"} <= set(figures)
    assert figures["APc"] is None  # no class is common
    assert run["AP"] == figures["AP"]  # what the run says of itself
    files = ("--ground-truth", lvis / "lvis_v1_val.json", "--detections", "saved/predictions.json")
    again = json.loads(boxwright("evaluate", *files, "--json").out)
    for key in ("AP", "APr", "APf", "segm_AP", "AR300"):
        assert again[key] == pytest.approx(figures[key], abs=1e-9), key
    assert "APr" in boxwright("evaluate", *files).out


def test_the_metric_of_lvis_is_refused_for_other_data(boxwright: Callable[..., Any], shapes: Path) -> None:
    file = shapes / "annotations" / "instances_val.json"
    rows = [row | {"score": 0.5} for row in json.loads(file.read_text())["annotations"]]
    Path("rows.json").write_text(json.dumps(rows))
    done = boxwright("evaluate", "--ground-truth", file, "--detections", "rows.json", "--metric", "lvis")
    done.refused("metric lvis is for LVIS data", "or use the metric coco")


@pytest.fixture(scope="module")
def cityscapes(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shapes in Cityscapes's layout as instance images: cars and buses, and a group in the corner."""
    root = tmp_path_factory.mktemp("cityscapes")
    for split in ("train", "val"):
        for record in open_folder(shapes).splits[split].records:
            image, annotations = (root / kind / split / "ulm" for kind in ("leftImg8bit", "gtFine"))
            for folder in (image, annotations):
                folder.mkdir(parents=True, exist_ok=True)
            name = f"ulm_{record.image_id:06}_000019"
            Image.open(record.path).save(image / f"{name}_leftImg8bit.png")
            plane = np.full((64, 64), 7, dtype=np.uint16)
            truth = ground_truth_of(record, (64, 64), masks=True)
            for number, (label, mask) in enumerate(zip(truth.labels.tolist(), truth.masks or (), strict=True)):
                height, width = mask.bitmap.shape
                part = plane[mask.y : mask.y + height, mask.x : mask.x + width]
                part[mask.bitmap.numpy()] = (26, 28)[label] * 1000 + number
            plane[:4, :4] = 24
            Image.fromarray(plane).save(annotations / f"{name}_gtFine_instanceIds.png")
    return root


def test_detections_are_evaluated_by_the_definition_of_cityscapes(
    boxwright: Callable[..., Any], cityscapes: Path, shapes: Path
) -> None:
    data = open_folder(cityscapes)
    rows = [
        {"image_id": record.image_id, "category_id": data.classes.ids[item.label], "bbox": xywh(item.box), "score": 0.5,
         "segmentation": item.segmentation}
        for record in data.splits["val"].records for item in record.annotations
    ]  # fmt: skip
    Path("rows.json").write_text(json.dumps(rows))  # the groups too, which do not count
    files = ("evaluate", "--ground-truth", cityscapes, "--split", "val", "--detections", "rows.json")
    done = boxwright(*files, "--metric", "cityscapes", "--json")
    assert done.code == 0, done.err
    figures = json.loads(done.out)
    assert (figures["metric"], figures["AP"], figures["per_class"]["car"]) == ("cityscapes", 1, 1)
    assert figures["per_class"]["person"] is None
    assert (
        "AP 1.0000  AP50 1.0000 (masks, by Cityscapes's definition)"
        in boxwright(*files, "--metric", "cityscapes", "--limit", "1").out
    )
    boxwright(
        "evaluate", "--ground-truth", shapes / "annotations/instances_val.json", "--detections", "rows.json",
        "--metric", "cityscapes",
    ).refused("rows.json", "none of its")  # fmt: skip


def xywh(box: tuple[float, float, float, float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


@pytest.mark.slow
def test_a_detector_is_trained_and_evaluated_on_cityscapes(boxwright: Callable[..., Any], cityscapes: Path) -> None:
    seen = json.loads(boxwright("inspect", cityscapes, "--decode", "--json").out)
    assert "cityscapes" in json.dumps(seen)
    done = boxwright("train", "fcos-mask-small", *TINY, "--data", cityscapes, "--classes", "bus,car", "--device", "cpu",
                     "--runs", ".", "--name", "run")  # fmt: skip
    assert done.code == 0, done.err
    done = boxwright("evaluate", "run", "--data", cityscapes, "--classes", "bus,car", "--json", "--save", "saved")
    assert done.code == 0, done.err
    assert json.loads(done.out)["segm_AP"] is not None
    done = boxwright(
        "evaluate", "run", "--data", cityscapes, "--classes", "bus,car", "--metric", "cityscapes", "--json"
    )
    assert json.loads(done.out)["metric"] == "cityscapes"
    rows = json.loads(Path("saved/predictions.json").read_text())
    assert {row["category_id"] for row in rows} <= {26, 28}  # the ids of Cityscapes
    assert all(row["image_id"].startswith("ulm_") for row in rows)
