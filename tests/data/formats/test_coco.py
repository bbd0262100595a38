"""COCO JSON: layouts, ids of every kind, categories that are none, crowds, and JSON of the wrong shape."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from whole_masks import decode_rle

from boxwright.data.checks.preflight import preflight
from boxwright.data.formats.coco import read_coco, recognises_coco
from boxwright.data.records import Split
from boxwright.ops.masks import encode_rle


def save_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40)).save(path)


def content(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "images": [{"id": 5, "file_name": "a.jpg", "width": 60, "height": 40}],
        "annotations": [{"id": 17, "image_id": 5, "category_id": 3, "bbox": [1, 2, 10, 20], "area": 200, "iscrowd": 0}],
        "categories": [{"id": 3, "name": "dog"}, {"id": 1, "name": "cat"}],
    }
    return base | changes


def save_json(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


@pytest.mark.parametrize("file", ["instances_{}.json", "instances_{}2017.json", "{}.json", "person_{}.json"])
@pytest.mark.parametrize("images", ["images", "", "{}", "{}2017", "images/{}"])
def test_folder_layouts(tmp_path: Path, file: str, images: str) -> None:
    for split in ("train", "val"):
        save_json(tmp_path / "annotations" / file.format(split), content())
        save_image(tmp_path / images.format(split) / "a.jpg")
    assert recognises_coco(tmp_path)
    data = read_coco(tmp_path)
    assert list(data.splits) == ["train", "val"]
    for split, part in data.splits.items():
        assert part.records[0].path == tmp_path / images.format(split) / "a.jpg"


def test_json_beside_images_in_split_folders(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        save_json(tmp_path / split / "_annotations.coco.json", content())
        save_image(tmp_path / split / "a.jpg")
    data = read_coco(tmp_path)
    assert {name: split.records[0].path.parent.name for name, split in data.splits.items()} == {
        "train": "train",
        "val": "valid",
        "test": "test",
    }


def test_captions_and_keypoints_beside_instances_are_left_alone(tmp_path: Path) -> None:
    save_json(tmp_path / "annotations" / "instances_val2017.json", content())
    save_json(tmp_path / "annotations" / "captions_val2017.json", {"images": [], "annotations": []})
    assert list(read_coco(tmp_path).splits) == ["val"]


def test_one_object(tmp_path: Path) -> None:
    path = save_json(tmp_path / "labels.json", content())
    for given_path in (path, tmp_path):
        data = read_coco(given_path)
        assert data.classes.names == ("cat", "dog")
        assert data.classes.ids == (1, 3)
        (record,) = data.splits["train"].records
        assert (record.image_id, record.stated_hw) == (5, (40, 60))
        (item,) = record.annotations
        assert (item.box, item.label, item.area, item.ignore) == ((1, 2, 11, 22), 1, 200.0, False)
        assert item.where == f"{path}: annotation id 17 (image id 5, a.jpg)"


def test_missing_fields_crowds_and_masks(tmp_path: Path) -> None:
    code = {"size": [40, 60], "counts": [0, 10, 2390]}
    rows = [
        {"image_id": "x", "category_id": 3, "bbox": [0, 0, 5, 5], "iscrowd": 1, "segmentation": code},
        {"image_id": "x", "category_id": 3, "segmentation": [[1, 2, 11, 2, 11, 12]]},
        {"id": 0, "image_id": "x", "category_id": 1, "bbox": [0, 0, 5, 5], "segmentation": []},
    ]
    image = {"id": "x", "file_name": "a.jpg"}
    split = read_coco(save_json(tmp_path / "a.json", content(images=[image], annotations=rows))).splits["train"]
    assert split.problems == ()
    assert split.records[0].stated_hw is None
    crowd, polygon, plain = split.records[0].annotations
    assert (crowd.ignore, crowd.segmentation, crowd.area) == (True, code, None)
    assert (polygon.box, polygon.segmentation) == ((1, 2, 11, 12), [[1, 2, 11, 2, 11, 12]])
    assert plain.segmentation is None


@pytest.mark.parametrize("absent", [{}, {"bbox": None}, {"bbox": []}])
def test_an_object_of_a_run_length_code_alone_has_the_box_of_its_mask(tmp_path: Path, absent: dict[str, Any]) -> None:
    code = {"size": [12, 20], "counts": [12 * 4 + 3, 5, 7, 5, 12 * 20 - 12 * 4 - 20]}  # columns 4 and 5, rows 3 to 7
    rows = [{"id": 1, "image_id": 5, "category_id": 3, "segmentation": code, **absent}]
    rows.append(rows[0] | {"id": 2, "segmentation": {"size": [12, 20], "counts": [240]}})
    data = read_coco(save_json(tmp_path / "a.json", content(annotations=rows)))
    split = data.splits["train"]
    (item,) = split.records[0].annotations
    assert item.box == (4, 3, 6, 8)
    assert item.segmentation == code
    (problem,) = split.problems
    assert problem.kind == "bad-box"


def test_ignore_beside_iscrowd_means_nothing_as_in_pycocotools(tmp_path: Path) -> None:
    row = {"image_id": 5, "category_id": 3, "bbox": [0, 0, 5, 5]}
    rows = [row | {"ignore": 1}, row | {"ignore": 1, "iscrowd": 0}, row | {"ignore": 0, "iscrowd": 1}]
    split = read_coco(save_json(tmp_path / "a.json", content(annotations=rows))).splits["train"]
    assert [item.ignore for item in split.records[0].annotations] == [False, False, True]


def test_rows_that_cannot_be_used_become_problems(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"id": 1, "image_id": 99, "category_id": 3, "bbox": [0, 0, 5, 5]},
        {"id": 2, "image_id": 5, "category_id": 77, "bbox": [0, 0, 5, 5]},
        {"id": 3, "image_id": 5, "category_id": [3], "bbox": [0, 0, 5, 5]},
        {"id": 4, "image_id": 5, "category_id": 3, "bbox": [0, 0, 5]},
        {"id": 5, "image_id": 5, "category_id": 3, "bbox": "0 0 5 5"},
        {"id": 6},
        "seven",
        {"id": 8, "image_id": 5, "category_id": 3, "bbox": [0, 0, 5, 5]},
    ]
    images: list[Any] = [*content()["images"], {"id": 5, "file_name": "b.jpg"}, {"id": 6}, "b.jpg"]
    split = read_coco(save_json(tmp_path / "a.json", content(annotations=rows, images=images))).splits["train"]
    assert [problem.kind for problem in split.problems] == [
        "repeated-image-id",
        "bad-image",
        "bad-image",
        "unknown-image",
        "unknown-class",
        "unknown-class",
        "bad-box",
        "bad-box",
        "bad-annotation",
        "bad-annotation",
    ]
    assert all(problem.quarantined and str(tmp_path / "a.json") in problem.where for problem in split.problems)
    assert len(split.records) == 1
    assert len(split.records[0].annotations) == 1


def test_a_dummy_parent_is_no_class(tmp_path: Path) -> None:
    categories = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "animals"},
        {"id": 3, "name": "dog", "supercategory": "animals"},
        {"id": 4, "name": "unused", "supercategory": "animals"},
    ]
    data = read_coco(save_json(tmp_path / "a.json", content(categories=categories)))
    assert data.classes.names == ("cat", "dog", "unused")
    assert data.classes.ids == (1, 3, 4)
    assert "animals" in data.notes[0]


def test_a_parent_that_is_used_is_a_class(tmp_path: Path) -> None:
    categories = [{"id": 3, "name": "dog", "supercategory": "none"}, {"id": 4, "name": "pug", "supercategory": "dog"}]
    assert read_coco(save_json(tmp_path / "a.json", content(categories=categories))).classes.ids == (3, 4)


def test_a_class_that_is_its_own_parent_stays_though_unused(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "person", "supercategory": "person"}, {"id": 3, "name": "dog"}]
    assert read_coco(save_json(tmp_path / "a.json", content(categories=categories))).classes.ids == (1, 3)


def test_splits_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    save_json(tmp_path / "annotations" / "instances_train.json", content())
    save_json(tmp_path / "annotations" / "instances_val.json", content(categories=[{"id": 3, "name": "horse"}]))
    with pytest.raises(ValueError, match=r"category id 3 is 'horse', but 'dog' in .*instances_train\.json"):
        read_coco(tmp_path)


def test_classes_are_those_of_all_splits(tmp_path: Path) -> None:
    save_json(tmp_path / "annotations" / "instances_train.json", content())
    save_json(tmp_path / "annotations" / "instances_val.json", content(categories=[{"id": 2, "name": "bird"}]))
    assert read_coco(tmp_path).classes.names == ("cat", "bird", "dog")


def test_names_that_repeat_are_told_apart(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "dog"}, {"id": 3, "name": "dog"}]
    assert read_coco(save_json(tmp_path / "a.json", content(categories=categories))).classes.names == ("dog", "dog#3")


@pytest.mark.parametrize("name", [" ", "", None])
def test_a_category_without_a_name_is_called_by_its_id(tmp_path: Path, name: str | None) -> None:
    categories = [{"id": 1, "name": "dog"}, {"id": 3, "name": name}]
    assert read_coco(save_json(tmp_path / "a.json", content(categories=categories))).classes.names == ("dog", "class3")


def test_paths_of_another_machine(tmp_path: Path) -> None:
    save_image(tmp_path / "images" / "sub" / "a.jpg")
    save_image(tmp_path / "images" / "b.jpg")
    names = ["sub/a.jpg", "C:\\data\\b.jpg", "/home/me/b.jpg", "../../b.jpg", "gone.jpg"]
    images = [{"id": index, "file_name": name} for index, name in enumerate(names)]
    file = save_json(tmp_path / "annotations" / "train.json", content(images=images, annotations=[]))
    records = read_coco(file.parent.parent).splits["train"].records
    below = tmp_path / "images"
    assert [record.path for record in records] == [below / "sub" / "a.jpg", *[below / "b.jpg"] * 3, below / "gone.jpg"]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("{", "this is not valid JSON"),
        ("", "this is not valid JSON"),
        ([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}], "this is a COCO result file"),
        ([1, 2], "got a list"),
        ("3", "expected a JSON object"),
        ({"images": [], "annotations": []}, '"categories" is missing'),
        (content(images={"a": 1}), '"images" is not a list'),
        (content(categories=[]), '"categories" is empty'),
        (content(categories=[{"id": None, "name": "dog"}]), "no integer as its id"),
        (content(categories=[{"id": 3, "name": "dog"}, {"id": 3, "name": "cat"}]), "stands for both 'dog' and 'cat'"),
    ],
)
def test_json_of_the_wrong_shape_is_one_sentence(tmp_path: Path, data: Any, sentence: str) -> None:
    path = save_json(tmp_path / "instances_train.json", data)
    for given_path in (path, tmp_path):
        with pytest.raises(ValueError, match=sentence) as caught:
            read_coco(given_path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@settings(max_examples=40, deadline=None)
@given(
    ids=st.lists(st.integers(0, 200), min_size=1, max_size=8, unique=True),
    dummy=st.booleans(),
    first_image=st.sampled_from([0, 1, 1000]),
    data=st.data(),
)
def test_ids_go_in_and_come_out(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int], dummy: bool, first_image: int, data: st.DataObject
) -> None:
    """0-based, 1-based, gaps, unused classes and dummy parents: every object keeps its id."""
    parent = {"id": max(ids) + 1, "name": "all", "supercategory": "none"}
    categories = [{"id": i, "name": f"name{i}", "supercategory": "all" if dummy else "none"} for i in ids]
    used = data.draw(st.lists(st.sampled_from(ids), min_size=1, max_size=10))
    rows = [{"id": n, "image_id": first_image, "category_id": i, "bbox": [n, 0, 5, 5]} for n, i in enumerate(used)]
    file = save_json(
        tmp_path_factory.mktemp("coco") / "a.json",
        content(
            images=[{"id": first_image, "file_name": "a.jpg"}],
            annotations=rows,
            categories=categories + [parent] * dummy,
        ),
    )
    read = read_coco(file)
    assert list(read.classes.ids) == sorted(ids)
    assert list(read.classes.names) == [f"name{i}" for i in sorted(ids)]
    (record,) = read.splits["train"].records
    assert record.image_id == first_image
    assert [read.classes.ids[item.label] for item in record.annotations] == used


def read_rows(tmp_path: Path, *rows: Any, **changes: Any) -> Split:
    return read_coco(save_json(tmp_path / "a.json", content(annotations=list(rows), **changes))).splits["train"]


GOOD = {"id": 1, "image_id": 5, "category_id": 3, "bbox": [1, 2, 10, 20]}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"iscrowd": "0"}, {"ignore": False}),
        ({"iscrowd": "0.0"}, {"ignore": False}),
        ({"iscrowd": "False"}, {"ignore": False}),
        ({"iscrowd": ""}, {"ignore": False}),
        ({"iscrowd": None}, {"ignore": False}),
        ({"iscrowd": "1"}, {"ignore": True}),
        ({"iscrowd": True}, {"ignore": True}),
        ({"iscrowd": 1.0}, {"ignore": True}),
        ({"bbox": ["1", "2.0", 10.0, " 20 "]}, {}),
        ({"image_id": "5"}, {}),
        ({"image_id": 5.0, "category_id": 3.0}, {}),
        ({"category_id": "3"}, {}),
        ({"area": "12.5"}, {"area": 12.5}),
        ({"area": None}, {"area": None}),
        ({"area": ""}, {"area": None}),
        (
            {"bbox": None, "segmentation": [["1", "2", 11, "2", "11", 22.0]]},
            {"segmentation": [[1, 2, 11, 2, 11, 22]]},
        ),
        ({"bbox": [], "segmentation": [[1, 2, 11, 2, 11, 22]]}, {}),
        ({"segmentation": None}, {"segmentation": None}),
        ({"id": None}, {}),
        ({"id": [1] * 1000}, {}),
    ],
)
def test_a_field_with_one_meaning_is_understood(
    tmp_path: Path, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    split = read_rows(tmp_path, GOOD | changes)
    assert split.problems == ()
    (item,) = split.records[0].annotations
    assert (item.box, item.label) == ((1, 2, 11, 22), 1)
    assert {name: getattr(item, name) for name in expected} == expected
    assert len(item.where) < 500


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"iscrowd": "maybe"}, "bad-field", "\"iscrowd\" is 'maybe', expected 0 or 1"),
        ({"iscrowd": 2}, "bad-field", '"iscrowd" is 2'),
        ({"iscrowd": []}, "bad-field", '"iscrowd" is []'),
        ({"bbox": [1, 2, True, 4]}, "bad-box", '"bbox" is not four numbers'),
        ({"bbox": [1, 2, "3,5", 4]}, "bad-box", "'3,5'"),
        ({"bbox": "1 2 3 4"}, "bad-box", '"bbox" is not four numbers'),
        ({"bbox": {"x": 1}}, "bad-box", '"bbox" is not four numbers'),
        ({"bbox": [1, 2, 10**400, 4]}, "bad-box", '"bbox" is not four numbers'),
        ({"bbox": None}, "bad-box", '"bbox" is not four numbers'),
        ({"image_id": True}, "bad-annotation", '"image_id" is True'),
        ({"image_id": None}, "bad-annotation", '"image_id" is None'),
        ({"image_id": 5.5}, "bad-annotation", '"image_id" is 5.5'),
        ({"image_id": "6"}, "unknown-image", "no image has the id '6'"),
        ({"category_id": True}, "unknown-class", "no category has the id True"),
        ({"category_id": None}, "unknown-class", "no category has the id None"),
        ({"category_id": 3.5}, "unknown-class", "no category has the id 3.5"),
    ],
)
def test_a_field_that_has_none_is_named_with_file_and_id(
    tmp_path: Path, changes: dict[str, Any], kind: str, said: str
) -> None:
    split = read_rows(tmp_path, GOOD, GOOD | {"id": "second"} | changes)
    (problem,) = split.problems
    assert (problem.kind, problem.quarantined) == (kind, True)
    assert str(tmp_path / "a.json") in problem.where
    assert "second" in problem.where or "entry 1" in problem.where
    assert said in problem.message
    assert len(split.records[0].annotations) == 1
    assert split.records[0].rejected == (0 if kind in ("bad-annotation", "unknown-image") else 1)


@pytest.mark.parametrize(
    ("image", "said"), [({"width": "x"}, "\"width\" is 'x'"), ({"height": True}, '"height" is True')]
)
def test_a_size_that_is_none_is_said_and_costs_nothing(tmp_path: Path, image: dict[str, Any], said: str) -> None:
    split = read_rows(tmp_path, GOOD, images=[content()["images"][0] | image])
    assert [(p.kind, p.quarantined, said in p.message) for p in split.problems] == [("bad-field", False, True)]
    assert (split.records[0].stated_hw, len(split.records[0].annotations)) == (None, 1)


def test_an_area_that_is_none_is_said_and_that_of_the_box_counts(tmp_path: Path) -> None:
    split = read_rows(
        tmp_path, *[GOOD | {"id": n, "area": area} for n, area in enumerate(["x", True, [1], float("nan")])]
    )
    assert [(p.kind, p.quarantined) for p in split.problems] == [("bad-field", False)] * 4
    assert [item.area for item in split.records[0].annotations] == [None] * 4


def test_ids_of_mixed_kinds_find_each_other_and_come_out_as_the_images_have_them(tmp_path: Path) -> None:
    images = [{"id": key, "file_name": f"{n}.jpg"} for n, key in enumerate([1, "2", "x", 4.0, "005"])]
    images[0] |= {"width": "60", "height": "40.0"}
    rows = [GOOD | {"image_id": key} for key in ("1", 2, "x", 4, "4", 5, "005")]
    split = read_rows(tmp_path, *rows, images=images)
    assert split.problems == ()
    assert [(r.image_id, len(r.annotations)) for r in split.records] == [(1, 1), ("2", 1), ("x", 1), (4, 2), ("005", 2)]
    assert split.records[0].stated_hw == (40, 60)


def test_an_id_that_could_mean_two_images_is_refused(tmp_path: Path) -> None:
    images = [{"id": key, "file_name": "a.jpg"} for key in ("7", "07")]
    split = read_rows(tmp_path, GOOD | {"image_id": 7}, GOOD | {"image_id": "07"}, images=images)
    assert [(p.kind, "the id 7" in p.message) for p in split.problems] == [("unknown-image", True)]
    assert [len(record.annotations) for record in split.records] == [0, 1]


@pytest.mark.parametrize(("name", "read"), [(5, "5"), (0, "0"), (2.5, "2.5"), (" dog ", "dog")])
def test_a_name_may_be_a_number(tmp_path: Path, name: Any, read: str) -> None:
    categories = [{"id": "3", "name": name}]
    data = read_coco(save_json(tmp_path / "a.json", content(categories=categories)))
    assert (data.classes.names, data.classes.ids) == ((read,), (3,))


@pytest.mark.parametrize("name", [True, ["dog"], {"en": "dog"}])
def test_a_name_that_is_none_is_refused_with_file_and_id(tmp_path: Path, name: Any) -> None:
    file = save_json(tmp_path / "a.json", content(categories=[{"id": 3, "name": name}]))
    with pytest.raises(ValueError, match=r'a\.json: "name" of category id 3 is .* expected text'):
        read_coco(file)


@pytest.mark.parametrize("key", [True, 1.5, "x", [1]])
def test_a_category_id_that_is_none_is_refused(tmp_path: Path, key: Any) -> None:
    file = save_json(tmp_path / "a.json", content(categories=[{"id": key, "name": "dog"}]))
    with pytest.raises(ValueError, match=r'a\.json: entry 0 of "categories" has no integer as its id'):
        read_coco(file)


@pytest.mark.parametrize("counts", [[0, 10, 2390], [5, 10, 2385], "text"])
def test_a_run_length_code_without_a_box_has_that_of_its_pixels(tmp_path: Path, counts: Any) -> None:
    row = {key: value for key, value in GOOD.items() if key != "bbox"}
    code = {"size": [40, 60], "counts": counts}
    if counts == "text":
        code = encode_rle(decode_rle([0, 10, 2390], (40, 60)))
    split = read_rows(tmp_path, row | {"segmentation": code}, row | {"segmentation": code | {"size": [40, 61]}})
    (item,) = split.records[0].annotations
    start = 5 if counts == [5, 10, 2385] else 0
    assert item.box == (0, start, 1, start + 10)
    assert [problem.kind for problem in split.problems] == ["bad-box"]


@pytest.mark.parametrize("below", ["images/default", "images/default/sub", "images", "images/of/2020"])
def test_cvat_without_subsets_and_images_in_any_sub_folder(tmp_path: Path, below: str) -> None:
    file = save_json(tmp_path / "annotations" / "instances_default.json", content())
    save_image(tmp_path / below / "a.jpg")
    for path in (tmp_path, file):
        data = read_coco(path)
        assert {name: [r.path for r in part.records] for name, part in data.splits.items()} == {
            "train": [tmp_path / below / "a.jpg"]
        }


def test_cvat_default_beside_a_named_subset_is_train(tmp_path: Path) -> None:
    for name in ("default", "Validation"):
        save_json(tmp_path / "annotations" / f"instances_{name}.json", content())
        save_image(tmp_path / "images" / name / "a.jpg")
    data = read_coco(tmp_path)
    assert {name: part.records[0].path.parent.name for name, part in data.splits.items()} == {
        "train": "default",
        "val": "Validation",
    }


def test_an_image_that_is_missing_is_not_taken_from_another_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        save_json(tmp_path / "annotations" / f"instances_{split}.json", content())
    save_image(tmp_path / "images" / "val" / "a.jpg")
    save_image(tmp_path / "one" / "b.jpg")
    save_image(tmp_path / "two" / "b.jpg")
    data = read_coco(tmp_path)
    assert not data.splits["train"].records[0].path.is_file()
    assert data.splits["val"].records[0].path == tmp_path / "images" / "val" / "a.jpg"


def test_a_file_that_only_has_categories_is_no_coco(tmp_path: Path) -> None:
    save_json(tmp_path / "notes.json", {"categories": [{"id": 0, "name": "dog"}], "info": {"year": 2024}})
    assert not recognises_coco(tmp_path)


def test_a_broken_test_split_is_said_and_the_others_are_read(tmp_path: Path) -> None:
    for split in ("train", "val"):
        save_json(tmp_path / "annotations" / f"instances_{split}.json", content())
    file = save_json(tmp_path / "annotations" / "instances_test.json", {"images": []})
    data = read_coco(tmp_path)
    assert list(data.splits) == ["train", "val"]
    assert str(file) in data.notes[0]
    assert "split test is left out" in data.notes[0]
    save_json(tmp_path / "annotations" / "instances_val.json", "{")
    with pytest.raises(ValueError, match=r"instances_val\.json: this is not valid JSON"):
        read_coco(tmp_path)


@pytest.mark.parametrize("name", ["a\0.jpg", "x" * 300 + "/a.jpg", "x" * 100_000, "///", "../" * 5000 + "a.jpg"])
def test_a_file_name_that_no_system_takes_costs_its_image_only(tmp_path: Path, name: str) -> None:
    save_image(tmp_path / "a.jpg")
    images = [{"id": 5, "file_name": "a.jpg"}, {"id": 6, "file_name": name}]
    data = read_coco(save_json(tmp_path / "a.json", content(images=images)))
    report = preflight(data)
    assert [record.image_id for record in report.dataset.splits["train"].records][:1] == [5]


def test_a_number_of_thousands_of_digits_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.json: this is not valid JSON"):
        read_coco(
            save_json(tmp_path / "a.json", '{"images": [], "annotations": [' + "9" * 6000 + '], "categories": []}')
        )


def test_a_hundred_thousand_categories_and_bad_rows_are_read_in_seconds(tmp_path: Path) -> None:
    categories = [{"id": n, "name": f"c{n % 99_000}", "supercategory": f"c{n}"} for n in range(100_000)]
    rows = [{"id": n, "image_id": 5, "category_id": -1, "bbox": None} for n in range(100_000)]
    begun = time.monotonic()
    split = read_rows(tmp_path, *rows, GOOD, categories=categories)
    assert time.monotonic() - begun < 20
    assert len(split.problems) == 100_000
