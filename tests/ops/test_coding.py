import math

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from boxwright.ops.coding import LARGEST_LOG_RATIO, decode_boxes, encode_boxes

WEIGHTS = [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]


def boxes(count=40, seed=0, span=200.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * span
    return torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * span / 2 + 1], 1)


@pytest.mark.parametrize("weights", WEIGHTS)
class TestParity:
    def test_offsets_equal_torchvision(self, weights):
        expected = BoxCoder(weights).encode_single(boxes(seed=1), boxes(seed=2))
        torch.testing.assert_close(encode_boxes(boxes(seed=2), boxes(seed=1), weights), expected, rtol=1e-5, atol=1e-5)

    def test_boxes_equal_torchvision_also_for_extreme_offsets(self, weights):
        offsets = torch.randn(40, 4, generator=torch.Generator().manual_seed(3)) * 6
        expected = BoxCoder(weights).decode_single(offsets, boxes(seed=4))
        torch.testing.assert_close(decode_boxes(boxes(seed=4), offsets, weights), expected, rtol=1e-5, atol=1e-2)

    def test_there_and_back(self, weights):
        reference, target = boxes(seed=5), boxes(seed=6)
        offsets = encode_boxes(reference, target, weights)
        torch.testing.assert_close(decode_boxes(reference, offsets, weights), target, rtol=1e-5, atol=1e-3)


def test_the_numbers_of_one_box():
    anchor = torch.tensor([0.0, 0.0, 10.0, 20.0])
    target = torch.tensor([5.0, 5.0, 25.0, 15.0])  # centre (15, 10), sides (20, 10)
    offsets = encode_boxes(anchor, target, (1.0, 2.0, 1.0, 2.0))
    two = torch.tensor(2.0).log()
    torch.testing.assert_close(offsets, torch.stack([torch.tensor(1.0), torch.tensor(0.0), two, -2 * two]))


def test_offsets_do_not_change_when_everything_moves_and_grows():
    reference, target = boxes(seed=7), boxes(seed=8)
    moved = encode_boxes(reference * 4 + 64, target * 4 + 64)
    torch.testing.assert_close(moved, encode_boxes(reference, target), rtol=1e-4, atol=1e-4)


def test_decoding_leaves_its_arguments_as_they_are():
    """The course clamps in place what the loss uses afterwards."""
    reference, offsets = boxes(4), torch.full((4, 4), 30.0)
    kept = reference.clone(), offsets.clone()
    decode_boxes(reference, offsets)
    assert torch.equal(reference, kept[0])
    assert torch.equal(offsets, kept[1])


def test_where_shrinking_is_limited_sides_shrink_as_far_as_they_may_grow():
    """MMDetection; elsewhere they shrink as far as they are told."""
    reference, offsets = torch.tensor([0.0, 0.0, 1000.0, 1000.0]), torch.tensor([0.0, 0.0, -50.0, -1.0])
    for limited, width in ((True, 16.0), (False, 0.0)):
        x1, y1, x2, y2 = decode_boxes(reference, offsets, shrink_limited=limited).tolist()
        assert x2 - x1 == pytest.approx(width, abs=1e-3)
        assert y2 - y1 == pytest.approx(1000 * math.exp(-1), rel=1e-5)


def test_sides_grow_by_the_largest_ratio_at_most():
    """The ratio is a default that a caller can change."""
    reference = torch.tensor([0.0, 0.0, 2.0, 2.0])
    offsets = torch.tensor([0.0, 0.0, 500.0, 1.0])
    x1, y1, x2, y2 = decode_boxes(reference, offsets).tolist()
    assert x2 - x1 == pytest.approx(2 * 62.5)
    assert y2 - y1 == pytest.approx(2 * 2.718281828)
    x1, _, x2, _ = decode_boxes(reference, offsets, largest_log_ratio=0.0).tolist()
    assert x2 - x1 == pytest.approx(2.0)
    assert pytest.approx(4.135, abs=1e-3) == LARGEST_LOG_RATIO


@pytest.mark.parametrize("row", [[-1.0, -1, -1, -1], [-1e8, -1e8, -1e8, -1e8], [0.0, 0, 0, 0], [9.0, 9, 3, 3]])
def test_background_rows_give_numbers_to_be_masked(row):
    """The course marks background by boxes of -1 and -1e8, whose logarithm is NaN."""
    rows = torch.tensor([row, row])
    assert torch.isfinite(encode_boxes(boxes(2), rows)).all()
    assert torch.isfinite(encode_boxes(rows, boxes(2))).all()


def test_any_leading_shape_and_one_reference_for_several_classes():
    reference, offsets = boxes(12), torch.randn(12, 5, 4)
    together = decode_boxes(reference[:, None], offsets)
    for index in range(5):
        assert torch.equal(together[:, index], decode_boxes(reference, offsets[:, index]))
    assert decode_boxes(boxes(0), torch.zeros(0, 4)).shape == (0, 4)
    assert encode_boxes(boxes(0), boxes(0)).shape == (0, 4)


def test_gradient_reaches_offsets_below_the_clamp_only():
    offsets = torch.tensor([[0.1, 0.1, 0.1, 9.0]], requires_grad=True)
    decode_boxes(boxes(1), offsets)[:, 2:].sum().backward()
    assert offsets.grad[0, :3].all()
    assert offsets.grad[0, 3] == 0
