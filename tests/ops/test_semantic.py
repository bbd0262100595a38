"""Semantic logits: the loss against torch's own, and labels at the pixels of the original however it was resized."""

import pytest
import torch
import torch.nn.functional as F

from boxwright.ops import semantic
from boxwright.ops.semantic import semantic_labels, semantic_loss


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_loss_is_the_mean_over_annotated_pixels_of_the_whole_batch():
    logits, labels = noise(2, 3, 4, 5), torch.randint(0, 3, (2, 16, 20), dtype=torch.uint8)
    labels[0, :8] = 255  # so the mean over images would be another
    upsampled = F.interpolate(logits, (16, 20), mode="bilinear", align_corners=False)
    known = labels != 255
    expected = F.cross_entropy(upsampled.permute(0, 2, 3, 1)[known], labels[known].long())
    torch.testing.assert_close(semantic_loss(logits, labels, 4), expected)


def test_loss_without_an_annotated_pixel_is_zero_and_has_a_gradient():
    logits = noise(1, 3, 2, 2).requires_grad_()
    loss = semantic_loss(logits, torch.full((1, 8, 8), 255, dtype=torch.uint8), 4)
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_batch_that_was_padded_further_than_its_labels_has_the_same_loss():
    logits, labels = noise(1, 3, 4, 6), torch.randint(0, 3, (1, 14, 21), dtype=torch.uint8)
    whole = torch.full((1, 16, 24), 255, dtype=torch.uint8)
    whole[:, :14, :21] = labels
    torch.testing.assert_close(semantic_loss(logits, labels, 4), semantic_loss(logits, whole, 4))


@pytest.mark.parametrize("original", [(48, 64), (13, 64), (96, 150), (48, 1)])
@pytest.mark.parametrize("size", [(24, 32), (23, 30)])
def test_labels_are_those_of_two_bilinear_resizings(size, original, monkeypatch):
    monkeypatch.setattr(semantic, "MOST_LOGITS", 5 * original[1] * 7)  # bands of seven rows
    logits = noise(5, 6, 8)
    upsampled = F.interpolate(logits[None], scale_factor=4, mode="bilinear", align_corners=False)
    cut = upsampled[:, :, : size[0], : size[1]]
    expected = F.interpolate(cut, original, mode="bilinear", align_corners=False)[0].argmax(0)
    scale = (size[1] / original[1], size[0] / original[0])
    found = semantic_labels(logits, 4, size, original, scale, (0.0, 0.0))
    assert found.dtype == torch.uint8
    assert (found != expected).float().mean() < 1e-3


def test_the_empty_part_of_a_canvas_lends_nothing_to_the_border():
    logits = torch.zeros(2, 4, 8)
    logits[1, :, 4:] = 9.0  # class 1 in the right half of the canvas, where no image is
    found = semantic_labels(logits, 4, (16, 32), (16, 16), (1.0, 1.0), (0.0, 0.0))
    assert not found[:, :13].any()
    assert found.shape == (16, 16)


def test_pixels_that_were_cropped_away_are_255():
    logits = torch.zeros(2, 4, 4)
    logits[1] = 1.0
    found = semantic_labels(logits, 4, (16, 16), (16, 32), (1.0, 1.0), (-8.0, 0.0))
    assert (found[:, 8:24] == 1).all()
    assert (found[:, :8] == 255).all()
    assert (found[:, 24:] == 255).all()


def test_an_offset_moves_the_labels():
    logits = torch.full((2, 4, 4), 4.5)
    logits[1, :, :2], logits[1, :, 2:] = 0.0, 9.0  # class 1 from column 8 of the network on
    found = semantic_labels(logits, 4, (16, 16), (16, 12), (1.0, 1.0), (4.0, 0.0))
    assert not found[:, :4].any()
    assert (found[:, 4:] == 1).all()
