"""Ground truth and detections from files: figures equal those of pycocotools and the VOC kit."""

import contextlib
import io
import json
import random

import pytest

from boxwright.evaluation.comparison import compare_files
from boxwright.evaluation.summary import evaluate_detections

SIZE = 120
SQUARE = [10, 10, 40, 40]


def outline(x, y, width, height):
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def write(folder, ground_truth, rows):
    files = folder / "ground truth.json", folder / "found.json"
    for file, content in zip(files, (ground_truth, rows), strict=True):
        file.write_text(json.dumps(content))
    return files


def ground_truth_file(keys, annotations, names=("a", "b")):
    images = [{"id": key, "file_name": f"{key}.png", "width": SIZE, "height": SIZE} for key in keys]
    rows = [{"id": number, "iscrowd": 0, **row} for number, row in enumerate(annotations, start=1)]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    return {"images": images, "annotations": rows, "categories": categories}


def measured(ground_truth, found, **options):
    compared = compare_files(ground_truth, found)
    return compared, evaluate_detections(
        compared.detections, compared.ground_truths, compared.classes, areas=compared.areas, **options
    )


def pycocotools_ap(ground_truth, found, kind="bbox"):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        table = COCO(str(ground_truth))
        evaluation = COCOeval(table, table.loadRes(str(found)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def crowded(keys, seed, number=lambda value: value):
    """Objects and detections of few different scores, in images that are not in the order of their ids."""
    draw = random.Random(seed)
    objects, rows = [], []
    for key in keys:
        for _ in range(4):
            box = [draw.randrange(60), draw.randrange(60), draw.randrange(20, 50), draw.randrange(20, 50)]
            label = draw.randrange(1, 3)
            objects.append({"image_id": key, "category_id": label, "bbox": box, "area": box[2] * box[3]})
            for _ in range(draw.randrange(3)):
                near = [value + draw.randrange(-6, 7) for value in box]
                score = draw.choice([0.1, 0.5, 0.9])
                rows.append({"image_id": key, "category_id": number(label), "bbox": near, "score": score})
    draw.shuffle(rows)
    return ground_truth_file(keys, objects), rows


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("text", [True, False])
def test_equal_scores_are_ordered_by_image_id_as_in_pycocotools(tmp_path, text, seed):
    keys = ["img_10", "img_9", "img_2", "B", "a"] if text else [7, 3, 11, 2, 5]
    files = write(tmp_path, *crowded(keys, seed))
    _, result = measured(*files)
    assert result.figures["AP"] == pytest.approx(pycocotools_ap(*files), abs=1e-9)
    assert 0.02 < result.figures["AP"] < 0.9


def test_a_whole_number_with_a_point_is_an_id(tmp_path):
    ground_truth, rows = crowded([3, 1, 2], 5, float)
    for row in rows:
        row["image_id"] = float(row["image_id"])
    files = write(tmp_path, ground_truth, rows)
    compared, result = measured(*files)
    assert compared.warnings == ()
    assert result.figures["AP"] == pytest.approx(pycocotools_ap(*files), abs=1e-9)


@pytest.mark.parametrize("key", ["image_id", "category_id"])
@pytest.mark.parametrize("value", [True, None, 1.5, [1], {"a": 1}])
def test_what_is_no_id_is_refused_by_name(tmp_path, key, value):
    row = {"image_id": 1, "category_id": 1, "bbox": SQUARE, "score": 0.5}
    files = write(
        tmp_path, ground_truth_file([1], [{"image_id": 1, "category_id": 1, "bbox": SQUARE}]), [row, row | {key: value}]
    )
    with pytest.raises(ValueError, match=rf"found\.json: detection 1: expected {key} as an integer or text"):
        compare_files(*files)


def test_ids_that_are_text_here_and_numbers_there_are_one(tmp_path):
    objects = [{"image_id": key, "category_id": 1, "bbox": SQUARE} for key in (1, 2, 3)]
    rows = [{"image_id": key, "category_id": label, "bbox": SQUARE, "score": "0.5"}
            for key, label in (("1", 1), (2, "1"), (3.0, 1))]  # fmt: skip
    compared, result = measured(*write(tmp_path, ground_truth_file([1, 2, 3], objects), rows))
    assert compared.warnings == ()
    assert result.figures["AP"] == 1


def masked(keys=(1, 2, 3)):
    """One object an image, and its detection, both with a polygon."""
    objects, rows = [], []
    for key in keys:
        box = [10 + 5 * key, 20, 30, 40]
        objects.append({"image_id": key, "category_id": 1, "bbox": box, "area": 1200, "segmentation": [outline(*box)]})
        rows.append({"image_id": key, "category_id": 1, "bbox": box, "score": 1 - 0.1 * key,
                     "segmentation": [outline(*box)]})  # fmt: skip
    return objects, rows


@pytest.mark.parametrize("nothing", [[], [[]], None, {}, "missing"])
def test_one_detection_without_a_mask_is_an_empty_mask_and_said(tmp_path, nothing):
    objects, rows = masked()
    if nothing == "missing":
        del rows[0]["segmentation"]
    else:
        rows[0]["segmentation"] = nothing
    compared, result = measured(*write(tmp_path, ground_truth_file([1, 2, 3], objects, ["a"]), rows))
    assert result.figures["AP"] == 1
    # The surest detection is a false alarm, two of three objects are found behind it.
    assert result.figures["segm_AP"] == pytest.approx(2 / 3 * 67 / 101)
    assert "1 of 3 detections have no mask or an empty one (the first is detection 0)" in compared.warnings[0]


def test_a_file_without_any_mask_is_measured_by_boxes(tmp_path):
    objects, rows = masked()
    compared, result = measured(
        *write(tmp_path, ground_truth_file([1, 2, 3], objects, ["a"]), [r | {"segmentation": []} for r in rows])
    )
    assert "segm_AP" not in result.figures
    assert compared.warnings == ()


@pytest.mark.parametrize("part", [[30, 30, 35, 30], [30, 30], []])
@pytest.mark.parametrize("first", [True, False])
def test_a_part_without_area_costs_nothing_but_itself(tmp_path, part, first):
    objects, rows = masked()
    plain = write(tmp_path, ground_truth_file([1, 2, 3], objects, ["a"]), rows)
    expected = measured(*plain)[1].figures["segm_AP"]
    polygon = objects[1]["segmentation"][0]
    objects[1]["segmentation"] = [part, polygon] if first else [polygon, part]
    compared, result = measured(*write(tmp_path, ground_truth_file([1, 2, 3], objects, ["a"]), rows))
    assert compared.warnings == ()
    assert result.figures["segm_AP"] == expected == 1
    if not first:  # pycocotools takes a first part of four numbers for a box
        assert pycocotools_ap(
            *write(tmp_path, ground_truth_file([1, 2, 3], objects, ["a"]), rows), "segm"
        ) == pytest.approx(1)


def test_a_detection_of_a_mask_alone_has_the_box_of_the_mask(tmp_path):
    objects, rows = masked()
    code = {"size": [SIZE, SIZE], "counts": [SIZE * 20 + 20, 40, SIZE * SIZE - SIZE * 20 - 60]}
    for row in rows:
        del row["bbox"]
    rows.append({"image_id": 1, "category_id": 1, "score": 0.01, "segmentation": code})
    compared, result = measured(*write(tmp_path, ground_truth_file([1, 2, 3], objects, ["a"]), rows))
    assert result.figures["AP"] == 1
    assert compared.detections[0].boxes[1].tolist() == [20, 20, 21, 60]


@pytest.mark.parametrize("code", [{"size": [9, 9], "counts": [4, 4]}, {"size": [9], "counts": [81]}, [[1, 2, "x"]], 5])
def test_a_damaged_mask_without_a_box_names_its_row(tmp_path, code):
    rows = [{"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": code}]
    objects, _ = masked([1])
    with pytest.raises(ValueError, match=r"found\.json: detection 0: the mask cannot be decoded"):
        compare_files(*write(tmp_path, ground_truth_file([1], objects), rows))


def voc_xml(boxes):
    text = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>" for name, x1, y1, x2, y2 in boxes
    )  # fmt: skip
    return f"<annotation><size><width>50</width><height>50</height></size>{text}</annotation>"


OBJECTS = [("line", 7, 3, 7, 30), ("line", 30, 4, 40, 4), ("dot", 5, 5, 5, 5), ("blob", 10, 10, 30, 20)]


@pytest.mark.parametrize("xml", [False, True])
def test_a_box_one_pixel_wide_counts_where_its_last_pixel_is_its_own(tmp_path, xml):
    ground_truth, found = tmp_path / "ground truth", tmp_path / "found"
    found.mkdir()
    if xml:
        from PIL import Image

        (ground_truth / "Annotations").mkdir(parents=True)
        (ground_truth / "JPEGImages").mkdir()
        Image.new("RGB", (50, 50)).save(ground_truth / "JPEGImages/one.jpg")
        (ground_truth / "Annotations/one.xml").write_text(voc_xml(OBJECTS))
    else:
        ground_truth.mkdir()
        (ground_truth / "one.txt").write_text("".join(f"{name} {a} {b} {c} {d}\n" for name, a, b, c, d in OBJECTS))
    # Of the first line half is found; its 28 pixels against 14. The dot is found as two pixels.
    rows = ["line 0.9 7 3 7 16", "dot 0.8 5 5 6 5", "blob 0.7 10 10 30 20"]
    (found / "one.txt").write_text("\n".join(rows))
    compared = compare_files(ground_truth, found, plus_one=True)
    result = evaluate_detections(compared.detections, compared.ground_truths, compared.classes, metric="voc")
    assert compared.warnings == ()
    assert result.per_class == {"blob": 1.0, "dot": 1.0, "line": 0.5}
    assert {row.name: row.recall for row in result.rows} == {"blob": 1.0, "dot": 1.0, "line": 0.5}
    exclusive = compare_files(ground_truth, found)
    assert [len(one) for one in exclusive.ground_truths] == [1]
    assert "left out" in exclusive.warnings[0]
