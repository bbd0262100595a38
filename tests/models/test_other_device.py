"""On a device that is not the CPU each detector learns and finds the same, and mixes no tensors of two devices."""

import pytest
import torch
from other_device import OTHER, Away, OtherDevice, one_layout_for_group_norm, one_way_for_depthwise_gradients
from tiny_detectors import BOXES, QUICK, TINY, build, detects, forward, image, total

from boxwright.models.box_branch import BoxBranch
from boxwright.structures import DetectSettings, ImageBatch, Targets

EVERYTHING = DetectSettings(score_threshold=0.0, max_detections=50)


def learn_and_find(name, device):
    """Losses, gradients' norms, weights after a step of AdamW, and detections."""
    model = build(name, QUICK).train().to(device)
    images = ImageBatch.of([image(1), image(2, 48, 80)]).to(device)
    targets = Targets.of([BOXES["region"], BOXES["none"]]).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = model.loss(forward(model, images, targets), targets)
    total(losses).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimizer.step()
    model.eval()
    with torch.no_grad():
        found = model.detect(forward(model, images), images, EVERYTHING)
    figures = [value.item() for value in losses.values()] + [norm.item()]
    weights = [parameter.detach().cpu() for parameter in model.parameters()]
    return figures, weights, found


@pytest.mark.parametrize("name", TINY)
def test_a_detector_on_another_device_is_the_same(name, monkeypatch):
    one_layout_for_group_norm(monkeypatch)
    one_way_for_depthwise_gradients(monkeypatch)
    # regions of padding, which a CPU leaves out, change how sums are rounded
    monkeypatch.setattr(BoxBranch, "cuts_padding", lambda self, device: False)
    expected, weights, found = learn_and_find(name, "cpu")
    with OtherDevice():
        figures, moved_weights, moved = learn_and_find(name, OTHER)
    assert figures == expected
    assert all(map(torch.equal, moved_weights, weights))
    if detects(build(name)) and name != "two_stage_course":  # untrained, it calls everything background
        assert sum(map(len, found)) > 20
    for one, other in zip(moved, found, strict=True):
        assert not isinstance(one.boxes, Away)  # on the host, as promised
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.labels, other.labels)
        if other.semantic is not None:
            assert torch.equal(one.semantic, other.semantic)
        for index in range(len(one) if other.masks is not None else 0):
            assert one.mask(index)[:2] == other.mask(index)[:2]
            assert torch.equal(one.mask(index).bitmap, other.mask(index).bitmap)


def test_the_other_device_refuses_to_mix():
    with OtherDevice():
        there = torch.ones(3, device=OTHER)
        with pytest.raises(RuntimeError, match="one tensor lies on the CPU"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="one tensor lies on the CPU"):
            torch.cat([there, torch.zeros(1)])
        assert (there + torch.tensor(1.0)).tolist() == [2.0, 2.0, 2.0]
        assert not isinstance(there.cpu(), Away)
