"""DOTA folders: rows, headers, layouts, difficult objects, and what preflight says of bad corners; YOLO-OBB rows."""

import re

import pytest
import torch
from PIL import Image

from boxwright.data.checks.preflight import preflight
from boxwright.data.dataset import DetectionDataset
from boxwright.data.formats.folder import open_folder
from boxwright.ops.image import ResizeRule
from boxwright.ops.rotated import rotated_corners

HEADER = "imagesource:GoogleEarth\ngsd:0.146343590398\n"
SHIP = "10.0 20.0 30.0 20.0 30.0 28.0 10.0 28.0 ship 0\n"
TURNED = "40 10 54.1421 24.1421 47.0711 31.2132 32.9289 17.0711 large-vehicle 1\n"  # 20 x 10, its side w to lower right


def write(root, split, labels, *, size=(80, 60), by_split=False):
    images, texts = (
        (root / split / "images", root / split / "labelTxt")
        if by_split
        else (root / "images" / split, root / "labelTxt" / split)
    )
    for folder in (images, texts):
        folder.mkdir(parents=True, exist_ok=True)
    for index, (name, text) in enumerate(labels.items()):
        Image.new("RGB", size, (index, len(split), 0)).save(images / f"{name}.png")
        if text is not None:
            (texts / f"{name}.txt").write_text(text)
    return root


@pytest.mark.parametrize("by_split", [True, False])
def test_both_layouts_are_read_with_their_splits_and_sorted_classes(tmp_path, by_split):
    write(tmp_path, "train", {"P1": HEADER + SHIP + TURNED, "P2": HEADER}, by_split=by_split)
    write(tmp_path, "val", {"P3": SHIP}, by_split=by_split)
    data = open_folder(tmp_path)
    assert (data.format, data.classes.names, data.classes.ids) == ("dota", ("large-vehicle", "ship"), (1, 2))
    assert [len(split) for split in data.splits.values()] == [2, 1]
    assert data.notes == ()
    ship, vehicle = data.splits["train"].records[0].annotations
    assert (ship.box, ship.rotated, ship.ignore) == ((10, 20, 30, 28), (20, 24, 20, 8, 0), False)
    assert vehicle.rotated == pytest.approx((43.5355, 20.6066, 20, 10, -45), abs=1e-3)
    assert vehicle.ignore
    assert vehicle.where.endswith("P1.txt:4")
    assert not data.splits["train"].records[1].annotations


def test_corners_come_back_from_the_ground_truth(tmp_path):
    write(tmp_path, "train", {"P1": TURNED, "P2": SHIP})
    data = open_folder(tmp_path)
    images = DetectionDataset(data.splits["train"], ResizeRule("none"), rotated=True, cache=False)
    corners = rotated_corners(next(images.base(i).objects for i in range(len(images))).rotated)[0]
    given = torch.tensor([float(word) for word in TURNED.split()[:8]]).reshape(4, 2)
    assert torch.cdist(corners, given).amin(1).max() < 1e-2


def test_one_pair_of_folders_is_trained_on_and_names_may_have_spaces_or_no_flag(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labelTxt-v1.5").mkdir()
    for name in "abc":
        Image.new("RGB", (80, 60), (ord(name), 0, 0)).save(tmp_path / "images" / f"{name}.png")
        (tmp_path / "labelTxt-v1.5" / f"{name}.txt").write_text(
            SHIP.replace("ship", "container crane") + SHIP.removesuffix(" 0\n")
        )
    data = open_folder(tmp_path)
    assert data.classes.names == ("container crane", "ship")
    assert set(data.splits) == {"train", "val"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1 2 3 4 ship 0", "6 values; expected x1 y1"),
        ("1 2 3 4 5 6 7 x ship 0", "'x' is not a number"),
        ("1 2 3 4 5 6 7 nan ship 0", "not a number|not finite"),
        ("1 2 3 4 5 6 7 8 ship easy", "difficult is 'easy'"),
    ],
)
def test_rows_that_cannot_be_read_are_findings_with_their_line(tmp_path, row, message):
    write(tmp_path, "train", {"P1": HEADER + SHIP + row + "\n", "P2": SHIP})
    (problem,) = open_folder(tmp_path).splits["train"].problems
    assert problem.kind == "bad-row"
    assert problem.where.endswith("P1.txt:4")
    assert re.search(message, problem.message)


def test_images_without_a_text_file_and_other_classes_are_findings(tmp_path):
    write(tmp_path, "train", {"P1": SHIP + TURNED, "P2": None, "P3": SHIP})
    kinds = [problem.kind for problem in open_folder(tmp_path, class_names=["ship"]).splits["train"].problems]
    assert kinds == ["unknown-class", "image-without-annotation"]


def test_a_folder_without_a_readable_row_says_which_is_the_first(tmp_path):
    write(tmp_path, "train", {"P1": "ship\n"})
    with pytest.raises(ValueError, match=r"no text file of labelTxt has a readable object; .*P1.txt:1: 1 value"):
        open_folder(tmp_path)


def test_preflight_names_flat_boxes_crossed_corners_and_what_lies_outside(tmp_path):
    flat = "10 10 20 20 40 40 30 30 ship 0\n"
    crossed = "10 20 30 20 10 28 30 28 ship 0\n"
    beyond = "60 40 100 40 100 50 60 50 ship 0\n"
    write(tmp_path, "train", {"P1": SHIP + flat + crossed + beyond, "P2": SHIP})
    report = preflight(open_folder(tmp_path))
    found = {problem.kind: problem for problem in report.findings}
    assert found["flat-rotated-box"].quarantined
    assert "lie on a line" in found["flat-rotated-box"].message
    assert "not in order" in found["not-a-rectangle"].message
    assert "what lies outside is not seen" in found["box-beyond-image"].message
    kept = [record for record in report.dataset.splits["train"].records if record.image_id == "P1"]
    kept += [record for record in report.dataset.splits["val"].records if record.image_id == "P1"]
    assert [item.box for item in kept[0].annotations][-1] == (60, 40, 80, 50)
    assert kept[0].annotations[-1].rotated == (80, 45, 40, 10, 0)
    assert len(kept[0].annotations) == 3


def test_yolo_rows_of_four_corners_are_rotated_boxes_and_polygons_of_other_numbers_are_not(tmp_path):
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        Image.new("RGB", (100, 50), (len(split), 0, 0)).save(tmp_path / "images" / split / "a.png")
        (tmp_path / "labels" / split / "a.txt").write_text("0 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6\n")
    (item,) = open_folder(tmp_path).splits["train"].records[0].annotations
    assert item.rotated == pytest.approx((30, 20, 40, 20, 0), abs=1e-4)
    assert item.segmentation
    with (tmp_path / "labels" / "val" / "a.txt").open("a") as more:
        more.write("0 0.1 0.2 0.5 0.2 0.5 0.6 0.3 0.7 0.1 0.6\n")
    assert open_folder(tmp_path).splits["train"].records[0].annotations[0].rotated is None
