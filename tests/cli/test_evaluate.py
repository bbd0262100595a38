"""`boxwright evaluate`: figures of files from anywhere, of a checkpoint, and one sentence for every mistake."""

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from PIL import Image

from boxwright.cli import main
from boxwright.evaluation import result_files
from boxwright.structures import Classes, Detections, GroundTruth


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command in this process: exit code, standard output, standard error."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["boxwright", "evaluate", *map(str, words)])
        try:
            main.run()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def cartucho():
    folder = Path(__file__).resolve().parents[2] / "../shared/fixtures/cartucho_map"
    if not folder.is_dir():
        pytest.skip("the folder shared does not lie beside the checkout")
    return folder.resolve()


BOXES = [[10.0, 20, 60, 80], [70, 30, 120, 90], [15, 15, 40, 60]]
CLASSES = Classes(("cat", "dog"), (3, 7))


@pytest.fixture
def coco(tmp_path):
    """Two images with ids 0 and 9, categories 3 and 7, no area and no iscrowd; perfect detections."""
    ground_truth = {
        "images": [{"id": 9, "file_name": "b.jpg", "height": 100, "width": 150},
                   {"id": 0, "file_name": "a.jpg", "height": 100, "width": 150}],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": index, "image_id": image, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for index, (image, category, (x1, y1, x2, y2)) in enumerate(zip([0, 0, 9], [3, 7, 3], BOXES, strict=True))
        ],
    }  # fmt: skip
    (tmp_path / "ground truth.json").write_text(json.dumps(ground_truth))
    rows = [
        {k: row[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.5} for row in ground_truth["annotations"]
    ]
    return tmp_path / "ground truth.json", rows


def write(path, rows):
    path.write_text(json.dumps(rows))
    return path


def test_cartucho_folders_give_its_figures(call, cartucho):
    where = ("--ground-truth", cartucho / "ground-truth", "--detections", cartucho / "detection-results")
    code, out, err = call(*where, "--metric", "voc", "--json")
    assert code == 0
    figures = json.loads(out)
    expected = json.loads((cartucho / "expected.json").read_text())
    assert {name: round(100 * ap, 2) for name, ap in figures["per_class"].items()} == expected["ap"]
    assert f"{figures['mAP']:.4f}" == "0.3105"
    assert "44 of 494 detections refer to classes that are not in the ground truth" in err
    other = json.loads(call(*where, "--metric", "voc", "--json", "--no-plus-one", "--iou", "0.75")[1])
    assert 0 < other["mAP"] < figures["mAP"]


def test_voc_as_text_table(call, cartucho):
    code, out, _ = call(
        "--ground-truth", cartucho / "ground-truth", "--detections", cartucho / "detection-results", "--metric", "voc"
    )
    assert code == 0
    assert "mAP 0.3105 (IoU 0.5, all points" in out
    assert "windowblind" in out


def test_voc_saves_the_files_of_the_courses_tool_and_coco_does_not(call, coco, tmp_path):
    ground_truth, rows = coco
    files = ("--ground-truth", ground_truth, "--detections", write(tmp_path / "found.json", rows))
    assert call(*files, "--metric", "voc", "--save", tmp_path / "voc")[0] == 0
    assert "100.00% = cat AP" in (tmp_path / "voc/results.txt").read_text()
    assert (tmp_path / "voc/mAP.png").is_file()
    assert call(*files, "--save", tmp_path / "coco")[0] == 0
    assert not (tmp_path / "coco/results.txt").exists()


def test_nms_iou_is_for_a_checkpoint(call, coco, tmp_path):
    ground_truth, rows = coco
    files = ("--ground-truth", ground_truth, "--detections", write(tmp_path / "found.json", rows))
    code, _, err = call(*files, "--nms-iou", "0.5")
    assert code == 2
    assert "--nms-iou is for a CHECKPOINT" in err


def test_coco_json_with_ids_from_zero_and_gaps(call, coco, tmp_path):
    ground_truth, rows = coco
    code, out, err = call(
        "--ground-truth", ground_truth, "--detections", write(tmp_path / "found.json", rows), "--json"
    )
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert figures["AP"] == pytest.approx(1)
    assert figures["per_class"] == {"cat": pytest.approx(1), "dog": pytest.approx(1)}
    assert figures["AR100"] == 1
    assert figures["APl"] is None
    numbers = [value for value in figures.values() if isinstance(value, float)]
    assert all(0 <= value <= 1 for value in numbers)


@pytest.mark.parametrize("kind", ["text", "voc", "yolo"])
def test_other_formats_of_detections_give_the_same(call, coco, tmp_path, kind):
    ground_truth, _ = coco
    detections = [
        Detections(torch.tensor(BOXES[:2]), torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), (100, 150), CLASSES),
        Detections(torch.tensor(BOXES[2:]), torch.tensor([0.7]), torch.tensor([0]), (100, 150), CLASSES),
    ]
    folder = tmp_path / "found"
    if kind == "voc":
        result_files.write_voc_results(folder, detections, ["a", "b"], CLASSES)
    elif kind == "yolo":
        result_files.write_yolo_results(folder, detections, ["a", "b"])
    else:
        result_files.write_text_results(folder, detections, ["a", "b"])
    code, out, _ = call("--ground-truth", ground_truth, "--detections", folder, "--json")
    assert code == 0
    assert json.loads(out)["AP"] == pytest.approx(1)


