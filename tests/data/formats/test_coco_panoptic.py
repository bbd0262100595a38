"""COCO panoptic: segments of objects and of stuff, read from a JSON file and its PNG files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.data.checks.preflight import preflight
from boxwright.data.class_selection import relabelled, select_classes, without_stuff
from boxwright.data.dataset import DetectionDataset
from boxwright.data.formats.coco_panoptic import read_panoptic
from boxwright.data.formats.folder import open_folder
from boxwright.data.ground_truth import ground_truth_of
from boxwright.data.semantic_maps import semantic_map_of
from boxwright.data.synthetic.shapes import ShapesConfig, draw_shapes, write_shapes
from boxwright.ops.image import ResizeRule
from boxwright.structures import Classes

CAT, SKY, DOG, ROAD = 17, 187, 18, 149
CATEGORIES = [
    {"id": CAT, "name": "cat", "isthing": 1}, {"id": DOG, "name": "dog", "isthing": 1},
    {"id": ROAD, "name": "road", "isthing": 0}, {"id": SKY, "name": "sky", "isthing": 0},
]  # fmt: skip
IDS = np.array([[300, 300, 300, 0], [300, 70000, 5, 5], [9, 9, 5, 5]])
SEGMENTS = [
    {"id": 300, "category_id": SKY, "area": 4, "bbox": [0, 0, 3, 2], "iscrowd": 0},
    {"id": 70000, "category_id": CAT, "area": 1, "bbox": [1, 1, 1, 1], "iscrowd": 0},
    {"id": 5, "category_id": DOG, "area": 4, "bbox": [2, 1, 2, 2], "iscrowd": 1},
    {"id": 9, "category_id": ROAD, "area": 2, "bbox": [0, 2, 2, 1], "iscrowd": 0},
]


@pytest.fixture
def folder(tmp_path):
    """Writes COCO's usual folder with one image, whose segments, categories or pixels are changed."""

    def write(segments=SEGMENTS, categories=CATEGORIES, ids=IDS, split="train2017", where="annotations", **row):
        (tmp_path / split).mkdir(exist_ok=True)
        Image.new("RGB", (4, 3)).save(tmp_path / split / "a.jpg")
        target = tmp_path / "annotations" / f"panoptic_{split}.json"
        pixels = tmp_path / where / target.stem
        pixels.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(exist_ok=True)
        colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        Image.fromarray(colours).save(pixels / "a.png")
        content = {
            "images": [{"id": 4, "file_name": "a.jpg", "height": 3, "width": 4}],
            "annotations": [{"image_id": 4, "file_name": "a.png", "segments_info": list(segments)} | row],
            "categories": categories,
        }
        target.write_text(json.dumps(content))
        return tmp_path

    return write


def test_objects_and_stuff_are_read_with_their_pixels_and_ids(folder):
    data = open_folder(folder())
    assert (data.format, data.classes.names, data.classes.ids) == ("panoptic", ("cat", "dog"), (CAT, DOG))
    assert (data.classes.stuff, data.classes.stuff_ids) == (("road", "sky"), (ROAD, SKY))
    record = data.splits["train"].records[0]
    assert (record.image_id, record.path.name) == (4, "a.jpg")
    ground_truth = ground_truth_of(record, (3, 4), masks=True, semantic=True)
    assert ground_truth.boxes.tolist() == [[1, 1, 2, 2], [2, 1, 4, 3]]
    assert ground_truth.ignore.tolist() == [False, True]
    assert [mask.bitmap.sum() for mask in ground_truth.masks] == [1, 4]
    assert ground_truth.semantic.tolist() == [[2, 2, 2, 255], [2, 0, 0, 0], [1, 1, 0, 0]]
    assert preflight(data, check_maps=True, check_masks=True).serious == ()


@pytest.mark.parametrize("where", ["annotations", ".", "panoptic"])
def test_the_usual_places_of_the_pixels_are_known(folder, where):
    record = open_folder(folder(where=where)).splits["train"].records[0]
    assert semantic_map_of(record, (3, 4))[0, 0] == 2


