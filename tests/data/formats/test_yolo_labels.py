"""From image to label file and back: deviating names are recognised, and a label file without an image is reported."""

import os
from pathlib import Path

import pytest
from PIL import Image

from boxwright.data.formats.folder import open_folder
from boxwright.data.formats.yolo import read_yolo, recognises_yolo
from boxwright.data.formats.yolo_labels import label_files
from boxwright.data.image_io.file_types import SUFFIXES
from boxwright.data.records import LabelledFolder, Problem

ROW = "0 0.5 0.5 0.2 0.4\n"


def make_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 50)).save(path, format="PNG")
    return path


def label(path: Path, text: str = ROW) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def unclaimed(data: LabelledFolder) -> list[Problem]:
    found = [problem for part in data.splits.values() for problem in part.problems]
    assert {problem.kind for problem in found} <= {"label-without-image"}
    return found


def objects(data: LabelledFolder) -> dict[str, int]:
    return {r.path.name: len(r.annotations) for part in data.splits.values() for r in part.records}


@pytest.fixture(params=["images/train", "train/images", "train", ""])
def folders(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, Path]:
    """The root, the folder of images and the folder of labels of each layout; one image with its label is there."""
    below = str(request.param)
    images, labels = tmp_path / below, tmp_path / below.replace("images", "labels")
    make_image(images / "good.png")
    label(labels / "good.txt")
    return tmp_path, images, labels


@pytest.mark.parametrize(
    ("image", "text"),
    [("a.png", "A.txt"), ("A.PNG", "a.txt"), ("a.png", "a.TXT"), ("a.png", "a.png.txt"), ("A.png", "a.PNG.Txt")],
)
def test_a_bent_name_is_understood(folders: tuple[Path, Path, Path], image: str, text: str) -> None:
    root, images, labels = folders
    make_image(images / image)
    label(labels / text, ROW * 2)
    data = read_yolo(root)
    assert objects(data) == {"good.png": 1, image: 2}
    assert unclaimed(data) == []


def test_all_labels_may_have_bent_names(tmp_path: Path) -> None:
    for number in range(3):
        make_image(tmp_path / f"images/train/P{number}.PNG")
        label(tmp_path / f"labels/train/p{number}.TXT")
    assert objects(open_folder(tmp_path)) == {"P0.PNG": 1, "P1.PNG": 1, "P2.PNG": 1}


def test_the_exact_name_goes_first_and_takes_its_file_from_no_other(tmp_path: Path) -> None:
    for name in ("a.png", "A.png", "b.png", "b.jpg"):
        make_image(tmp_path / name)
    for name, rows in (("a.txt", 1), ("b.png.txt", 2), ("b.jpg.txt", 3)):
        label(tmp_path / name, ROW * rows)
    data = read_yolo(tmp_path)
    assert objects(data) == {"a.png": 1, "A.png": 0, "b.png": 2, "b.jpg": 3}
    assert unclaimed(data) == []


@pytest.mark.parametrize(
    ("name", "beside", "reason"),
    [
        ("gone.txt", None, "there is no image of this name"),
        ("photo.txt", "photo.HEIC", "photo.HEIC has a format that is not supported"),
        ("good.png.txt", None, "good.png is labelled by good.txt already"),
        ("GOOD.TXT", None, "good.png is labelled by good.txt already"),
    ],
)
def test_every_label_file_that_no_image_claims_is_named_with_the_reason(
    folders: tuple[Path, Path, Path], name: str, beside: str | None, reason: str
) -> None:
    root, images, labels = folders
    files = {label(labels / name), label(labels / f"other-{name}")}
    if beside:
        (images / beside).write_bytes(b"x")
        (images / f"other-{beside}").write_bytes(b"x")
    data = read_yolo(root)
    problems = unclaimed(data)
    assert {problem.where for problem in problems} == set(map(str, files))
    assert all(problem.severity == "warning" and problem.quarantined for problem in problems)
    assert reason in next(problem.message for problem in problems if problem.where == str(labels / name))


def test_an_empty_label_file_is_a_label_file_in_a_folder_for_labels(tmp_path: Path) -> None:
    make_image(tmp_path / "images/a.png")
    label(tmp_path / "labels/a.txt")
    file = label(tmp_path / "labels/b.txt", "")
    assert [problem.where for problem in unclaimed(read_yolo(tmp_path))] == [str(file)]


