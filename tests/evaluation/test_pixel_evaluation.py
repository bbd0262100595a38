"""Maps of a split: folded into figures image by image, written as COCO's results, printed, saved and reported."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.data.class_selection import without_stuff
from boxwright.data.dataset import DetectionDataset
from boxwright.data.formats.coco_panoptic import read_panoptic
from boxwright.data.formats.folder import open_folder
from boxwright.data.segments import segments_of
from boxwright.data.semantic_maps import semantic_map_of
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.evaluation import detect_split as module
from boxwright.evaluation.detect_split import SplitDetections, detect_split, with_ground_truth
from boxwright.evaluation.map_files import MapFiles
from boxwright.evaluation.page.facts import RunFacts
from boxwright.evaluation.page.page import report_page
from boxwright.evaluation.panoptic_files import compare_panoptic_files, holds_panoptic_results
from boxwright.evaluation.saving import save_evaluation
from boxwright.evaluation.summary import evaluate_detections, headline
from boxwright.ops.image import ResizeRule
from boxwright.structures import Classes, Detections, DetectSettings
from boxwright.structures.panoptic import Panoptic, PanopticSegment

CONFIG = ShapesConfig(size=64, num_classes=3, max_pixels=30, stuff=True)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = write_shapes(tmp_path_factory.mktemp("stuff") / "shapes", 4, 1, "panoptic", CONFIG)
    split = open_folder(folder).splits["train"]
    return DetectionDataset(split, ResizeRule("none"), masks=True, semantic=True, cache=False)


class Knowing:
    """A detector that gives the ground truth, with ids of segments in tens, and calls every third column dots."""

    evaluation_batch = 2

    def __init__(self, images, wrong=False):
        self.images, self.wrong, self.next = images, wrong, 0

    def detect_prepared(self, held, settings, batch, losses=None, most=None):
        return [self._one() for _ in held]

    def _one(self):
        truth, classes = self.images.original_ground_truth(self.next, (64, 64)), self.images.classes
        self.next += 1
        parts = segments_of(truth, classes)
        things = len(classes.names)
        segments = tuple(
            PanopticSegment(10 * n, label if label < things else label - things, label < things, None, None, 1)
            for n, label in enumerate(parts.labels, start=1)
        )
        semantic = truth.semantic.clone()
        if self.wrong:
            semantic[:, ::3] = 2
        return Detections(
            truth.boxes, torch.ones(len(truth)), truth.labels, (64, 64), classes, masks=truth.masks,
            semantic=semantic, panoptic=Panoptic(10 * parts.map, segments),
        )  # fmt: skip


def run(images, wrong=False, **options):
    parts = list(detect_split(Knowing(images, wrong), images, DetectSettings(), **options))
    return with_ground_truth(SplitDetections.joined(parts), images, images.classes)


def evaluation_of(inputs):
    return evaluate_detections(
        inputs.detections, inputs.ground_truths, inputs.classes, pixels=inputs.pixels, objects=inputs.objects
    )


def test_the_ground_truth_itself_has_the_highest_figures_beside_ap(images):
    evaluation = evaluation_of(run(images))
    figures = evaluation.figures
    assert [figures[key] for key in ("AP", "segm_AP", "mIoU", "PQ", "SQ", "RQ", "PQ_things", "PQ_stuff")] == [1.0] * 8
    assert {"mIoU 1.0000", "PQ 1.0000"} <= {part for line in headline(evaluation) for part in line.split("  ")}


def test_wrong_pixels_lower_the_figures_of_their_labels_only(images):
    figures = evaluation_of(run(images, wrong=True)).figures
    assert figures["PQ"] == 1
    assert 0 < figures["mIoU"] < 0.8
    truth = np.concatenate([semantic_map_of(record, (64, 64)).numpy() for record in images.records], 1)
    assert truth.shape == (64, 256)
    assert figures["pixel_accuracy"] == pytest.approx(
        np.mean([(m[:, ::3] == 2).sum() + (64 * 64 - m[:, ::3].size) for m in np.split(truth, 4, 1)]) / 64**2
    )


def test_maps_of_a_large_split_are_dropped_once_they_are_counted(images, monkeypatch):
    monkeypatch.setattr(module, "KEPT_PIXELS", 2 * 64 * 64)
    inputs = run(images)
    kept = [one.semantic is not None and one.panoptic is not None for one in inputs.detections]
    assert sorted(kept) == [False, False, True, True]
    assert [one.semantic is not None for one in inputs.ground_truths] == kept
    assert inputs.pixels == run(images).pixels or inputs.pixels.figures() == run(images).pixels.figures()


def test_counts_of_several_processes_add_up(images):
    whole = run(images).pixels.figures()
    shares = [
        SplitDetections.joined(list(detect_split(Knowing(images), images, DetectSettings(), share=(0, 1), limit=2)))
    ]
    assert SplitDetections.joined([*shares, *shares]).pixels.figures(images.classes).figures()["PQ"] == whole["PQ"]
    twice = SplitDetections.joined([*shares, *shares]).pixels.confusion
    assert torch.equal(twice, 2 * shares[0].pixels.confusion)


def test_segments_are_written_as_coco_results_and_read_back(images, tmp_path):
    writer = MapFiles(tmp_path, images)
    run(images, on_maps=writer.add)
    writer.close()
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert [row["image_id"] for row in content["annotations"]] == [record.image_id for record in images.records]
    row = content["annotations"][0]
    assert {segment["category_id"] for segment in row["segments_info"]} <= {*range(1, 8)}
    colours = np.array(Image.open(tmp_path / "panoptic" / row["file_name"])).astype(int)
    ids = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
    assert {segment["id"] for segment in row["segments_info"]} == {*np.unique(ids).tolist()} - {0}
    semantic = np.array(Image.open(tmp_path / "semantic" / row["file_name"]))
    assert np.array_equal(semantic, semantic_map_of(images.records[0], (64, 64)).numpy())
    assert json.loads((tmp_path / "semantic.json").read_text())["0"] == "things"
    # with images and categories it is a dataset again, of the same segments
    source = images.records[0].path.parent.parent
    whole = json.loads((source / "annotations" / "panoptic_train.json").read_text()) | content
    for written in whole["annotations"]:
        for segment in written["segments_info"]:
            segment["bbox"] = None
    (tmp_path / "panoptic.json").write_text(json.dumps(whole))
    record = read_panoptic(tmp_path / "panoptic.json").splits["train"].records[0]
    assert torch.equal(semantic_map_of(record, (64, 64)), semantic_map_of(images.records[0], (64, 64)))
    assert len(record.annotations) == len(images.records[0].annotations)


def test_panoptic_results_of_any_program_are_evaluated_from_their_files(images, tmp_path):
    writer = MapFiles(tmp_path, images)
    run(images, on_maps=writer.add)
    writer.close()
    part = images_split(images)
    file = tmp_path / "panoptic.json"
    assert holds_panoptic_results(file)
    compared = compare_panoptic_files(part, file)
    figures = compared.figures.figures()
    assert (figures["PQ"], figures["mIoU"], compared.images, compared.warnings) == (1, 1, 4, ())
    content = json.loads(file.read_text())
    content["annotations"].pop()
    file.write_text(json.dumps(content))
    fewer = compare_panoptic_files(part, file)
    assert fewer.figures.panoptic.all.pq < 1
    assert fewer.warnings == ("1 image without results, such as train_000003.jpg: nothing is found there.",)
    assert compare_panoptic_files(part, file, limit=3).figures.panoptic.all.pq == 1
    with pytest.raises(ValueError, match="the ground truth has no stuff; give COCO panoptic"):
        compare_panoptic_files(without_stuff(part), file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("file_name"), 'expected rows with "image_id", "file_name" and "segments_info"'),
        (lambda row: row.update(file_name="no.png"), "image id 1: there is no 'no.png' in"),
        (lambda row: row["segments_info"].pop(), "has the segment id [0-9]+, which segments_info does not name"),
        (lambda row: row["segments_info"][0].update(category_id=99), "a category_id of the ground truth, got"),
        (lambda row: row["segments_info"][0].update(id=0), "expected an id from 1"),
    ],
)
def test_panoptic_results_that_do_not_fit_the_ground_truth_are_named(images, tmp_path, change, message):
    writer = MapFiles(tmp_path, images)
    run(images, on_maps=writer.add)
    change(writer.rows[0])
    writer.close()
    with pytest.raises(ValueError, match=message):
        compare_panoptic_files(images_split(images), tmp_path / "panoptic.json")


def images_split(images):
    return open_folder(images.records[0].path.parent.parent).splits["train"]


def without_objects(images):
    """The inputs of a model that labels pixels only."""
    inputs = run(images)
    bare = [
        Detections(
            torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), (64, 64), semantic=one.semantic
        )
        for one in inputs.detections
    ]
    object.__setattr__(inputs, "objects", False)
    object.__setattr__(inputs, "detections", bare)
    return inputs


def test_a_model_that_finds_no_objects_has_no_ap_and_is_saved_without_files_of_objects(images, tmp_path):
    inputs = without_objects(images)
    evaluation = evaluation_of(inputs)
    assert evaluation.figures["AP"] is None
    assert evaluation.figures["mIoU"] == 1
    assert all(line.startswith(("mIoU", "PQ")) for line in headline(evaluation))
    save_evaluation(
        tmp_path / "out", evaluation, inputs.detections, inputs.ground_truths, inputs.classes,
        image_ids=inputs.image_ids, paths=inputs.paths,
    )  # fmt: skip
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"metrics.json", "per_label.csv", "per_class_segments.csv"}
    assert (tmp_path / "out" / "per_label.csv").read_text().splitlines()[0] == "label,pixels,IoU,accuracy"
    with pytest.raises(ValueError, match="metric voc is for objects, and there are none"):
        evaluate_detections([], [], Classes((), (), stuff=("a",)), metric="voc")


@pytest.mark.parametrize("objects", [True, False])
def test_the_report_has_a_section_of_pixels_and_none_of_objects_that_there_are_not(images, objects):
    inputs = run(images, wrong=True) if objects else without_objects(images)
    rows = [{"step": 1, "train/loss": 1.0}, {"step": 2, "val/AP": None, "val/mIoU": 0.5, "val/loss": 1.0}]

    def read(path):
        return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)

    facts = RunFacts("a", "r", "d", "train", "val", inputs, evaluation_of(inputs), rows, None, read)
    page = report_page([facts])
    assert "Images with the most wrong pixels" in page
    assert "stripes" in page
    assert ("Confusion matrix" in page) == objects