def test_one_file_brings_the_others_beside_it_and_the_usual_file_of_objects_comes_first(folder):
    path = folder()
    folder(split="val2017")
    assert {*read_panoptic(path / "annotations" / "panoptic_val2017.json").splits} == {"train", "val"}
    content = json.loads((path / "annotations" / "panoptic_val2017.json").read_text())
    (path / "annotations" / "instances_val2017.json").write_text(json.dumps(content | {"annotations": [
        {"id": 1, "image_id": 4, "category_id": CAT, "bbox": [0, 0, 2, 2], "iscrowd": 0}
    ]}))  # fmt: skip
    data = open_folder(path)
    assert (data.format, data.classes.stuff) == ("coco", ())
    assert "give one of them, such as panoptic_train2017.json" in data.notes[0]


def test_a_box_that_is_missing_is_that_of_the_pixels_and_crowds_of_stuff_count_for_nothing(folder):
    segments = [{key: value for key, value in row.items() if key != "bbox"} for row in SEGMENTS]
    segments[0]["iscrowd"] = 1
    record = open_folder(folder(segments)).splits["train"].records[0]
    assert [item.box for item in record.annotations] == [(1, 1, 2, 2), (2, 1, 4, 3)]
    assert semantic_map_of(record, (3, 4))[0].tolist() == [255] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"isthing": 2}, '"isthing" of category id 17 is 2; expected 1 for a class of objects and 0 for one of stuff'),
        ({"isthing": None}, '"isthing" of category id 17 is None'),
    ],
)
def test_categories_that_do_not_say_what_they_are_are_refused(folder, change, message):
    path = folder(categories=[CATEGORIES[0] | change, *CATEGORIES[1:]])
    if change["isthing"] is None:
        path = folder(categories=[{"id": CAT, "name": "cat"}, *CATEGORIES[1:]])
        message = '"isthing" of category id 17 is missing'
    with pytest.raises(ValueError, match=message):
        open_folder(path)


