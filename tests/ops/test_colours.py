"""Parity: changes of colours for a batch, each image with its own, are torchvision's for one image after the other."""

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vision

from boxwright.ops.colours import BRIGHTNESS, CONTRAST, HUE, SATURATION, change_colours, turn_hue

NAMES = ("brightness", "contrast", "saturation", "hue")


def images():
    """Noise, something smooth, a grey image, a black one."""
    generator = torch.Generator().manual_seed(0)
    made = torch.randint(0, 256, (4, 3, 24, 30), dtype=torch.uint8, generator=generator)
    coarse = torch.rand(1, 3, 4, 5, generator=generator) * 255
    made[1] = torch.nn.functional.interpolate(coarse, (24, 30), mode="bilinear")[0].byte()
    made[2] = made[2, :1]
    made[3] = 0
    return made


def everywhere(pixels):
    return torch.ones(len(pixels), 1, *pixels.shape[2:], dtype=torch.bool)


@pytest.mark.parametrize(
    ("kind", "factor"),
    [(BRIGHTNESS, 1.3), (BRIGHTNESS, 0.6), (CONTRAST, 0.5), (CONTRAST, 1.4), (SATURATION, 0.4), (SATURATION, 1.6),
     (SATURATION, 0.0), (HUE, 0.2), (HUE, -0.4), (HUE, 0.5)],
)  # fmt: skip
def test_one_change_is_torchvisions(kind, factor):
    pixels = images()
    expected = torch.stack([getattr(vision, f"adjust_{NAMES[kind]}_image")(image, factor) for image in pixels])
    kinds, factors = torch.full((4, 1), kind), torch.full((4, 1), factor)
    made = change_colours(pixels.float(), kinds, factors, everywhere(pixels), hue=kind == HUE)
    difference = (made - expected.float()).abs()
    assert difference.max() <= 1  # where rounding decides between two levels
    assert (difference > 0).float().mean() < 0.02


def test_each_image_has_its_own_changes_in_its_own_order():
    pixels = images()
    jitter = v2.ColorJitter(0.4, 0.4, 0.4, 0.3)
    torch.manual_seed(3)
    drawn = [jitter.make_params([]) for _ in pixels]
    expected = torch.stack([jitter.transform(image, one) for image, one in zip(pixels, drawn, strict=True)])
    kinds = torch.stack([one["fn_idx"] for one in drawn])
    factors = torch.tensor([[one[f"{NAMES[kind]}_factor"] for kind in one["fn_idx"]] for one in drawn])
    made = change_colours(pixels.float(), kinds, factors, everywhere(pixels), hue=True)
    assert len({tuple(row) for row in kinds.tolist()}) > 1
    assert (made - expected.float()).abs().max() <= 2  # a level of the first change may be two of the last


def test_contrast_is_about_the_mean_of_the_image_and_not_of_its_padding():
    pixels = images()[:1]
    padded = torch.zeros(1, 3, 40, 40)
    padded[:, :, :24, :30] = pixels
    inside = torch.zeros(1, 1, 40, 40, dtype=torch.bool)
    inside[:, :, :24, :30] = True
    kinds, factors = torch.tensor([[CONTRAST]]), torch.tensor([[0.5]])
    alone = change_colours(pixels.float(), kinds, factors, everywhere(pixels), hue=False)
    assert torch.equal(change_colours(padded, kinds, factors, inside, hue=False)[:, :, :24, :30], alone)


def test_hue_turned_once_round_and_brightness_of_one_change_nothing():
    pixels = images().float()
    assert torch.equal(turn_hue(pixels, torch.ones(4, 1, 1, 1)), pixels)
    same = change_colours(pixels, torch.full((4, 2), BRIGHTNESS), torch.ones(4, 2), everywhere(pixels), hue=False)
    assert torch.equal(same, pixels)
