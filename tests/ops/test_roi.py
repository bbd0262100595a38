"""Regions of interest: which level they are pooled from, and that pooling keeps their order."""

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align

from boxwright.ops import roi
from boxwright.ops.roi import pool_regions, region_levels


def squares(*sides):
    return torch.tensor([[3.0, 5.0, 3 + side, 5 + side] for side in sides])


@pytest.mark.parametrize(
    ("side", "level"),
    [(0.0, 2), (10.0, 2), (56.0, 2), (111.9, 2), (112.0, 3), (224.0, 4), (447.0, 4), (448.0, 5), (9e3, 5)],
)
def test_the_side_of_a_region_says_its_level(side, level):
    assert region_levels(torch.tensor([[0.0, 0.0, side, side]]), 2, 5).item() == level
    assert region_levels(torch.tensor([[0.0, 0.0, side / 2, side * 2]]), 2, 5).item() == level  # its area, that is


def test_another_canonical_level_moves_all_by_one():
    boxes = squares(60, 130, 300)
    assert torch.equal(region_levels(boxes, 0, 9, canonical=5), region_levels(boxes, 0, 9) + 1)


def test_slack_lifts_boxes_just_below_a_border():
    below = torch.tensor([[0.0, 0.0, 112.0, 112.0 * (1 - 5e-7)]])
    assert region_levels(below, 2, 5).item() == 2
    assert region_levels(below, 2, 5, slack=1e-6).item() == 3


class TestPooling:
    MAPS = tuple(torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(side)) for side in (64, 32, 16))
    STRIDES = (4, 8, 16)
    BOXES = squares(20, 200, 90, 30, 180, 12, 100)
    LEVEL = torch.tensor([0, 2, 1, 0, 2, 0, 1])
    IMAGE = torch.tensor([1, 0, 1, 0, 1, 1, 0])

    @pytest.mark.parametrize(("sampling", "aligned"), [(0, True), (2, False)])
    def test_rows_keep_their_order_whatever_their_level(self, sampling, aligned):
        pooled = pool_regions(
            self.MAPS, self.STRIDES, self.BOXES, self.IMAGE, self.LEVEL, 7, sampling=sampling, aligned=aligned
        )
        assert pooled.shape == (7, 3, 7, 7)
        for row, (box, image, level) in enumerate(zip(self.BOXES, self.IMAGE, self.LEVEL, strict=True)):
            rois = torch.cat([image[None].float(), box])[None]
            alone = roi_align(self.MAPS[level], rois, 7, 1 / self.STRIDES[level], sampling, aligned)
            torch.testing.assert_close(pooled[row], alone[0])

    @pytest.mark.parametrize(("sampling", "aligned"), [(0, True), (2, False), (2, True), (0, False)])
    def test_asking_every_level_gives_the_same_and_the_same_gradients(self, sampling, aligned, monkeypatch):
        """A GPU does so, because it would have to be waited for to know how many regions each level has."""
        found = []
        for counted in (True, False):
            monkeypatch.setattr(roi, "counts_regions", lambda device, counted=counted: counted)
            maps = [map_.clone().requires_grad_() for map_ in self.MAPS]
            # one larger than the image, one at its corner
            boxes = torch.cat([self.BOXES[:5], torch.tensor([[-30.0, -30, 300, 300], [255, 255, 256, 256]])])
            pooled = pool_regions(
                maps, self.STRIDES, boxes, self.IMAGE, self.LEVEL, 7, sampling=sampling, aligned=aligned
            )
            (pooled * torch.arange(7)).sum().backward()
            found.append([pooled.detach(), *(map_.grad for map_ in maps)])
        assert all(map(torch.equal, *found))
        assert found[0][0].abs().sum() > 0

    def test_it_is_torchvisions_pooling(self):
        peer = MultiScaleRoIAlign(["0", "1", "2"], 7, sampling_ratio=2)
        boxes = squares(20, 200, 90, 240, 120)
        maps = {str(index): map_ for index, map_ in enumerate(self.MAPS)}
        expected = peer(maps, [boxes[:3], boxes[3:]], [(256, 256), (256, 256)])
        level = region_levels(boxes, 2, 4, slack=1e-6) - 2
        image = torch.tensor([0, 0, 0, 1, 1])
        found = pool_regions(self.MAPS, self.STRIDES, boxes, image, level, 7, sampling=2, aligned=False)
        torch.testing.assert_close(found, expected)

    def test_levels_without_regions_and_no_regions_at_all_have_gradients_of_zero(self):
        maps = [map_.clone().requires_grad_() for map_ in self.MAPS]
        pool_regions(maps, self.STRIDES, self.BOXES[:1], self.IMAGE[:1], self.LEVEL[:1], 7).sum().backward()
        assert maps[0].grad.any()
        assert not maps[1].grad.any()
        empty = pool_regions(maps, self.STRIDES, self.BOXES[:0], self.IMAGE[:0], self.LEVEL[:0], 7)
        assert empty.shape == (0, 3, 7, 7)
        empty.sum().backward()
