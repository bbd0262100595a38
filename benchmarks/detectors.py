"""Every detector of the library at one size: parameters, file, and speed beside FCOS's; nothing is trained.

The `-small` recipes, images of 240 x 320. All take turns in one process, from pixels at network size to detections.
Selection is at its worst: every candidate of random weights passes the threshold. As many objects are reported as the
recipe has it, and ten by those that look at their objects again.
`python -m benchmarks.detectors`; with `--trained CHECKPOINT` the selection of a trained one.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

if not __package__:  # as a file: python benchmarks/detectors.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.turns import in_turn, print_command, print_table
from boxwright.data.inputs import image_paths, prepare
from boxwright.inference.predictor import Detector, TorchEngine
from boxwright.models import MODELS
from boxwright.models.fcos import FCOS
from boxwright.models.retinanet import RetinaNet
from boxwright.models.rpn import RPN
from boxwright.recipes import load_recipe
from boxwright.runtime.folding import fold_norms
from boxwright.runtime.precision import DTYPES
from boxwright.structures import ImageBatch, Proposals

RECIPES = {
    "FCOS": "fcos-small",
    "RetinaNet": "retinanet-small",
    "RPN": "rpn-small",
    "Fast R-CNN": "fast-rcnn-small",
    "Faster R-CNN": "faster-rcnn-small",
    "FCOS-Mask": "fcos-mask-small",
    "Mask R-CNN": "mask-rcnn-small",
}
CLASSES = 20
PROPOSALS = 200
OBJECTS = 10


ONE_STAGE = ("FCOS", "RetinaNet", "RPN")
"""Those whose selection is a step of its own, after the network."""


def ready(recipe_name: str, images: ImageBatch, device: torch.device) -> tuple[Any, Any, int]:
    """What detects in the batch once, what selects from its raw outputs once, and the number of parameters."""
    torch.manual_seed(0)
    recipe = load_recipe(recipe_name)
    entry = MODELS[recipe.model.name]
    model = recipe.build_model(1 if entry.one_class else CLASSES).eval()
    count = sum(parameter.numel() for parameter in model.parameters())
    fold_norms(model)
    engine = TorchEngine(model, device)
    settings = replace(recipe.detect.settings(), score_threshold=0.0)
    if recipe_name not in [RECIPES[name] for name in ONE_STAGE]:
        settings = replace(settings, max_detections=OBJECTS)
    proposals = None
    if entry.needs_proposals:
        corner = torch.rand(PROPOSALS, 2) * 180
        boxes = torch.cat([corner, corner + 10 + torch.rand(PROPOSALS, 2) * 50], dim=1)
        proposals = Proposals.of([boxes] * len(images.pixels), [torch.rand(PROPOSALS)] * len(images.pixels))
        proposals = proposals.to(device)
    dtype, fast = DTYPES.get(engine.precision), engine.precision != "fp32"
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=fast):
        outputs = model(images) if proposals is None else None

    @torch.inference_mode()
    def select() -> Any:
        return model.detect_padded(outputs, settings)

    return (lambda: engine(images, settings, proposals)), select, count


def selection_of(checkpoint: Path, folder: Path, batch: int, rounds: int) -> None:
    """Its share in a trained detector on real images: at the scores of `predict` and of `evaluate`, and at 0."""
    detector = Detector.load(checkpoint, "cpu", precision="fp32")
    engine = detector.engine
    if not isinstance(engine, TorchEngine) or not isinstance(engine.model, (FCOS, RetinaNet, RPN)):
        raise SystemExit(f"{checkpoint}: selection is a step of its own in FCOS, RetinaNet and RPN only")
    prepared = [prepare(path, detector.resize) for path in image_paths(folder)[:batch]]
    images = ImageBatch.of([one.pixels for one in prepared])
    with torch.inference_mode():
        outputs = engine.model(images)
    scores = {"predict": detector.score_threshold, "evaluate": 0.05, "at its worst": 0.0}
    functions: dict[str, Any] = {}
    for name, score in scores.items():
        settings = replace(detector.settings, score_threshold=score)
        functions[name] = lambda settings=settings: engine(images, settings)
        functions[f"{name}: selection"] = torch.inference_mode()(
            lambda settings=settings: engine.model.detect_padded(outputs, settings)
        )
    times = in_turn(functions, rounds)
    rows = [
        [name, f"{score:.3f}", f"{times[f'{name}: selection'] / times[name]:.1%}"] for name, score in scores.items()
    ]  # fmt: skip
    print_command()
    height, width = images.pixels.shape[2:]
    columns = ("as in", "scores from", "selection's share of the time")
    print_table(f"{detector.recipe.name}, {height} x {width}, batch {len(prepared)}, {engine.precision}", columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detectors", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds in which all take turns; medians count")
    parser.add_argument("--batch", type=int, default=4, help="images at once")
    parser.add_argument("--size", default="240x320", help="height x width")
    parser.add_argument("--trained", type=Path, help="only the selection of this checkpoint (FCOS, RetinaNet or RPN)")
    parser.add_argument("--images", type=Path, default=Path("../shared/data/bccd/JPEGImages"), help="for --trained")
    given = parser.parse_args()
    if given.trained is not None:
        selection_of(given.trained, given.images, given.batch, given.rounds)
        return
    height, width = (int(side) for side in given.size.split("x"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print_command()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (given.batch, 3, height, width), dtype=torch.uint8, generator=generator)
    images = ImageBatch.of(list(pixels)).to(device)
    made = {name: ready(recipe, images, device) for name, recipe in RECIPES.items()}
    functions = {name: run for name, (run, _, _) in made.items()}
    functions |= {f"{name}: selection": made[name][1] for name in ONE_STAGE}
    times = in_turn(functions, given.rounds)
    rows = [
        [name, RECIPES[name], f"{count / 1e6:.2f} M", f"{count * 4 / 1e6:.1f} MB", f"{times[name] / times['FCOS']:.2f}",
         f"{times[f'{name}: selection'] / times[name]:.1%}" if name in ONE_STAGE else "-"]
        for name, (_, _, count) in made.items()
    ]  # fmt: skip
    columns = ("detector", "recipe", "parameters", "float32 weights", "time / FCOS's", "selection at its worst")
    print_table(f"{height} x {width}, batch {given.batch}, {CLASSES} classes, {device}", columns, rows)


if __name__ == "__main__":
    main()
