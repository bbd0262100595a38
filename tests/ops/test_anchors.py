import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from boxwright.ops.anchors import cell_anchors, pyramid_anchors
from boxwright.ops.boxes import box_area
from boxwright.ops.points import pyramid_locations

RATIOS = (0.5, 1.0, 2.0)


def test_area_is_the_square_of_the_size_and_height_over_width_the_ratio():
    anchors = cell_anchors([32, 64], RATIOS)
    sides = anchors[:, 2:] - anchors[:, :2]
    torch.testing.assert_close(box_area(anchors), torch.tensor([32.0**2] * 3 + [64.0**2] * 3), rtol=1e-6, atol=0)
    torch.testing.assert_close(sides[:, 1] / sides[:, 0], torch.tensor(RATIOS * 2))


def test_stand_around_the_origin():
    anchors = cell_anchors([32, 50.8], RATIOS)
    assert torch.equal(anchors[:, :2], -anchors[:, 2:])


def test_order_is_by_size_then_by_ratio():
    one_by_one = [cell_anchors([size], [ratio]) for size in (16, 32, 64) for ratio in RATIOS]
    assert torch.equal(cell_anchors([16, 32, 64], RATIOS), torch.cat(one_by_one))


def test_the_anchor_of_the_paper_for_ratio_one_half():
    """Size 32 and ratio 0.5 give 46 x 22 after rounding."""
    x1, y1, x2, y2 = cell_anchors([32], [0.5], rounded=True)[0].tolist()
    assert (x2 - x1, y2 - y1) == (46, 22)


@pytest.mark.parametrize(("sizes", "ratios"), [([], [1]), ([32], []), ([0], [1]), ([32], [-1])])
def test_impossible_anchors_are_refused(sizes, ratios):
    with pytest.raises(ValueError, match="expected sizes and ratios above 0"):
        cell_anchors(sizes, ratios)


def test_go_level_by_level_cell_by_cell_row_by_row():
    locations, _ = pyramid_locations([(2, 3), (1, 2)], [8, 16])
    cells = [cell_anchors([8, 16], [1.0]), cell_anchors([32], [1.0, 4.0])]
    anchors = pyramid_anchors(locations.split([6, 2]), cells)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centres[:12:2].tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    assert torch.equal(centres[:12:2], centres[1:12:2])
    assert centres[12:].tolist() == [[8, 8], [8, 8], [24, 8], [24, 8]]
    assert box_area(anchors[:2]).tolist() == [64.0, 256.0]


@pytest.mark.parametrize("padded_hw", [(64, 96), (70, 101), (33, 250)])
def test_equal_torchvision_with_its_grid_its_rounding_and_its_order(padded_hw):
    """Its grid steps by padded side // cells, and at one cell it goes by ratio first."""
    strides = [8, 16, 32, 64]
    sizes = [tuple(-(-side // stride) for side in padded_hw) for stride in strides]
    of_level = [(32, 40, 50), (64, 80, 101), (128, 161, 203), (256, 322, 406)]
    generator = AnchorGenerator(of_level, (RATIOS,) * 4)
    images = ImageList(torch.zeros(1, 3, *padded_hw), [padded_hw])
    (expected,) = generator(images, [torch.zeros(1, 1, *size) for size in sizes])
    locations, _ = pyramid_locations(sizes, strides, grid="torchvision", padded_hw=padded_hw)
    cells = [cell_anchors(own, RATIOS, rounded=True) for own in of_level]
    ours = pyramid_anchors(locations.split([h * w for h, w in sizes]), cells)
    by_ratio = ours.view(-1, 3, 3, 4).transpose(1, 2).reshape(-1, 4)
    assert torch.equal(by_ratio, expected)


def test_with_one_size_a_level_the_order_is_torchvisions():
    generator = AnchorGenerator(((32,), (64,)), (RATIOS,) * 2)
    expected = torch.cat(generator.cell_anchors)
    assert torch.equal(torch.cat([cell_anchors([size], RATIOS, rounded=True) for size in (32, 64)]), expected)
