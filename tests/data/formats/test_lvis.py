"""LVIS: images named by their address in folders of either split, what is known of classes, and errors."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from boxwright.data.class_balance import repeat_factors
from boxwright.data.formats.coco import read_coco
from boxwright.data.formats.federated import image_name
from boxwright.data.formats.folder import open_folder
from boxwright.data.records import Federated

CATEGORIES = [
    {"id": 3, "name": "bat", "frequency": "r", "synset": "bat.n.01", "synonyms": ["bat"], "def": "a bat"},
    {"id": 7, "name": "cup", "frequency": "c"},
    {"id": 9, "name": "hat", "frequency": "f"},
]


def image(number: int, folder: str = "train2017", **fields: Any) -> dict[str, Any]:
    address = f"http://images.cocodataset.org/{folder}/{number:012}.jpg"
    row = {"id": number, "coco_url": address, "height": 40, "width": 60}
    return row | {"neg_category_ids": [], "not_exhaustive_category_ids": []} | fields


def thing(number: int, at: int, category: int = 3) -> dict[str, Any]:
    outline = [[5.0, 5.0, 25.0, 5.0, 25.0, 20.0, 5.0, 20.0]]
    return {"id": number, "image_id": at, "category_id": category, "bbox": [5.0, 5.0, 20.0, 15.0], "area": 300.0,
            "segmentation": outline}  # fmt: skip


def save(file: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]], **fields: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    # the order of the keys in the published files
    file.write_text(
        json.dumps({"info": {}, "annotations": annotations, "images": images, "categories": CATEGORIES} | fields)
    )
    return file


def save_images(folder: Path, *numbers: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.new("RGB", (60, 40)).save(folder / f"{number:012}.jpg")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder in LVIS's layout: validation images come from both folders of COCO."""
    save_images(tmp_path / "train2017", 1, 2, 3)
    save_images(tmp_path / "val2017", 4)
    save(
        tmp_path / "lvis_v1_train.json",
        [image(1, neg_category_ids=[7], not_exhaustive_category_ids=[3]), image(2)],
        [thing(1, 1), thing(2, 2, 9)],
    )
    save(tmp_path / "lvis_v1_val.json", [image(3), image(4, "val2017", neg_category_ids=[9])], [thing(1, 4)])
    return tmp_path


def test_both_splits_are_read_with_what_is_known_of_their_classes(root: Path) -> None:
    data = open_folder(root)
    assert (data.format, data.classes.names, data.classes.ids) == ("lvis", ("bat", "cup", "hat"), (3, 7, 9))
    train, val = data.splits["train"], data.splits["val"]
    assert train.frequencies == val.frequencies == ("r", "c", "f")
    assert train.records[0].federated == Federated(frozenset({1}), frozenset({0}))
    assert [record.federated for record in val.records] == [Federated(), Federated(frozenset({2}))]
    assert [record.path.relative_to(root).as_posix() for record in val.records] == [
        "train2017/000000000003.jpg",
        "val2017/000000000004.jpg",
    ]
    assert not train.problems
    assert train.records[0].annotations[0].segmentation == [[5.0, 5.0, 25.0, 5.0, 25.0, 20.0, 5.0, 20.0]]


@pytest.mark.parametrize(("where", "images"), [("lvis", "coco"), ("annotations", "images"), (".", "images")])
def test_annotations_and_images_may_lie_in_folders_of_their_own(tmp_path: Path, where: str, images: str) -> None:
    save_images(tmp_path / images / "train2017", 1, 2)
    file = save(tmp_path / where / "lvis_v1_train.json", [image(1), image(2)], [thing(1, 1)])
    for path in (tmp_path, file):
        data = open_folder(path)
        assert data.format == "lvis"
        assert all(record.path.is_file() for split in data.splits.values() for record in split.records)


