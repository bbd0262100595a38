"""Law: a placed window is what torchvision's antialiased crop and resize makes of it; tiles that meet leave no gap."""

import pytest
import torch
from torchvision.transforms.v2 import functional as vision

from boxwright.ops.resample import CHUNK, Tiles, axis_weights, draw_tiles, windows

GREY = torch.tensor([10.0, 20.0, 30.0])


def noise(seed, height, width):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def stored(image):
    return image.flatten(1).T.contiguous()


def one(image, window, size_hw, mirrored=(0, 0), corner_xy=(0, 0)):
    """One window of one image, resized to a size, at a corner of a canvas."""
    x1, y1, x2, y2 = window
    (left, top), (height, width) = corner_xy, size_hw
    across, down = (x2 - x1) / width, (y2 - y1) / height
    placed = [across, -left * across, left, left + width, down, -top * down, top, top + height]
    whole = torch.tensor([[0, 0, image.shape[2], x1, y1, x2, y2, *mirrored]])
    return Tiles(whole, torch.tensor([placed], dtype=torch.float32), (y2 - y1, x2 - x1), exact=False)


@pytest.mark.parametrize("size_hw", [(40, 50), (20, 25), (7, 9), (90, 130), (40, 13)])
@pytest.mark.parametrize("window", [(0, 0, 60, 48), (5, 7, 55, 47), (20, 10, 23, 12)])
def test_a_window_is_resampled_as_torchvision_does_it(window, size_hw):
    image = noise(0, 48, 60)
    x1, y1, x2, y2 = window
    expected = vision.resized_crop_image(image, y1, x1, y2 - y1, x2 - x1, list(size_hw), antialias=True)
    (made,) = draw_tiles(stored(image), one(image, window, size_hw), 1, size_hw, GREY)
    assert (made - expected.float()).abs().max() <= 1  # torchvision rounds between its two passes


@pytest.mark.parametrize("mirrored", [(0, 1), (1, 0), (1, 1)])
def test_a_mirrored_window_is_the_mirror_image_of_the_window(mirrored):
    image, size_hw = noise(1, 30, 40), (25, 31)
    straight, turned = (
        draw_tiles(stored(image), one(image, (4, 3, 38, 29), size_hw, how), 1, size_hw, GREY)
        for how in ((0, 0), mirrored)
    )
    axes = [axis for axis, flag in ((3, mirrored[0]), (2, mirrored[1])) if flag]
    difference = (turned - straight.flip(axes)).abs()
    assert difference.max() <= 1  # where rounding decides: sums of weights have another order
    assert (difference > 0).float().mean() < 0.002


def test_what_no_tile_covers_has_the_colour_and_a_canvas_without_tiles_only_that():
    image = noise(2, 10, 12)
    tiles = one(image, (0, 0, 12, 10), (10, 12), corner_xy=(3, 2))
    (made, empty) = draw_tiles(stored(image), tiles, 2, (16, 20), GREY)
    assert torch.equal(made[:, 2:12, 3:15], image.float())
    outside = torch.ones(16, 20, dtype=torch.bool)
    outside[2:12, 3:15] = False
    assert torch.equal(made[:, outside], GREY[:, None].expand(3, int(outside.sum())))
    assert torch.equal(empty, GREY[:, None, None].expand(3, 16, 20))


@pytest.mark.parametrize("seam", [4.0, 4.25, 4.5, 4.99])
def test_each_pixel_belongs_to_one_of_two_tiles_that_meet(seam):
    placed = torch.tensor([[1.0, 0.0, 0.0, seam], [1.0, 0.0, seam, 9.0]])
    weights = axis_weights(placed, torch.tensor([9, 9]), 9, 9).sum(2)
    assert torch.equal(weights.sum(0), torch.ones(9))
    assert set(weights.flatten().tolist()) == {0.0, 1.0}


def test_images_in_one_row_of_pixels_do_not_mix_and_chunks_change_nothing(monkeypatch):
    images = [noise(3, 20, 30), noise(4, 31, 17)]
    parts = [one(images[0], (2, 3, 28, 18), (24, 28)), one(images[1], (0, 5, 17, 31), (24, 28))]
    whole = torch.cat([part.whole for part in parts])
    whole[:, 0], whole[:, 1] = torch.tensor([0, 1]), torch.tensor([0, 600])
    tiles = Tiles(whole, torch.cat([part.placed for part in parts]), (26, 26), exact=False)
    pixels = torch.cat([stored(image) for image in images])
    together = draw_tiles(pixels, tiles, 2, (24, 28), GREY)
    for image, part, made in zip(images, parts, together, strict=True):
        torch.testing.assert_close(draw_tiles(stored(image), part, 1, (24, 28), GREY)[0], made)
    monkeypatch.setattr("boxwright.ops.resample.CHUNK", 1)
    torch.testing.assert_close(draw_tiles(pixels, tiles, 2, (24, 28), GREY), together)
    assert CHUNK >= 3 * 1333 * 1333  # one image of the largest recipes


def test_exact_windows_are_copied():
    image = noise(5, 20, 30)
    tiles = one(image, (3, 4, 28, 19), (15, 25), (1, 0))._replace(exact=True)
    (made,) = draw_tiles(stored(image), tiles, 1, (15, 25), GREY)
    assert torch.equal(made, image[:, 4:19, 3:28].flip(2).float())
    assert windows(stored(image), tiles.whole, (32, 32)).shape == (1, 32, 32, 3)  # padded beyond its end
