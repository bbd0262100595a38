"""The shared area of rotated boxes: closed forms, laws, and a polygon clipped edge by edge."""

import math

import pytest
import torch
from rotated_boxes import random_rotated

from boxwright.ops import rotated_iou as module
from boxwright.ops.boxes import pairwise_iou
from boxwright.ops.rotated import rotated_corners, upright_rotated
from boxwright.ops.rotated_iou import rotated_intersection, rotated_iou, shared_area


def clipped_area(first, second):
    """Sutherland and Hodgman: the corners of one box, cut along every edge of the other, in Python's float64."""
    polygon = [tuple(corner) for corner in rotated_corners(first.double()).tolist()]
    corners = rotated_corners(second.double()).tolist()
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        side = [(x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) for x, y in polygon]
        cut = []
        for index, (point, inside) in enumerate(zip(polygon, side, strict=True)):
            before, was = polygon[index - 1], side[index - 1]
            if (inside >= 0) != (was >= 0):
                share = was / (was - inside)
                cut.append(tuple(a + share * (b - a) for a, b in zip(before, point, strict=True)))
            if inside >= 0:
                cut.append(point)
        polygon = cut
        if not polygon:
            return 0.0
    return abs(sum(a[0] * b[1] - a[1] * b[0] for a, b in zip(polygon, polygon[1:] + polygon[:1], strict=True))) / 2


def test_shared_areas_are_those_of_clipped_polygons():
    first, second = random_rotated(40, 1), random_rotated(30, 2)
    expected = torch.tensor([[clipped_area(one, other) for other in second] for one in first])
    assert (expected > 0).float().mean() > 0.2
    torch.testing.assert_close(rotated_intersection(first, second), expected, rtol=1e-5, atol=1e-3)


def test_angle_0_is_the_overlap_of_upright_boxes():
    corner = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) * 50
    boxes = torch.cat([corner, corner + 1 + corner.flip(0)], 1)
    rotated = upright_rotated(boxes)
    torch.testing.assert_close(rotated_iou(rotated, rotated), pairwise_iou(boxes, boxes), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 7, 45, 90, 133, -180])
def test_equal_boxes_overlap_by_1_wherever_they_lie_and_however_thin_they_are(angle):
    boxes = torch.tensor([[5000.0, 3000, 40, 20, angle], [0, 0, 1000, 0.01, angle], [3, 3, 1e-3, 1e-3, angle]])
    assert rotated_iou(boxes, boxes).diagonal().tolist() == [1, 1, 1]


def test_half_a_turn_or_a_quarter_with_sides_exchanged_is_the_same_box():
    boxes = random_rotated(20)
    half = boxes + torch.tensor([0.0, 0, 0, 0, 180])
    quarter = boxes[:, [0, 1, 3, 2, 4]] + torch.tensor([0.0, 0, 0, 0, 90])
    for same in (half, quarter):
        torch.testing.assert_close(rotated_iou(boxes, same).diagonal(), torch.ones(20), rtol=0, atol=1e-5)


@pytest.mark.parametrize("angle", [15.0, 30, 45, 80])
def test_a_turned_square_shares_an_octagon(angle):
    """Of two squares of side 1 around one centre, turned by t: 1 - (cut corners), in closed form."""
    t = math.radians(angle % 90)
    shared = 2 / (1 + math.sin(t) + math.cos(t))
    pair = torch.tensor([[9.0, 9, 1, 1, 20], [9, 9, 1, 1, 20 + angle]])
    assert float(shared_area(pair[0], pair[1])) == pytest.approx(shared, rel=1e-5)


def test_the_overlap_does_not_change_when_both_are_moved_turned_and_scaled():
    first, second = random_rotated(25, 3), random_rotated(25, 4)
    expected = rotated_iou(first, second)
    radians = math.radians(37)
    turn = torch.tensor([[math.cos(radians), -math.sin(radians)], [math.sin(radians), math.cos(radians)]])

    def moved(boxes):
        return torch.cat([boxes[:, :2] @ turn * 3 + 40, boxes[:, 2:4] * 3, boxes[:, 4:] + 37], 1)

    torch.testing.assert_close(rotated_iou(moved(first), moved(second)), expected, rtol=1e-3, atol=1e-5)


def test_it_is_symmetric():
    boxes = random_rotated(40)
    torch.testing.assert_close(rotated_iou(boxes, boxes), rotated_iou(boxes, boxes).T, rtol=1e-5, atol=1e-6)


def test_boxes_apart_touching_or_empty_share_nothing():
    boxes = torch.tensor([[0.0, 0, 2, 2, 0], [2, 0, 2, 2, 0], [50, 50, 9, 9, 30], [0, 0, 0, 5, 10], [0, 0, -3, -3, 0]])
    assert torch.equal(rotated_iou(boxes, boxes), torch.diag(torch.tensor([1.0, 1, 1, 0, 0])))


def test_a_small_box_inside_a_large_one_is_its_whole_area():
    inside = torch.tensor([[500.0, 400, 2, 1, 63]])
    around = torch.tensor([[510.0, 410, 800, 600, -20]])
    assert float(rotated_intersection(inside, around)) == pytest.approx(2, rel=1e-5)
    assert float(rotated_intersection(around, inside)) == pytest.approx(2, rel=1e-4)


def test_thin_boxes_that_cross_share_a_small_parallelogram():
    pair = torch.tensor([[100.0, 100, 1000, 0.1, 10], [100, 100, 1000, 0.1, 40]])
    assert float(shared_area(pair[0], pair[1])) == pytest.approx(0.01 / math.sin(math.radians(30)), rel=1e-3)


def test_nearly_equal_boxes_share_nearly_all():
    """Where edges nearly coincide, clipping a polygon by comparisons may lose it; this is continuous."""
    boxes = random_rotated(200)
    near = boxes + (torch.rand(200, 5, generator=torch.Generator().manual_seed(5)) - 0.5) * 1e-5
    assert rotated_iou(boxes, near).diagonal().min() > 0.9999


def test_batches_empty_sets_and_chunks_agree(monkeypatch):
    first, second = random_rotated(14, 1).reshape(2, 7, 5), random_rotated(10, 2).reshape(2, 5, 5)
    expected = torch.stack([rotated_iou(*pair) for pair in zip(first, second, strict=True)])
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 11)
    assert torch.equal(rotated_iou(first, second), expected)
    torch.testing.assert_close(shared_area(first[:, :, None], second[:, None]), rotated_intersection(first, second))
    assert rotated_iou(first, second[:, :0]).shape == (2, 7, 0)
    assert rotated_iou(first[:, :0], second).shape == (2, 0, 5)
    assert rotated_iou(first[:0], second[:0]).shape == (0, 7, 5)


def test_an_exported_graph_gives_the_same():
    class Overlap(torch.nn.Module):
        def forward(self, first, second):
            return rotated_iou(first, second)

    pair = random_rotated(6, 1), random_rotated(4, 2)
    graph = torch.export.export(Overlap(), pair, dynamic_shapes=({0: torch.export.Dim("n", min=2)}, None)).module()
    torch.testing.assert_close(graph(*pair), rotated_iou(*pair))
