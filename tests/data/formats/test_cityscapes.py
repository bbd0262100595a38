"""Cityscapes: exact objects from PNG files, the same from polygons, groups as ignore regions, and errors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.data.checks.preflight import preflight
from boxwright.data.formats.folder import open_folder
from boxwright.data.ground_truth import ground_truth_of
from boxwright.data.records import Split
from boxwright.structures import CroppedMask, GroundTruth

HW = (40, 60)
RECTANGLES = {"car": (10, 10, 30, 20), "persongroup": (40, 5, 55, 30), "truck": (2, 25, 12, 38)}


def corners(x1: int, y1: int, x2: int, y2: int) -> list[list[int]]:
    """A rectangle whose last pixels are x2 - 1 and y2 - 1: Cityscapes's polygons include their outline."""
    return [[x1, y1], [x2 - 1, y1], [x2 - 1, y2 - 1], [x1, y2 - 1]]


def polygon(label: str, *box: int, **fields: Any) -> dict[str, Any]:
    return {"label": label, "polygon": corners(*(box or RECTANGLES[label]))} | fields


def save(root: Path, name: str, objects: list[Any] | None, split: str = "train", city: str = "aachen") -> Path:
    """An image and its polygons; returns the annotation's path without `polygons.json`."""
    images, annotations = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
    for folder in (images, annotations):
        folder.mkdir(parents=True, exist_ok=True)
    colour = tuple(np.random.default_rng(list(f"{city}{name}".encode())).integers(0, 255, 3).tolist())
    Image.new("RGB", HW[::-1], colour).save(images / f"{name}_leftImg8bit.png")
    if objects is not None:
        content = {"imgHeight": HW[0], "imgWidth": HW[1], "objects": objects}
        (annotations / f"{name}_gtFine_polygons.json").write_text(json.dumps(content))
    return annotations / f"{name}_gtFine_"


def save_pixels(start: Path, values: dict[int, tuple[int, int, int, int]]) -> None:
    plane = np.full(HW, 7, dtype=np.uint16)
    for number, (x1, y1, x2, y2) in values.items():
        plane[y1:y2, x1:x2] = number
    Image.fromarray(plane).save(f"{start}instanceIds.png")


def first(split: Split) -> GroundTruth:
    return ground_truth_of(split.records[0], HW, masks=True)


def whole(ground_truth: GroundTruth) -> list[np.ndarray]:
    planes = []
    for mask in ground_truth.masks or ():
        plane = np.zeros(HW, dtype=bool)
        height, width = mask.bitmap.shape
        plane[mask.y : mask.y + height, mask.x : mask.x + width] = mask.bitmap.numpy()
        planes.append(plane)
    return planes


def test_objects_are_those_of_the_pixels(tmp_path: Path) -> None:
    start = save(tmp_path, "aachen_000000_000019", None)
    values = {26000: (10, 10, 30, 20), 26001: (25, 15, 28, 18), 24: (40, 5, 55, 30)}
    save_pixels(start, values | {29000: (0, 30, 9, 40), 21: (0, 0, 9, 9)})  # a caravan and vegetation
    data = open_folder(tmp_path)
    assert (data.format, data.classes.ids) == ("cityscapes", (24, 25, 26, 27, 28, 31, 32, 33))
    record = data.splits["train"].records[0]
    assert (record.image_id, record.stated_hw, record.path.is_file()) == ("aachen_000000_000019", HW, True)
    truth = first(data.splits["train"])
    assert truth.boxes.tolist() == [[40, 5, 55, 30], [10, 10, 30, 20], [25, 15, 28, 18]]
    assert [data.classes.names[label] for label in truth.labels] == ["person", "car", "car"]
    assert truth.ignore.tolist() == [True, False, False]  # the group
    assert [int(plane.sum()) for plane in whole(truth)] == [15 * 25, 20 * 10 - 9, 9]  # one car hides part of another
    assert [item.area for item in record.annotations] == [15 * 25, 20 * 10 - 9, 9]


def test_polygons_and_pixels_give_the_same(tmp_path: Path) -> None:
    objects = [polygon("car"), polygon("persongroup"), polygon("truck"), polygon("out of roi", 0, 0, 60, 12)]
    start = save(tmp_path / "polygons", "a_1_2", objects)
    painted = first(open_folder(tmp_path / "polygons").splits["train"])
    assert not start.with_name(f"{start.name}instanceIds.png").exists()
    pixels = {26000: (10, 10, 30, 20), 24: (40, 5, 55, 30), 27000: (2, 25, 12, 38), 3: (0, 0, 60, 12)}
    save_pixels(save(tmp_path / "pixels", "a_1_2", None), pixels)
    stored = first(open_folder(tmp_path / "pixels").splits["train"])
    assert painted.boxes.tolist() == stored.boxes.tolist() == [[40, 12, 55, 30], [10, 12, 30, 20], [2, 25, 12, 38]]
    assert painted.ignore.tolist() == stored.ignore.tolist() == [True, False, False]
    assert all((one == other).all() for one, other in zip(whole(painted), whole(stored), strict=True))


def test_void_pixels_are_those_of_labels_that_are_not_evaluated(tmp_path: Path) -> None:
    start = save(tmp_path, "a_1_2", None)
    save_pixels(
        start,
        {26000: (10, 10, 30, 20), 3: (0, 0, 60, 5), 10: (0, 30, 10, 40), 29000: (20, 30, 30, 40), 24: (50, 30, 60, 40)},
    )
    void = CroppedMask.decoded(open_folder(tmp_path).splits["train"].records[0].void, HW)
    expected = np.zeros(HW, dtype=bool)
    expected[:5] = expected[30:40, :10] = True
    plane = torch.zeros(HW, dtype=torch.bool)
    void.draw(plane)
    assert (plane.numpy() == expected).all()


