"""Keypoints as heatmaps: cells, loss and decoding are those of torchvision, with its edge cases."""

import pytest
import torch
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints, keypointrcnn_loss, keypoints_to_heatmap

from boxwright.ops.keypoints import decode_heatmaps, heatmap_cells, heatmap_loss


def regions(count=5, keypoints=4):
    boxes = torch.rand(count, 4) * 40
    boxes[:, 2:] += boxes[:, :2] + 5
    points = torch.cat([torch.rand(count, keypoints, 2) * 90, torch.randint(3, (count, keypoints, 1)).float()], 2)
    points[:, 0, :2], points[:, 0, 2] = boxes[:, 2:], 2  # on the corner, which is still inside
    return boxes, points


def test_cells_are_those_of_torchvision():
    torch.manual_seed(0)
    boxes, points = regions(50)
    theirs, valid = keypoints_to_heatmap(points, boxes, 56)
    cells, learnt = heatmap_cells(points, boxes, 56)
    assert torch.equal(learnt, valid.bool())
    assert torch.equal(cells, theirs)
    assert learnt[:, 0].all()
    assert not learnt.all()


def test_the_loss_is_that_of_torchvision_and_zero_with_a_gradient_where_nothing_is_learnt():
    torch.manual_seed(0)
    boxes, points = regions()
    heatmaps = torch.randn(5, 4, 12, 12, requires_grad=True)
    cells, learnt = heatmap_cells(points, boxes, 12)
    theirs = keypointrcnn_loss(heatmaps, [boxes], [points], [torch.arange(5)])
    torch.testing.assert_close(heatmap_loss(heatmaps, cells, learnt), theirs)
    none = heatmap_loss(heatmaps, cells, torch.zeros_like(learnt))
    none.backward()
    assert none == 0
    assert not heatmaps.grad.any()


def test_points_are_those_of_torchvision_and_a_score_is_the_share_of_its_heatmap():
    torch.manual_seed(0)
    boxes, _ = regions()
    boxes[4, 2:] = boxes[4, :2] + 0.25  # thinner than a pixel
    heatmaps = torch.randn(5, 4, 56, 56) * 3
    found = decode_heatmaps(heatmaps, boxes)
    theirs, logits = heatmaps_to_keypoints(heatmaps, boxes)
    torch.testing.assert_close(found[..., :2], theirs[..., :2])
    torch.testing.assert_close(found[..., 2], logits.exp() / heatmaps.exp().sum((2, 3)))


@pytest.mark.parametrize("place", [(0, 0), (3, 40), (55, 55)])
def test_a_point_comes_back_from_the_cell_that_it_was_put_in(place):
    box = torch.tensor([[10.0, 20.0, 122.0, 132.0]])  # 2 pixels a cell
    point = torch.tensor([[[10.0 + 2 * place[1] + 1, 20.0 + 2 * place[0] + 1, 2]]])
    cells, _ = heatmap_cells(point, box, 56)
    heatmap = torch.full((1, 1, 56 * 56), -5.0).index_fill(2, cells[0], 5.0).unflatten(2, (56, 56))
    assert (decode_heatmaps(heatmap, box)[0, 0, :2] - point[0, 0, :2]).abs().max() <= 1


def test_no_regions_have_no_points():
    assert decode_heatmaps(torch.zeros(0, 3, 8, 8), torch.zeros(0, 4)).shape == (0, 3, 3)
