"""Folders of semantic maps: images, PNG files of class numbers, and a file that names these."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.data.checks.preflight import preflight
from boxwright.data.formats.folder import open_folder
from boxwright.data.formats.semantic_folder import recognises_semantic
from boxwright.data.formats.semantic_names import read_names
from boxwright.data.semantic_maps import semantic_map_of
from boxwright.data.synthetic.shapes import ShapesConfig, draw_shapes, write_shapes

VALUES = np.array([[0, 1, 2, 255], [7, 1, 1, 0]], np.uint8)


def write(
    folder, images="images/train", labels="labels/train", names="sky\nroad\nwall\n", ending="", mode="L", stem="a"
):
    for place in (images, labels):
        (folder / place).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 2)).save(folder / images / f"{stem}.jpg")
    image = Image.fromarray(VALUES)
    if mode == "P":
        image = image.convert("P")
        image.putdata(VALUES.flatten().tolist())
        image.putpalette(list(range(255, -1, -1)) * 3)
    image.save(folder / labels / f"{stem}{ending}.png")
    if names is not None:
        (folder / "classes.txt").write_text(names)
    return folder


LAYOUTS = [
    ("images/train", "labels/train", ""), ("images/train", "masks/train", "_mask"), ("train/images", "train/masks", ""),
    ("images", "masks", ""), ("images/training", "annotations/training", ""), ("images/train/x", "labels/train/x", ""),
    ("train", "train", "_mask"),
]  # fmt: skip


@pytest.mark.parametrize(("images", "labels", "ending"), LAYOUTS, ids=lambda value: value or "same")
@pytest.mark.parametrize("mode", ["L", "P"])
def test_maps_are_found_beside_their_images_and_hold_the_values_of_classes(tmp_path, images, labels, ending, mode):
    data = open_folder(write(tmp_path, images, labels, ending=ending, mode=mode))
    assert (data.format, data.classes.names, data.classes.stuff) == ("semantic", (), ("sky", "road", "wall"))
    assert (data.classes.semantic_names, data.classes.stuff_ids) == (("sky", "road", "wall"), (0, 1, 2))
    (record,) = data.splits["train"].records
    assert record.image_id == ("x/a" if images.endswith("x") else "a")
    assert semantic_map_of(record, (2, 4)).tolist() == [[0, 1, 2, 255], [255, 1, 1, 0]]


NAMES = [
    ("classes.txt", "sky\nroad\n", {0: "sky", 1: "road"}),
    ("labels.txt", "0: sky\n7: road surface\n", {0: "sky", 7: "road surface"}),
    ("classes.txt", "# value name\n3 sky\n1\troad\n", {1: "road", 3: "sky"}),
    ("_classes.csv", "Pixel Value, Class\n0, sky\n255, none\n", {0: "sky", 255: "none"}),
    ("classes.json", json.dumps(["sky", "road"]), {0: "sky", 1: "road"}),
    ("classes.json", json.dumps({"0": "sky", "5": "road"}), {0: "sky", 5: "road"}),
    ("classes.json", json.dumps({"sky": 0, "road": 5}), {0: "sky", 5: "road"}),
]


@pytest.mark.parametrize(
    ("name", "text", "expected"), NAMES, ids=[f"{name}-{index}" for index, (name, *_) in enumerate(NAMES)]
)
def test_names_are_read_in_the_forms_that_occur(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert read_names([tmp_path]) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.txt", "", "it names no class"),
        ("classes.txt", "0 sky\n0 road", "the value 0 has two names, 'sky' and 'road'"),
        ("classes.json", "{", "not valid JSON"),
        ("classes.json", "3", "expected a list of names, or an object"),
        ("classes.json", '{"sky": "x"}', "expected values of pixels with a name each"),
        ("classes.txt", "sky\nsky", "the class name 'sky' occurs twice"),
        ("classes.txt", "void\nignore", "every class is called void"),
    ],
)
def test_names_that_cannot_be_understood_are_refused(tmp_path, name, text, message):
    write(tmp_path, names=None)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        open_folder(tmp_path)


def test_names_are_asked_for_and_those_of_nothing_are_no_class(tmp_path):
    with pytest.raises(ValueError, match=r"nothing names the classes of its semantic maps; write classes\.txt"):
        open_folder(write(tmp_path, names=None))
    assert open_folder(tmp_path, class_names=["a", "b"]).classes.stuff == ("a", "b")
    data = open_folder(write(tmp_path, names="Void\nroad\nwall\n"))
    assert (data.classes.stuff, data.classes.stuff_ids) == (("road", "wall"), (1, 2))
    assert semantic_map_of(data.splits["train"].records[0], (2, 4)).tolist()[0] == [255, 0, 1, 255]
    assert preflight(data, check_maps=True).statistics["train"].pixels == {"road": 3, "wall": 1}


def test_values_without_a_class_are_told_once_with_their_number(tmp_path):
    write(tmp_path)
    write(tmp_path, stem="b")
    report = preflight(open_folder(tmp_path), check_maps=True)
    found = [finding for finding in report.findings if finding.kind == "unknown-label"]
    assert [finding.message for finding in found] == [
        "no class has the value 7: 1 pixel in 1 image of train are of no class",
        "no class has the value 7: 1 pixel in 1 image of val are of no class",
    ]
    assert found[0].where.endswith(".png")
    assert "empty-image" not in report.counts()


def test_an_image_without_a_map_or_with_a_useless_one_is_left_out_and_told(tmp_path):
    write(tmp_path)
    for stem in ("b", "c", "d"):
        Image.new("RGB", (4, 2)).save(tmp_path / "images" / "train" / f"{stem}.jpg")
    Image.new("L", (3, 2)).save(tmp_path / "labels" / "train" / "b.png")
    Image.new("RGB", (4, 2)).save(tmp_path / "labels" / "train" / "c.png")
    Image.new("L", (4, 2)).save(tmp_path / "labels" / "train" / "z.png")
    data = open_folder(tmp_path)
    split = next(split for split in data.splits.values() if split.problems)
    assert [problem.kind for problem in split.problems] == ["image-without-map", "map-without-image"]
    assert "1 image of train without a map: left out, d.jpg" in split.problems[0].message
    report = preflight(data, check_maps=True)
    messages = {finding.kind: finding.message for finding in report.findings}
    assert "has 3 x 2 pixels, its image 4 x 2; it is left out" in messages["map-size"]
    assert "each pixel should hold the number" in messages["bad-map"]
    assert [record.image_id for part in report.dataset.splits.values() for record in part.records] == ["a"]


def test_folders_of_other_formats_are_not_taken_for_maps(tmp_path):
    write(tmp_path, names=None)
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    assert not recognises_semantic(tmp_path)
    assert open_folder(tmp_path).format == "yolo"


def test_shapes_with_stuff_are_written_as_maps(tmp_path):
    config = ShapesConfig(size=64, num_classes=2, max_pixels=30, stuff=True)
    write_shapes(tmp_path / "s", 2, 1, "semantic", config)
    data = open_folder(tmp_path / "s")
    assert (data.format, data.classes.stuff) == ("semantic", ("things", "checks", "dots", "plain", "stripes"))
    for index, record in enumerate(data.splits["train"].records):
        assert torch.equal(semantic_map_of(record, (64, 64)), draw_shapes(config, 0, index)[1].semantic)
