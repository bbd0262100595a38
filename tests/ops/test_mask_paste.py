"""Pasted masks equal Detectron2's formula and torchvision's; outlines filled again are the mask they came from."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image
from whole_masks import rasterise_polygons

from boxwright.ops.mask_paste import mask_polygons, paste_masks

HEIGHT, WIDTH = 50, 70


def random_masks(seed, count=12, side=28):
    """Smooth probabilities (D, M, M), and boxes of which some leave the image."""
    generator = torch.Generator().manual_seed(seed)
    masks = F.interpolate(torch.rand(count, 1, 5, 5, generator=generator), size=side, mode="bilinear")[:, 0]
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT])
    half = torch.rand(count, 2, generator=generator) * 20 + 0.6
    return masks, torch.cat([centre - half, centre + half], dim=1)


def whole(pasted):
    planes = torch.zeros(len(pasted), HEIGHT, WIDTH, dtype=torch.bool)
    for plane, (x, y, bitmap) in zip(planes, pasted, strict=True):
        plane[y : y + bitmap.shape[0], x : x + bitmap.shape[1]] = bitmap
    return planes


def detectron2_paste(masks, boxes):
    """`_do_paste_mask` of Detectron2, written from its description: values at all pixel centres by grid_sample."""
    x0, y0, x1, y1 = boxes.split(1, dim=1)
    rows = (torch.arange(HEIGHT) + 0.5 - y0) / (y1 - y0) * 2 - 1
    columns = (torch.arange(WIDTH) + 0.5 - x0) / (x1 - x0) * 2 - 1
    grid = torch.stack([columns[:, None].expand(-1, HEIGHT, -1), rows[:, :, None].expand(-1, -1, WIDTH)], dim=3)
    return F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]


@pytest.mark.parametrize("side", [14, 28])
@pytest.mark.parametrize("seed", range(4))
def test_exact_paste_equals_detectron2(seed, side):
    masks, boxes = random_masks(seed, side=side)
    values = detectron2_paste(masks, boxes)
    near = (values - 0.5).abs() < 1e-4
    found = whole(paste_masks(masks, boxes, (HEIGHT, WIDTH)))
    assert (found == (values >= 0.5))[~near].all()
    assert 0.02 < found.float().mean() < 0.5


@pytest.mark.parametrize("seed", range(4))
def test_torchvision_paste_equals_torchvision(seed):
    masks, boxes = random_masks(seed)
    boxes = boxes.clamp(min=0).minimum(torch.tensor([WIDTH, HEIGHT] * 2))  # as its detections are
    values = paste_masks_in_image(masks[:, None], boxes, (HEIGHT, WIDTH))[:, 0]
    near = (values - 0.5).abs() < 1e-4
    found = whole(paste_masks(masks, boxes, (HEIGHT, WIDTH), how="torchvision"))
    assert (found == (values > 0.5))[~near].all()


def test_a_full_mask_fills_the_pixels_whose_centres_lie_in_its_box():
    ((x, y, bitmap),) = paste_masks(torch.ones(1, 28, 28), torch.tensor([[10.4, 5.0, 20.6, 9.0]]), (HEIGHT, WIDTH))
    plane = whole([(x, y, bitmap)])[0]
    assert plane.nonzero().amin(0).tolist() == [5, 10]
    assert plane.nonzero().amax(0).tolist() == [8, 20]


@pytest.mark.parametrize("how", ["exact", "torchvision"])
def test_what_lies_outside_or_has_no_size_is_empty(how):
    boxes = torch.tensor([[-30.0, 5.0, -10.0, 9.0], [200.0, 5.0, 220.0, 9.0], [10.0, -20.0, 20.0, -10.0]])
    for x, y, bitmap in paste_masks(torch.ones(3, 14, 14), boxes, (HEIGHT, WIDTH), how=how):
        assert bitmap.numel() == 0
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT
    assert paste_masks(torch.ones(0, 14, 14), torch.zeros(0, 4), (HEIGHT, WIDTH), how=how) == []


def test_cost_does_not_depend_on_the_image():
    """A thumbnail of an object in an image of 100 megapixels."""
    (pasted,) = paste_masks(torch.ones(1, 28, 28), torch.tensor([[9000.0, 9000.0, 9004.0, 9004.0]]), (10000, 10000))
    assert pasted.bitmap.shape == (4, 4)


def random_mask(seed):
    generator = torch.Generator().manual_seed(seed)
    height, width = torch.randint(1, 10, (2,), generator=generator).tolist()
    return torch.rand(height, width, generator=generator) > 0.4


@pytest.mark.parametrize("block", range(10))
def test_outlines_filled_again_are_the_mask(block):
    """With holes, parts in holes, and parts that touch at a corner."""
    for seed in range(20 * block, 20 * block + 20):
        mask = random_mask(seed)
        polygons = mask_polygons(mask, 3, 2)
        plane = torch.zeros(14, 15, dtype=torch.bool)
        plane[2 : 2 + mask.shape[0], 3 : 3 + mask.shape[1]] = mask
        filled = rasterise_polygons(polygons, (14, 15)) if polygons else torch.zeros(14, 15, dtype=torch.bool)
        assert torch.equal(filled, plane)


def test_the_coco_tools_fill_outlines_to_the_same_mask():
    from pycocotools import mask as tools

    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        noise = F.avg_pool2d(torch.rand(1, 1, 30, 26, generator=generator), 5, 1)[0, 0]
        mask = noise > noise.median()
        polygons = mask_polygons(mask)
        filled = tools.decode(tools.merge(tools.frPyObjects(polygons, *mask.shape)))
        assert torch.equal(torch.from_numpy(filled).bool(), mask)


def test_one_polygon_a_part_and_corners_only():
    ring = torch.ones(5, 5, dtype=torch.bool)
    ring[2, 2] = False
    (polygon,) = mask_polygons(ring)
    assert len(polygon) == 2 * (4 + 1 + 4 + 1)  # outer corners, back, hole, back
    assert mask_polygons(torch.eye(2, dtype=torch.bool)) == [[0, 0, 1, 0, 1, 1, 0, 1], [1, 1, 2, 1, 2, 2, 1, 2]]
    assert mask_polygons(torch.zeros(3, 3, dtype=torch.bool)) == []
