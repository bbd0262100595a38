"""Mask targets: RoIAlign of each object's own bitmap is RoIAlign of its mask on the whole image."""

import pytest
import torch
from torchvision.ops import roi_align

import boxwright.ops.mask_targets as mask_targets
from boxwright.ops.mask_targets import cut_masks, pack_masks

HEIGHT, WIDTH = 60, 80


def random_batch(seed, batch=3, count=5):
    """Bitmaps, corners, and the same masks on whole images (B, G, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    planes = torch.zeros(batch, count, HEIGHT, WIDTH, dtype=torch.bool)
    bitmaps, corners = [], []
    for image in range(batch):
        bitmaps.append([])
        corners.append([])
        for index in range(count - image):  # ragged
            h, w = torch.randint(1, 40, (2,), generator=generator).tolist()
            x = [0, WIDTH - w, int(torch.randint(0, WIDTH - w, (), generator=generator))][index % 3]
            y = [HEIGHT - h, 0, int(torch.randint(0, HEIGHT - h, (), generator=generator))][index % 3]
            bitmap = torch.rand(h, w, generator=generator) > 0.3
            bitmap[0, 0] = True
            planes[image, index, y : y + h, x : x + w] = bitmap
            bitmaps[-1].append(bitmap)
            corners[-1].append((x, y))
    return bitmaps, corners, planes


def random_regions(seed, batch=3, count=5, regions=40):
    generator = torch.Generator().manual_seed(seed + 100)
    image = torch.randint(0, batch, (regions,), generator=generator)
    owner = (torch.rand(regions, generator=generator) * (count - image)).long()
    ends = torch.rand(regions, 2, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT])
    boxes = torch.cat([ends.amin(1), ends.amax(1) + 0.5], dim=1)
    boxes = boxes.minimum(torch.tensor([WIDTH, HEIGHT] * 2))
    boxes[0] = torch.tensor([0.0, 0.0, WIDTH, HEIGHT])
    return image, owner, boxes


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling", [0, 2])
@pytest.mark.parametrize("chunk", [1 << 22, 2000])
def test_targets_equal_roi_align_of_whole_planes(aligned, sampling, chunk, monkeypatch):
    monkeypatch.setattr(mask_targets, "_CHUNK_PIXELS", chunk)
    for seed in range(3):
        bitmaps, corners, planes = random_batch(seed)
        image, owner, boxes = random_regions(seed)
        sizes = torch.tensor([[HEIGHT, WIDTH]] * 3)
        found = cut_masks(
            pack_masks(bitmaps, corners), image, owner, boxes, sizes, 14, aligned=aligned, sampling=sampling
        )
        own = planes[image, owner].float()[:, None]
        rows = torch.cat([torch.arange(len(boxes))[:, None], boxes], dim=1)
        expected = roi_align(own, rows, 14, 1.0, sampling, aligned)[:, 0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_region_that_is_the_object_learns_its_bitmap():
    bitmap = torch.tensor([[True, False], [False, True]])
    packed = pack_masks([[bitmap]], [[(10, 20)]])
    region = torch.tensor([[10.0, 20.0, 12.0, 22.0]])
    found = cut_masks(packed, torch.tensor([0]), torch.tensor([0]), region, torch.tensor([[50, 50]]), 2)
    assert found[0].tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_order_of_regions_and_images_does_not_matter():
    bitmaps, corners, _ = random_batch(5)
    image, owner, boxes = random_regions(5)
    packed, sizes = pack_masks(bitmaps, corners), torch.tensor([[HEIGHT, WIDTH]] * 3)
    whole = cut_masks(packed, image, owner, boxes, sizes, 7)
    order = torch.randperm(len(boxes), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(cut_masks(packed, image[order], owner[order], boxes[order], sizes, 7), whole[order])
    for index in range(3):
        alone = pack_masks([bitmaps[index]], [corners[index]])
        rows = image == index
        found = cut_masks(alone, image[rows] * 0, owner[rows], boxes[rows], sizes[:1], 7)
        torch.testing.assert_close(found, whole[rows])


def test_a_batch_at_another_scale_gives_the_same_targets():
    bitmaps, corners, _ = random_batch(7)
    image, owner, boxes = random_regions(7)
    packed, sizes = pack_masks(bitmaps, corners), torch.tensor([[HEIGHT, WIDTH]] * 3)
    halved = packed._replace(frame=packed.frame / 2)
    one = cut_masks(packed, image, owner, boxes, sizes, 7)
    torch.testing.assert_close(cut_masks(halved, image, owner, boxes / 2, sizes // 2, 7), one)


def test_objects_without_a_mask_are_not_known_and_give_zeros():
    bitmaps = [[torch.zeros(1, 1, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool)], []]
    packed = pack_masks(bitmaps, [[(3, 3), (1, 1)], []])
    assert packed.nonempty.tolist() == [[False, True], [False, False]]
    boxes = torch.tensor([[1.0, 1.0, 5.0, 5.0], [1.0, 1.0, 5.0, 5.0]])
    rows = torch.tensor([0, 0]), torch.tensor([0, 1])
    found = cut_masks(packed, *rows, boxes, torch.tensor([[9, 9], [9, 9]]), 4)
    assert found[0].sum() == 0
    assert found[1].min() == 1


def test_nothing_at_all():
    packed = pack_masks([[], []], [[], []])
    nothing = torch.zeros(0, dtype=torch.int64)
    assert cut_masks(packed, nothing, nothing, torch.zeros(0, 4), torch.tensor([[9, 9]] * 2), 28).shape == (0, 28, 28)
