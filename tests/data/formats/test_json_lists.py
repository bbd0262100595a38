"""The course's JSON lists: found beside a VOC folder, read with boxes and classes; errors are told by their entry."""

import json
from pathlib import Path

import pytest
from PIL import Image

from boxwright.data.checks.preflight import preflight
from boxwright.data.formats.folder import open_folder

CAR = {"name": "car", "xyxy": [156, 97, 351, 270]}
DOG = {"name": "dog", "xyxy": [10.5, 20, 30, 40]}


def save(
    root: Path, rows: object, name: str = "voc07_train.json", images: tuple[str, ...] = ("000012", "000017")
) -> Path:
    folder = root / "VOCdevkit/VOC2007/JPEGImages"
    folder.mkdir(parents=True, exist_ok=True)
    for stem in images:
        Image.new("RGB", (500, 333), (int(stem), 0, 0)).save(folder / f"{stem}.jpg")
    (root / name).write_text(json.dumps(rows))
    return root / name


def image(stem: str, *objects: object, here: str = "") -> list[object]:
    return [f"{here}VOCdevkit/VOC2007/JPEGImages/{stem}.jpg", list(objects)]


def test_a_folder_with_the_courses_files_has_their_splits_boxes_and_classes(tmp_path: Path) -> None:
    save(tmp_path, [image("000012", CAR, here="./here/"), image("000017", DOG, CAR)])
    save(tmp_path, [image("000033", DOG)], "voc07_val.json", ("000033",))
    data = open_folder(tmp_path)
    assert (data.format, data.classes.names, data.classes.ids) == ("lists", ("car", "dog"), (1, 2))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 2, "val": 1}
    first, second = data.splits["train"].records
    assert first.path == tmp_path / "VOCdevkit/VOC2007/JPEGImages/000012.jpg"
    assert (first.image_id, first.annotations[0].box, first.annotations[0].label) == ("000012", (156, 97, 351, 270), 0)
    assert [item.label for item in second.annotations] == [1, 0]
    assert not preflight(data).serious


def test_one_file_may_be_named_and_validation_images_are_set_aside(tmp_path: Path) -> None:
    file = save(tmp_path, [image(str(n), CAR) for n in range(20)], images=tuple(map(str, range(20))))
    data = open_folder(file)
    assert data.format == "lists"
    assert len(data.splits["train"]) + len(data.splits["val"]) == 20
    assert any("set aside as val" in note for note in data.notes)


def test_the_lists_win_over_the_voc_folder_beside_them_and_say_so(tmp_path: Path) -> None:
    save(tmp_path, [image("000012", CAR), image("000017", DOG)])
    xml = tmp_path / "VOCdevkit/VOC2007/Annotations/000012.xml"
    xml.parent.mkdir()
    xml.write_text("<annotation><object><name>cat</name></object></annotation>")
    data = open_folder(tmp_path)
    assert data.format == "lists"
    assert "read as lists (also found: voc)" in data.notes[0]


def test_class_names_give_the_order(tmp_path: Path) -> None:
    from boxwright.data.formats.json_lists import read_lists

    file = save(tmp_path, [image("000012", CAR, DOG)])
    assert [item.label for item in read_lists(file, ["dog", "car"]).splits["train"].records[0].annotations] == [1, 0]
    with pytest.raises(ValueError, match="no object is called 'cat'; the lists have car, dog"):
        read_lists(file, ["cat"])


def test_what_is_wrong_is_told_by_its_entry_and_the_rest_is_read(tmp_path: Path) -> None:
    rows = [
        image("000012", CAR, {"name": "car"}, {"xyxy": [1, 2, 3, 4]}, 7, {"name": "car", "xyxy": [1, 2, 3]}),
        "000017.jpg",
        image("000012", DOG),
        image("000017", DOG),
    ]
    split = open_folder(save(tmp_path, rows)).splits
    problems = [problem for part in split.values() for problem in part.problems]
    found = {(problem.kind, problem.where.rpartition("voc07_train.json: ")[2][:7]) for problem in problems}
    assert found == {
        ("bad-box", "entry 0"), ("bad-annotation", "entry 0"), ("bad-image", "entry 1"), ("duplicate-image", "entry 2"),
    }  # fmt: skip
    assert sum(problem.kind == "bad-box" for problem in problems) == 2
    records = {record.image_id: record for part in split.values() for record in part.records}
    assert (len(records["000012"].annotations), records["000012"].rejected) == (1, 4)


def test_other_json_is_left_to_its_reader(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text('[{"a": 1}]')
    with pytest.raises(ValueError, match="JSON lists of a course"):  # among the layouts that are understood
        open_folder(tmp_path)
    (tmp_path / "notes.json").write_text('[["a.jpg", [')
    with pytest.raises(ValueError, match="not valid JSON"):
        open_folder(tmp_path)


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    save(tmp_path, [image("000012", CAR)])
    save(tmp_path, [image("000012", CAR)], "voc12_train.json")
    with pytest.raises(ValueError, match=r"voc07_train.json and voc12_train.json both stand for train"):
        open_folder(tmp_path)
