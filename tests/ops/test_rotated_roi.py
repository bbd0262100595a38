"""RoIAlign of rotated boxes: at angle 0 torchvision's, turned features at a turned angle, and a plane's own values."""

import pytest
import torch
from rotated_boxes import random_rotated
from torchvision.ops import roi_align

from boxwright.ops import rotated_roi as module
from boxwright.ops.rotated import rotated_hull, upright_rotated
from boxwright.ops.rotated_roi import pool_rotated, rotated_levels


def maps():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 5, 24, 32, generator=generator), torch.randn(2, 5, 12, 16, generator=generator)]


BOXES = torch.tensor([[10.0, 12, 80, 60], [50, 20, 125, 90], [-30, -20, 20, 15], [100, 70, 150, 130], [5, 5, 6, 5.5]])
IMAGE, LEVEL = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([0, 1, 0, 1, 0])


@pytest.mark.parametrize("sampling", [0, 1, 2])
def test_angle_0_is_the_aligned_roi_align_of_torchvision(sampling):
    levels = maps()
    found = pool_rotated(levels, [4, 8], upright_rotated(BOXES), IMAGE, LEVEL, 7, sampling=sampling)
    for row, (box, image, level) in enumerate(zip(BOXES, IMAGE, LEVEL, strict=True)):
        region = torch.cat([image[None].float(), box])[None]
        theirs = roi_align(levels[level], region, 7, 1 / [4, 8][level], sampling, aligned=True)
        torch.testing.assert_close(found[row], theirs[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_box_turned_with_its_map_has_the_same_features(quarters):
    level = torch.randn(1, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    box = torch.tensor([[36.0, 24, 30, 12, 25]])
    x, y = box[0, 0] - 40, box[0, 1] - 40  # from the middle of the map
    for _ in range(quarters):
        x, y = y, -x  # counter-clockwise as it is seen
    turned = torch.tensor([[x + 40, y + 40, 30, 12, 25 + 90 * quarters]])
    where = (torch.zeros(1, dtype=torch.int64),) * 2
    expected = pool_rotated([level], [4], box, *where, 5)
    found = pool_rotated([level.rot90(quarters, (2, 3))], [4], turned, *where, 5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_bins_of_a_plane_are_its_values_at_their_centres():
    """The mean of a linear function over a bin is its value in the middle; column 0 of the bins lies towards -w."""
    row, column = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    level = torch.stack([column + 0.5, row + 0.5])[None] * 2  # x and y of each cell in network pixels, stride 2
    box = torch.tensor([[40.0, 38, 24, 16, 30]])
    x, y = pool_rotated([level], [2], box, *(torch.zeros(1, dtype=torch.int64),) * 2, 4)[0]
    angle = torch.deg2rad(torch.tensor(30.0))
    across, along = torch.meshgrid((torch.arange(4) + 0.5) * 4 - 8, (torch.arange(4) + 0.5) * 6 - 12, indexing="ij")
    torch.testing.assert_close(x, 40 + along * angle.cos() + across * angle.sin(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(y, 38 - along * angle.sin() + across * angle.cos(), rtol=1e-4, atol=1e-4)


def test_chunks_change_nothing_and_outside_is_zero(monkeypatch):
    levels, boxes = maps(), random_rotated(30, span=120)
    boxes[0, :2] = -500
    boxes[1, 2:4] = 0
    image, level = torch.arange(30) % 2, (torch.arange(30) // 2) % 2
    expected = pool_rotated(levels, [4, 8], boxes, image, level, 3)
    assert not expected[:2].any()
    monkeypatch.setattr(module, "SAMPLES_AT_ONCE", 50)
    assert torch.equal(pool_rotated(levels, [4, 8], boxes, image, level, 3), expected)


@pytest.mark.parametrize("sampling", [0, 2])
def test_gradients_reach_the_maps_as_finite_differences_say(sampling):
    level = torch.randn(1, 1, 6, 7, generator=torch.Generator().manual_seed(2), requires_grad=True)
    box, where = torch.tensor([[10.0, 12, 14, 9, 33]]), (torch.zeros(1, dtype=torch.int64),) * 2
    weights = torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(3))

    def value(map_):
        return (pool_rotated([map_], [2], box, *where, 3, sampling=sampling) * weights).sum()

    (gradient,) = torch.autograd.grad(value(level), level)
    direction = torch.randn(level.shape, generator=torch.Generator().manual_seed(4))
    step = value(level.detach() + direction) - value(level.detach())  # pooling is linear in the map
    torch.testing.assert_close((gradient * direction).sum(), step, rtol=1e-4, atol=1e-4)


def test_no_regions_have_no_features():
    none = torch.zeros(0, dtype=torch.int64)
    for sampling in (0, 2):
        assert pool_rotated(maps(), [4, 8], torch.zeros(0, 5), none, none, 7, sampling=sampling).shape == (0, 5, 7, 7)


def test_levels_go_by_the_area_of_the_box_and_not_of_its_hull():
    boxes = torch.tensor([[100.0, 100, 160, 160, 45]])
    hull = upright_rotated(rotated_hull(boxes))
    assert rotated_levels(boxes, 2, 5).tolist() == [3]
    assert rotated_levels(hull, 2, 5).tolist() == [4]


def test_a_graph_with_a_fixed_number_of_samples_is_exported():
    class Pool(torch.nn.Module):
        def forward(self, fine, coarse, boxes, image, level):
            return pool_rotated([fine, coarse], [4, 8], boxes, image, level, 3, sampling=2)

    inputs = (*maps(), random_rotated(6), torch.tensor([0, 1] * 3), torch.tensor([0, 0, 0, 1, 1, 1]))
    graph = torch.export.export(Pool(), inputs).module()
    torch.testing.assert_close(graph(*inputs), Pool()(*inputs))