def test_later_polygons_cover_earlier_ones_and_a_covered_object_is_none(tmp_path: Path) -> None:
    objects = [
        polygon("car"),
        polygon("truck", 20, 10, 30, 20),
        polygon("person", 50, 2, 54, 6),
        polygon("building", 48, 0, 60, 9),
        polygon("bus", 0, 0, 5, 5, deleted=1),
        polygon("license plate", 12, 12, 14, 14),
    ]
    save(tmp_path, "a_1_2", objects)
    split = open_folder(tmp_path).splits["train"]
    assert first(split).boxes.tolist() == [[10, 10, 20, 20], [20, 10, 30, 20]]
    assert not split.problems


def test_cities_splits_and_preflight(tmp_path: Path) -> None:
    save(tmp_path, "aachen_0_1", [polygon("car")])
    save(tmp_path, "bochum_0_1", [polygon("truck")], city="bochum")
    save(tmp_path, "ulm_0_1", [polygon("car")], split="val", city="ulm")
    save(tmp_path, "bonn_0_1", [polygon("out of roi", 0, 0, 60, 2)], split="test", city="bonn")
    data = open_folder(tmp_path)
    assert {name: [record.image_id for record in split.records] for name, split in data.splits.items()} == {
        "train": ["aachen_0_1", "bochum_0_1"],
        "val": ["ulm_0_1"],
    }
    assert data.notes == ("split test is left out: its labels are withheld (1 image without an object)",)
    report = preflight(data, check_masks=True, check_pixels=True, need_masks=True)
    assert not [finding for finding in report.findings if finding.severity != "note"]


def test_a_selection_of_classes(tmp_path: Path) -> None:
    save(tmp_path, "a_1_2", [polygon("car"), polygon("truck"), polygon("persongroup")])
    data = open_folder(tmp_path, "truck+car=vehicle")
    assert data.classes.ids == (27,)
    assert first(data.splits["train"]).labels.tolist() == [0, 0]
    named = open_folder(tmp_path, class_names=["truck", "person"])
    assert first(named.splits["train"]).labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match="Cityscapes has no objects called 'road'; it has person, rider"):
        open_folder(tmp_path, class_names=["road"])


@pytest.mark.parametrize(
    ("objects", "sentence"),
    [
        ([{"polygon": corners(1, 1, 5, 5)}], "it has no \"label\": {'polygon'"),
        ([polygon("zebra", 1, 1, 5, 5)], "the label 'zebra' is none of Cityscapes's (person, rider"),
        (
            [{"label": "bus", "polygon": [[1, 1], [2, 2]]}],
            'the "polygon" of the bus is not three or more points [x, y]',
        ),
        ([{"label": "bus", "polygon": [[1, 1], [2, 2], [3, "x"]]}], 'the "polygon" of the bus is not three or more'),
        ([{"label": "bus", "polygon": [[1, 1], [2, 2], [3, 1e9]]}], 'the "polygon" of the bus is not three or more'),
        ([7], 'it has no "label": 7'),
    ],
)
def test_a_bad_entry_is_reported_and_the_others_stay(tmp_path: Path, objects: list[Any], sentence: str) -> None:
    start = save(tmp_path, "a_1_2", [polygon("car"), *objects])
    split = open_folder(tmp_path).splits["train"]
    assert len(first(split)) == 1
    assert [problem.where for problem in split.problems] == [f"{start}polygons.json: entry 1 of objects"]
    assert split.problems[0].message.startswith(sentence)
    assert split.records[0].rejected == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "Expecting property name"),
        ("[]", 'expected a JSON object with "imgHeight"'),
        ('{"objects": []}', '"imgHeight" and "imgWidth" are None and None'),
        ('{"objects": [], "imgHeight": 1e9, "imgWidth": 3000}', '"imgHeight" and "imgWidth" are'),
    ],
)
def test_a_file_that_cannot_be_read_leaves_its_image_out(tmp_path: Path, text: str, sentence: str) -> None:
    save(tmp_path, "a_1_1", [polygon("car")])
    start = save(tmp_path, "a_1_2", [])
    Path(f"{start}polygons.json").write_text(text)
    split = open_folder(tmp_path).splits["train"]
    assert [record.image_id for record in split.records] == ["a_1_1"]
    assert (split.problems[0].kind, split.problems[0].where) == ("bad-annotation", f"{start}polygons.json")
    assert sentence in split.problems[0].message


def test_a_png_of_colours_and_a_broken_png_leave_their_images_out(tmp_path: Path) -> None:
    save(tmp_path, "a_1_1", [polygon("car")])
    Image.new("RGB", (60, 40)).save(f"{save(tmp_path, 'a_1_2', None)}instanceIds.png")
    Path(f"{save(tmp_path, 'a_1_3', None)}instanceIds.png").write_bytes(b"\x89PNG")
    split = open_folder(tmp_path).splits["train"]
    assert len(split) == 1
    assert [problem.kind for problem in split.problems] == ["bad-annotation"] * 2
    assert "is an image of mode RGB, where each pixel should hold the number of an object" in split.problems[0].message


def test_an_image_of_another_size_and_one_without_annotation_are_reported(tmp_path: Path) -> None:
    save(tmp_path, "a_1_1", [polygon("car")])
    save(tmp_path, "a_1_2", None)
    Image.new("RGB", (30, 40)).save(tmp_path / "leftImg8bit/train/aachen/a_1_1_leftImg8bit.png")
    report = preflight(open_folder(tmp_path), check_masks=True)
    messages = {finding.kind: finding.message for finding in report.findings}
    assert messages["image-without-annotation"] == "1 image without an annotation file: left out, such as a_1_2"
    assert any("30" in message and "60" in message for message in messages.values())
