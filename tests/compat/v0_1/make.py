"""Files as version 0.1 writes them, and what it makes of them: run by the old code, as README.md says.

`PYTHONPATH=<worktree of COMMIT>/src python tests/compat/v0_1/make.py COMMIT [FOLDER]` writes the files of one commit
beside itself (or into FOLDER) and its part of expected.json there.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

if __name__ == "__main__":  # not where tests are looked for: later code may not have all of this
    import boxwright
    from boxwright.checkpoint import load_checkpoint, save_checkpoint
    from boxwright.data.proposals import read_proposals, write_proposals
    from boxwright.data.shapes import ShapesConfig, write_shapes
    from boxwright.inference.predictor import Detector
    from boxwright.inference.propose import write_proposals_of
    from boxwright.models import MODELS
    from boxwright.recipes import dump_recipe, load_recipe, recipe_names
    from boxwright.recipes.keys import recipe_keys
    from boxwright.training import loop
    from boxwright.training.run import train

HERE = Path(__file__).parent
FIRST, LAST = "f494e63", "862e7e7"
SHAPES = {"size": 64, "num_classes": 3, "difficulty": "easy", "min_objects": 1, "max_objects": 3, "min_pixels": 16,
          "max_pixels": 40}  # fmt: skip
WRITTEN = {"train": 8, "val": 4, "layout": "voc", "seed": 0}
IMAGE_NAME = "noise.png"
PREDICT = {"score": 0.01, "max_detections": 20}
STEPS, STOPPED_AFTER = 80, 74
PARTS = ("fpn.laterals", "fpn.outputs", "head.class_tower", "head.box_tower", "head.class_logits",
         "head.box_distances", "head.centerness")  # fmt: skip
TINY = ["model.backbone_variant={widths: [2, 1, 1, 1]}", "model.fpn_channels=3"]
RUN = ["data.batch_size=4", "optim.reference_batch=4", "data.workers=0", "precision=fp32", "schedule.warmup_steps=1",
       "data.train_scales=[0.75, 1.0]"]  # fmt: skip
FCOS = {
    FIRST: [
        *TINY, "model.stem_channels=[4]", "model.backbone_norm=none", "model.head_norm=bn", "model.frozen_stages=5",
        "optim.kind=sgd", "optim.lr=0.05", "optim.momentum=0.9",
    ],
    LAST: [
        *TINY, "model.stem_channels=[]", "model.backbone_norm=none", "model.frozen_stages=5", "optim.kind=adamw",
        "optim.lr=0.01",
    ],
}  # fmt: skip
SEEDS = {FIRST: 6, LAST: 8, "rpn": 9, "retinanet": 7, "fast_rcnn": 5, "faster_rcnn": 5, "mask_rcnn": 2, "fcos_mask": 6}
"""Such that no two scores are so near to each other that another processor could turn them around."""
LEARNING = ["optim.lr=0.02", "schedule.steps=40", "validation.times=1", "ema_decay=0.5"]
BOX = ["model.box.fc_channels=[8]", "model.box.pool_size=3", "model.box.samples=32"]
MASK = ["model.mask.conv_channels=[4]", "model.mask.upsampled_channels=4", "model.mask.pool_size=6"]
RPN = ["model.rpn.stem_channels=[4]", "model.rpn.test_proposals=40"]
OTHERS: dict[str, tuple[str, list[str]]] = {
    "rpn": (
        "rpn-shapes", ["model.levels=[c2]", "model.rpn.stem_channels=[4]", "model.rpn.anchor_sizes=[[12, 20, 36]]"]
    ),
    "retinanet": (
        "retinanet-shapes",
        ["model.stem_channels=[4]", "model.backbone_norm=none", "model.anchor_sizes=[16, 24, 40]",
         "model.anchor_ratios=[0.5, 1.0]", "model.anchor_scales=[1.0]",
         "data.resize={mode: short_side, size: 80, max_size: 160}"],
    ),
    "fast_rcnn": (
        "fast-rcnn-shapes",
        ["model.levels=[c2]", "model.backbone_norm=none", *BOX, "model.box.conv_channels=[4]",
         "model.box.regression=agnostic"],
    ),
    "faster_rcnn": (
        "faster-rcnn-shapes",
        ["model.levels=[c2]", *RPN, "model.rpn.anchor_sizes=[[12, 24], [24, 40]]", "model.backbone_norm=frozen_bn",
         *BOX],
    ),
    "mask_rcnn": (
        "mask-rcnn-shapes",
        ["model.levels=[c2]", *RPN, "model.rpn.anchor_sizes=[[12], [28]]", "model.backbone_norm=gn", *BOX, *MASK],
    ),
    "fcos_mask": ("fcos-mask-shapes", ["model.stem_channels=[4]", "model.backbone_norm=none", *MASK]),
}  # fmt: skip
"""In this order: Fast R-CNN takes the proposals of the RPN."""


def noise() -> Any:
    """The image (64, 64, 3) that every detector is asked about."""
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def rounded(values: Any) -> Any:
    """Nested numbers to 5 decimals."""
    if isinstance(values, list):
        return [rounded(value) for value in values]
    return round(values, 5) if isinstance(values, float) else values


def found_by(path: Path, folder: Path, proposals: Path | None = None) -> dict[str, Any]:
    """What a checkpoint finds in the image."""
    detector = Detector.load(path, "cpu", precision="fp32")
    if proposals is None:
        (found,) = detector.predict(noise(), **PREDICT)
    else:  # proposals are for files, known by their names
        picture = folder / IMAGE_NAME
        Image.fromarray(noise()).save(picture)
        (found,) = detector.predict([picture], proposals=read_proposals(proposals), **PREDICT)
    scores = found.scores.tolist()
    gap = min((a - b for a, b in pairwise(scores)), default=1.0)
    print(f"{path.name}: {len(scores)} detections, scores from {scores[0]:.3f} to {scores[-1]:.3f}, closest {gap:.1e}")
    result = {
        "file": path.name, "model": detector.recipe.model.name,
        "classes": list(detector.classes.names), "score_threshold": detector.score_threshold,
        "boxes": rounded(found.boxes.tolist()), "scores": rounded(scores), "labels": found.labels.tolist(),
    }  # fmt: skip
    if found.masks is not None:
        result["mask_pixels"] = [int(mask.sum()) for mask in found.masks]
    return result


def write_data(folder: Path) -> dict[str, Any]:
    """The pictures that are trained on; gives how they are made and what tells whether they are the same."""
    write_shapes(folder, WRITTEN["train"], WRITTEN["val"], WRITTEN["layout"], ShapesConfig(**SHAPES), WRITTEN["seed"])
    files, pixels = hashlib.sha256(), hashlib.sha256()
    for path in sorted((folder / "JPEGImages").iterdir()):
        files.update(path.read_bytes())
        pixels.update(np.asarray(Image.open(path)).tobytes())
    return {"write_shapes": WRITTEN, "ShapesConfig": SHAPES, "jpeg_sha256": files.hexdigest(),
            "decoded_pixels_sha256": pixels.hexdigest()}  # fmt: skip


def without_training(path: Path, target: Path) -> Path:
    """The same checkpoint as a file of weights only."""
    save_checkpoint(replace(load_checkpoint(path), training=None), target)
    return target


def absolute_sum(tensors: Any) -> float:
    return float(sum(tensor.double().abs().sum() for tensor in tensors))


def state_of(run: Path) -> dict[str, Any]:
    """What the last checkpoint of a run holds, in a few numbers, and the run's last row."""
    checkpoint = load_checkpoint(run / "weights" / "last.pt")
    training = checkpoint.training
    assert training is not None
    row = json.loads((run / "results.jsonl").read_text().splitlines()[-1])
    slots = [value for state in training["optimizer"]["state"].values() for value in state.values()]
    return {
        "step": training["progress"]["step"], "finished": training["progress"]["finished"],
        "average_updates": training["average_updates"],
        "sum_of_absolute_weights": absolute_sum(checkpoint.weights.values()),
        "of_parts": {
            part: absolute_sum(value for name, value in checkpoint.weights.items() if name.startswith(f"{part}."))
            for part in PARTS
        },
        "sum_of_absolute_model": absolute_sum(training["model"].values()),
        "sum_of_absolute_optimizer_state": absolute_sum(torch.as_tensor(slot) for slot in slots if slot is not None),
        "row": {key: value for key, value in row.items() if key != "seconds"},
    }  # fmt: skip


