"""Inference: our FCOS R50-FPN and torchvision's on the same input, and the course's network against the course's loop.

Both FCOS have random weights, 91 classes and so low a threshold that every level gives its 1000 candidates to NMS: the
dearest post-processing. torchvision gets float images; ours gets bytes. `python -m benchmarks.inference`.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torchvision

if not __package__:  # as a file: python benchmarks/inference.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.course_loop import detect_one_by_one
from benchmarks.turns import in_turn, print_command, print_table
from boxwright.checkpoint import Checkpoint
from boxwright.data.image_io.decode import read_image
from boxwright.data.inputs import image_paths
from boxwright.inference.predictor import Detector, TorchEngine
from boxwright.models.fcos import FCOS
from boxwright.ops.image import fit_image, resize_plan
from boxwright.recipes import load_recipe
from boxwright.runtime.devices import device_called
from boxwright.runtime.folding import fold_norms
from boxwright.structures import Classes, DetectSettings, ImageBatch

SCORE = 0.05
COURSE_SCORE, COURSE_IOU = 0.3, 0.5


def fcos_r50(seed: int = 0) -> FCOS:
    """Ours as torchvision builds it: 91 classes, P3 to P7, four convolutions with group norm, frozen BatchNorm."""
    torch.manual_seed(seed)
    return FCOS(load_recipe("fcos-r50-fpn-1x-gn").model, 91).eval()


def torchvision_fcos(height: int, width: int, device: torch.device) -> Any:
    """The peer, which resizes nothing at this size."""
    model = torchvision.models.detection.fcos_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        score_thresh=SCORE,
        min_size=min(height, width),
        max_size=max(height, width),
    )
    return model.eval().to(device)


def against_torchvision(height: int, width: int, batches: list[int], rounds: int, device: torch.device) -> None:
    """Seconds an image of both, and the share of ours that is selection."""
    peer = torchvision_fcos(height, width, device)
    model = fcos_r50()
    fold_norms(model)
    settings = DetectSettings(score_threshold=SCORE)
    engines = {"fp32": TorchEngine(model, device, precision="fp32")}
    default = TorchEngine(model, device)
    if default.precision != "fp32":
        engines[default.precision] = default
    rows = []
    for batch in batches:
        generator = torch.Generator().manual_seed(0)
        pixels = [
            torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator) for _ in range(batch)
        ]
        images = ImageBatch.of(pixels).to(device)
        floats = [one.to(device).float() / 255 for one in pixels]
        with torch.inference_mode():
            outputs = model(images)
            functions: dict[str, Any] = {"torchvision": lambda floats=floats: peer(floats)}
            for name, engine in engines.items():
                functions[name] = lambda engine=engine, images=images: engine(images, settings).restore(images)
            functions["selection"] = lambda outputs=outputs, images=images: model.detect_padded(
                outputs, settings
            ).restore(images)
            times = in_turn(functions, rounds)
        for name in ("torchvision", *engines):
            share = "" if name == "torchvision" else f"{times['selection'] / times[name]:.1%}"
            each, base = times[name] / batch, times["torchvision"] / batch
            title = name if name == "torchvision" else f"boxwright, {name}"
            rows.append([title, str(batch), f"{each * 1000:.1f} ms", f"{1 / each:.2f}", f"{base / each:.2f}", share])
    columns = ("FCOS R50-FPN", "batch", "an image", "images/s", "times torchvision's", "selection")
    print_table(f"{height} x {width}, 91 classes, {device}", columns, rows)


def course_checkpoint(paths: list[Path]) -> Checkpoint:
    """The course's network with random weights, its classifier scaled so that a few boxes an image pass 0.3."""
    torch.manual_seed(0)
    recipe = load_recipe("fcos-regnetx400mf-224", ["model.backbone.weights=null"])
    classes = Classes.named([f"class {k}" for k in range(20)])
    model = FCOS(recipe.model, len(classes)).eval()
    first = read_image(paths[0])
    plan = resize_plan((int(first.shape[1]), int(first.shape[2])), recipe.data.resize.rule())
    with torch.no_grad():
        outputs = model(ImageBatch.of([fit_image(first, plan)]))
        values = outputs.class_logits
        model.head.class_logits.weight.mul_(1.5 / float(values.std()))
        values = model(ImageBatch.of([fit_image(first, plan)])).class_logits
        high = float(values.amax(-1).flatten().quantile(0.97))
        model.head.class_logits.bias += -1.5 - high
    return Checkpoint(recipe, classes, model.state_dict(), COURSE_SCORE)


def against_the_course(folder: Path, rounds: int, limit: int) -> None:
    """Images a second from files to boxes: the seed's loop, and `Detector.predict`."""
    paths = image_paths(folder)[:limit]
    checkpoint = course_checkpoint(paths)
    detector = Detector(checkpoint, "cpu")
    detector.settings = replace(detector.settings, nms_iou=COURSE_IOU)
    model = copy.deepcopy(checkpoint.build()).eval()
    model.pixel_mean, model.pixel_std = torch.zeros(3), torch.ones(3)
    side = checkpoint.recipe.data.resize.size
    workers = os.cpu_count() or 1
    found: dict[str, Any] = {}

    def seed() -> None:
        found["seed"] = detect_one_by_one(
            model, paths, side=side, score=COURSE_SCORE, iou=COURSE_IOU, workers=workers
        )  # fmt: skip

    def ours() -> None:
        found["ours"] = detector.predict(paths)

    times = in_turn({"seed": seed, "ours": ours}, rounds, warm=1)
    counts = [sum(len(one[0]) for one in found["seed"]), sum(len(one) for one in found["ours"])]
    titles = {"seed": "seed 001's loop, batch 1", "ours": "boxwright"}
    rows = [
        [title, str(count), f"{times[name] / len(paths) * 1000:.1f} ms", f"{len(paths) / times[name]:.2f}",
         f"{times['seed'] / times[name]:.2f}"]
        for (name, title), count in zip(titles.items(), counts, strict=True)
    ]  # fmt: skip
    columns = ("FCOS RegNetX-400MF, short side 224", "boxes", "an image", "images/s", "times the seed's")
    print_table(f"{len(paths)} files of {folder}", columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="rounds in which both take turns; medians count")
    parser.add_argument("--size", default="480x640", help="height x width")
    parser.add_argument("--batches", default="1,8", help="batch sizes")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--images", type=Path, default=Path("../shared/data/bccd/JPEGImages"), help="for the course")
    parser.add_argument("--limit", type=int, default=64, help="images of that folder")
    parser.add_argument("--only", choices=("torchvision", "course"), help="one of the two comparisons")
    given = parser.parse_args()
    height, width = (int(side) for side in given.size.split("x"))
    print_command()
    if given.only != "course":
        batches = [int(batch) for batch in given.batches.split(",")]
        against_torchvision(height, width, batches, given.rounds, device_called(given.device))
    if given.only != "torchvision":
        if given.images.is_dir():
            against_the_course(given.images, max(3, given.rounds // 3), given.limit)
        else:
            print(f"\n{given.images}: no such folder; the comparison with the course is left out")


if __name__ == "__main__":
    main()
