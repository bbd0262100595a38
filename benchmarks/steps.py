"""A training step of each of our detectors and of torchvision's: same backbone, input, batch, boxes and precision.

A step is forward, losses, backward, clipping of nothing, and one step of fused AdamW, in training mode. Both backbones
are ResNet-50 with frozen BatchNorm and trainable stages 3 to 5. Three peers are made of torchvision's parts
(`torchvision_parts.py`). Memory is measured in a process of its own for each. `python -m benchmarks.steps fcos rpn`.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor
from torchvision.ops import FrozenBatchNorm2d

if not __package__:  # as a file: python benchmarks/steps.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.torchvision_parts import FCOSWithMasks, ProposalPart, RegionPart
from benchmarks.turns import in_turn, print_command, print_table
from boxwright.convert.architecture import merged
from boxwright.convert.torchvision import RETINANET
from boxwright.convert.torchvision_rcnn import FASTER_RCNN, MASK_RCNN
from boxwright.models import MODELS
from boxwright.recipes import check_model
from boxwright.runtime.devices import device_called
from boxwright.runtime.precision import autocast, choose_precision, compile_parts
from boxwright.structures import CroppedMask, GroundTruth, ImageBatch, Proposals, Targets

CLASSES = 80
FCOS = {"head": {"scale_per_level": False}, "loss": {"box_weighting": "none"}}
RCNN = merged(FASTER_RCNN, {"compat": {"pad_multiple": 1}})
PAIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "fcos": ("fcos_resnet50_fpn", FCOS),
    "retinanet": ("retinanet_resnet50_fpn", merged(RETINANET, {"compat": {"pad_multiple": 1}})),
    "rpn": ("fasterrcnn_resnet50_fpn", {"rpn": FASTER_RCNN["rpn"]}),
    "fast_rcnn": ("fasterrcnn_resnet50_fpn", {"box": FASTER_RCNN["box"]}),
    "faster_rcnn": ("fasterrcnn_resnet50_fpn", RCNN),
    "mask_rcnn": ("maskrcnn_resnet50_fpn", merged(RCNN, {"mask": MASK_RCNN["mask"]})),
    "fcos_mask": ("fcos_resnet50_fpn", {**FCOS, "mask": MASK_RCNN["mask"]}),
}
"""Of each of ours: torchvision's builder, and the settings of our detector."""
DENSE = ("fcos", "retinanet", "fcos_mask")
"""Torchvision counts no class for the background of these."""
PROPOSALS = 1000
"""An image, for Fast R-CNN."""


def build_ours(name: str) -> Any:
    """Our detector as torchvision builds its own."""
    return MODELS[name].build(check_model({**PAIRS[name][1], "name": name}), CLASSES)


def build_peer(name: str, height: int, width: int, classes: int = CLASSES) -> Any:
    """Torchvision's detector with frozen BatchNorm, its first two stages not trained."""
    builder, _ = PAIRS[name]
    short, long = sorted((height, width))
    settings: dict[str, Any] = {"weights": None, "weights_backbone": None}
    model = getattr(torchvision.models.detection, builder)(
        num_classes=classes if name in DENSE else classes + 1, min_size=short, max_size=long, **settings
    )
    for part, child in list(model.backbone.named_modules()):
        if isinstance(child, torch.nn.BatchNorm2d):
            model.backbone.set_submodule(part, FrozenBatchNorm2d(child.num_features))
    for part, parameter in model.backbone.body.named_parameters():
        if not part.startswith(("layer2", "layer3", "layer4")):
            parameter.requires_grad_(False)
    return model


