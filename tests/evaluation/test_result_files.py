"""Result files come back as they were written, and detections find their images whatever these are called."""

import json

import numpy as np
import pytest
import torch

from boxwright.evaluation import result_files
from boxwright.evaluation.joining import Image, join_results, read_text_ground_truth
from boxwright.evaluation.result_files import holds_text_ground_truth, read_results, unique_stems
from boxwright.structures import Classes, Detections, GroundTruth

CLASSES = Classes(("traffic light", "cat", "dog"), (4, 9, 2))


@pytest.fixture
def written(random_set):
    """Random detections with numbers that have many digits, and the images they belong to."""
    detections, ground_truths = random_set(11)
    noise = torch.Generator().manual_seed(1)
    detections = [
        Detections(d.boxes + torch.rand(d.boxes.shape, generator=noise) / 7, d.scores, d.labels, d.size_hw, CLASSES)
        for d in detections
    ]
    images = [Image(100 + 3 * index, f"folder/img_{index:03d}.jpg", (240, 320)) for index in range(12)]
    return detections, ground_truths, images


def same(first, second, tolerance=0.0):
    assert len(first) == len(second)
    for ours, theirs in zip(first, second, strict=True):
        np.testing.assert_allclose(ours.boxes, theirs.boxes, rtol=0, atol=tolerance)
        assert ours.labels.tolist() == theirs.labels.tolist()
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["coco", "text", "voc", "yolo"])
def test_round_trip(written, tmp_path, kind):
    detections, _, images = written
    stems = unique_stems([image.file_name for image in images])
    target = tmp_path / "found"
    if kind == "coco":
        target = tmp_path / "found.json"
        result_files.write_coco_results(target, detections, [image.image_id for image in images])
    elif kind == "text":
        result_files.write_text_results(target, detections, stems)
    elif kind == "voc":
        result_files.write_voc_results(target, detections, stems, CLASSES)
    else:
        result_files.write_yolo_results(target, detections, stems)
    table = read_results(target, CLASSES.names)
    assert table.format == kind
    joined = join_results(table, images, CLASSES)
    assert joined.warnings == ()
    same(joined.detections, detections, 0.0 if kind in ("text", "voc") else 1e-4)


def test_text_ground_truth_round_trip_with_difficult_and_spaces(random_set, tmp_path):
    _, ground_truths = random_set(5, crowd=0.3)
    stems = [f"p{index:02d}" for index in range(len(ground_truths))]
    result_files.write_text_ground_truth(tmp_path, ground_truths, stems, CLASSES)
    assert holds_text_ground_truth(tmp_path)
    text = read_text_ground_truth(tmp_path)
    assert text.classes.names == ("cat", "dog", "traffic light")
    for ours, theirs in zip(text.ground_truths, ground_truths, strict=True):
        assert torch.equal(ours.boxes, theirs.boxes)
        assert torch.equal(ours.ignore, theirs.ignore)
        names = [CLASSES.names[label] for label in theirs.labels.tolist()]
        assert [text.classes.names[label] for label in ours.labels.tolist()] == names


def test_text_ground_truth_without_area_is_left_out_and_said(tmp_path):
    (tmp_path / "a.txt").write_text("cat 5 5 5 9\ncat 1 1 4 4 difficult\n")
    text = read_text_ground_truth(tmp_path)
    assert text.ground_truths[0].boxes.tolist() == [[1, 1, 4, 4]]
    assert "1 ground truth boxes without width or height" in text.warnings[0]
    assert "a.txt:1" in text.warnings[0]


def test_coco_rows_carry_original_ids_and_corner_size_boxes(tmp_path):
    found = Detections(torch.tensor([[10.0, 20, 30, 50]]), torch.tensor([0.5]), torch.tensor([1]), (99, 99), CLASSES)
    result_files.write_coco_results(tmp_path / "r.json", [found], ["a/7.jpg"])
    assert json.loads((tmp_path / "r.json").read_text()) == [
        {"image_id": "a/7.jpg", "category_id": 9, "bbox": [10, 20, 20, 30], "score": 0.5}
    ]


@pytest.mark.parametrize(
    "said",
    [lambda i: 100 + 3 * i, lambda i: f"img_{i:03d}", lambda i: f"x/img_{i:03d}.png", lambda i: f"{100 + 3 * i}"],
)
def test_images_are_found_by_id_name_or_stem(written, tmp_path, said):
    detections, _, images = written
    result_files.write_coco_results(tmp_path / "r.json", detections, [said(index) for index in range(12)])
    joined = join_results(read_results(tmp_path / "r.json"), images, CLASSES)
    assert joined.warnings == ()
    same(joined.detections, detections, 1e-4)


