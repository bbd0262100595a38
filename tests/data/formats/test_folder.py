"""Sniffing a folder, making a validation split that stays, and one sentence where nothing fits."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from boxwright.data.formats.folder import READERS, find_split, open_folder, with_validation
from boxwright.data.formats.listing import ImageFinder, split_name
from boxwright.data.records import Annotation, LabelledFolder, Record, Split
from boxwright.structures import Classes

SHARED = Path(__file__).resolve().parents[3] / "../shared/data"
XML = "<annotation><object><name>dog</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
XML += "</object></annotation>"


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the shared datasets do not lie beside this checkout")
    return SHARED


def save_images(folder: Path, *stems: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        Image.new("RGB", (20, 10)).save(folder / f"{stem}.jpg")


def save_voc(root: Path, stems: list[str]) -> None:
    save_images(root, *stems)
    for stem in stems:
        (root / f"{stem}.xml").write_text(XML)


def save_coco(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}
    images = [{"id": n, "file_name": f"{n}.jpg"} for n in range(30)]
    path.write_text(json.dumps({"images": images, "annotations": [row], "categories": [{"id": 1, "name": "dog"}]}))


def data_of(names: list[str], folder: str = "x") -> LabelledFolder:
    classes = Classes.named(["dog"])
    item = Annotation((0, 0, 5, 5), 0, "a")
    records = tuple(Record(Path(folder) / f"{name}.jpg", name, None, (item,), name) for name in names)
    return LabelledFolder(Path("."), "voc", classes, {"train": Split("train", records, classes)})


def ids(data: LabelledFolder, name: str) -> set[int | str]:
    return {record.image_id for record in data.splits[name].records}


def test_formats_are_recognised(tmp_path: Path) -> None:
    save_voc(tmp_path / "voc", ["a", "b"])
    save_coco(tmp_path / "coco" / "annotations" / "instances_train.json")
    save_images(tmp_path / "yolo", "a", "b")
    (tmp_path / "yolo" / "a.txt").write_text("0 .5 .5 .2 .2")
    assert {name: open_folder(tmp_path / name).format for name in ("voc", "coco", "yolo")} == {
        "voc": "voc",
        "coco": "coco",
        "yolo": "yolo",
    }
    assert [reader.name for reader in READERS] == [
        "lists",
        "voc",
        "cvat",
        "cityscapes",
        "lvis",
        "coco",
        "panoptic",
        "dota",
        "yolo",
        "semantic",
    ]


def test_a_file_may_be_given(tmp_path: Path) -> None:
    save_coco(tmp_path / "a.json")
    assert open_folder(str(tmp_path / "a.json")).format == "coco"
    save_images(tmp_path / "images", "a", "b")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 .5 .5 .2 .2")
    (tmp_path / "x.yaml").write_text("train: images\nnames: [dog]")
    assert open_folder(tmp_path / "x.yaml").classes.names == ("dog",)


def test_two_formats_in_one_folder_are_said(tmp_path: Path) -> None:
    save_voc(tmp_path, ["a", "b"])
    save_coco(tmp_path / "instances_train.json")
    data = open_folder(tmp_path)
    assert data.format == "voc"
    assert "fits several layouts; it is read as voc (also found: coco)" in data.notes[0]


def test_a_broken_yaml_matters_only_where_nothing_else_fits(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"compose\.yaml: this is not valid YAML"):
        open_folder(tmp_path)
    save_voc(tmp_path, ["a", "b"])
    assert open_folder(tmp_path).format == "voc"


def test_a_missing_validation_split_is_made_and_said(tmp_path: Path) -> None:
    save_voc(tmp_path, [f"p{n}" for n in range(40)])
    data = open_folder(tmp_path)
    assert list(data.splits) == ["train", "val"]
    assert ids(data, "train") | ids(data, "val") == {f"p{n}" for n in range(40)}
    assert not ids(data, "train") & ids(data, "val")
    assert 1 <= len(data.splits["val"]) <= 10
    assert f"{len(data.splits['val'])} of the 40 train images were set aside" in data.notes[0]
    assert with_validation(data) is data


@given(
    st.lists(st.text("abcdef0123456789", min_size=1, max_size=8), min_size=30, max_size=60, unique=True),
    st.lists(st.text("xyz", min_size=1, max_size=8), max_size=20, unique=True),
)
def test_no_image_changes_sides_when_others_are_added(names: list[str], more: list[str]) -> None:
    before, after = with_validation(data_of(names)), with_validation(data_of(names + more, folder="elsewhere"))
    share = ids(before, "val")
    # Where no name falls below the share one image is taken all the same: that one may change.
    if len(share) > 1:
        assert share <= ids(after, "val")
        assert ids(before, "train") <= ids(after, "train")


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=5, unique=True))
def test_both_sides_have_a_image(numbers: list[int]) -> None:
    data = with_validation(data_of([str(number) for number in numbers]))
    assert len(data.splits["train"]) >= 1
    assert len(data.splits["val"]) >= 1


def test_augmented_copies_stay_together() -> None:
    data = with_validation(data_of([f"p{n}_jpg.rf.{copy}" for n in range(50) for copy in "abc"]))
    sides = [{str(name).split(".rf.")[0] for name in ids(data, side)} for side in ("train", "val")]
    assert not sides[0] & sides[1]
    assert len(sides[1]) * 3 == len(data.splits["val"])


def test_train_and_val_are_made_of_trainval() -> None:
    data = data_of([f"p{n}" for n in range(30)])
    data.splits["trainval"] = data.splits.pop("train")
    data = with_validation(data)
    assert list(data.splits) == ["train", "val", "trainval"]
    assert len(data.splits["train"]) + len(data.splits["val"]) == 30


def test_a_single_image_and_a_test_split_alone_give_no_validation() -> None:
    data = with_validation(data_of(["a"]))
    assert list(data.splits) == ["train"]
    assert data.notes == ("one training image is too few to make a validation split",)
    data.splits["test"] = data.splits.pop("train")
    assert with_validation(data) is data


def test_a_split_by_name() -> None:
    data = with_validation(data_of([f"p{n}" for n in range(30)]))
    assert find_split(data, "valid") is data.splits["val"]
    with pytest.raises(ValueError, match=r"no split 'test'; it has train, val"):
        find_split(data, "test")


def test_classes_are_chosen_on_the_way(tmp_path: Path) -> None:
    save_voc(tmp_path, ["a", "b"])
    assert open_folder(tmp_path, classes="dog=hound").classes.names == ("hound",)
    assert open_folder(tmp_path, class_names=["cat", "dog"]).classes.names == ("cat", "dog")


def test_nothing_is_written_into_the_folder(tmp_path: Path) -> None:
    save_voc(tmp_path, ["a", "b"])
    before = {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(tmp_path)}
    open_folder(tmp_path)
    assert {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(tmp_path)} == before


def one_sentence(path: Path, part: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=part) as caught:
        open_folder(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    one_sentence(tmp_path / "nowhere", "there is no such folder or file")
    one_sentence(tmp_path, "the folder is empty; understood layouts: JSON lists of a course .*; Pascal VOC")
    (tmp_path / "notes.txt").write_text("hello")
    one_sentence(tmp_path, "neither images nor labels were found; understood layouts")
    one_sentence(
        tmp_path / "notes.txt", "expected a folder of labelled images, a COCO .json, a CVAT .xml or a data .yaml"
    )
    save_images(tmp_path / "images", "a", "b", "c")
    one_sentence(tmp_path, "3 images but no labels were found; understood layouts: .*COCO.*YOLO")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("dog 1 2 3 4")
    (tmp_path / "classes.txt").write_text("dog")
    one_sentence(tmp_path, r"no image has a labelled object .*a\.txt:1: 'dog' is not a number")


def test_split_names() -> None:
    assert [split_name(name) for name in ("Valid", "train2017", "val_2014", "trainval", "tests", "images")] == [
        "val",
        "train",
        "val",
        "trainval",
        None,
        None,
    ]


def test_finding_an_image_prefers_the_exact_name(tmp_path: Path) -> None:
    for name in ("a.jpg", "A.JPG", "b.png", "._b.jpg"):
        (tmp_path / name).touch()
    finder = ImageFinder([tmp_path, None])
    assert finder.find("A.JPG") == tmp_path / "A.JPG"
    assert finder.find("B.jpeg") == tmp_path / "b.png"
    assert finder.find("c.jpg") is None
    assert finder.find("") is None


def test_shared_data(shared: Path) -> None:
    bccd = open_folder(shared / "bccd")
    assert {name: len(part) for name, part in bccd.splits.items()} == {
        "train": 205,
        "val": 87,
        "trainval": 292,
        "test": 72,
    }
    assert bccd.classes.names == ("Platelets", "RBC", "WBC")
    boxes = sum(len(record.annotations) for name in ("trainval", "test") for record in bccd.splits[name].records)
    assert boxes == 4888
    nuclei = open_folder(shared / "nuclei")
    assert (nuclei.classes.names, nuclei.classes.ids) == (("nucleus",), (1,))
    assert sum(len(record.annotations) for part in nuclei.splits.values() for record in part.records) == 8700


@pytest.mark.parametrize("name", ["val", "valid", "validation", "val2017", "VAL", "val_2017"])
def test_a_split_is_found_by_the_names_that_people_give_it(tmp_path: Path, name: str) -> None:
    classes = Classes(("a",), (0,))
    whole = LabelledFolder(tmp_path, "coco", classes, {"val": Split("val", (), classes)})
    assert find_split(whole, name) is whole.splits["val"]
    with pytest.raises(ValueError, match="no split 'test2017'; it has val: name one of these"):
        find_split(whole, "test2017")