def ground_truths(batch: int, height: int, width: int, objects: int, classes: int = CLASSES) -> list[GroundTruth]:
    """Boxes of all sizes with masks that fill three quarters of each."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(batch):
        side = torch.rand(objects, 2, generator=generator).mul(5).exp() + 8  # 9 to 156 pixels
        side = side.minimum(torch.tensor([width - 2.0, height - 2.0]))
        corner = torch.rand(objects, 2, generator=generator) * (torch.tensor([width, height]) - side)
        boxes = torch.cat([corner, corner + side], dim=1).round()
        masks = []
        for x1, y1, x2, y2 in boxes.int().tolist():
            bitmap = torch.ones(y2 - y1, x2 - x1, dtype=torch.bool)
            bitmap[: (y2 - y1) // 4] = False
            masks.append(CroppedMask(x1, y1, bitmap))
        labels = torch.randint(0, classes, (objects,), generator=generator)
        found.append(GroundTruth.of(boxes, labels, masks=masks))
    return found


def stored_proposals(ground_truth: list[GroundTruth], height: int, width: int) -> list[Tensor]:
    """Boxes (PROPOSALS, 4) an image: a half around its objects, displaced and rescaled, a half anywhere."""
    generator = torch.Generator().manual_seed(2)
    limits = torch.tensor([width, height] * 2, dtype=torch.float32)
    found = []
    for one in ground_truth:
        near = one.boxes[torch.randint(len(one), (PROPOSALS // 2,), generator=generator)]
        near = near + (near[:, 2:] - near[:, :2]).repeat(1, 2) * torch.randn(len(near), 4, generator=generator) * 0.15
        side = torch.rand(PROPOSALS // 2, 2, generator=generator).mul(5).exp() + 8
        corner = torch.rand(PROPOSALS // 2, 2, generator=generator) * (limits[:2] - side).clamp(min=0)
        boxes = torch.cat([near, torch.cat([corner, corner + side], dim=1)]).clamp(min=0).minimum(limits)
        boxes[:, 2:] = boxes[:, 2:].maximum(boxes[:, :2] + 1)
        found.append(boxes)
    return found


def our_step(
    name: str, pixels: Tensor, ground_truth: list[GroundTruth], device: torch.device, precision: str, compiled: bool
) -> Callable[[], Any]:
    """A training step; gives the seconds of loss and optimiser, for which it waits for a GPU only where asked."""
    model = build_ours(name).to(device, memory_format=torch.channels_last).train()
    if compiled:
        compile_parts(model, dynamic=False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, fused=True)
    images = ImageBatch.of(list(pixels)).to(device)
    given = (
        ground_truth
        if MODELS[name].needs_masks
        else [GroundTruth(one.boxes, one.labels, one.ignore) for one in ground_truth]
    )
    targets = Targets.of(given).to(device)
    proposals = None
    if MODELS[name].needs_proposals:
        proposals = Proposals.of(stored_proposals(ground_truth, *pixels.shape[2:])).to(device)

    def now(wait: bool) -> float:
        if wait and device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def step(wait: bool = False) -> tuple[float, float]:
        with autocast(device, precision):
            outputs = model(images, targets, proposals)
        start = now(wait)
        total = torch.stack(list(model.loss(outputs, targets).values())).sum()
        loss_seconds = now(wait) - start
        total.backward()  # type: ignore[no-untyped-call]
        start = now(wait)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss_seconds, now(wait) - start

    return step


def peer_step(
    name: str,
    pixels: Tensor,
    ground_truth: list[GroundTruth],
    device: torch.device,
    precision: str,
    _compiled: bool = False,
    classes: int = CLASSES,
) -> Callable[[], Any]:
    """The same step of torchvision's detector, never compiled."""
    height, width = pixels.shape[2:]
    model = build_peer(name, height, width, classes)
    if name == "rpn":
        model = ProposalPart(model)
    elif name == "fast_rcnn":
        model = RegionPart(model, [boxes.to(device) for boxes in stored_proposals(ground_truth, height, width)])
    elif name == "fcos_mask":
        model = FCOSWithMasks(model, classes)
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, fused=True)
    first = 0 if name in DENSE else 1
    targets = []
    for one in ground_truth:
        target = {"boxes": one.boxes.to(device), "labels": one.labels.to(device) + first}
        if MODELS[name].needs_masks:
            assert one.masks is not None
            planes = torch.zeros(len(one), height, width, dtype=torch.uint8)
            for plane, mask in zip(planes, one.masks, strict=True):
                plane[mask.y : mask.y + mask.bitmap.shape[0], mask.x : mask.x + mask.bitmap.shape[1]] = mask.bitmap
            target["masks"] = planes.to(device)
        targets.append(target)
    images = [one.to(device).float() / 255 for one in pixels]

    def step() -> None:
        with autocast(device, precision):
            losses = model(images, copy.copy(targets))
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _memory(make: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...], answer: Any) -> None:
    """Peak memory of two steps in this process: allocated on a GPU, else what the process grew by."""
    device = arguments[3]
    before = _kib("VmRSS") * 1024
    step = make(*arguments)
    for _ in range(2):
        step()
    peak = _kib("VmHWM") * 1024 - before
    answer.put(torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak)


def _kib(field: str) -> int:
    """A figure of this process in KiB. (`ru_maxrss` would be that of the process which started it.)"""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def peak_memory(make: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> int:
    """Bytes, measured in a new process."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_memory, args=(make, arguments, answer))
    process.start()
    peak: int = answer.get(timeout=1200)
    process.join()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(PAIRS)}; all if not given")
    parser.add_argument("--rounds", type=int, default=7, help="rounds in which both take turns; medians count")
    parser.add_argument("--size", default="480x640", help="height x width")
    parser.add_argument("--batch", type=int, default=2, help="images a step")
    parser.add_argument("--objects", type=int, default=10, help="boxes an image")
    parser.add_argument("--precision", default="fp32", help="of both: fp32, bf16, fp16 or auto")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--compile", action="store_true", help="ours with backbone, pyramid and head compiled")
    parser.add_argument("--no-memory", action="store_true", help="leave the processes that measure memory out")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in PAIRS]
    if unknown:
        parser.error(f"no detector {unknown[0]!r}; there are {', '.join(PAIRS)}")
    height, width = (int(side) for side in given.size.split("x"))
    device = device_called(given.device)
    precision = choose_precision(given.precision, device)
    print_command()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (given.batch, 3, height, width), dtype=torch.uint8, generator=generator)
    ground_truth = ground_truths(given.batch, height, width, given.objects)
    rows = []
    for name in given.names or PAIRS:
        arguments = (name, pixels, ground_truth, device, precision, given.compile)
        ours, peer = our_step(*arguments), peer_step(*arguments)
        times = in_turn({"ours": ours, "peer": peer}, given.rounds)
        parts = [ours(wait=True) for _ in range(3)]
        loss, optimiser = (statistics.median(column) for column in zip(*parts, strict=True))
        peaks = ["-", "-"] if given.no_memory else [
            f"{peak_memory(make, arguments) / 2**20:.0f} MiB" for make in (our_step, peer_step)
        ]  # fmt: skip
        rows.append(
            [name, f"{times['ours']:.3f} s", f"{times['peer']:.3f} s", f"{times['ours'] / times['peer']:.3f}",
             f"{loss / times['ours']:.1%}", f"{optimiser / times['ours']:.1%}", *peaks]
        )  # fmt: skip
        print(f"{name}: {rows[-1][3]}", flush=True)
        del ours, peer
    columns = (
        "ResNet-50 FPN",
        "ours",
        "torchvision",
        "ratio",
        "loss and matching",
        "optimiser",
        "our memory",
        "theirs",
    )
    print_table(f"{height} x {width}, batch {given.batch}, {given.objects} boxes, {precision}, {device}", columns, rows)


if __name__ == "__main__":
    main()
