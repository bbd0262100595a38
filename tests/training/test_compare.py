"""`boxwright compare`: recipes under one budget, and checkpoints; the interval of their difference."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from boxwright.cli.main import app
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.evaluation.bootstrap import bootstrap_ap, interval, redrawn_ap, redrawn_coco_ap
from boxwright.evaluation.matching import gather, match, match_at
from boxwright.structures import Classes, Detections, GroundTruth
from boxwright.training.compare import IOUS, Candidate, Comparison, Row, candidate_of, compare, markdown

pytestmark = pytest.mark.usefixtures("without_charts")

ONE = Classes.named(["thing"])


def test_words_of_a_candidate(tmp_path, monkeypatch):
    assert candidate_of("fcos-r50-fpn-1x 'model.loss.box=giou' optim.lr=1e-3") == Candidate(
        "fcos-r50-fpn-1x 'model.loss.box=giou' optim.lr=1e-3",
        "fcos-r50-fpn-1x",
        ("model.loss.box=giou", "optim.lr=1e-3"),
    )
    assert candidate_of("mask-rcnn@auto").recipe == "mask-rcnn@auto"
    assert candidate_of("mine.yaml").recipe == "mine.yaml"
    assert candidate_of("torchvision/fcos_resnet50_fpn").recipe is None
    folder = tmp_path / "fcos optim.lr=1"
    folder.mkdir()
    assert candidate_of(str(folder)) == Candidate(str(folder), None)
    with pytest.raises(ValueError, match="runs/a is no recipe; overrides are for a recipe"):
        candidate_of("runs/a optim.lr=1")


@pytest.mark.parametrize(
    ("candidates", "options", "sentence"),
    [
        (["fcos"], {"steps": 2}, "at least two candidates, got 1"),
        (["fcos", "fcos"], {"steps": 2}, "the same candidate twice: fcos"),
        (["fcos", "retinanet"], {}, "fcos is a recipe to be trained: give its budget, either minutes or steps"),
        (["fcos", "retinanet"], {"steps": 2, "minutes": 1}, "either minutes or steps"),
        (["fcos", "retinanet"], {"steps": 0}, "steps: expected at least 1, got 0"),
        (["a.pt", "b.pt"], {"steps": 2}, "minutes and steps are for recipes"),
        (["fcos", "fcos optim.lrr=1"], {"steps": 2}, "lrr"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_written(candidates, options, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        compare(candidates, tmp_path, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_exists_is_not_written_into(tmp_path):
    with pytest.raises(ValueError, match="exists; give another folder"):
        compare(["fcos", "retinanet"], tmp_path, steps=2, out=tmp_path)


def test_data_that_is_not_there_leaves_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        compare(["fcos", "retinanet"], tmp_path / "nowhere", steps=2, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def random_images(seed: int, quality: float, images: int = 60):
    """Ground truth of one object an image; detections find it in the share `quality` of the images."""
    truth, generator = np.random.default_rng(0), np.random.default_rng(seed)
    found, wanted = [], []
    for _ in range(images):
        x, y = truth.integers(0, 50, 2).tolist()
        wanted.append(GroundTruth.of([[x, y, x + 20, y + 20]], [0]))
        off = 0 if generator.random() < quality else 60
        box = torch.tensor([[x + off, y, x + 20 + off, y + 20.0]])
        found.append(Detections(box, torch.tensor([float(generator.random())]), torch.tensor([0]), (200, 200), ONE))
    return found, wanted


def test_draws_are_paired_so_that_equal_detectors_differ_by_nothing():
    found, wanted = random_images(1, 0.7)
    matches = match_at(gather(found, wanted), 1, IOUS)
    one, other = redrawn_coco_ap(matches, 60), redrawn_coco_ap(matches, 60)
    assert interval(0.0, one - other) == (0.0, 0.0)
    assert one.std() > 0.02


def test_the_interval_of_a_difference_tells_a_better_detector_from_an_equal_one():
    redrawn = []
    figures = []
    for seed, quality in ((1, 0.5), (2, 0.5), (3, 0.95)):
        matches = match(gather(*random_images(seed, quality)), 1)
        redrawn.append(redrawn_ap(matches, 60))
        figures.append(float(bootstrap_ap(matches)[0]))
    low, high = interval(0.0, redrawn[1] - redrawn[0])
    assert low < 0 < high
    difference = redrawn[2] - redrawn[0]
    low, high = interval(float(difference.mean()), difference)
    assert 0 < low < high < 1


def test_the_table_says_what_is_known_and_leaves_the_rest_open():
    rows = (
        Row("a", "a.pt", 0.5, (0.4, 0.6), 0.75, None, None, None, 0.01, 2_000_000, 8.0, 66.0, 100),
        Row("b|c", "b.onnx", 0.25, (0.2, 0.3), 0.5, None, -0.25, (-0.3, -0.2), 0.02, None, 4.0, None, None),
    )
    lines = markdown(Comparison(rows, None, 10)).splitlines()
    assert lines[2] == "| `a` | 50.0 (40.0 to 60.0) | - | 75.0 | 10.0 (1.00x) | 2.00 M | 8.0 | 100 | 1.1 |"
    assert lines[3].startswith("| `b\\|c` |")
    assert lines[3].endswith("| 25.0 (20.0 to 30.0) | -25.0 (-30.0 to -20.0) | 50.0 | 20.0 (2.00x) | - | 4.0 | - | - |")
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|") == lines[3].replace("\\|", "").count("|")


@pytest.fixture
def shapes_folder(tmp_path):
    write_shapes(tmp_path / "shapes", train=4, val=4, seed=1, config=ShapesConfig(size=64))
    return tmp_path / "shapes"


def test_figures_that_one_candidate_has_are_columns_of_all():
    rows = (
        Row("a", "a.pt", 0.5, None, 0.75, 0.4, None, None, 0.01, None, 8.0, None, None, miou=0.9, pq=0.7),
        Row("b", "b.pt", None, None, None, None, None, None, 0.01, None, 8.0, None, None, miou=0.8),
    )
    heads, _, first, second = (line.split(" | ") for line in markdown(Comparison(rows, None, 10)).splitlines())
    assert heads[3:7] == ["AP50", "mask AP", "mIoU", "PQ"]
    assert first[3:7] == ["75.0", "40.0", "90.0", "70.0"]
    assert second[3:7] == ["-", "-", "80.0", "-"]
    turned = Row("a", "a.pt", 0.5, None, 0.75, None, None, None, 0.01, None, 8.0, None, None, rotated_ap=0.3)
    assert "| AP50 | rotated AP | ms an image |" in markdown(Comparison((turned,), None, 10))


@pytest.mark.e2e
def test_two_recipes_and_a_checkpoint_of_them(tmp_path, shapes_folder):
    tiny = "data.resize.size=48 data.resize.max_size=64 data.workers=0 data.batch_size=2 validation.times=1"
    first = compare(
        [f"fcos {tiny}", f"retinanet {tiny}"], shapes_folder, steps=3, out=tmp_path / "one", device="cpu", images=2
    )
    assert [row.train_steps for row in first.rows] == [12, 12]  # of the reference batch of 8
    assert first.rows[0].difference is None
    assert first.rows[1].difference == pytest.approx(first.rows[1].ap - first.rows[0].ap)
    stored = json.loads((tmp_path / "one/comparison.json").read_text())
    assert [row["ap"] for row in stored["rows"]] == [row.ap for row in first.rows]
    assert (tmp_path / "one/side_by_side.jpg").is_file()
    again = compare([row.checkpoint for row in first.rows], shapes_folder, out=tmp_path / "two", device="cpu")
    assert [row.ap for row in again.rows] == [row.ap for row in first.rows]
    assert again.rows[0].train_seconds is None


@pytest.mark.e2e
def test_the_command_makes_a_folder_only_for_what_it_compares(tmp_path, shapes_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = "data.resize.size=48 data.workers=0 data.batch_size=2 validation.times=1 schedule.warmup_steps=1"
    words = ["compare", f"fcos {tiny}", f"fcos {tiny} optim.lr=0.01", "--data", str(shapes_folder), "--device", "cpu"]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, ValueError)
    assert not (tmp_path / "comparison").exists()
    done = CliRunner().invoke(app, [*words, "--steps", "1", "--images", "1"])
    assert done.exit_code == 0, done.exception
    assert done.stdout == (tmp_path / "comparison/comparison.md").read_text()
