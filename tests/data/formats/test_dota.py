"""DOTA text files: corners become rotated boxes, headers are skipped, and what cannot be used is told."""

import pytest
import torch
from PIL import Image

from boxwright.data.checks.preflight import preflight
from boxwright.data.dataset import DetectionDataset
from boxwright.data.formats.folder import open_folder
from boxwright.data.synthetic.shapes import ShapesConfig, draw_shapes, write_shapes
from boxwright.ops.image import ResizeRule
from boxwright.ops.rotated import rotated_hull
from boxwright.ops.rotated_iou import rotated_iou

HEADER = "imagesource:GoogleEarth\ngsd:0.146\n"
SHIP = "10.0 20.0 30.0 20.0 30.0 28.0 10.0 28.0 ship 0"
PLANE = "40 10 50 20 40 30 30 20 plane 1"


def folder_with(root, texts, *, inside="train/images", labels="train/labelTxt"):
    (root / inside).mkdir(parents=True)
    (root / labels).mkdir(parents=True)
    for name, text in texts.items():
        shade = sum(map(ord, name)) % 256
        Image.new("RGB", (80, 60), (shade, 0, 0)).save(root / inside / f"{name}.png")
        if text is not None:
            (root / labels / f"{name}.txt").write_text(text)
    return root


@pytest.mark.parametrize(
    ("inside", "labels"),
    [("train/images", "train/labelTxt"), ("images/train", "labelTxt/train"), ("images", "labelTxt"),
     ("train/images", "train/labelTxt-v1.5/labelTxt")],
)  # fmt: skip
def test_corners_are_read_as_rotated_boxes_in_every_layout(tmp_path, inside, labels):
    folder_with(tmp_path, {"a": f"{HEADER}{SHIP}\n{PLANE}\n", "b": HEADER}, inside=inside, labels=labels)
    data = open_folder(tmp_path)
    assert (data.format, data.classes.names) == ("dota", ("plane", "ship"))
    records = {record.image_id: record for split in data.splits.values() for record in split.records}
    ship, plane = records["a"].annotations
    assert ship.rotated == pytest.approx((20, 24, 20, 8, 0))
    assert ship.box == pytest.approx((10, 20, 30, 28))
    assert ship.where.endswith("a.txt:3")
    assert not ship.ignore
    assert plane.ignore
    assert plane.box == pytest.approx((30, 10, 50, 30))
    assert plane.rotated[2:4] == pytest.approx((200**0.5, 200**0.5))
    assert not records["b"].annotations


def test_lines_and_images_that_cannot_be_used_are_told(tmp_path):
    folder_with(tmp_path, {
        "a": f"{SHIP}\n1 2 3 ship 0\n1 2 3 4 5 6 7 x ship 0\n5 5 9 5 9 5 5 5 ship 0\n", "b": None, "c": SHIP,
    })  # fmt: skip
    (tmp_path / "train/labelTxt/alone.txt").write_text(SHIP)
    report = preflight(open_folder(tmp_path))
    kinds = report.counts()
    assert kinds["bad-row"] == 2
    assert kinds["zero-area-box"] == 1
    assert kinds["image-without-labels"] == kinds["labels-without-image"] == 1
    row = next(finding for finding in report.findings if finding.kind == "bad-row")
    assert "expected x1 y1 x2 y2 x3 y3 x4 y4 class difficult" in row.message