def test_voc_folder_needs_its_split(call, tmp_path):
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for stem, split in (("one", "train"), ("two", "test")):
        (tmp_path / f"set/ImageSets/Main/{split}.txt").write_text(f"{stem}\n")
        Image.new("RGB", (60, 50)).save(tmp_path / f"set/JPEGImages/{stem}.jpg")
        (tmp_path / f"set/Annotations/{stem}.xml").write_text(
            f"<annotation><filename>{stem}.jpg</filename><object><name>cat</name><bndbox><xmin>5</xmin><ymin>6</ymin>"
            "<xmax>30</xmax><ymax>40</ymax></bndbox></object></annotation>"
        )
    (tmp_path / "found").mkdir()
    (tmp_path / "found/two.txt").write_text("cat 0.9 5 6 30 40\n")
    where = ("--ground-truth", tmp_path / "set", "--detections", tmp_path / "found", "--metric", "voc", "--json")
    code, _, err = call(*where)
    assert code == 2
    assert "choose one with --split" in err
    code, out, err = call(*where, "--split", "test")
    assert code == 0, err
    assert json.loads(out)["mAP"] == 1


def test_subset_and_merge_of_classes(call, coco, tmp_path):
    ground_truth, rows = coco
    found = write(tmp_path / "found.json", rows)
    only = json.loads(call("--ground-truth", ground_truth, "--detections", found, "--json", "--classes", "dog")[1])
    assert only["per_class"] == {"dog": pytest.approx(1)}
    rows[0]["category_id"] = 7  # a cat taken for a dog: right again when both are animals
    found = write(tmp_path / "found.json", rows)
    merged = json.loads(
        call("--ground-truth", ground_truth, "--detections", found, "--json", "--classes", "cat+dog=animal")[1]
    )
    assert merged["per_class"] == {"animal": pytest.approx(1)}
    assert json.loads(call("--ground-truth", ground_truth, "--detections", found, "--json")[1])["AP"] < 0.8


def test_unknown_images_are_counted_and_all_unknown_is_an_error(call, coco, tmp_path):
    ground_truth, rows = coco
    rows[0]["image_id"] = 55
    code, out, err = call(
        "--ground-truth", ground_truth, "--detections", write(tmp_path / "found.json", rows), "--json"
    )
    assert code == 0
    assert "1 of 3 detections refer to images that are not in the ground truth and are left out: 55." in err
    assert json.loads(out)["AP"] < 1
    strange = [row | {"image_id": row["image_id"] + 100} for row in rows]
    code, out, err = call(
        "--ground-truth", ground_truth, "--detections", write(tmp_path / "found.json", strange), "--json"
    )
    assert (code, out) == (2, "")
    assert "none of its 3 detections refers to a known image" in err