def test_texts_that_are_no_labels_are_left_alone(tmp_path: Path) -> None:
    make_image(tmp_path / "a.png")
    label(tmp_path / "a.txt")
    for name, text in (
        ("readme.txt", "0 1 2 3 4"),
        ("train.txt", "a.png\n"),
        ("b.txt", "a photo of a dog"),
        ("c.txt", ""),
    ):
        label(tmp_path / name, text)
    assert unclaimed(read_yolo(tmp_path)) == []


@pytest.mark.parametrize("below", ["{}/{split}", "{split}/{}"])
def test_texts_beside_the_images_count_where_the_folder_for_labels_is_empty(tmp_path: Path, below: str) -> None:
    for split in ("train", "val"):
        images = tmp_path / below.format("images", split=split)
        make_image(images / f"{split}.png")
        label(images / f"{split}.txt")
        (tmp_path / below.format("labels", split=split)).mkdir(parents=True)
    data = read_yolo(tmp_path)
    assert objects(data) == {"train.png": 1, "val.png": 1}
    assert unclaimed(data) == []


def test_labels_of_a_split_without_images_and_labels_only_beside_are_named(tmp_path: Path) -> None:
    make_image(tmp_path / "images/train/a.png")
    label(tmp_path / "labels/train/a.txt")
    orphan = label(tmp_path / "labels/test/x.txt")
    beside = label(tmp_path / "images/train/y.txt")
    data = read_yolo(tmp_path)
    assert {problem.where for problem in unclaimed(data)} == {str(orphan), str(beside)}


def test_labels_of_images_that_a_list_leaves_out_are_one_note(tmp_path: Path) -> None:
    for number in range(5):
        make_image(tmp_path / f"images/p{number}.png")
        label(tmp_path / f"labels/p{number}.txt")
    label(tmp_path / "train.txt", "images/p0.png\nimages/p1.png\n")
    label(tmp_path / "data.yaml", "train: train.txt\nnames: [dog]\n")
    (note,) = unclaimed(read_yolo(tmp_path))
    assert (note.severity, note.where) == ("note", str(tmp_path / "labels"))
    assert "3 label files of images that no split names, such as p2.txt" in note.message


def test_a_set_whose_labels_fit_no_image_at_all_says_so(tmp_path: Path) -> None:
    make_image(tmp_path / "images/a.png")
    file = label(tmp_path / "labels/b.txt")
    assert recognises_yolo(tmp_path)
    with pytest.raises(ValueError, match=r"the first problem is .*b\.txt: no image belongs to this label file"):
        open_folder(tmp_path)
    (tmp_path / "images/a.png").rename(tmp_path / "images/b.heic")
    label(tmp_path / "data.yaml", "train: images\nnames: [dog]\n")
    with pytest.raises(ValueError, match=r"b\.txt: .*b\.heic has a format that is not supported"):
        open_folder(tmp_path)
    assert file.is_file()


def test_every_suffix_that_is_read_claims_its_label(tmp_path: Path) -> None:
    images = [tmp_path / f"p{number}{suffix}" for number, suffix in enumerate(sorted(SUFFIXES))]
    for image in images:
        image.touch()
        label(tmp_path / f"{image.stem}.txt")
    assert {image: file.is_file() for image, file in label_files(images).items()} == dict.fromkeys(images, True)
    assert unclaimed(read_yolo(tmp_path)) == []


def test_a_label_file_that_cannot_be_read_costs_its_image_only(tmp_path: Path) -> None:
    for stem in "abcd":
        make_image(tmp_path / f"images/{stem}.png")
    label(tmp_path / "labels/a.txt")
    (tmp_path / "labels/b.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "labels/c.txt")
    (tmp_path / "labels/d.txt").write_bytes(b"\xff\xfe\x00")
    train = read_yolo(tmp_path).splits["train"]
    assert [(len(record.annotations), record.rejected) for record in train.records] == [(1, 0), (0, 1), (0, 1), (0, 1)]
    assert [p.kind for p in train.problems] == ["unreadable-annotation", "unreadable-annotation", "bad-row"]
