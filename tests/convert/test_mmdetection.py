"""MMDetection: the recorded detections, masks and training losses, what a file says of itself, and the way back."""

import pytest
import torch

from boxwright.convert.export import export_state, write_state
from boxwright.convert.files import convert_file, convert_state
from boxwright.recipes import dump_recipe
from boxwright.structures import ImageBatch
from boxwright.weights.backbone_files import read_tensors, state_of

ONE_STAGE = ["loss_cls", "loss_bbox", "loss_centerness"]
TWO_STAGE = ["loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox"]
LOSSES = {
    "fcos_r50": ONE_STAGE,
    "fcos_r50_improved": ONE_STAGE,
    "retinanet_r50": ONE_STAGE[:2],
    "faster_rcnn_r50": TWO_STAGE,
    "mask_rcnn_r50": [*TWO_STAGE, "loss_mask"],
}


@pytest.fixture(params=LOSSES)
def case(request, case_of):
    return case_of(f"mmdetection/{request.param}")


@pytest.mark.parametrize("alone", [False, True], ids=["batch", "alone"])
def test_detections_are_the_recorded_ones(case, alone, assert_matched):
    found = [case.detect([image])[0] for image in case.images] if alone else case.detect(case.images)
    for k, one in enumerate(found):
        expected = case.expected("single_" if alone else "", k)
        assert len(expected[0]) > 50
        assert_matched(one, expected, thresholds=(0.05,))


def test_detections_of_a_resized_image_are_the_recorded_ones(case, assert_matched):
    images = ImageBatch.of([case.images[0]], [(240, 320)], [(0.8, 0.8)], [(0.0, 0.0)])
    with torch.no_grad():
        (found,) = case.model.detect(case.model(images), images, case.converted.recipe.detect.settings())
    assert_matched(found, case.expected("resized_", 0), thresholds=(0.05,))


@pytest.mark.parametrize("name", LOSSES)
def test_training_losses_are_the_recorded_ones(name, case_of):
    case = case_of(f"mmdetection/{name}")
    with torch.no_grad():
        outputs = case.model.train()(ImageBatch.of(case.images), case.targets)
        losses = case.model.loss(outputs, case.targets)
    case.model.eval()
    ours = [float(value) for value in losses.values()]
    assert ours == pytest.approx([case.settings["losses"][key] for key in LOSSES[name]], rel=1e-4)


@pytest.mark.parametrize("alone", [False, True], ids=["batch", "alone"])
def test_masks_are_the_recorded_ones(case_of, alone):
    """But for a pixel whose probability is nearly the threshold."""
    case = case_of("mmdetection/mask_rcnn_r50")
    prefix = "single_" if alone else ""
    found = [case.detect([image])[0] for image in case.images] if alone else case.detect(case.images)
    for k, one in enumerate(found):
        boxes, scores, labels = case.expected(prefix, k)
        masks, planes, compared = case.masks(prefix, k), one.whole_masks(), 0
        for row in range(len(one)):
            same = (labels == one.labels[row]) & ((scores - one.scores[row]).abs() < 1e-5)
            same &= (boxes - one.boxes[row]).abs().amax(1) < 1e-3
            for partner in same.nonzero()[:1, 0]:
                assert (masks[partner] != planes[row]).sum() <= 1
                compared += 1
        assert compared >= 99


def test_the_way_back_is_exact(case, tmp_path):
    found = case.converted
    model = dump_recipe(found.recipe)["model"]
    back = export_state(model, len(found.classes), found.weights, "mmdetection", found.origin["kept"])
    theirs = read_tensors(case.path)["state_dict"]
    assert set(back) == set(theirs)
    assert all(torch.equal(back[key], theirs[key].to(back[key].dtype)) for key in theirs)
    assert all(back[key].shape == theirs[key].shape for key in theirs)
    write_state(back, tmp_path / "back.pth", "mmdetection")
    assert set(torch.load(tmp_path / "back.pth", weights_only=True)) == {"meta", "state_dict"}


def test_settings_that_mmdetection_has_not_are_refused_by_name(case_of):
    found = case_of("detectron2/retinanet").converted
    model = dump_recipe(found.recipe)["model"]
    with pytest.raises(
        ValueError, match=r"mmdetection has no retinanet like .*compat\.extra_relu True \(there False\)"
    ):
        export_state(model, 80, found.weights, "mmdetection")
    own = case_of("mmdetection/retinanet_r50").converted
    with pytest.raises(ValueError, match=r"detectron2 has no retinanet like .*compat\.extra_relu False"):
        export_state(dump_recipe(own.recipe)["model"], 80, own.weights, "detectron2")


