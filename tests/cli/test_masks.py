"""Masks through whole commands: trained from files, measured, written, read again; and data that has none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from whole_masks import decode_rle, rasterise_polygons

from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes

TINY = ("model.backbone=mobilenet_v3_small", "model.fpn.channels=16", "model.head.stem_channels=[16]",
        "model.mask.conv_channels=[8]", "model.mask.upsampled_channels=8", "data.batch_size=2", "schedule.steps=2",
        "validation.times=1", "data.resize.size=64", "detect.score_threshold=0.001")  # fmt: skip


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ShapesConfig(size=64, num_classes=2, max_objects=3, min_pixels=16)
    return write_shapes(tmp_path_factory.mktemp("shapes") / "coco", 4, 3, "coco", config)


@pytest.fixture(scope="module")
def checkpoint(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from boxwright import train

    return train("fcos-mask-small", shapes, overrides=TINY, runs=tmp_path_factory.mktemp("runs"), device="cpu").folder


def annotations(folder: Path) -> dict:
    return json.loads((folder / "annotations" / "instances_val.json").read_text())


def test_a_run_reports_mask_ap(checkpoint: Path) -> None:
    figures = json.loads((checkpoint / "metrics.json").read_text())
    assert {"AP", "AP50", "segm_AP", "segm_AP50", "segm_AP75"} <= set(figures)
    assert "val/segm_AP" in (checkpoint / "results.csv").read_text().splitlines()[0]
    assert "mask AP" in (checkpoint / "log.txt").read_text()


def test_evaluation_of_a_checkpoint_and_of_its_result_file_agree(boxwright, checkpoint: Path, shapes: Path) -> None:
    done = boxwright("evaluate", checkpoint, "--data", shapes, "--json", "--save", "saved")
    assert done.code == 0, done.err
    figures = json.loads(done.out)
    assert figures["segm_AP"] is not None
    again = boxwright(
        "evaluate", "--ground-truth", shapes / "annotations" / "instances_val.json", "--detections",
        "saved/predictions.json", "--json",
    )  # fmt: skip
    assert again.code == 0, again.err
    read = json.loads(again.out)
    for key in ("AP", "AP50", "segm_AP", "segm_AP50", "segm_APs", "segm_AR100"):
        assert read[key] == pytest.approx(figures[key], abs=1e-9), key
    table = boxwright("evaluate", checkpoint, "--data", shapes)
    assert "segm_AP50" in table.out


def test_true_masks_as_detections_are_perfect_and_turned_ones_are_not(boxwright, shapes: Path) -> None:
    content = annotations(shapes)
    rows = [{**row, "score": 0.9} for row in content["annotations"]]
    Path("right.json").write_text(json.dumps(rows))
    done = boxwright("evaluate", "--ground-truth", shapes / "annotations/instances_val.json", "--detections",
                      "right.json",
                     "--json")  # fmt: skip
    assert json.loads(done.out)["segm_AP"] == pytest.approx(1.0)
    for row in rows:
        mask = decode_rle(row["segmentation"]["counts"], (64, 64))
        row["segmentation"] = {"size": [64, 64], "counts": [int(mask.numel())]}
    Path("empty.json").write_text(json.dumps(rows))
    done = boxwright("evaluate", "--ground-truth", shapes / "annotations/instances_val.json", "--detections",
                      "empty.json",
                     "--json")  # fmt: skip
    figures = json.loads(done.out)
    assert figures["AP"] == pytest.approx(1.0)
    assert figures["segm_AP"] == 0


def test_predicted_masks_are_the_same_in_every_format(boxwright, checkpoint: Path, shapes: Path) -> None:
    images = sorted((shapes / "images").glob("val_*.jpg"))
    done = boxwright("predict", checkpoint, *images, "--score", 0, "--out", "out", "--json", "--coco", "--masks")
    assert done.code == 0, done.err
    polygons = boxwright("predict", checkpoint, *images, "--score", 0, "--out", "polygons", "--polygons")
    assert polygons.code == 0, polygons.err
    coded = json.loads(Path("out/detections.coco.json").read_text())
    drawn = json.loads(Path("polygons/detections.coco.json").read_text())
    listed = json.loads(Path("out/detections.json").read_text())
    assert len(coded) == len(drawn) == sum(map(len, listed.values())) > 0
    for one, other in zip(coded, drawn, strict=True):
        plane = decode_rle(one["segmentation"]["counts"], (64, 64))
        outline = other["segmentation"]
        assert torch.equal(plane, rasterise_polygons(outline, (64, 64)) if outline else torch.zeros(64, 64).bool())
    for image in images:
        planes = Image.open(Path("out/masks") / f"{image.stem}.png")
        pixels = np.array(planes)
        own = [row for row in coded if row["image_id"] == image.stem]
        best = decode_rle(own[0]["segmentation"]["counts"], (64, 64)).numpy()
        assert (pixels[best] == 1).all()  # the best detection lies on top
        covered = np.any([decode_rle(row["segmentation"]["counts"], (64, 64)).numpy() for row in own], axis=0)
        assert ((pixels > 0) == covered).all()
        assert listed[str(image)][0]["mask"] == own[0]["segmentation"]


def test_python_gives_whole_planes(checkpoint: Path, shapes: Path) -> None:
    from boxwright.inference.predictor import Detector

    detector = Detector.load(checkpoint, "cpu")
    (found,) = detector.predict(shapes / "images" / "val_000000.jpg", score=0.0)
    assert isinstance(found.masks, torch.Tensor)
    assert found.masks.shape == (len(found), 64, 64)
    assert found.masks.dtype == torch.bool


class TestBadInput:
    def train(self, boxwright, data: Path, *words: object):
        return boxwright("train", "fcos-mask-small", "--data", data, "--device", "cpu", *TINY, *words)

    def test_boxes_without_masks(self, boxwright, voc, tmp_path: Path) -> None:
        data = voc(tmp_path / "voc")
        self.train(boxwright, data).refused("fcos-mask-small learns masks", "none of the 4 objects", "p0.xml")

    def test_masks_of_another_size_cost_the_mask_and_are_named(self, boxwright, shapes: Path, tmp_path: Path) -> None:
        data = self.copy(shapes, tmp_path)
        file = data / "annotations" / "instances_train.json"
        content = json.loads(file.read_text())
        content["annotations"][0]["segmentation"] = {"size": [10, 10], "counts": [100]}
        content["annotations"][1]["segmentation"] = [[1, 2, 3, 4]]
        del content["annotations"][2]["segmentation"]
        file.write_text(json.dumps(content))
        done = self.train(boxwright, data, "--runs", tmp_path / "runs")
        assert done.code == 0, done.err
        log = next((tmp_path / "runs").glob("*/log.txt")).read_text()
        for number, words in ((1, "it is 10 x 10, the image 64 x 64"), (2, "three x, y pairs"), (3, "has no mask")):
            line = next(line for line in log.splitlines() if f"annotation id {number} " in line)
            assert words in line

    @pytest.mark.parametrize("counts", [[3], [64 * 64]], ids=["damaged", "empty"])
    def test_no_mask_that_can_be_used(self, boxwright, shapes: Path, tmp_path: Path, counts: list[int]) -> None:
        data = self.copy(shapes, tmp_path)
        file = data / "annotations" / "instances_train.json"
        content = json.loads(file.read_text())
        for row in content["annotations"]:
            row["segmentation"] = {"size": [64, 64], "counts": counts}
        file.write_text(json.dumps(content))
        self.train(boxwright, data).refused("none of the", "annotation id 1 ")

    def test_mask_output_of_a_box_detector(self, boxwright, shapes: Path, tmp_path: Path) -> None:
        from boxwright.checkpoint import Checkpoint, save_checkpoint
        from boxwright.recipes import load_recipe
        from boxwright.structures import Classes

        recipe = load_recipe("fcos-small", ["model.backbone=mobilenet_v3_small", "model.fpn.channels=16"])
        model = recipe.build_model(1)
        save_checkpoint(Checkpoint(recipe, Classes.named(["a"]), model.state_dict()), tmp_path / "box.pt")
        image = shapes / "images" / "val_000000.jpg"
        boxwright("predict", tmp_path / "box.pt", image, "--masks").refused(
            "predicts boxes and no masks", "--format masks"
        )

    def test_a_damaged_mask_in_a_result_file(self, boxwright, shapes: Path) -> None:
        row = annotations(shapes)["annotations"][0] | {"score": 0.5, "segmentation": {"size": [64, 64], "counts": "11"}}
        Path("bad.json").write_text(json.dumps([row]))
        done = boxwright(
            "evaluate", "--ground-truth", shapes / "annotations/instances_val.json", "--detections", "bad.json"
        )
        done.refused("bad.json: the mask of detection 0", "cannot be decoded")

    def copy(self, shapes: Path, tmp_path: Path) -> Path:
        import shutil

        return Path(shutil.copytree(shapes, tmp_path / "data"))
