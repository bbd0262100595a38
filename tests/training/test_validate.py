"""Validation: a picture counts once in the mean losses, whatever the size of its batch."""

import torch

from boxwright.data.loader import Batch
from boxwright.models import DetectSettings
from boxwright.structures import Classes, Detections, ImageBatch, Targets, Truth
from boxwright.training.validate import measure


class Constant(torch.nn.Module):
    """Its loss is what the pixels say; it finds nothing."""

    def forward(self, images, targets, proposals):
        return images.pixels.mean()

    def loss(self, outputs, targets):
        return {"box": outputs}

    def detect(self, outputs, images, settings):
        empty = torch.zeros(0)
        return [Detections(torch.zeros(0, 4), empty, empty.long(), (8, 8)) for _ in range(len(images))]


def test_losses_are_means_over_pictures_and_not_over_batches():
    def batch(value, indices):
        images = ImageBatch.of([torch.full((3, 8, 8), value)] * len(indices))
        return Batch(images, Targets.of([Truth.empty()] * len(indices)), indices)

    measured = measure(
        Constant(), [batch(0.5, (0, 1, 2)), batch(0.1, (3,))], [Truth.empty()] * 4, Classes.named("a"),
        DetectSettings(), device=torch.device("cpu"), precision="fp32",
    )  # fmt: skip
    torch.testing.assert_close(measured.losses["box"], (3 * 0.5 + 0.1) / 4)
