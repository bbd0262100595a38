"""YOLO text labels: layouts, the YAML's traps, rows that are none, and upright images."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from boxwright.data.formats.folder import open_folder
from boxwright.data.formats.yolo import read_yolo, recognises_yolo
from boxwright.data.formats.yolo_rows import read_label_file


def save_image(path: Path, width: int = 100, height: int = 50, orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height)).save(path, exif=exif)
    return path


def save_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


ROW = "0 0.5 0.5 0.2 0.4\n"


def make_layout(root: Path, pattern: str, splits: tuple[str, ...]) -> None:
    for split in splits:
        save_image(root / pattern.format(kind="images", split=split) / f"{split}1.jpg")
        save_text(root / pattern.format(kind="labels", split=split) / f"{split}1.txt", ROW)


@pytest.mark.parametrize("pattern", ["{kind}/{split}", "{split}/{kind}", "{split}"])
@pytest.mark.parametrize("valid", ["val", "valid", "validation"])
@pytest.mark.parametrize("yaml", [False, True])
def test_layouts(tmp_path: Path, pattern: str, valid: str, yaml: bool) -> None:
    make_layout(tmp_path, pattern, ("train", valid))
    if yaml:
        train, val = (pattern.format(kind="images", split=split) for split in ("train", valid))
        save_text(tmp_path / "data.yaml", f"train: {train}\nval: {val}\nnames: [dog]\n")
    assert recognises_yolo(tmp_path)
    data = read_yolo(tmp_path)
    assert list(data.splits) == ["train", "val"]
    assert data.classes.names == (("dog",) if yaml else ("class0",))
    record = data.splits["val"].records[0]
    assert record.image_id == f"{valid}1"
    assert record.annotations[0].box == pytest.approx((40, 15, 60, 35))
    assert record.annotations[0].where.endswith(f"{valid}1.txt:1")


def test_flat_folder_with_class_names(tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg")
    save_image(tmp_path / "empty.jpg")
    save_text(tmp_path / "a.txt", ROW)
    save_text(tmp_path / "classes.txt", "dog\ncat\n\n")
    data = read_yolo(tmp_path)
    assert data.classes.names == ("dog", "cat")
    assert {record.image_id: len(record.annotations) for record in data.splits["train"].records} == {"a": 1, "empty": 0}


def test_class_names_stay_text(tmp_path: Path) -> None:
    make_layout(tmp_path, "{kind}/{split}", ("train",))
    save_text(tmp_path / "data.yaml", "train: images/train\nnames: [no, yes, on, null, 1.5, ~, 007]\n")
    assert read_yolo(tmp_path).classes.names == ("no", "yes", "on", "null", "1.5", "~", "007")


def test_names_by_index_with_gaps(tmp_path: Path) -> None:
    make_layout(tmp_path, "{kind}/{split}", ("train",))
    save_text(tmp_path / "labels/train/train1.txt", "7 0.5 0.5 0.2 0.4\n3 0.5 0.5 0.2 0.4\n4 .5 .5 .1 .1\n")
    save_text(tmp_path / "data.yaml", "train: images/train\nnames:\n  7: no\n  3: dog\n")
    data = read_yolo(tmp_path)
    assert (data.classes.names, data.classes.ids) == (("dog", "no"), (3, 7))
    assert [item.label for item in data.splits["train"].records[0].annotations] == [1, 0]
    (problem,) = data.splits["train"].problems
    assert problem.kind == "unknown-class"
    assert problem.where.endswith("train1.txt:3")


def test_labels_beside_images_in_an_images_folder(tmp_path: Path) -> None:
    save_image(tmp_path / "images" / "a.jpg")
    save_text(tmp_path / "images" / "a.txt", ROW)
    save_text(tmp_path / "data.yaml", "train: images\nval:\ntest: null\nnames: [dog]\n")
    data = read_yolo(tmp_path)
    assert list(data.splits) == ["train"]
    assert len(data.splits["train"].records[0].annotations) == 1


def test_yaml_entries_as_lists_text_files_and_paths(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for folder in ("a", "b", "c"):
        save_image(root / "images" / folder / f"{folder}.jpg")
        save_text(root / "labels" / folder / f"{folder}.txt", ROW)
    save_text(root / "val.txt", f"./images/c/c.jpg\n{root}/images/b/b.jpg\n")
    yaml = save_text(tmp_path / "my.yaml", "path: set\ntrain:\n - images/a\n - images/b\nval: val.txt\nnames: [dog]\n")
    data = read_yolo(yaml)
    assert [record.image_id for record in data.splits["train"].records] == ["a", "b"]
    assert [record.image_id for record in data.splits["val"].records] == ["c", "b"]
    assert all(record.annotations for record in data.splits["val"].records)


def test_yaml_that_points_one_folder_too_high(tmp_path: Path) -> None:
    make_layout(tmp_path / "set", "{split}/{kind}", ("train", "valid"))
    save_text(tmp_path / "set/data.yaml", "train: ../train/images\nval: ../valid/images\nnames: [dog]\nnc: 1\n")
    assert [len(split) for split in read_yolo(tmp_path / "set").splits.values()] == [1, 1]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train: [", "this is not valid YAML"),
        ("- a\n- b", "expected keys such as"),
        ("train: nowhere\nnames: [dog]", '"train: nowhere" is neither a folder nor a file'),
        ("train: images/train\nnames: {a: dog}", 'the keys of "names" must be class indices'),
        ("train: images/train\nnames: [[a]]", 'every entry of "names" must be one class name'),
        ("train: images/train\nnames: dog", "give a list of class names"),
    ],
)
def test_a_wrong_yaml_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    make_layout(tmp_path, "{kind}/{split}", ("train",))
    path = save_text(tmp_path / "data.yaml", text)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_yolo(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_polygon_rows_give_box_and_polygon(tmp_path: Path) -> None:
    make_layout(tmp_path, "{kind}/{split}", ("train",))
    save_text(tmp_path / "labels/train/train1.txt", "0 0.1 0.2 0.5 0.2 0.5 0.8\n")
    (item,) = read_yolo(tmp_path).splits["train"].records[0].annotations
    assert item.box == pytest.approx((10, 10, 50, 40))
    assert item.segmentation[0] == pytest.approx([10, 10, 50, 10, 50, 40])


def test_keypoints_are_left_out_where_the_yaml_announces_them(tmp_path: Path) -> None:
    make_layout(tmp_path, "{kind}/{split}", ("train",))
    save_text(tmp_path / "labels/train/train1.txt", "0 0.5 0.5 0.2 0.4 0.1 0.1 0.9 0.9\n")
    save_text(tmp_path / "data.yaml", "train: images/train\nnames: [dog]\nkpt_shape: [2, 2]\n")
    (item,) = read_yolo(tmp_path).splits["train"].records[0].annotations
    assert item.segmentation is None
    assert item.box == pytest.approx((40, 15, 60, 35))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("dog 0.5 0.5 0.1 0.1", "'dog' is not a number"),
        ("0 0.5 0.5 0.1 x", "'x' is not a number"),
        ("0 0.5 0.5 0.1", "4 numbers; expected 5"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 numbers; expected 5"),
        ("0", "1 number; expected 5"),
        ("0 nan 0.5 0.1 0.1", "not finite"),
        ("0 0.5 inf 0.1 0.1", "not finite"),
        ("-1 0.5 0.5 0.1 0.1", "-1 is not a class index"),
        ("0.5 0.5 0.5 0.1 0.1", "0.5 is not a class index"),
        ("0 -0.5 0.5 0.1 0.1", "-0.5 is negative"),
        ("0 0.5 0.5 -0.001 0.1", "-0.001 is negative"),
        ("0 320 240 100 50", "320 is above 1"),
    ],
)
def test_bad_rows_are_left_out_and_the_image_stays(tmp_path: Path, row: str, reason: str) -> None:
    make_layout(tmp_path, "{kind}/{split}", ("train",))
    path = save_text(tmp_path / "labels/train/train1.txt", f"{ROW}\n{row}\r\n{ROW}")
    train = read_yolo(tmp_path).splits["train"]
    (problem,) = train.problems
    assert (problem.kind, problem.where, problem.quarantined) == ("bad-row", f"{path}:3", True)
    assert reason in problem.message
    assert len(train.records[0].annotations) == 2


def test_a_label_file_of_another_kind_is_all_problems(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(range(128, 256)))
    rows, problems = read_label_file(path)
    assert rows == []
    assert len(problems) >= 1


def test_fractions_are_of_the_upright_image(tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg", 100, 50, orientation=6)
    save_text(tmp_path / "a.txt", ROW)
    (item,) = read_yolo(tmp_path).splits["train"].records[0].annotations
    assert item.box == pytest.approx((20, 30, 30, 70))


def test_an_image_that_cannot_be_read_stays_for_preflight(tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"no image")
    for stem in "ab":
        save_text(tmp_path / f"{stem}.txt", ROW)
    assert [len(record.annotations) for record in read_yolo(tmp_path).splits["train"].records] == [1, 0]


def test_given_names(tmp_path: Path) -> None:
    make_layout(tmp_path, "{kind}/{split}", ("train",))
    assert read_yolo(tmp_path, ["dog", "cat"]).classes.names == ("dog", "cat")
    save_text(tmp_path / "classes.txt", "cat\ndog\n")
    data = read_yolo(tmp_path, ["dog", "cat"])
    assert (data.classes.names, data.classes.ids) == (("dog", "cat"), (1, 0))
    assert data.splits["train"].records[0].annotations[0].label == 1
    with pytest.raises(ValueError, match="the classes are cat, dog, but these were given: horse"):
        read_yolo(tmp_path, ["horse"])


@settings(max_examples=20, deadline=None)
@given(
    ids=st.lists(st.integers(0, 90), min_size=1, max_size=6, unique=True),
    named=st.booleans(),
    data=st.data(),
)
def test_ids_go_in_and_come_out(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int], named: bool, data: st.DataObject
) -> None:
    """0-based, 1-based, gaps and unused classes, with and without names."""
    root = tmp_path_factory.mktemp("yolo")
    used = data.draw(st.lists(st.sampled_from(ids), min_size=1, max_size=8))
    save_image(root / "a.png")
    save_text(root / "a.txt", "".join(f"{index} 0.5 0.5 0.2 0.2\n" for index in used))
    if named:
        save_text(root / "data.yaml", "train: .\nnames:\n" + "".join(f"  {index}: name{index}\n" for index in ids))
    read = read_yolo(root)
    (record,) = read.splits["train"].records
    assert [read.classes.ids[item.label] for item in record.annotations] == used
    assert list(read.classes.ids) == sorted(ids if named else set(used))
    prefix = "name" if named else "class"
    assert [read.classes.names[item.label] for item in record.annotations] == [f"{prefix}{index}" for index in used]


@pytest.mark.parametrize("missing", ["val: ../valid/images", "val: nowhere", "test: ../test/images", "test: [x, y]"])
def test_a_yaml_that_names_a_missing_split_is_read_without_it(tmp_path: Path, missing: str) -> None:
    make_layout(tmp_path, "{kind}/{split}", ("train",))
    save_image(tmp_path / "images/train/second.jpg", 30, 30)
    save_text(tmp_path / "labels/train/second.txt", ROW)
    save_text(tmp_path / "data.yaml", f"train: images/train\n{missing}\nnames: [dog]\n")
    data = open_folder(tmp_path)
    assert list(data.splits) == ["train", "val"]  # val is made of train
    assert any(str(tmp_path / "data.yaml") in note and "is left out" in note for note in data.notes)
    assert sum(map(len, data.splits.values())) == 2


def test_a_split_of_the_yaml_without_images_is_no_split(tmp_path: Path) -> None:
    make_layout(tmp_path, "{kind}/{split}", ("train",))
    (tmp_path / "images/test").mkdir()
    save_text(tmp_path / "data.yaml", "train: images/train\ntest: images/test\nnames: [dog]\n")
    data = read_yolo(tmp_path)
    assert list(data.splits) == ["train"]
    assert '"test" has no images' in data.notes[0]


@pytest.mark.parametrize("prefix", ["data/", "/home/me/set/", "C:\\set\\", "./", "../", ""])
def test_a_list_of_another_machine_finds_its_images(tmp_path: Path, prefix: str) -> None:
    make_layout(tmp_path, "{kind}/{split}", ("train", "val"))
    save_text(
        tmp_path / "train.txt", f"{prefix}images/train/train1.jpg\n\n{prefix}images/val/val1.jpg\n{prefix}gone.jpg\n"
    )
    save_text(tmp_path / "data.yaml", "path: ./\ntrain: train.txt\nnames:\n  0: dog\n")
    records = read_yolo(tmp_path).splits["train"].records
    assert [len(record.annotations) for record in records] == [1, 1, 0]
    assert [record.path.is_file() for record in records] == [True, True, False]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train: {a: b}\nnames: [dog]", '"train" is .* expected a folder'),
        ("train: [[a]]\nnames: [dog]", '"train" is .* expected a folder'),
        ("train: images/train\nnames: {1_0: dog}", 'the keys of "names" must be class indices'),
        ("train: images/train\nnames: {-1: dog}", 'the keys of "names" must be class indices'),
        ("train: images/train\nnames: [dog, dog]", "the class name 'dog' occurs twice"),
        ("train: images/train\nnames: [dog]\nkpt_shape: 17", '"kpt_shape" is .* expected'),
        ("train: images/train\nnames: [dog]\nkpt_shape: [x, 3]", '"kpt_shape" is .* expected'),
    ],
)
def test_a_field_of_the_yaml_that_means_nothing_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    make_layout(tmp_path, "{kind}/{split}", ("train",))
    path = save_text(tmp_path / "data.yaml", text)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_yolo(path)
    assert str(path) in str(caught.value)


def test_label_studios_export_is_yolo(tmp_path: Path) -> None:
    save_image(tmp_path / "images/a.jpg")
    save_text(tmp_path / "labels/a.txt", ROW)
    save_text(tmp_path / "classes.txt", "dog\n")
    save_text(tmp_path / "notes.json", '{"categories": [{"id": 0, "name": "dog"}], "info": {"year": 2024}}')
    data = open_folder(tmp_path)
    assert (data.format, data.classes.names) == ("yolo", ("dog",))
    assert not any("several layouts" in note for note in data.notes)


def test_a_class_name_that_stands_twice_is_refused_with_its_file(tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg")
    save_text(tmp_path / "a.txt", ROW)
    save_text(tmp_path / "classes.txt", "dog\ncat\ndog\n")
    with pytest.raises(ValueError, match=r"classes\.txt: the class name 'dog' occurs twice"):
        read_yolo(tmp_path)


def test_label_files_of_power_shell_are_read(tmp_path: Path) -> None:
    save_image(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text(f"{ROW}{ROW}", encoding="utf-16")
    assert len(read_yolo(tmp_path).splits["train"].records[0].annotations) == 2
