"""Validation: losses and detections from one forward pass over the pictures, then AP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object

from boxwright.data.loader import Batch
from boxwright.metrics.coco_ap import CocoResult, coco_ap
from boxwright.models import DetectSettings
from boxwright.nn.precision import autocast
from boxwright.structures import Classes, Detections, Truth


class Measured(NamedTuple):
    """What validation found: mean losses of a picture by name, COCO figures, and each picture's detections and truth.

    `segm` are the figures of the masks, where the model gives masks.
    """

    losses: dict[str, float]
    coco: CocoResult
    detections: list[Detections]
    truths: list[Truth]
    segm: CocoResult | None = None

    @property
    def ap(self) -> float | None:
        """The figure that says which weights are best: AP of the masks where there are masks, else of the boxes."""
        return (self.segm or self.coco).ap

    def figures(self) -> dict[str, Any]:
        """All figures as one JSON object; those of the masks are called `segm_AP` and so on."""
        return self.coco.figures() | (self.segm.figures("segm_") if self.segm else {})


@torch.inference_mode()
def detect_all(
    model: Any, batches: Iterable[Batch], settings: DetectSettings, *, device: torch.device, precision: str
) -> tuple[dict[int, Detections], dict[str, float], int]:
    """Detections by record index, the sum of each loss over the pictures, and the number of pictures."""
    found: dict[int, Detections] = {}
    sums: dict[str, torch.Tensor] = {}
    count = 0
    for batch in batches:
        images, targets = batch.images.to(device), batch.targets.to(device)
        with autocast(device, precision):
            proposals = None if batch.proposals is None else batch.proposals.to(device)
            outputs = model(images, targets, proposals)
            detections = model.detect(outputs, images, settings)
        for name, value in model.loss(outputs, targets).items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + value * len(batch.indices)
        found.update(zip(batch.indices, detections, strict=True))
        count += len(batch.indices)
    return found, {name: float(value) for name, value in sums.items()}, count


def measure(
    model: Any,
    batches: Iterable[Batch],
    truths: list[Truth],
    classes: Classes,
    settings: DetectSettings,
    *,
    device: torch.device,
    precision: str,
) -> Measured:
    """Validate a model over the batches of this process; figures are those of all processes together.

    A batch's losses are divided by its own positives, so the means depend on which pictures make up a batch, and not on
    which process has it.
    """
    was_training = model.training
    model.eval()
    rows = gather_object([detect_all(model, batches, settings, device=device, precision=precision)])
    model.train(was_training)
    found: dict[int, Detections] = {}
    sums: dict[str, float] = {}
    count = 0
    for part, part_sums, part_count in rows:
        found |= part
        count += part_count
        for name, value in part_sums.items():
            sums[name] = sums.get(name, 0.0) + value
    ordered = [found[index] for index in sorted(found)]
    own = [truths[index] for index in sorted(found)]
    losses = {name: value / max(1, count) for name, value in sums.items()}
    masks = all(truth.masks is not None for truth in own) and any(one.masks is not None for one in ordered)
    segm = coco_ap(ordered, own, classes, kind="masks") if masks else None
    return Measured(losses, coco_ap(ordered, own, classes), ordered, own, segm)