def test_zero_ap_is_explained(call, coco, tmp_path):
    ground_truth, rows = coco
    for row in rows:
        x, y, width, height = row["bbox"]
        row["bbox"] = [x / 150, y / 100, width / 150, height / 100]
    code, out, err = call(
        "--ground-truth", ground_truth, "--detections", write(tmp_path / "found.json", rows), "--json"
    )
    assert code == 0
    assert "are fractions of the image, not pixels: AP50 is 0.000, and 1.000" in err
    assert json.loads(out)["diagnosis"][0] in err


def test_no_detections_and_no_ground_truth(call, coco, tmp_path):
    ground_truth, rows = coco
    code, out, err = call("--ground-truth", ground_truth, "--detections", write(tmp_path / "none.json", []), "--json")
    assert code == 0
    assert json.loads(out)["AP"] == 0
    assert "No detections at all" in err
    empty = json.loads(ground_truth.read_text()) | {"annotations": []}
    code, out, err = call(
        "--ground-truth",
        write(tmp_path / "empty.json", empty),
        "--detections",
        write(tmp_path / "found.json", rows),
        "--json",
    )
    assert code == 0
    assert json.loads(out)["AP"] is None
    assert "No ground truth at all" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "give a CHECKPOINT with --data, or --ground-truth with --detections; got neither"),
        (("x.pt",), "got CHECKPOINT"),
        (("--ground-truth", "t.json"), "got --ground-truth"),
        (("x.pt", "--detections", "d"), "got CHECKPOINT and --detections"),
        (
            ("x.pt", "--data", "d", "--ground-truth", "t", "--detections", "d"),
            "got CHECKPOINT and --data and --ground-truth",
        ),
        (
            ("--ground-truth", "t", "--detections", "d", "--metric", "map"),
            "'map' is none of coco, lvis, cityscapes and voc",
        ),
        (
            ("--ground-truth", "nowhere", "--detections", "d"),
            "nowhere: there is no such file or folder of ground truth",
        ),
    ],
)
def test_wrong_words(call, words, sentence):
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert sentence in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[{]", "found.json: not a JSON file, line 1"),
        ('{"images": []}', "expected a JSON list of detections"),
        ('[{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}]', "this looks like ground truth, not detections"),
        ('[{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3], "score": 1}]', "detection 0: expected bbox"),
        ('[{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, NaN], "score": 1}]', "finite numbers"),
        ("[5]", "detection 0: expected an object"),
    ],
)
def test_damaged_detections_are_one_sentence(call, coco, tmp_path, content, sentence):
    (tmp_path / "found.json").write_text(content)
    code, out, err = call("--ground-truth", coco[0], "--detections", tmp_path / "found.json")
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


def test_save_writes_everything_and_never_into_the_data(call, coco, tmp_path):
    ground_truth, rows = coco
    found = write(tmp_path / "found.json", rows)
    target = tmp_path / "report"
    code, _, err = call("--ground-truth", ground_truth, "--detections", found, "--save", target)
    assert code == 0
    assert str(target) in err
    assert json.loads((target / "metrics.json").read_text())["AP"] == pytest.approx(1)
    assert {row["category_id"] for row in json.loads((target / "predictions.json").read_text())} == {3, 7}
    names = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert {"per_class.csv", "BoxPR_curve.png", "confusion_matrix.png", "ground-truth/a.txt"} <= names
    assert {"detection-results/b.txt", "voc/comp4_det_test_cat.txt"} <= names
    again = call("--ground-truth", target / "ground-truth", "--detections", target / "voc", "--metric", "voc", "--json")
    assert json.loads(again[1])["mAP"] == 1
    code, _, err = call(
        "--ground-truth", target / "ground-truth", "--detections", found, "--save", target / "ground-truth/x"
    )
    assert code == 2
    assert "never written to" in err


