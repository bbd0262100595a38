"""A model that finds no objects is refused, in one sentence, by what works with objects; what it gives is written."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.deploy.export.export_checkpoint import ExportOptions, export_checkpoint
from boxwright.deploy.export.graph import detector_graph
from boxwright.deploy.serve.server import serve
from boxwright.deploy.serve.service import ServeOptions
from boxwright.inference.evaluate import evaluate
from boxwright.inference.prediction_files import PredictionFiles, refuse_formats
from boxwright.inference.predictor import Detector
from boxwright.inference.propose import write_proposals_of
from boxwright.models import refuse_of_objects, require_objects
from boxwright.recipes import load_recipe
from boxwright.structures import Classes, Detections, Panoptic, PanopticSegment

VIDEO = SimpleNamespace(rate=25.0)
"""It is not opened: what is asked first is whether there is anything to track."""
CLASSES = Classes((), (), stuff=("sky", "road", "wall"))


@pytest.fixture(scope="module")
def checkpoint():
    recipe = load_recipe("semantic-fpn-small", ["model.semantic.num_classes=3", "model.semantic.channels=8"])
    torch.manual_seed(0)
    return Checkpoint(recipe, CLASSES, recipe.build_model(0).state_dict())


@pytest.fixture(scope="module")
def detector(checkpoint):
    return Detector(checkpoint, "cpu", precision="fp32")


def test_it_labels_every_pixel_and_finds_nothing(detector):
    (found,) = detector.predict(torch.zeros(3, 70, 50, dtype=torch.uint8))
    assert len(found) == 0
    assert found.semantic.shape == (70, 50)
    assert int(found.semantic.max()) < 3
    assert found.draw(torch.zeros(3, 70, 50, dtype=torch.uint8)).size == (50, 70)


def test_tracking_proposals_and_exports_without_nms_refuse_it(checkpoint, detector, tmp_path):
    with pytest.raises(ValueError, match="no objects: there is nothing to track"):
        detector.track(VIDEO)
    with pytest.raises(ValueError, match="has no NMS to leave out"):
        detector_graph(checkpoint, nms=False)
    save_checkpoint(checkpoint, tmp_path / "best.pt")
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match="no objects: take a proposal network"):
        write_proposals_of(tmp_path / "best.pt", tmp_path / "data", tmp_path / "out.npz")
    require_objects("panoptic_fpn", "")


def test_settings_of_detections_are_refused(checkpoint, detector, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "best.pt")
    with pytest.raises(ValueError, match="leave out --score-threshold, --nms-iou"):
        evaluate(detector, tmp_path, score_threshold=0.5, nms_iou=0.5)
    with pytest.raises(ValueError, match="leave out --metric voc"):
        evaluate(detector, tmp_path, metric="voc")
    with pytest.raises(ValueError, match="leave out --max-detections"):
        export_checkpoint(tmp_path / "best.pt", options=ExportOptions(max_detections=5))
    options = {"host": "127.0.0.1", "port": 0, "device": "cpu", "precision": "fp32", "ready": print}
    with pytest.raises(ValueError, match="leave out --score"):
        serve(tmp_path / "best.pt", ServeOptions(score=0.5), **options)
    refuse_of_objects("semantic_fpn", score=None)
    refuse_of_objects("panoptic_fpn", score=0.5)


def test_tiles_are_refused(detector):
    with pytest.raises(ValueError, match="semantic_fpn labels whole images"):
        detector.predict(torch.zeros(3, 70, 50, dtype=torch.uint8), tiles=32)


def test_formats_are_refused_that_a_model_has_nothing_for():
    with pytest.raises(ValueError, match="x labels pixels and finds no objects: --format semantic, not coco"):
        refuse_formats("x", ["semantic", "coco"], "semantic_fpn")
    with pytest.raises(ValueError, match="x predicts no panoptic map"):
        refuse_formats("x", ["panoptic"], "semantic_fpn")
    with pytest.raises(ValueError, match="x predicts no semantic map"):
        refuse_formats("x", ["semantic"], "mask_rcnn")
    refuse_formats("x", ["json", "masks", "semantic", "panoptic"], "panoptic_fpn")


def test_maps_are_written_as_labels_and_as_segments_of_coco(tmp_path):
    classes = Classes(("cat",), (17,), stuff=("sky", "road"), stuff_ids=(92, 101))
    segments = (PanopticSegment(1, 0, True, 0.75, 0, 2), PanopticSegment(300, 1, False, None, None, 4))
    ids = torch.tensor([[1, 1, 300], [300, 300, 300]], dtype=torch.int32)
    semantic = torch.tensor([[0, 0, 2], [2, 2, 255]], dtype=torch.uint8)
    found = Detections(torch.tensor([[0.0, 0, 2, 1]]), torch.tensor([0.75]), torch.tensor([0]), (2, 3), classes,
                       semantic=semantic, panoptic=Panoptic(ids, segments))  # fmt: skip
    files = PredictionFiles(tmp_path, ["semantic", "panoptic"])
    for name in ("a", "b"):
        files.add(tmp_path / f"{name}.jpg", name, found)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "semantic" / "a.png")), semantic.numpy())
    assert json.loads((tmp_path / "semantic.json").read_text()) == {"0": "things", "1": "sky", "2": "road"}
    colours = np.asarray(Image.open(tmp_path / "panoptic" / "b.png")).astype(int)
    assert np.array_equal(colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2], ids.numpy())
    rows = json.loads((tmp_path / "panoptic.json").read_text())["annotations"]
    assert [(row["image_id"], row["file_name"]) for row in rows] == [("a", "a.png"), ("b", "b.png")]
    assert [(one["id"], one["category_id"]) for one in rows[0]["segments_info"]] == [(1, 17), (300, 101)]
