"""Brightness, contrast, saturation and hue of a whole batch, each image with changes and an order of its own.

The formulas are those of `torchvision.transforms.v2.ColorJitter` for uint8 images, which cut to whole levels after each
change. Shape legend: B = images, S = changes of an image, H W = height and width.
"""

from __future__ import annotations

import torch
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
GREY = (0.2989, 0.587, 0.114)
"""Shares of red, green and blue."""


def change_colours(pixels: Tensor, kinds: Tensor, factors: Tensor, inside: Tensor, *, hue: bool) -> Tensor:
    """Pixels (B, 3, H, W) float in whole levels 0 to 255 after changes of kinds (B, S) by factors (B, S).

    `inside` (B, 1, H, W) are the pixels that belong to the image: contrast is about their mean. Without `hue` no change
    may be one of hue. A brightness of factor 1 changes nothing.

    >>> dark, half = torch.tensor([[BRIGHTNESS]]), torch.tensor([[0.5]])
    >>> change_colours(torch.full((1, 3, 1, 1), 101.0), dark, half, torch.ones(1, 1, 1, 1) > 0, hue=False).flatten()
    tensor([50., 50., 50.])
    """
    # each change but that of hue mixes the image with black, with its mean grey, or with itself in grey
    share_of_mean = (1 - factors) * (kinds == CONTRAST) / inside.sum((1, 2, 3))[:, None]
    share_of_grey = (1 - factors) * (kinds == SATURATION)
    for change in range(kinds.shape[1]):
        factor, of_mean, of_grey = (
            part[:, change, None, None, None] for part in (factors, share_of_mean, share_of_grey)
        )
        red, green, blue = pixels[:, 0:1], pixels[:, 1:2], pixels[:, 2:3]
        grey = torch.add(torch.add(GREY[0] * red, green, alpha=GREY[1]), blue, alpha=GREY[2]).floor_()
        other = torch.addcmul((grey * inside).sum((1, 2, 3), keepdim=True) * of_mean, grey, of_grey)
        mixed = torch.addcmul(other, pixels, factor).clamp_(0, 255).floor_()
        turns = (kinds == HUE)[:, change, None, None, None]
        pixels = torch.where(turns, turn_hue(pixels, factor), mixed) if hue else mixed
    return pixels


def turn_hue(pixels: Tensor, turn: Tensor) -> Tensor:
    """Pixels (B, 3, H, W) float in whole levels 0 to 255 with their hue turned by a part of the circle (B, 1, 1, 1).

    Hue, saturation and value are those of Smith's hexcone (1978), and so is the way back: with hue in sixths of the
    circle each channel is value - value * saturation * clamp(min(k, 4 - k), 0, 1), k = (n + hue) mod 6, n = 5, 3, 1.
    """
    red, green, blue = pixels[:, 0:1], pixels[:, 1:2], pixels[:, 2:3]
    value, lowest = pixels.amax(1, keepdim=True), pixels.amin(1, keepdim=True)
    chroma = value - lowest
    divisor = torch.where(chroma > 0, chroma, 1.0)
    sector = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    # filled on the device: a tensor made on the host would make a GPU wait
    shift = 5 - 2 * torch.arange(3, device=pixels.device).view(3, 1, 1)
    k = (sector + 6 * turn + shift) % 6
    turned = value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)
    return (turned / 255 * (256 - 1e-3)).floor().clamp(0, 255)  # as torchvision makes levels of floats
