"""Small exports as CVAT, Label Studio, Roboflow and FiftyOne write them: all images and boxes are found.

Layouts and fields are those of the tools' format pages and of files that users showed in their issue trackers; see
docs/annotation-tools.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from boxwright.data.formats.folder import open_folder
from boxwright.data.records import LabelledFolder

BOX = (6.0, 8.0, 26.0, 28.0)  # in 40 x 80 images: x1, y1, x2, y2
COCO_BOX = [6, 8, 20, 20]
ROW = "0 0.2 0.45 0.25 0.5\n"  # the same box in fractions


def write(root: Path, **files: Any) -> Path:
    """Files by their path: images where the content is None, JSON for dicts, else text."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            shade = sum(name.encode()) % 200
            Image.new("RGB", (80, 40), (shade, 90, 200 - shade)).save(path)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return root


def coco(*names: str, first_category: int = 1, **fields: Any) -> dict[str, Any]:
    """COCO content with one cat in each image, and a dog that none has."""
    categories = [
        {"id": first_category + index, "name": name, "supercategory": fields.get("parent", "")}
        for index, name in enumerate(("cat", "dog"))
    ]
    images = [{"id": n, "file_name": name, "width": 80, "height": 40} for n, name in enumerate(names, 1)]
    objects = [
        {"id": n, "image_id": n, "category_id": first_category, "bbox": COCO_BOX, "area": 400, "iscrowd": 0}
        | fields.get("object", {})
        for n in range(1, len(names) + 1)
    ]
    return {"images": images, "annotations": objects, "categories": categories, "info": {}, "licenses": []}


def seen(data: LabelledFolder) -> dict[str, list[str]]:
    """Images below the root by split; each exists, and has its one cat in the right place."""
    for split in data.splits.values():
        assert not split.problems, split.problems
        for record in split.records:
            assert record.path.is_file(), record
            (item,) = record.annotations
            assert item.box == pytest.approx(BOX)
            assert split.classes.names[item.label] == "cat"
    return {
        name: [record.path.relative_to(data.root).as_posix() for record in split.records]
        for name, split in data.splits.items()
    }


# CVAT


def test_cvat_coco_with_occluded_objects_masks_and_one_crowd(tmp_path: Path) -> None:
    attributes = {"attributes": {"occluded": True, "rotation": 0.0, "track_id": 3, "keyframe": True}}
    empty = coco("sub/a.jpg", "b.png", object={"segmentation": [], **attributes}, parent="")
    for row in empty["images"]:
        row |= {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}
    folder = write(
        tmp_path, **{"annotations/instances_default.json": empty, "images/default/sub/a.jpg": None},
        **{"images/default/b.png": None},
    )  # fmt: skip
    data = open_folder(folder)
    assert {path for paths in seen(data).values() for path in paths} == {
        "images/default/sub/a.jpg", "images/default/b.png"
    }  # fmt: skip
    assert data.classes.ids == (1, 2)


def test_cvat_coco_masks_are_polygons_or_uncompressed_codes(tmp_path: Path) -> None:
    content = coco("a.jpg", "b.jpg")
    first, second = content["annotations"]
    first["segmentation"] = [[6, 8, 26, 8, 26, 28, 6, 28]]
    second |= {
        "segmentation": {"counts": [6 * 40 + 8] + [20, 20] * 19 + [20, 80 * 40 - 25 * 40 - 28], "size": [40, 80]}
    }
    second["iscrowd"] = 1  # CVAT writes every brush mask so
    folder = write(
        tmp_path,
        **{"annotations/instances_Train.json": content, "images/Train/a.jpg": None, "images/Train/b.jpg": None},
    )
    items = [record.annotations[0] for split in open_folder(folder).splits.values() for record in split.records]
    assert all(item.segmentation for item in items)
    assert sorted(item.ignore for item in items) == [False, True]


@pytest.mark.parametrize("valid", ["obj_valid_data", "obj_Validation_data"])
def test_cvat_yolo_1_1_with_its_subsets(tmp_path: Path, valid: str) -> None:
    name = valid.removeprefix("obj_").removesuffix("_data")
    folder = write(
        tmp_path,
        **{
            "obj.data": f"classes = 2\ntrain = data/train.txt\n{name} = data/{name}.txt\nnames = data/obj.names\n"
            "backup = backup/\n",
            "obj.names": "cat\ndog\n",
            "train.txt": "data/obj_train_data/a.jpg\ndata/obj_train_data/sub/b.png\n",
            f"{name}.txt": f"data/{valid}/c.jpg\n",
            "obj_train_data/a.jpg": None, "obj_train_data/a.txt": ROW,
            "obj_train_data/sub/b.png": None, "obj_train_data/sub/b.txt": ROW,
            f"{valid}/c.jpg": None, f"{valid}/c.txt": ROW,
        },
    )  # fmt: skip
    data = open_folder(folder)
    assert seen(data) == {
        "train": ["obj_train_data/a.jpg", "obj_train_data/sub/b.png"], "val": [f"{valid}/c.jpg"]
    }  # fmt: skip
    assert data.classes.names == ("cat", "dog")
    assert not [note for note in data.notes if "class0" in note]


