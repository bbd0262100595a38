"""NMS of rotated boxes: the greedy algorithm, its threshold, and its other ways through."""

import torch
from rotated_boxes import random_rotated

from boxwright.ops.rotated import upright_rotated
from boxwright.ops.rotated_iou import rotated_iou
from boxwright.ops.rotated_nms import (
    _beaten,
    _in_rounds,
    _until_settled,
    rotated_nms,
    rotated_suppress,
    select_rotated,
)
from boxwright.ops.select import nms, select_detections


def greedy(boxes, labels, threshold):
    """One box after the other, in plain Python."""
    overlap, kept = rotated_iou(boxes, boxes), []
    for index in range(len(boxes)):
        same = [better for better in kept if labels[better] == labels[index]]
        if labels[index] >= 0 and not any(overlap[better, index] >= threshold for better in same):
            kept.append(index)
    return torch.tensor([index in kept for index in range(len(boxes))])


def test_a_box_at_the_threshold_goes_unlike_an_upright_one():
    boxes = torch.tensor([[0.0, 0, 2, 2, 0], [0, 0, 1, 2, 0]])  # overlap 0.5, exactly
    scores = torch.tensor([0.9, 0.8])
    assert rotated_nms(boxes, scores, 0.5).tolist() == [0]
    assert nms(torch.tensor([[-1.0, -1, 1, 1], [-0.5, -1, 0.5, 1]]), scores, 0.5).tolist() == [0, 1]


def test_every_way_keeps_what_the_greedy_algorithm_keeps():
    boxes, labels = random_rotated(400, span=60), torch.arange(400) % 3 - (torch.arange(400) % 17 == 0) * 3
    labels = labels.clamp(min=-1)
    expected = greedy(boxes, labels, 0.3)
    assert 20 < expected.sum() < 350
    assert torch.equal(rotated_suppress(boxes[None], labels[None], 0.3, 400)[0], expected)
    beaten = _beaten(boxes, labels, boxes, labels, 0.3)
    assert torch.equal(_until_settled(beaten, labels >= 0), expected)
    assert torch.equal(_in_rounds(beaten[None], labels[None] >= 0)[0], expected)


def test_the_best_kept_boxes_are_found_for_certain_with_a_limit():
    boxes = random_rotated(700, span=200)
    full = rotated_suppress(boxes[None], torch.zeros(1, 700, dtype=torch.int64), 0.2, 700)[0].nonzero()[:, 0]
    few = rotated_suppress(boxes[None], torch.zeros(1, 700, dtype=torch.int64), 0.2, 20)[0].nonzero()[:, 0]
    assert torch.equal(few[:20], full[:20])


def test_the_selection_of_upright_boxes_is_that_of_select_detections():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 60, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + torch.rand(2, 60, 2, generator=generator) * 20 + 1], 2)
    boxes[:, 3, 2:] = boxes[:, 3, :2]  # without area
    scores, labels = torch.rand(2, 60, generator=generator), torch.randint(-1, 3, (2, 60), generator=generator)
    _, *expected = select_detections(boxes, scores, labels, 0.4, 15)
    rows, *found = select_rotated(upright_rotated(boxes), scores, labels, 0.4, 15)
    assert rows.shape == (2, 15, 5)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_nothing_is_selected_from_nothing():
    none = select_rotated(torch.zeros(2, 0, 5), torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.int64), 0.5, 4)
    assert [part.shape for part in none] == [(2, 4, 5), (2, 4), (2, 4), (2,)]
    assert (none[2] == -1).all()
    no_candidate = select_rotated(random_rotated(6)[None], torch.rand(1, 6), torch.full((1, 6), -1), 0.5, 4)
    assert no_candidate[3].tolist() == [0]
    assert rotated_nms(torch.zeros(0, 5), torch.zeros(0), 0.5).shape == (0,)


def test_an_exported_graph_selects_the_same():
    class Select(torch.nn.Module):
        def forward(self, boxes, scores, labels):
            return select_rotated(boxes, scores, labels, 0.3, 20)

    boxes, scores = random_rotated(100, span=60).reshape(2, 50, 5), torch.rand(2, 50)
    inputs = (boxes, scores, torch.arange(100).reshape(2, 50) % 2)
    graph = torch.export.export(Select(), inputs).module()
    for ours, expected in zip(graph(*inputs), select_rotated(*inputs, 0.3, 20), strict=True):
        torch.testing.assert_close(ours, expected)