def test_checkpoint_is_measured_as_evaluate_checkpoint_found_it(call, monkeypatch, tmp_path):
    seen = {}

    def evaluate_checkpoint(checkpoint, data, split, *, log, progress, **options):
        seen.update(options, checkpoint=checkpoint, data=data, split=split)
        box = torch.tensor(BOXES[:1])
        found = Detections(box, torch.tensor([0.9]), torch.tensor([1]), (100, 150), CLASSES)
        ground_truth = GroundTruth.of(box, [1])
        return types.SimpleNamespace(
            detections=(found,), ground_truths=(ground_truth,), classes=CLASSES, image_ids=(5,), paths=(Path("a.jpg"),),
            areas=None,
            federation=None,
            voids=None,
            unreadable=0,
            tiled=False,
            most_detections=None,
            seconds=0.5,
            pixels=None,
            objects=True,
        )  # fmt: skip

    monkeypatch.setattr("boxwright.inference.evaluate.evaluate_checkpoint", evaluate_checkpoint)

    def load(checkpoint, device, *, precision, compile):
        seen["precision"] = precision
        model = types.SimpleNamespace(name="fcos")
        return types.SimpleNamespace(path=checkpoint, recipe=types.SimpleNamespace(model=model))

    monkeypatch.setattr("boxwright.inference.predictor.Detector.load", load)
    code, out, err = call("best.pt", "--data", tmp_path, "--json", "--batch", "3", "--limit", "4",
                          "--precision", "bf16", "--save", tmp_path.parent / f"{tmp_path.name}_report")  # fmt: skip
    assert code == 0, err
    figures = json.loads(out)
    assert figures["AP50"] == pytest.approx(1)
    assert figures["per_class"] == {"cat": None, "dog": pytest.approx(1)}
    assert (seen["split"], seen["precision"]) == ("val", "bf16")
    assert (seen["batch"], seen["limit"], seen["score_threshold"], seen["max_detections"]) == (3, 4, None, None)
    rows = json.loads((tmp_path.parent / f"{tmp_path.name}_report/predictions.json").read_text())
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(5, 7)]


def test_options_that_would_say_nothing_are_refused(call, coco, tmp_path):
    ground_truth, rows = coco
    files = ("--ground-truth", ground_truth, "--detections", write(tmp_path / "found.json", rows))
    for words in (("--precision", "bf16"), ("--device", "cpu"), ("--batch", 2), ("--proposals", "p.npz")):
        code, _, err = call(*files, *words)
        assert (code, err) == (
            2,
            f"boxwright: {words[0]} is for a CHECKPOINT; it has no effect on detections from a file\n",
        )
    for word in ("--eleven-point", "--no-plus-one"):
        code, _, err = call(*files, word)
        assert (code, err.endswith("is for --metric voc\n")) == (2, True)


def test_objects_that_no_location_can_claim_explain_an_ap_of_nothing(call, tmp_path):
    """A checkpoint that sees images at 64 pixels, and objects that are smaller than its cells there."""
    from boxwright.checkpoint import Checkpoint, save_checkpoint
    from boxwright.recipes import load_recipe

    torch.manual_seed(0)
    small = ["model.fpn.channels=16", "model.head.stem_channels=[]", "data.resize.size=64", "data.train_scales=[]"]
    recipe = load_recipe("fcos-small", small)
    checkpoint = tmp_path / "tiny.pt"
    model = recipe.build_model(1)
    save_checkpoint(Checkpoint(recipe, Classes.named(["mite"]), model.state_dict()), checkpoint)
    data = tmp_path / "data"
    data.mkdir()
    for number in range(6):
        Image.new("RGB", (640, 640), (number, 0, 0)).save(data / f"p{number}.png")
        corner = 81 + 3 * number
        box = "".join(f"<{side}>{corner + more}</{side}>" for side, more in
                      (("xmin", 0), ("ymin", 0), ("xmax", 7), ("ymax", 7)))  # fmt: skip
        text = f"<annotation><object><name>mite</name><bndbox>{box}</bndbox></object></annotation>"
        (data / f"p{number}.xml").write_text(text)
    code, out, err = call(checkpoint, "--data", data, "--split", "train", "--json", "--precision", "fp32")
    assert code == 0, err
    diagnosis = json.loads(out)["diagnosis"]
    assert "can be claimed by no location with this recipe" in diagnosis[0]
    assert "what helps: a larger data.resize.size=" in diagnosis[0]
    assert diagnosis[0] in err.replace("boxwright: ", "")
