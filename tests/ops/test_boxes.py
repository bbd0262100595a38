import pytest
import torch
from torchvision import ops as reference

from boxwright.ops.boxes import box_area, pairwise_iou
from boxwright.ops.losses import iou_of_distances, matched_iou
from boxwright.ops.select import clip_boxes


def random_boxes(count, seed=0, span=100.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * span
    return torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * span / 2 + 0.1], 1)


def test_area_is_width_times_height_without_plus_one():
    assert box_area(torch.tensor([[1.0, 2.0, 4.0, 7.0]])).tolist() == [15.0]


def test_area_of_reversed_and_flat_boxes_is_zero_even_when_both_sides_are_reversed():
    boxes = torch.tensor([[5.0, 5.0, 1.0, 9.0], [5.0, 5.0, 1.0, 1.0], [3.0, 3.0, 3.0, 8.0]])
    assert box_area(boxes).tolist() == [0.0, 0.0, 0.0]


class TestPairwiseIou:
    def test_equals_torchvision(self):
        first, second = random_boxes(40, 1), random_boxes(30, 2)
        torch.testing.assert_close(pairwise_iou(first, second), reference.box_iou(first, second))

    def test_is_symmetric_and_one_on_the_diagonal(self):
        boxes = random_boxes(20)
        overlap = pairwise_iou(boxes, boxes)
        torch.testing.assert_close(overlap, overlap.T)
        torch.testing.assert_close(overlap.diagonal(), torch.ones(20))

    def test_does_not_change_under_shift_and_scale(self):
        first, second = random_boxes(10, 3), random_boxes(10, 4)
        moved = [boxes * 4 - 64 for boxes in (first, second)]
        torch.testing.assert_close(pairwise_iou(*moved), pairwise_iou(first, second), rtol=1e-4, atol=1e-5)

    def test_two_boxes_without_area_overlap_by_zero_and_not_by_nan(self):
        flat = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
        assert pairwise_iou(flat, flat).tolist() == [[0.0]]

    @pytest.mark.parametrize(("rows", "columns"), [(0, 3), (3, 0), (0, 0)])
    def test_no_boxes_give_an_empty_table(self, rows, columns):
        assert pairwise_iou(random_boxes(rows), random_boxes(columns)).shape == (rows, columns)


class TestMatchedIou:
    def test_equals_the_diagonal_of_the_pairwise_table(self):
        first, second = random_boxes(50, 5), random_boxes(50, 6)
        torch.testing.assert_close(matched_iou(first, second), pairwise_iou(first, second).diagonal())

    def test_generalised_equals_torchvision(self):
        first, second = random_boxes(50, 7), random_boxes(50, 8)
        expected = reference.generalized_box_iou(first, second).diagonal()
        torch.testing.assert_close(matched_iou(first, second, generalised=True), expected, rtol=1e-5, atol=1e-5)

    def test_generalised_stays_above_minus_one_and_below_plain(self):
        first, second = random_boxes(200, 9, span=1000), random_boxes(200, 10, span=1000)
        generalised = matched_iou(first, second, generalised=True)
        assert (generalised > -1).all()
        assert (generalised <= matched_iou(first, second) + 1e-6).all()

    def test_generalised_pulls_boxes_together_that_do_not_touch(self):
        box = torch.tensor([[0.0, 0.0, 1.0, 1.0]], requires_grad=True)
        target = torch.tensor([[2.0, 0.0, 3.0, 1.0]])
        (matched_iou(box, target).sum()).backward()
        assert box.grad is not None
        assert not box.grad.any()  # plain overlap knows no direction here
        (matched_iou(box, target, generalised=True).sum()).backward()
        assert box.grad[0, 2] > 0  # a larger x2 brings the box nearer

    def test_gradient_stays_finite_for_boxes_without_area(self):
        box = torch.zeros(1, 4, requires_grad=True)
        matched_iou(box, torch.zeros(1, 4), generalised=True).sum().backward()
        assert box.grad is not None
        assert torch.isfinite(box.grad).all()

    def test_any_leading_shape(self):
        first, second = random_boxes(12, 11), random_boxes(12, 12)
        shaped = matched_iou(first.view(3, 4, 4), second.view(3, 4, 4))
        assert torch.equal(shaped.flatten(), matched_iou(first, second))


class TestIouOfDistances:
    """Sides as distances from one point, (..., 4) left, top, right and bottom; some lie beyond the other side."""

    @pytest.mark.parametrize("generalised", [False, True])
    @pytest.mark.parametrize("smoothing", [0.0, 1.0])
    def test_is_that_of_the_boxes_to_the_last_digit(self, generalised, smoothing):
        draw = torch.Generator().manual_seed(0)
        first, second = (torch.rand(2, 60, 4, generator=draw) * 20 - 4 for _ in range(2))
        second[0, 0] = first[0, 0]
        first.requires_grad_()

        def around_a_point(distances):
            return torch.cat([-distances[..., :2], distances[..., 2:]], dim=-1)

        settings = {"generalised": generalised, "smoothing": smoothing}
        found = iou_of_distances(first, second, **settings)
        wanted = matched_iou(around_a_point(first), around_a_point(second), **settings)
        assert torch.equal(found, wanted)
        slope, other = (torch.autograd.grad(value.sum(), first)[0] for value in (found, wanted))
        torch.testing.assert_close(slope, other, rtol=1e-6, atol=1e-7)


class TestClipBoxes:
    def test_equals_torchvision_image_by_image(self):
        boxes = random_boxes(30, 13).view(2, 15, 4) - 30
        sizes = torch.tensor([[40, 90], [70, 20]])
        for index, (height, width) in enumerate(sizes.tolist()):
            expected = reference.clip_boxes_to_image(boxes[index], (height, width))
            assert torch.equal(clip_boxes(boxes, sizes)[index], expected)

    def test_leaves_its_argument_alone(self):
        boxes = torch.tensor([[[-5.0, -5.0, 50.0, 50.0]]])
        clip_boxes(boxes, torch.tensor([[20, 30]]))
        assert boxes.tolist() == [[[-5.0, -5.0, 50.0, 50.0]]]