def test_cvat_ultralytics_yolo_with_lists_of_another_root(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        **{
            "data.yaml": "names:\n  0: cat\n  1: dog\npath: .\ntrain: train.txt\nval: Validation.txt\n",
            "train.txt": "data/images/train/a.jpg\n", "Validation.txt": "data/images/Validation/b.jpg\n",
            "images/train/a.jpg": None, "labels/train/a.txt": ROW,
            "images/Validation/b.jpg": None, "labels/Validation/b.txt": ROW,
        },
    )  # fmt: skip
    assert seen(open_folder(folder)) == {"train": ["images/train/a.jpg"], "val": ["images/Validation/b.jpg"]}


# Label Studio


@pytest.mark.parametrize(
    ("named", "there"),
    [
        ("images/cb0618f6-a.jpg", "images/cb0618f6-a.jpg"),  # "COCO with images"
        ("images\\1/cb0618f6-a.jpg", "images/cb0618f6-a.jpg"),  # with the number of the project, from Windows
        ("..\\..\\label-studio\\label-studio\\media\\upload\\4\\cb0618f6-a.jpg", "images/cb0618f6-a.jpg"),  # 1.16
        ("/data/upload/1/cb0618f6-a.jpg", "images/cb0618f6-a.jpg"),
        ("/data/upload/1/cb0618f6-a.jpg", "images/a.jpg"),  # "COCO" without images, beside the files of before
        ("/data/local-files/?d=photos/a.jpg", "photos/a.jpg"),  # local storage
        ("/data/local-files/?d=photos%2Fmy%20a.jpg", "photos/my a.jpg"),
        ("images/my%20a.jpg", "images/my a.jpg"),
        ("s3://bucket/photos/a.jpg", "images/a.jpg"),
        ("https://host/photos/a.jpg?X-Amz-Expires=60&X-Amz-Date=1", "images/a.jpg"),
    ],
)
def test_label_studio_coco_however_it_names_the_image(tmp_path: Path, named: str, there: str) -> None:
    content = coco(named, first_category=0, object={"segmentation": [], "ignore": 0})
    data = open_folder(write(tmp_path, **{"result.json": content, there: None}))
    assert seen(data) == {"train": [there]}
    assert data.classes.ids == (0, 1)


def test_the_exact_name_goes_before_the_decoded_one(tmp_path: Path) -> None:
    folder = write(tmp_path, **{"result.json": coco("images/a%20b.jpg", first_category=0)}, **{"images/a b.jpg": None})
    write(tmp_path, **{"images/a%20b.jpg": None})
    assert seen(open_folder(folder)) == {"train": ["images/a%20b.jpg"]}


def test_a_name_that_only_looks_like_an_upload_is_not_cut_where_it_is_there(tmp_path: Path) -> None:
    folder = write(tmp_path, **{"result.json": coco("images/deadbeef-a.jpg", "images/a.jpg", first_category=0)})
    write(folder, **{"images/a.jpg": None, "images/deadbeef-a.jpg": None})
    assert sorted(path for paths in seen(open_folder(folder)).values() for path in paths) == [
        "images/a.jpg", "images/deadbeef-a.jpg"
    ]  # fmt: skip


def test_label_studio_yolo_with_images(tmp_path: Path) -> None:
    notes = {
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
        "info": {"contributor": "Label Studio"},
    }
    folder = write(
        tmp_path,
        **{
            "classes.txt": "cat\ndog\n", "notes.json": notes,
            "images/cb0618f6-a.jpg": None, "labels/cb0618f6-a.txt": ROW,
        },
    )  # fmt: skip
    assert seen(open_folder(folder)) == {"train": ["images/cb0618f6-a.jpg"]}


def test_label_studio_yolo_without_images_beside_the_files_of_before(tmp_path: Path) -> None:
    files = {"labels/cb0618f6-a.txt": ROW, "labels/1b2c3d4e-my%20b.txt": ROW, "classes.txt": "cat\ndog\n"}
    folder = write(tmp_path, **files, **{"images/a.jpg": None, "images/my b.jpg": None})
    assert set(seen(open_folder(folder))) == {"train", "val"}


def test_two_uploads_of_one_name_are_not_taken_for_one_image(tmp_path: Path) -> None:
    files = {"labels/cb0618f6-a.txt": ROW, "labels/1b2c3d4e-a.txt": "1 0.5 0.5 0.5 0.5\n", "classes.txt": "cat\ndog\n"}
    write(tmp_path, **files, **{"images/a.jpg": None, "images/b.jpg": None, "labels/b.txt": ROW})
    problems = [problem for split in open_folder(tmp_path).splits.values() for problem in split.problems]
    assert sorted(Path(problem.where).name for problem in problems) == ["1b2c3d4e-a.txt", "cb0618f6-a.txt"]


