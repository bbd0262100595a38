"""Images a second that come out of the loader: decoding, resizing and augmenting, with and without the cache.

One peer is the pipeline of torchvision's detection references (their `presets.py`, on tensors): PIL decodes, `v2`
flips, resizes and converts, `DataLoader` with as many processes. The other, where OpenCV is installed, is what
Ultralytics documents as its default: a mosaic of four for every image. All see the same files at the same size. The
last rows are those of `data.on_device`: what the host has to draw, what it would take if it transformed the boxes too,
and the batches that a device makes of what is drawn, of images that are stored there or sent. `python -m
benchmarks.loading`; `--only drawn` takes the rows in whose names that word stands, and the references' as 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

if not __package__:  # as a file: python benchmarks/loading.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.turns import in_turn, print_command, print_table
from benchmarks.yolo_images import YoloImages
from boxwright.data.checks.preflight import preflight
from boxwright.data.dataset import DetectionDataset
from boxwright.data.drawn import DrawnDataset
from boxwright.data.formats.folder import find_split, open_folder
from boxwright.data.ground_truth import ground_truth_of
from boxwright.data.loader import load_collated, make_loader
from boxwright.data.records import Split
from boxwright.data.sampler import StepSampler, aspects_of
from boxwright.data.stored import store_images
from boxwright.recipes import load_recipe
from boxwright.recipes.schema import Augment
from boxwright.runtime.devices import device_called
from boxwright.training.batches import DrawnBatches
from boxwright.training.prepare import augmentation

FLIP = Augment(horizontal_flip=0.5)


class ReferenceImages(Dataset[Any]):
    """A split read and transformed as torchvision's references do."""

    def __init__(self, part: Split, size: int, max_size: int) -> None:
        self.records = part.records
        self.transform = v2.Compose(
            [
                v2.ToImage(),
                v2.RandomHorizontalFlip(p=0.5),
                v2.Resize(size, max_size=max_size, antialias=True),
                v2.ToDtype(torch.float, scale=True),
                v2.SanitizeBoundingBoxes(),
            ]
        )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Any:
        image = Image.open(self.records[index].path).convert("RGB")
        hw = (image.height, image.width)
        ground_truth = ground_truth_of(self.records[index], hw)
        boxes = tv_tensors.BoundingBoxes(ground_truth.boxes, format="XYXY", canvas_size=hw)  # type: ignore[call-overload]
        return self.transform(image, {"boxes": boxes, "labels": ground_truth.labels})


def drain(loader: Callable[[], Iterable[Any]]) -> Callable[[], None]:
    """Take everything that a new loader gives."""

    def run() -> None:
        for _ in loader():
            pass

    return run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/bccd"), help="a labelled folder")
    parser.add_argument("--split", default="train", help="of it")
    parser.add_argument("--recipe", default="fcos-small", help="whose size and augmentation is used")
    parser.add_argument("--batch", type=int, default=16, help="images a batch")
    parser.add_argument("--steps", type=int, default=8, help="batches a round")
    parser.add_argument("--workers", type=int, default=0, help="processes of each loader; 0: one core, in this process")
    parser.add_argument("--device", default="auto", help="where batches are made in the last rows: auto, cpu, cuda")
    parser.add_argument("--only", default="", help="take only the rows in whose names this stands")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in which all take turns; medians count")
    given = parser.parse_args()
    recipe = load_recipe(given.recipe)
    dataset = open_folder(given.data)
    chosen = replace(dataset, splits={given.split: find_split(dataset, given.split)})
    part = preflight(chosen).dataset.splits[given.split]
    rule, aspects = recipe.data.resize.rule(), aspects_of(part)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a loader's process

    def sampler() -> StepSampler:
        return StepSampler(aspects, given.batch, seed=0, start=0, stop=given.steps, mosaic=lambda _: True)

    def ours(augment: Augment, cache: bool) -> Callable[[], None]:
        images = DetectionDataset(part, rule, augmentation=augmentation(augment), cache=cache)
        return drain(lambda: make_loader(images, sampler(), workers=given.workers))

    device = device_called(given.device)
    cached = DetectionDataset(part, rule, augmentation=augmentation(recipe.data.augment), cache=True)
    stored = DrawnBatches(cached, given.workers, device, store_images(cached, device))
    sent = DrawnBatches(cached, given.workers, device)

    def drawn(samples: DrawnDataset) -> Callable[[], None]:
        return drain(lambda: load_collated(samples, stored.collate, sampler(), workers=given.workers))

    assert rule.size is not None
    assert rule.max_size is not None
    peer = ReferenceImages(part, rule.size, rule.max_size)

    def plain(images: Dataset[Any]) -> Callable[[], None]:
        return drain(
            lambda: DataLoader(
                images, batch_size=given.batch, num_workers=given.workers, collate_fn=tuple,
                sampler=torch.utils.data.RandomSampler(images, True, given.batch * given.steps),  # type: ignore[arg-type]
            )
        )  # fmt: skip

    functions = {
        "torchvision's references": plain(peer),
        "boxwright, flips, from files": ours(FLIP, cache=False),
        "boxwright, flips, cached": ours(FLIP, cache=True),
        f"boxwright, all of {given.recipe}, from files": ours(recipe.data.augment, cache=False),
        f"boxwright, all of {given.recipe}, cached": ours(recipe.data.augment, cache=True),
        f"boxwright, all of {given.recipe}, drawn": drawn(stored.samples),
        f"boxwright, all of {given.recipe}, drawn, boxes by the host": drawn(
            DrawnDataset(cached, None, send_images=False)
        ),
        f"boxwright, all of {given.recipe}, made on {device.type}, stored there": drain(lambda: stored(sampler())),
        f"boxwright, all of {given.recipe}, made on {device.type}, sent there": drain(lambda: sent(sampler())),
    }
    if importlib.util.find_spec("cv2"):
        # the long side of an image of 4 to 3 whose short side is the recipe's
        yolo = {cache: YoloImages(part, round(rule.size * 4 / 3), cache=cache) for cache in (False, True)}
        functions |= {
            "as Ultralytics documents it, from files": plain(yolo[False]),
            "as Ultralytics documents it, cached": plain(yolo[True]),
        }
    else:
        print("left out: the way that Ultralytics documents, which needs OpenCV (pip install opencv-python-headless)")
    base = "torchvision's references"
    functions = {name: function for name, function in functions.items() if given.only in name or name == base}
    print_command()
    times = in_turn(functions, given.rounds, warm=1)
    torch.set_num_threads(threads)
    count = given.batch * given.steps
    cores = max(1, given.workers)
    rows = [
        [name, f"{count / seconds:.1f}", f"{count / seconds / cores:.1f}", f"{times[base] / seconds:.2f}"]
        for name, seconds in times.items()
    ]
    columns = ("loader", "images/s", "a core", "times the references'")
    place = "this process" if given.workers == 0 else f"{given.workers} processes"
    print_table(f"{given.data}, {given.split}, short side {rule.size}, {place}", columns, rows)


if __name__ == "__main__":
    main()