def unfinished_run(commit: str, data: Path, runs: Path) -> tuple[Path, dict[str, Any]]:
    """The last checkpoint of a run that was asked to stop, and what the old code ends at when it goes on."""
    settings = [*FCOS[commit], *RUN, f"schedule.steps={STEPS}", "schedule.final_factor=0.3", "validation.times=4",
                "ema_decay=0.9"]  # fmt: skip
    arguments = {"recipe": "fcos-shapes", "overrides": settings, "device": "cpu", "seed": SEEDS[commit]}
    train(data=data, runs=runs, name="whole", **arguments)
    step = loop.training_step

    def asked_to_stop(job: Any, wrapped: Any, optimizer: Any, batches: Any, progress: Any) -> Any:
        if progress.step == STOPPED_AFTER - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(job, wrapped, optimizer, batches, progress)

    loop.training_step = asked_to_stop
    result = train(data=data, runs=runs, name="parts", **arguments)
    loop.training_step = step
    assert not result.finished
    kept = runs / "kept.pt"
    shutil.copy(result.last, kept)
    stopped = load_checkpoint(kept).training
    assert stopped is not None
    resumed = train(resume=result.folder)
    assert resumed.finished
    ended = state_of(result.folder)
    assert ended == state_of(runs / "whole"), "resumed and uninterrupted differ"
    return kept, {
        "train": arguments, "stopped_after": stopped["progress"]["step"], "ends_at": ended,
        "how": "copied to RUN/weights/last.pt, then boxwright.train(resume=RUN, data=the regenerated folder)",
    }  # fmt: skip


