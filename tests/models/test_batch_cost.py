"""What more images in a batch cost: no more operations and RoIAlign calls, and NMS for each once more."""

import pytest
import torch
from tiny_detectors import BOXES, TINY, build, forward, image, needs_proposals
from torch.utils._python_dispatch import TorchDispatchMode

from boxwright.ops import roi, select
from boxwright.structures import DetectSettings, ImageBatch, Proposals, Targets

ONE_STAGE = [name for name, (kind, _) in TINY.items() if kind in ("fcos", "retinanet")]
POOLED_MAPS = {"fast_rcnn": 4, "faster_rcnn": 4, "two_stage_course": 3, "mask_rcnn": 2 * 4, "fcos_mask": 3}
"""Maps that regions are pooled from: those of the boxes, and of Mask R-CNN once more for the masks."""


class Operations(TorchDispatchMode):
    """Counts the tensor operations that run inside; NMS is one of them, whatever it does."""

    count = 0

    def __torch_dispatch__(self, function, kinds, arguments=(), settings=None):
        self.count += 1
        return function(*arguments, **(settings or {}))


def batch_of(count):
    """Different images of two objects each."""
    return ImageBatch.of([image(seed) for seed in range(count)]), Targets.of([BOXES["two"]] * count)


@pytest.mark.parametrize("name", ONE_STAGE)
def test_assignment_and_loss_of_four_images_take_the_operations_of_one(name):
    counts = []
    for count in (1, 4):
        model, (images, targets) = build(name).train(), batch_of(count)
        outputs = forward(model, images, targets)
        with Operations() as operations:
            model.loss(outputs, targets)
        counts.append(operations.count)
    assert counts[0] == counts[1] > 50


# NMS of rotated boxes on a CPU goes through images one by one
@pytest.mark.parametrize("name", [name for name in TINY if name != "rotated_faster_rcnn"])
def test_forward_and_loss_of_five_images_take_the_operations_of_two(name):
    """Sampling of anchors and regions, too. Not of one: rows of one image are contiguous where others are copied."""
    counts = []
    for count in (2, 5):
        model, (images, targets) = build(name).train(), batch_of(count)
        corners = torch.arange(0, 40, 8).float()[:, None].expand(5, 2)
        proposals = Proposals.of([torch.cat([corners, corners + 20], dim=1)] * count)
        with Operations() as operations:
            model.loss(model(images, targets, proposals if needs_proposals(model) else None), targets)
        counts.append(operations.count)
    assert counts[0] == counts[1] > 300


@pytest.mark.parametrize(("name", "maps"), POOLED_MAPS.items())
@pytest.mark.parametrize("training", [True, False])
def test_regions_of_all_images_are_pooled_by_one_call_a_map(monkeypatch, name, maps, training):
    pooled = []
    pooling = roi.roi_align
    monkeypatch.setattr(roi, "roi_align", lambda *given: pooled.append(len(given[1])) or pooling(*given))
    calls, model = [], build(name).train(training)
    for count in (1, 4):
        pooled.clear()
        images, targets = batch_of(count)
        with torch.no_grad():
            if training:
                forward(model, images, targets)
            else:
                model.detect_padded(forward(model, images), DetectSettings(score_threshold=0.0))
        assert sum(pooled) > 0
        calls.append(len(pooled))
    assert 0 < calls[0] <= maps
    assert calls[0] == calls[1]


def test_nms_of_four_images_is_four_times_that_of_one(monkeypatch):
    """As many calls and as many boxes in each: one call over a whole batch would be quadratic."""
    seen = []
    kernel = select.nms_kernel
    monkeypatch.setattr(select, "nms_kernel", lambda *given: seen.append(len(given[0])) or kernel(*given))
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(1, 60, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 5 + torch.rand(1, 60, 2, generator=generator) * 30], dim=2)
    scores, labels = torch.rand(1, 60, generator=generator), torch.arange(60)[None] % 3
    select.select_detections(boxes, scores, labels, 0.5, 60)
    alone = list(seen)
    assert alone == [20, 20, 20]
    seen.clear()
    select.select_detections(boxes.expand(4, -1, -1), scores.expand(4, -1), labels.expand(4, -1), 0.5, 60)
    assert seen == 4 * alone