def test_weights_without_a_config_are_those_of_the_zoo_and_the_notes_tell(case):
    """The recorded configs are those of the zoo, so nothing is lost but certainty."""
    bare = convert_state(state_of(read_tensors(case.path)), "x")
    assert bare.recipe.model == case.converted.recipe.model
    assert (bare.recipe.detect, bare.recipe.data) == (case.converted.recipe.detect, case.converted.recipe.data)
    assert case.converted.notes == ()
    assert "strides in the" in bare.notes[0]


def rewritten(case, tmp_path, *changes, **beside):
    """The case's file with pieces of its config replaced, and more beside it."""
    data = torch.load(case.path, weights_only=True)
    for old, new in changes:
        assert old in data["meta"]["cfg"]
        data["meta"]["cfg"] = data["meta"]["cfg"].replace(old, new)
    torch.save(data | beside, tmp_path / "model.pth")
    return tmp_path / "model.pth"


def test_the_config_in_a_file_is_what_counts(case_of, tmp_path):
    changes = [
        ("style='pytorch'", "style='caffe'"), ("bgr_to_rgb=True", "bgr_to_rgb=False"),
        ("frozen_stages=1", "frozen_stages=-1"),
        ("iou_threshold=0.5", "iou_threshold=0.45"), ("octave_base_scale=4", "octave_base_scale=2"),
    ]  # fmt: skip
    case = case_of("mmdetection/retinanet_r50")
    found, usual = convert_file(rewritten(case, tmp_path, *changes)), case.converted
    model = found.recipe.model
    assert (model.backbone.stride_in_1x1, model.backbone.frozen_stages) == (True, 0)
    assert model.backbone.pixel_mean == pytest.approx(usual.recipe.model.backbone.pixel_mean[::-1])
    assert model.anchors.sizes == (16, 32, 64, 128, 256)
    assert found.recipe.detect.nms_iou == 0.45
    first = "backbone.body.conv1.weight"
    assert torch.equal(found.weights[first], usual.weights[first].flip(1))


@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        ("retinanet_r50", "type='nms'", "type='soft_nms'", "its NMS is soft_nms"),
        ("retinanet_r50", "scales_per_octave=3", "scales_per_octave=2", "expected 6 anchors a cell, got 9"),
        ("faster_rcnn_r50", "type='RoIAlign'", "type='ModulatedDeformRoIPool'", "pooled by ModulatedDeformRoIPool"),
        ("fcos_r50", "type='ResNet'", "type='Res2Net'", "its backbone is Res2Net"),
    ],
)
def test_what_is_not_known_here_is_refused_by_name(case_of, tmp_path, name, old, new, reason):
    with pytest.raises(ValueError, match=rf"taken for mmdetection, but .*{reason}"):
        convert_file(rewritten(case_of(f"mmdetection/{name}"), tmp_path, (old, new)))


class HistoryBuffer:
    """As mmengine keeps in its message hub: a class that this process would have to import."""

    def __init__(self):
        self.statistics = {"mean": sum}


class ConfigDict(dict):
    """A dict of a class of theirs."""


def test_objects_beside_the_weights_are_not_built_and_the_names_of_classes_are_read(case_of, tmp_path):
    case = case_of("mmdetection/faster_rcnn_r50")
    names = [f"thing {k}" for k in range(80)]
    data = torch.load(case.path, weights_only=True)
    data["meta"] |= {"dataset_meta": {"CLASSES": tuple(names)}, "hook_msgs": ConfigDict(best=HistoryBuffer())}
    data["message_hub"] = {"log_scalars": {"train/lr": HistoryBuffer()}}
    data["optimizer"] = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.02}]}
    data["ema_state_dict"] = {f"module.{key}": value + 1 for key, value in data["state_dict"].items()}
    torch.save(data, tmp_path / "epoch_12.pth")
    found = convert_file(tmp_path / "epoch_12.pth")
    assert found.classes.names == tuple(names)
    assert all(torch.equal(found.weights[key], value) for key, value in case.converted.weights.items())
    assert [part.partition(" ")[0] for part in found.skipped] == ["meta", "message_hub"]