def make_fcos(commit: str, out: Path, data: Path, runs: Path) -> list[dict[str, Any]]:
    kept, resume = unfinished_run(commit, data, runs)
    unfinished = out / f"fcos_{commit}_unfinished.pt"
    shutil.copy(kept, unfinished)
    weights = without_training(runs / "parts" / "weights" / "best.pt", out / f"fcos_{commit}_weights.pt")
    return [found_by(unfinished, runs) | {"resume": resume}, found_by(weights, runs)]


def make_others(out: Path, data: Path, runs: Path) -> list[dict[str, Any]]:
    """A file of weights of each of the other detectors, and the proposals that one of them wants."""
    entries: list[dict[str, Any]] = []
    for name, (recipe, settings) in OTHERS.items():
        proposals = None
        if name == "fast_rcnn":
            rpn, proposals = out / f"rpn_{LAST}_weights.pt", out / f"proposals_{LAST}.npz"
            write_proposals_of(rpn, data, runs / "train.npz", max_proposals=30, device="cpu")
            (found,) = Detector.load(rpn, "cpu", precision="fp32").predict(noise(), score=0.0, max_detections=30)
            write_proposals(proposals, [(IMAGE_NAME, found)])
        overrides = [*TINY, *settings, *RUN, *LEARNING]
        given = None if proposals is None else runs / "train.npz"
        run = train(recipe, data, overrides=overrides, runs=runs, name=name, device="cpu", seed=SEEDS[name],
                    proposals=given)  # fmt: skip
        path = without_training(run.best, out / f"{name}_{LAST}_weights.pt")
        entry = found_by(path, runs, proposals) | {"recipe": recipe, "overrides": overrides}
        entries.append(entry if proposals is None else entry | {"proposals": proposals.name, "picture": IMAGE_NAME})
    return entries


def leaves(data: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys."""
    if not isinstance(data, dict):
        return {prefix: data}
    return {key: value for name, below in data.items()
            for key, value in leaves(below, f"{prefix}.{name}" if prefix else name).items()}  # fmt: skip


def changes(written: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each entry of overrides.json with the settings that it changes; together they name every key there is."""
    entries, named = [], set()
    for entry in written:
        recipe, overrides = entry["recipe"], entry["overrides"]
        before = leaves(dump_recipe(load_recipe(recipe)))
        after = leaves(dump_recipe(load_recipe(recipe, overrides)))
        changed = {key: after.get(key) for key in before | after if before.get(key) != after.get(key)}
        for override in overrides:
            key = override.partition("=")[0]
            assert any(leaf == key or leaf.startswith(f"{key}.") for leaf in changed), (recipe, override, changed)
        named |= set(changed)
        entries.append({"recipe": recipe, "overrides": overrides, "changed": changed})
    known = {key.key for model in MODELS for key in recipe_keys(model)}
    missing = known - named - {"version", "name", "reference", "model.name"}
    assert not missing, sorted(missing)
    return entries


def packed(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def one_a_line(values: Any) -> str:
    """JSON with an entry a line."""
    if isinstance(values, dict):
        return "{\n" + ",\n".join(f"{json.dumps(key)}:{packed(value)}" for key, value in values.items()) + "\n}\n"
    return "[\n" + ",\n".join(packed(value) for value in values) + "\n]\n"


def main(commit: str, out: Path) -> None:
    source = Path(boxwright.__file__).parent
    head = subprocess.run(
        ["git", "-C", str(source), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()  # fmt: skip
    assert head.startswith(commit), f"{source} is at {head}: set PYTHONPATH to a worktree of {commit}"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data, runs = Path(folder) / "data", Path(folder) / "runs"
        shapes = write_data(data)
        entries = make_fcos(commit, out, data, runs)
        if commit == LAST:
            entries += make_others(out, data, runs)
    path = out / "expected.json"
    expected = json.loads(path.read_text()) if path.exists() else {}
    made_with = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
                 "cpu": torch.backends.cpu.get_cpu_capability(), "threads": 1}  # fmt: skip
    common = {
        "image": "numpy.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=numpy.uint8)",
        "predict": PREDICT, "data": shapes, "made_with": made_with,
    }  # fmt: skip
    for key, value in common.items():
        assert expected.setdefault(key, value) == value, f"{key} differs from that of the other commit"
    files = {name: entry for name, entry in expected.get("files", {}).items() if entry["commit"] != commit}
    files |= {entry.pop("file"): {"commit": commit} | entry for entry in entries}
    files = expected["files"] = dict(sorted(files.items()))
    lines = ",\n".join(f"{json.dumps(name)}:{packed(entry)}" for name, entry in files.items())
    head = one_a_line({key: value for key, value in expected.items() if key != "files"}).removesuffix("\n}\n")
    path.write_text(f'{head},\n"files":{{\n{lines}\n}}\n}}\n')
    if commit == LAST:
        (out / "recipes.json").write_text(one_a_line({name: dump_recipe(load_recipe(name)) for name in recipe_names()}))
        overrides = out / "overrides.json"  # whose first two columns are written by hand
        overrides.write_text(one_a_line(changes(json.loads(overrides.read_text()))))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else HERE)