def test_corners_out_of_order_and_boxes_that_reach_out_of_their_image_are_told_and_kept(tmp_path):
    crossed, beyond = "10 20 30 20 10 28 30 28 ship 0", "60 40 100 40 100 50 60 50 ship 0"
    skewed = "10 10 30 12 30 24 10 20 ship 0"  # nearly a rectangle
    folder_with(tmp_path, {"a": f"{crossed}\n{beyond}\n{skewed}\n", "b": SHIP})
    report = preflight(open_folder(tmp_path), check_masks=True)
    found = {finding.kind: finding for finding in report.findings}
    assert set(found) >= {"not-a-rectangle", "box-beyond-image"}
    assert "mask-beyond-image" not in found  # corners are no mask of another version of the image
    assert report.counts()["not-a-rectangle"] == 1
    assert "not in order: their outline fills 0% of the smallest rectangle" in found["not-a-rectangle"].message
    assert "what lies outside is not seen" in found["box-beyond-image"].message
    records = {record.image_id: record for split in report.dataset.splits.values() for record in split.records}
    assert [item.box for item in records["a"].annotations][1] == (60, 40, 80, 50)
    assert records["a"].annotations[1].rotated == (80, 45, 40, 10, 0)
    assert len(records["a"].annotations) == 3


def test_objects_of_one_hull_and_two_angles_are_no_duplicates(tmp_path):
    one, other = "20 10 40 30 36 34 16 14 ship 0", "36 10 40 14 20 34 16 30 ship 0"  # mirror images
    folder_with(tmp_path, {"a": f"{one}\n{other}\n{one}\n", "b": SHIP})
    assert preflight(open_folder(tmp_path)).counts()["duplicate-object"] == 1


def test_the_corners_are_an_outline_for_models_with_masks(tmp_path):
    folder_with(tmp_path, {"a": PLANE, "b": SHIP})
    split = open_folder(tmp_path).splits["train"]
    images = DetectionDataset(split, ResizeRule("none"), masks=True, cache=False)
    areas = {int(mask.bitmap.sum()) for index in range(len(images)) for mask in images.base(index).objects.masks}
    assert areas <= {160, *range(180, 221)}


def test_a_folder_without_an_object_says_what_a_line_is(tmp_path):
    folder_with(tmp_path, {"a": HEADER})
    with pytest.raises(ValueError, match="no line of labelTxt/ has an object"):
        open_folder(tmp_path)


class TestShapes:
    """The synthetic images with rotated objects."""

    def test_they_come_back_from_their_files(self, tmp_path):
        config = ShapesConfig(size=96, max_objects=4, max_pixels=50, rotated=True)
        write_shapes(tmp_path / "dota", 3, 1, "dota", config, seed=3)
        data = open_folder(tmp_path / "dota")
        assert set(data.splits) == {"train", "val"}
        images = DetectionDataset(data.splits["train"], ResizeRule("none"), rotated=True, cache=False)
        for index in range(3):
            _, drawn = draw_shapes(config, 3, index)
            read = images.base(index).objects
            names = [config.classes.names[label] for label in drawn.labels]
            assert names == [data.classes.names[label] for label in read.labels]
            assert rotated_iou(read.rotated, drawn.rotated).diagonal().min() > 0.99

    def test_boxes_are_around_the_pixels_of_their_objects(self):
        config = ShapesConfig(size=128, min_objects=1, max_objects=1, max_pixels=80, rotated=True, difficulty="easy")
        for index in range(6):
            _, one = draw_shapes(config, 0, index)
            mask = one.mask(0)
            rows, columns = mask.bitmap.nonzero().unbind(1)
            points = torch.stack([columns + mask.x, rows + mask.y], 1) + 0.5
            cx, cy, width, height, angle = one.rotated[0].tolist()
            cos, sin = torch.deg2rad(torch.tensor(angle)).cos(), torch.deg2rad(torch.tensor(angle)).sin()
            along = ((points[:, 0] - cx) * cos - (points[:, 1] - cy) * sin).abs().max()
            across = ((points[:, 0] - cx) * sin + (points[:, 1] - cy) * cos).abs().max()
            assert along <= width / 2 + 1
            assert across <= height / 2 + 1
            assert torch.allclose(one.boxes, rotated_hull(one.rotated).clamp(0, 128))

    def test_other_layouts_have_no_rotated_boxes(self, tmp_path):
        with pytest.raises(ValueError, match="dota has rotated boxes, no other does"):
            write_shapes(tmp_path / "a", 1, 0, "voc", ShapesConfig(rotated=True))