def test_number_of_a_file_name_is_an_image_too(tmp_path):
    images = [Image("000005", "000005.jpg"), Image("000012", "000012.jpg")]
    rows = [{"image_id": key, "category_id": 9, "bbox": [1, 2, 3, 4], "score": 0.5} for key in (12, 5)]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    joined = join_results(read_results(tmp_path / "r.json"), images, CLASSES)
    assert [len(found) for found in joined.detections] == [1, 1]


def test_two_images_of_one_name_are_not_guessed(tmp_path):
    images = [Image(1, "a/x.jpg"), Image(2, "b/x.jpg"), Image(3, "b/y.jpg")]
    (tmp_path / "x.txt").write_text("cat 0.5 1 2 3 4\n")
    (tmp_path / "y.txt").write_text("cat 0.5 1 2 3 4\n")
    joined = join_results(read_results(tmp_path), images, CLASSES)
    assert [len(found) for found in joined.detections] == [0, 0, 1]
    assert "1 of 2 detections refer to images" in joined.warnings[0]
    assert unique_stems(["a/x.jpg", "b/x.jpg"]) == ["a__x", "b__x"]


def test_detections_are_sorted_and_equal_scores_keep_their_order(tmp_path):
    (tmp_path / "x.txt").write_text("cat 0.5 1 2 3 4\ncat 0.9 2 2 3 4\ncat 0.5 3 2 9 9\ncat 0.50000000001 4 2 9 9\n")
    (found,) = join_results(read_results(tmp_path), [Image(1, "x.jpg")], CLASSES).detections
    assert found.boxes[:, 0].tolist() == [2, 4, 1, 3]


def test_unknown_classes_all_or_some(tmp_path):
    (tmp_path / "x.txt").write_text("Cat 0.5 1 2 3 4\ncow 0.9 2 2 3 4\n")
    joined = join_results(read_results(tmp_path), [Image(1, "x.jpg")], CLASSES)
    assert len(joined.detections[0]) == 1  # found in spite of the capital letter
    assert joined.warnings[0].endswith("1 of 2 detections refer to classes that are not in the ground truth and are "
                                       "left out: cow.")  # fmt: skip
    with pytest.raises(
        ValueError, match=r"none of its 2 detections refers to a known class: the file has Cat, cow, .*bird"
    ):
        join_results(read_results(tmp_path), [Image(1, "x.jpg")], Classes.named(["bird"]))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("cat 0.5 1 2 3\n", r"x\.txt:1: expected a name and 5 numbers"),
        ("cat 0.5 1 2 3 4\n\ncat high 1 2 3 4\n", r"x\.txt:3: expected a name and 5 numbers"),
        ("cat nan 1 2 3 4\n", r"x\.txt:1"),
        ("0 0.5 0.5 0.1 0.1\n", r"x\.txt:1: five numbers contain no score"),
    ],
)
def test_damaged_text_names_file_and_line(tmp_path, text, sentence):
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        read_results(tmp_path)


def test_what_is_no_result_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such file or folder of detections"):
        read_results(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected a COCO result file"):
        read_results(tmp_path)
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match=r"x\.txt: not a text file"):
        read_results(tmp_path)


def test_yolo_needs_the_size_of_the_image(tmp_path):
    (tmp_path / "x.txt").write_text("1 0.5 0.5 0.2 0.4 0.9\n")
    assert not holds_text_ground_truth(tmp_path)
    with pytest.raises(ValueError, match=r"the size of image x\.jpg is not known"):
        join_results(read_results(tmp_path), [Image(1, "x.jpg")], CLASSES)
    (found,) = join_results(read_results(tmp_path), [Image(1, "x.jpg", (100, 200))], CLASSES).detections
    np.testing.assert_allclose(found.boxes, [[80, 30, 120, 70]], atol=1e-5)
    assert found.names == ["cat"]


def test_empty_files_are_no_detections(tmp_path):
    (tmp_path / "x.txt").write_text("")
    joined = join_results(read_results(tmp_path), [Image(1, "x.jpg")], CLASSES)
    assert [len(found) for found in joined.detections] == [0]
    assert GroundTruth.empty().boxes.shape == joined.detections[0].boxes.shape