@pytest.mark.parametrize(
    ("segment", "kind", "message"),
    [
        ({"id": 0}, "bad-segment", "no number from 1 to 2"),
        ({"id": "x"}, "bad-segment", "no number from 1 to 2"),
        ({"id": 300}, "bad-segment", "the id occurs twice in the image"),
        ({"category_id": 3}, "unknown-class", "no category has the id 3; its pixels are not learnt"),
        ({"iscrowd": 7}, "bad-field", '"iscrowd" is 7, expected 0 or 1'),
    ],
)
def test_a_damaged_segment_is_told_and_the_rest_is_read(folder, segment, kind, message):
    split = open_folder(folder([*SEGMENTS[:3], SEGMENTS[3] | segment])).splits["train"]
    assert [problem.kind for problem in split.problems] == [kind]
    assert message in split.problems[0].message
    assert "(a.png)" in split.problems[0].where
    assert semantic_map_of(split.records[0], (3, 4)).tolist()[2] == [255, 255, 0, 0]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"file_name": None}, "bad-annotation"), ({"image_id": []}, "bad-annotation"),
        ({"segments_info": {}}, "bad-annotation"), ({"image_id": 5}, "unknown-image"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_used_leaves_its_image_without_segments(folder, row, kind):
    split = read_panoptic(folder(**row)).splits["train"]
    assert (split.records[0].annotations, split.records[0].semantic) == ((), None)
    assert [problem.kind for problem in split.problems] == [kind]


def findings(data):
    return {finding.kind: finding.message for finding in preflight(data, check_maps=True).findings}


def test_preflight_finds_missing_small_and_unnamed_segments(folder):
    path = folder([*SEGMENTS[:3], SEGMENTS[3] | {"id": 10}])
    found = findings(open_folder(path))
    assert "segments that segments_info does not name (id 9; 2 pixels): no class" in found["unknown-segment"]
    assert "has no pixel of segment id 10 of segments_info" in found["segment-without-pixels"]
    assert found["class-without-pixels"] == "no split has a pixel of road"
    folder(ids=IDS[:2])
    assert (
        "a.png has 4 x 2 pixels, its image 4 x 3; its pixels are of no class" in findings(open_folder(path))["map-size"]
    )
    (path / "annotations" / "panoptic_train2017" / "a.png").write_bytes(b"no image")
    assert "cannot be read" in findings(open_folder(path))["bad-map"]
    (path / "annotations" / "panoptic_train2017" / "a.png").unlink()
    report = preflight(open_folder(path))
    assert "there is no file" in {finding.kind: finding.message for finding in report.findings}["missing-map"]
    record = report.dataset.splits["train"].records[0]
    assert record.semantic is None
    assert len(record.annotations) == 2


def test_preflight_counts_pixels_of_classes(folder):
    report = preflight(open_folder(folder()), check_maps=True)
    assert report.statistics["train"].pixels == {"things": 5, "road": 2, "sky": 4}
    assert [row["name"] for row in report.as_dict()["stuff"]] == ["road", "sky"]
    assert preflight(open_folder(folder())).statistics["train"].pixels == {}


def test_chosen_classes_keep_stuff_unless_some_is_named_and_what_is_dropped_has_no_label(folder):
    data = open_folder(folder())
    dogs = select_classes(data, "dog")
    assert (dogs.classes.names, dogs.classes.stuff) == (("dog",), ("road", "sky"))
    record = dogs.splits["train"].records[0]
    assert semantic_map_of(record, (3, 4)).tolist() == [[2, 2, 2, 255], [2, 255, 0, 0], [1, 1, 0, 0]]
    assert not preflight(dogs, check_maps=True).serious
    sky = select_classes(data, "sky")
    assert (sky.classes.names, sky.classes.semantic_names, sky.classes.stuff_ids) == ((), ("sky",), (SKY,))
    assert semantic_map_of(sky.splits["train"].records[0], (3, 4)).tolist()[1] == [0, 255, 255, 255]
    with pytest.raises(ValueError, match="'sky' is stuff, which can be chosen but not merged"):
        select_classes(data, "sky+road=ground")


def test_a_model_decides_the_order_of_stuff_and_refuses_other_stuff(folder):
    split = open_folder(folder()).splits["train"]
    other = relabelled(split, Classes(("dog", "cat"), (1, 2), stuff=("sky", "road")))
    assert semantic_map_of(other.records[0], (3, 4)).tolist() == [[1, 1, 1, 255], [1, 0, 0, 0], [2, 2, 0, 0]]
    assert other.classes.stuff_ids == (SKY, ROAD)
    assert [item.label for item in other.records[0].annotations] == [1, 0]
    assert relabelled(split, Classes(("cat", "dog"), (1, 2))).records[0].semantic is None
    assert without_stuff(split).classes.stuff == ()
    with pytest.raises(ValueError, match=r"the stuff differs: the model has 1 \(sky\), the data has road, sky"):
        relabelled(split, Classes(("cat", "dog"), (1, 2), stuff=("sky",)))
    with pytest.raises(ValueError, match="the data has none: it has no label of every pixel"):
        relabelled(without_stuff(split), Classes(("cat", "dog"), (1, 2), stuff=("sky",)))


def test_shapes_with_stuff_read_back_as_they_were_drawn(tmp_path):
    config = ShapesConfig(size=64, num_classes=3, max_pixels=30, stuff=True)
    write_shapes(tmp_path / "s", 3, 1, "panoptic", config)
    data = open_folder(tmp_path / "s")
    assert data.classes == config.classes
    assert preflight(data, check_maps=True, check_masks=True).serious == ()
    images = DetectionDataset(data.splits["train"], ResizeRule("none"), masks=True, semantic=True, cache=False)
    for index in range(3):
        drawn, read = draw_shapes(config, 0, index)[1], images.base(index).objects
        assert torch.equal(read.semantic, drawn.semantic)
        assert torch.equal(read.boxes, drawn.boxes)
        assert torch.equal(read.labels, drawn.labels)
        assert all(torch.equal(one.bitmap, other.bitmap) for one, other in zip(read.masks, drawn.masks, strict=True))