def test_label_studio_pascal_voc(tmp_path: Path) -> None:
    xml = (
        "<annotation><folder>images</folder><filename>cb0618f6-a</filename><source><database>MyDatabase</database>"
        "</source><size><width>80</width><height>40</height><depth>3</depth></size><segmented>0</segmented><object>"
        "<name>cat</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult><bndbox>"
        "<xmin>6</xmin><ymin>8</ymin><xmax>26</xmax><ymax>28</ymax></bndbox></object></annotation>"
    )
    folder = write(tmp_path, **{"Annotations/cb0618f6-a.xml": xml, "images/cb0618f6-a.jpg": None})
    assert seen(open_folder(folder)) == {"train": ["images/cb0618f6-a.jpg"]}


# Roboflow


def test_roboflow_coco_with_its_dummy_category_and_augmented_copies(tmp_path: Path) -> None:
    files: dict[str, Any] = {"README.dataset.txt": "# cats", "README.roboflow.txt": "exported"}
    for split in ("train", "valid", "test"):
        name = f"a_jpg.rf.{split:0<32}.jpg"
        content = coco(name, parent="pets")
        content["categories"] = [{"id": 0, "name": "pets", "supercategory": "none"}, *content["categories"]]
        content["images"][0]["extra"] = {"name": "a.jpg"}
        files |= {f"{split}/_annotations.coco.json": content, f"{split}/{name}": None}
    data = open_folder(write(tmp_path, **files))
    assert {name: len(paths) for name, paths in seen(data).items()} == {"train": 1, "val": 1, "test": 1}
    assert (data.classes.names, data.classes.ids) == (("cat", "dog"), (1, 2))
    assert [note for note in data.notes if "unused parent" in note]


def test_roboflow_yolo_points_one_folder_too_high(tmp_path: Path) -> None:
    files: dict[str, Any] = {
        "data.yaml": "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\n"
        "nc: 2\nnames: ['cat', 'dog']\n\nroboflow:\n  workspace: w\n  project: p\n  version: 1\n  license: CC BY 4.0\n",
        "README.roboflow.txt": "exported",
    }  # fmt: skip
    for split in ("train", "valid"):
        files |= {f"{split}/images/a_jpg.rf.{split}.jpg": None, f"{split}/labels/a_jpg.rf.{split}.txt": ROW}
    data = open_folder(write(tmp_path, **files))
    assert {name: len(paths) for name, paths in seen(data).items()} == {"train": 1, "val": 1}


# FiftyOne


def test_fiftyone_coco_detection_dataset(tmp_path: Path) -> None:
    content = coco("a.jpg", "b.jpg", first_category=0, parent=None)
    for row in content["annotations"]:
        row.pop("iscrowd")  # written where the object has it only
        row["score"] = None
    folder = write(tmp_path, **{"labels.json": content, "data/a.jpg": None, "data/b.jpg": None})
    assert {path for paths in seen(open_folder(folder)).values() for path in paths} == {"data/a.jpg", "data/b.jpg"}


def test_fiftyone_coco_of_two_splits_in_two_folders(tmp_path: Path) -> None:
    files: dict[str, Any] = {}
    for split in ("train", "validation"):
        files |= {f"{split}/labels.json": coco("a.jpg", first_category=0, parent=None), f"{split}/data/a.jpg": None}
    assert seen(open_folder(write(tmp_path, **files))) == {
        "train": ["train/data/a.jpg"],
        "val": ["validation/data/a.jpg"],
    }


def test_fiftyone_yolo_v5_dataset(tmp_path: Path) -> None:
    files: dict[str, Any] = {
        "dataset.yaml": "names:\n  0: cat\n  1: dog\npath: /home/me/export\n"
        "train: ./images/train/\nval: ./images/val/\n"
    }
    for split in ("train", "val"):
        files |= {f"images/{split}/a.jpg": None, f"labels/{split}/a.txt": ROW}
    assert seen(open_folder(write(tmp_path, **files))) == {"train": ["images/train/a.jpg"], "val": ["images/val/a.jpg"]}


def test_fiftyone_voc_detection_dataset(tmp_path: Path) -> None:
    xml = (
        "<annotation><folder></folder><filename>a.jpg</filename><path>/home/me/export/data/a.jpg</path>"
        "<source><database></database></source><size><width>80</width><height>40</height><depth>3</depth></size>"
        "<segmented></segmented><object><name>cat</name><pose></pose><truncated>0</truncated><difficult>0</difficult>"
        "<occluded>0</occluded><bndbox><xmin>6</xmin><ymin>8</ymin><xmax>26</xmax><ymax>28</ymax></bndbox></object>"
        "</annotation>"
    )
    assert seen(open_folder(write(tmp_path, **{"labels/a.xml": xml, "data/a.jpg": None}))) == {"train": ["data/a.jpg"]}
