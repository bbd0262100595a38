"""The recorded cases of Detectron2 and AdelaiDet: same detections, batched and alone, and same training losses."""

import pytest
import torch

from boxwright.structures import ImageBatch

LOSSES = {
    "detectron2/fcos": ["loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"],
    "adelaidet/fcos": ["loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"],
    "detectron2/retinanet": ["loss_cls", "loss_box_reg"],
}


@pytest.fixture(params=LOSSES)
def case(request, case_of):
    return case_of(request.param)


@pytest.mark.parametrize("alone", [False, True], ids=["batch", "alone"])
def test_detections_are_the_recorded_ones(case, alone, assert_matched):
    found = [case.detect([picture])[0] for picture in case.pictures] if alone else case.detect(case.pictures)
    for k, one in enumerate(found):
        expected = case.expected("single_" if alone else "", k)
        assert len(expected[0]) > 50
        assert_matched(one, expected, thresholds=(case.converted.score_threshold,))


@pytest.mark.parametrize("name", LOSSES)
def test_training_losses_are_the_recorded_ones(name, case_of):
    case = case_of(name)
    case.model.train()
    with torch.no_grad():
        start = case.model.mean_positives.clone()
        losses = case.model.loss(case.model(ImageBatch.of(case.pictures)), case.targets)
        case.model.mean_positives.copy_(start)
    case.model.eval()
    ours = [float(value) for key, value in losses.items() if not key.endswith("_floor")]
    assert ours == pytest.approx([case.settings["losses"][key] for key in LOSSES[name]], rel=1e-4)
