"""The peer: torchvision's own FCOS on a pyramid of the same backbone, trained by the shortest fair loop.

It sees the same images as ours, decoded, cached, augmented and batched by boxwright's loader; runs in the same
precision and memory layout; and is measured by the same `coco_ap`. Its model, losses and selection are torchvision's.
Shape legend: B = images of a batch, K = classes.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork

from boxwright.data.dataset import DetectionDataset
from boxwright.data.loader import Batch, make_loader
from boxwright.data.sampler import StepSampler
from boxwright.nn.backbones import TORCHVISION_RESNET, Backbone
from boxwright.nn.resnet import ResNetVariant
from boxwright.runtime.precision import autocast, choose_precision
from boxwright.structures import Detections

CPU = torch.device("cpu")
TargetsOf: TypeAlias = Callable[[Batch], list[dict[str, Any]]]
MEASURED_STEPS = 12
"""Steps of a throwaway copy that are timed before the length of a run is fixed; the first ones are not counted."""


class Pyramid(nn.Module):
    """P3 to P5, each of `width` channels, on any of our backbones: what `FCOS` calls a backbone."""

    def __init__(self, name: str, width: int, variant: ResNetVariant) -> None:
        super().__init__()
        self.body = Backbone(name, ("c3", "c4", "c5"), variant=variant)
        self.fpn = FeaturePyramidNetwork(self.body.channels, width)
        self.out_channels = width

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = dict(zip(("c3", "c4", "c5"), self.body(images), strict=True))
        levels: dict[str, Tensor] = self.fpn(maps)
        return levels


class InPrecision(nn.Module):
    """A part of a network run in reduced precision and channels last; what it gives is float32 again."""

    def __init__(self, part: nn.Module, precision: str) -> None:
        super().__init__()
        self.part, self.precision = part, precision

    def forward(self, maps: Any) -> Any:
        with autocast(CPU, self.precision):
            if isinstance(maps, Tensor):
                maps = maps.contiguous(memory_format=torch.channels_last)
            return _as_float(self.part(maps))


def _as_float(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float()
    if isinstance(value, dict):
        return {key: _as_float(part) for key, part in value.items()}
    return type(value)(_as_float(part) for part in value)


def build_peer(
    num_classes: int,
    *,
    backbone: str = "regnet_x_400mf",
    variant: ResNetVariant = TORCHVISION_RESNET,
    width: int = 64,
    precision: str = "auto",
    seed: int = 0,
) -> FCOS:
    """The peer from random weights: P3 to P5, GIoU, centre sampling 1.5, group norm, four-layer heads."""
    torch.manual_seed(seed)
    model = FCOS(
        Pyramid(backbone, width, variant),
        num_classes,
        anchor_generator=AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3),
        center_sampling_radius=1.5,
        score_thresh=0.05,
        nms_thresh=0.6,
        detections_per_img=100,
        topk_candidates=1000,
    )
    # the loader has brought the images to network size (torchvision's own `_skip_resize` holds in training only)
    model.transform.resize = as_it_is
    chosen = choose_precision(precision, CPU)
    model.backbone = InPrecision(model.backbone, chosen)
    model.head.classification_head = InPrecision(model.head.classification_head, chosen)
    model.head.regression_head = InPrecision(model.head.regression_head, chosen)
    return model.to(memory_format=torch.channels_last)


def as_it_is(image: Tensor, target: Any) -> tuple[Tensor, Any]:
    """What torchvision's transform does to an image instead of resizing it."""
    return image, target


class PeerRun(NamedTuple):
    """How long the peer was trained."""

    steps: int
    seconds: float


def train_peer(
    model: nn.Module,
    images: DetectionDataset,
    aspects: Sequence[float],
    *,
    minutes: float | None = None,
    steps: int | None = None,
    batch: int = 16,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    seed: int = 0,
    targets_of: TargetsOf | None = None,
) -> PeerRun:
    """Train with AdamW and one cycle for so many steps, or as many as fit into the minutes by its own step time.

    Measuring the step time counts as training, as it does for ours. `targets_of` gives the ground truth of a batch in
    torchvision's form; boxes and labels if not given.
    """
    targets_of = targets_of or box_targets
    if (minutes is None) == (steps is None):
        raise ValueError("give minutes or steps, not both")
    start = time.monotonic()
    if steps is None:
        assert minutes is not None
        each = _step_seconds(copy.deepcopy(model), images, aspects, batch, seed, targets_of)
        steps = max(10, math.floor((60 * minutes - (time.monotonic() - start)) / each))
        print(f"peer: {each:.3f} s a step of {batch}, {steps} steps in {minutes:g} minutes", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps)
    model.train()
    for step, loaded in enumerate(_batches(images, aspects, batch, seed, steps), start=1):
        losses = _train_step(model, optimizer, loaded, targets_of)
        cycle.step()
        if step % 100 == 0 or step == steps:
            numbers = "  ".join(f"{name} {float(value):.3f}" for name, value in losses.items())
            print(f"peer: step {step}/{steps}  {numbers}  {time.monotonic() - start:.0f} s", flush=True)
    return PeerRun(steps, time.monotonic() - start)


def _batches(
    images: DetectionDataset, aspects: Sequence[float], batch: int, seed: int, steps: int
) -> Iterator[Batch]:  # fmt: skip
    sampler = StepSampler(aspects, batch, seed=seed, start=0, stop=steps)
    yield from make_loader(images, sampler, workers=0)


def box_targets(batch: Batch) -> list[dict[str, Any]]:
    """The ground truth of a batch in torchvision's form."""
    ground_truths = [batch.targets.image(index) for index in range(len(batch.indices))]
    # torchvision knows no regions to ignore; a missing object is less wrong than a false one
    return [{"boxes": t.boxes[~t.ignore], "labels": t.labels[~t.ignore]} for t in ground_truths]


def _train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, targets_of: TargetsOf
) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = model(images_of(batch), targets_of(batch))
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return {name: value.detach() for name, value in losses.items()}


def images_of(batch: Batch) -> list[Tensor]:
    """The images (3, h, w) of a batch in [0, 1], without padding."""
    sizes = batch.images.sizes_hw.tolist()
    return [pixels[:, :h, :w].float() / 255 for pixels, (h, w) in zip(batch.images.pixels, sizes, strict=True)]


def _step_seconds(
    model: nn.Module, images: DetectionDataset, aspects: Sequence[float], batch: int, seed: int, targets_of: TargetsOf
) -> float:
    """The median step time of a copy that is thrown away."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    laps: list[float] = []
    last = time.monotonic()
    for loaded in _batches(images, aspects, batch, seed + 1, MEASURED_STEPS):
        _train_step(model, optimizer, loaded, targets_of)
        laps.append(time.monotonic() - last)
        last += laps[-1]
    counted = sorted(laps[4:])
    return counted[len(counted) // 2]


@torch.inference_mode()
def detect_peer(model: FCOS, images: DetectionDataset, batch: int = 16) -> list[Detections]:
    """What the peer finds in each image, in the pixels of the original."""
    model.eval()
    rows = [list(range(start, min(start + batch, len(images)))) for start in range(0, len(images), batch)]
    found: list[Detections] = []
    for loaded in make_loader(images, rows, workers=0):
        scales = loaded.images.scale_xy.repeat(1, 2)
        sizes = [(int(h), int(w)) for h, w in loaded.images.original_hw.tolist()]
        for one, scale, size in zip(model(images_of(loaded)), scales, sizes, strict=True):
            found.append(Detections(one["boxes"] / scale, one["scores"], one["labels"], size))
    return found