def test_a_folder_with_files_of_coco_too_is_read_as_lvis_and_says_so(root: Path) -> None:
    save(root / "annotations" / "instances_val2017.json", [image(4, file_name="000000000004.jpg")], [thing(1, 4)])
    data = open_folder(root)
    assert data.format == "lvis"
    assert any("it is read as lvis (also found: coco)" in note for note in data.notes)


def test_a_coco_file_with_the_fields_of_lvis_is_federated_whatever_its_name(root: Path) -> None:
    file = (root / "lvis_v1_train.json").rename(root / "mine_train.json")
    split = read_coco(file).splits["train"]
    assert (split.frequencies, split.records[0].federated) == (
        ("r", "c", "f"),
        Federated(frozenset({1}), frozenset({0})),
    )


def test_a_selection_of_classes_keeps_what_is_known_of_them(root: Path) -> None:
    train = open_folder(root, "hat,bat+cup=thing").splits["train"]
    assert train.frequencies == ("f", "c")
    assert train.records[0].federated == Federated(frozenset(), frozenset({1}))  # bats are there, and not all
    alone = open_folder(root, "cup,bat").splits["train"]
    assert alone.records[0].federated == Federated(frozenset({0}), frozenset({1}))


def test_images_of_rare_classes_are_repeated(root: Path) -> None:
    train = open_folder(root).splits["train"]
    assert repeat_factors(train.records, 1.0) == pytest.approx([2**0.5, 2**0.5])


def test_the_name_of_an_image_is_the_end_of_its_address() -> None:
    assert image_name({"coco_url": "http://a.org/val2017/1.jpg?x=1", "file_name": ""}) == "val2017/1.jpg"
    assert image_name({"file_name": "b.jpg", "coco_url": "http://a.org/val2017/1.jpg"}) == "b.jpg"
    assert [image_name(row) for row in ({}, {"coco_url": 3}, {"coco_url": "http://[x"})] == ["", "", ""]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"neg_category_ids": 7}, '"neg_category_ids" is 7, expected a list of category ids'),
        ({"not_exhaustive_category_ids": [3, 99]}, '"not_exhaustive_category_ids" has ids that no category has: 99'),
    ],
)
def test_a_bad_list_of_classes_is_reported_and_the_image_stays(
    tmp_path: Path, fields: dict[str, Any], sentence: str
) -> None:
    save_images(tmp_path / "train2017", 1)
    file = save(tmp_path / "lvis_v1_train.json", [image(1, **fields)], [thing(1, 1)])
    split = open_folder(file).splits["train"]
    assert len(split) == 1
    assert [problem.where for problem in split.problems] == [f"{file}: image id 1"]
    assert split.problems[0].message == f"{sentence}; nothing is known of these classes in the image"


@pytest.mark.parametrize(
    ("frequency", "sentence"),
    [("x", "is 'x'"), (None, "is missing, and other categories have one")],
)
def test_a_bad_frequency_is_an_error_of_one_sentence(tmp_path: Path, frequency: str | None, sentence: str) -> None:
    rows = [CATEGORIES[0], {"id": 7, "name": "cup"} | ({"frequency": frequency} if frequency else {})]
    file = save(tmp_path / "lvis_v1_train.json", [image(1)], [thing(1, 1)], categories=rows)
    with pytest.raises(ValueError, match=f"\"frequency\" of category 'cup' \\(id 7\\) {sentence}; expected") as error:
        open_folder(file)
    assert str(file) in str(error.value)


def test_two_files_for_one_split_are_an_error(root: Path) -> None:
    save(root / "lvis_v1_train_norare.json", [image(1)], [thing(1, 1)])
    with pytest.raises(ValueError, match="both stand for train; give the file to use"):
        open_folder(root)


def test_an_image_without_a_name_is_reported(tmp_path: Path) -> None:
    save_images(tmp_path / "train2017", 1)
    nameless = {"id": 2, "coco_url": 5}
    file = save(tmp_path / "lvis_v1_train.json", [image(1), nameless], [thing(1, 1)])
    assert [problem.kind for problem in open_folder(file).splits["train"].problems] == ["bad-image"]
