"""Several detectors under one budget: trained, evaluated on the same images, and put side by side.

A candidate is a recipe with its overrides, as the words of a command line ("fcos model.loss.box=iou"), which is then
trained; or a checkpoint, as it is.
"""

from __future__ import annotations

import csv
import json
import shlex
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import nn

from boxwright.data.formats.folder import find_split, open_folder
from boxwright.data.image_io.decode import read_image
from boxwright.evaluation.bootstrap import interval, redrawn_coco_ap
from boxwright.evaluation.detect_split import EvaluationInputs
from boxwright.evaluation.federated import counted
from boxwright.evaluation.matching import Floats, gather, match_at
from boxwright.inference.evaluate import EvaluationResult, evaluate
from boxwright.inference.predictor import Detector
from boxwright.recipes import load_recipe, recipe_names
from boxwright.recipes.choice import ALIASES, AUTO
from boxwright.runtime.exported import SUFFIXES as EXPORTED_SUFFIXES
from boxwright.structures import Detections, GroundTruth
from boxwright.training.run import train
from boxwright.visualize import contact_sheet, draw, save, side_by_side
from boxwright.writing import free_folder, printable, writing

IOUS = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())
"""The overlaps of COCO's AP."""
TIMED_IMAGES, TIMED_ROUNDS = 16, 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is compared: a recipe with overrides, or a checkpoint (then `overrides` is empty and nothing is trained)."""

    name: str
    recipe: str | None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate's results. AP is COCO's, a fraction; intervals are of 95 %, from drawing the images anew."""

    name: str
    checkpoint: str
    ap: float | None
    ap_interval: tuple[float, float] | None
    ap50: float | None
    segm_ap: float | None
    """AP of masks, where data and detector have them."""
    difference: float | None
    """AP minus that of the first candidate; its interval is of the difference on equal images."""
    difference_interval: tuple[float, float] | None
    seconds_per_image: float
    """Batches of one, from the image in memory to detections; the median of three rounds in turn."""
    parameters: int | None
    """None for an exported file."""
    megabytes: float
    """Of the weights, or of an exported file."""
    train_seconds: float | None
    train_steps: int | None
    keypoint_ap: float | None = None
    """AP of keypoints, where data and detector have them."""
    rotated_ap: float | None = None
    """AP of rotated boxes, where data and detector have them."""
    miou: float | None = None
    """Of semantic maps, where data and model have them."""
    pq: float | None = None
    """Panoptic quality, where data and model have segments."""


FURTHER = {
    "segm_ap": "mask AP", "keypoint_ap": "keypoint AP", "rotated_ap": "rotated AP", "miou": "mIoU", "pq": "PQ",
}  # fmt: skip
"""Figures of what not all models find, and their columns: shown where one of the candidates has it."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All rows, the first being what the others are compared with, and where the files are."""

    rows: tuple[Row, ...]
    folder: Path
    images: int


def candidate_of(words: str) -> Candidate:
    """A candidate from its words; a path that exists is a checkpoint (or a YAML recipe), whatever it is called.

    >>> candidate_of("fcos model.loss.box=iou")
    Candidate(name='fcos model.loss.box=iou', recipe='fcos', overrides=('model.loss.box=iou',))
    >>> candidate_of("runs/a/weights/best.pt").recipe is None
    True
    """
    parts = [words] if Path(words).exists() else shlex.split(words)
    if not parts:
        raise ValueError("a candidate without a name: expected a recipe (with overrides), or a checkpoint")
    first, *overrides = parts
    known = first in (*ALIASES, *recipe_names()) or first.endswith((".yaml", ".yml", AUTO))
    if known:
        return Candidate(words, first, tuple(overrides))
    if overrides:
        raise ValueError(f"{words!r}: {first} is no recipe; overrides are for a recipe (a checkpoint has its own)")
    return Candidate(words, None)


def compare(
    candidates: Sequence[str],
    data: str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    classes: str | None = None,
    train_split: str = "train",
    val_split: str = "val",
    split: str | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    images: int = 8,
    log: Callable[[str], object] = lambda line: None,
) -> Comparison:
    """Train the candidates that are recipes, evaluate all of them on one split, and write tables and images.

    Args:
        candidates: two or more, each a recipe with overrides in one text ("fcos optim.lr=0.002") or a checkpoint.
        data: a folder of labelled images.
        minutes, steps: the budget of each training, one of them; needed where there is a recipe. Steps are optimiser
            steps of the recipe's reference batch.
        classes: a subset or merge of classes.
        train_split, val_split: for training.
        split: what all are evaluated on; `val_split` if not given. Another one than that by which you chose settings.
        out: the folder for runs, `comparison.json`, `comparison.md`, `side_by_side.jpg`, which must not exist; a new
            comparison, comparison-2, ... if not given.
        device, seed: of all.
        images: how many images are drawn side by side, with the ground truth first.
        log: is called with a sentence for each thing that is done.

    Raises ValueError or OSError with one sentence for whatever the user can put right, before anything is trained where
    that can be known.
    """
    chosen = [candidate_of(words) for words in candidates]
    _check(chosen, out, minutes, steps)
    # errors come first, and leave no folder behind
    find_split(open_folder(Path(data), classes=classes), split or val_split)
    given = {one.name: Detector.load(one.name, device) for one in chosen if one.recipe is None}
    folder = free_folder(Path("comparison")) if out is None else Path(out)
    folder.mkdir(parents=True, exist_ok=out is None)
    entries: list[_Entry] = []
    for number, one in enumerate(chosen):
        if one.recipe is None:
            entries.append(_Entry(one.name, one.name, given[one.name], None, None))
            continue
        log(f"{number + 1} of {len(chosen)}: training {printable(one.name)}")
        started = time.monotonic()
        run = train(
            one.recipe, data, overrides=[*one.overrides, *([] if steps is None else [f"schedule.steps={steps}"])],
            classes=classes, train_split=train_split, val_split=val_split, minutes=minutes, device=device, seed=seed,
            runs=folder / "runs", name=f"{number + 1}-{Path(one.recipe.removesuffix(AUTO)).stem}",
        )  # fmt: skip
        if not run.finished:
            raise ValueError(f"{run.folder}: stopped before its end; go on with boxwright train --resume {run.folder}")
        seconds = time.monotonic() - started
        entries.append(_Entry(one.name, str(run.last), Detector.load(run.last, device), seconds, _steps(run.folder)))
    results = []
    for number, entry in enumerate(entries):
        log(f"{number + 1} of {len(chosen)}: evaluating {printable(entry.name)}")
        results.append(evaluate(entry.detector, data, split or val_split, classes=classes))
    inputs = [one.inputs for one in results]
    if any(one.paths != inputs[0].paths for one in inputs):  # each left out what it could not read
        raise ValueError(f"{data}: an image could be read for one candidate and not for another; compare again")
    rows = _rows(entries, results)
    result = Comparison(rows, folder, len(inputs[0].paths))
    _write(result, inputs, [entry.detector.score_threshold for entry in entries], images)
    return result


@dataclass(frozen=True, slots=True)
class _Entry:
    """A candidate that can be evaluated, and what its training took."""

    name: str
    checkpoint: str
    detector: Detector
    seconds: float | None
    steps: int | None


def _check(candidates: Sequence[Candidate], out: str | Path | None, minutes: float | None, steps: int | None) -> None:
    """Refuse what cannot be compared, with one sentence."""
    if len(candidates) < 2:
        raise ValueError(f"a comparison needs at least two candidates, got {len(candidates)}")
    names = [one.name for one in candidates]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"the same candidate twice: {twice[0]}")
    recipes = [one.name for one in candidates if one.recipe is not None]
    if recipes and (minutes is None) == (steps is None):
        raise ValueError(f"{recipes[0]} is a recipe to be trained: give its budget, either minutes or steps")
    if not recipes and (minutes is not None or steps is not None):
        raise ValueError("minutes and steps are for recipes; these are all checkpoints")
    if steps is not None and steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    for one in candidates:
        if one.recipe is not None:
            load_recipe(one.recipe, one.overrides)  # mistakes are told before an hour of the others' training
    if out is not None and Path(out).exists():
        raise ValueError(f"{out} exists; give another folder for this comparison (--out)")


def _steps(run: Path) -> int:
    """How many steps a run took, from its table."""
    with (run / "results.csv").open(encoding="utf-8", newline="") as file:
        return max(int(row["step"]) for row in csv.DictReader(file))


def _rows(entries: Sequence[_Entry], results: Sequence[EvaluationResult]) -> tuple[Row, ...]:
    """The results of all, on the same images in the same order."""
    seconds = _seconds_per_image([entry.detector for entry in entries], results[0].inputs.paths)
    rows: list[Row] = []
    first: tuple[float | None, Floats] = (None, np.zeros(0))
    for entry, result, each in zip(entries, results, seconds, strict=True):
        one, figures = result.inputs, result.evaluation.figures
        matches = match_at(gather(*counted(one.detections, one.ground_truths, one.federation)), len(one.classes), IOUS)
        redrawn = redrawn_coco_ap(matches, len(one.paths)) if figures["AP"] is not None else np.zeros(0)
        ap, sure = figures["AP"], len(redrawn) > 0 and len(one.paths) > 1
        first = first if rows else (ap, redrawn)
        apart = None if not rows or ap is None or first[0] is None else ap - first[0]
        parameters, megabytes = _size(entry)
        rows.append(
            Row(
                entry.name, entry.checkpoint, ap,
                interval(ap, redrawn) if sure else None,
                figures["AP50"], figures.get("segm_AP"), apart,
                interval(apart, redrawn - first[1]) if sure and apart is not None else None,
                each, parameters, megabytes, entry.seconds, entry.steps,
                figures.get("keypoint_AP"), figures.get("rotated_AP"), figures.get("mIoU"), figures.get("PQ"),
            )
        )  # fmt: skip
    return tuple(rows)


def _size(entry: _Entry) -> tuple[int | None, float]:
    """Parameters of a network and the megabytes that they take; of an exported file only its own size is known."""
    if Path(entry.checkpoint).suffix in EXPORTED_SUFFIXES:
        return None, Path(entry.checkpoint).stat().st_size / 1e6
    network = entry.detector.model
    assert isinstance(network, nn.Module)
    weights = list(network.parameters())
    return sum(one.numel() for one in weights), sum(one.numel() * one.element_size() for one in weights) / 1e6


def _seconds_per_image(detectors: Sequence[Detector], paths: Sequence[Path]) -> list[float]:
    """The median time of one image of each detector; they take turns, so that a busy minute meets all of them."""
    images = [read_image(path) for path in paths[:TIMED_IMAGES]]
    times: list[list[float]] = [[] for _ in detectors]
    for number in range(TIMED_ROUNDS + 1):
        for place, detector in enumerate(detectors):
            started = time.perf_counter()
            detector.predict(images, batch=1)
            if number:  # the first round warms up
                times[place].append((time.perf_counter() - started) / len(images))
    return [statistics.median(row) for row in times]


def markdown(comparison: Comparison) -> str:
    """The rows as a table in Markdown: AP in points of 100, intervals behind, times relative to the first too."""
    rows = comparison.rows
    more = {key: head for key, head in FURTHER.items() if any(getattr(row, key) is not None for row in rows)}
    trained = any(row.train_seconds is not None for row in rows)
    heads = ["", "AP", "against the first", "AP50", *more.values(), "ms an image", "parameters", "MB"]
    heads += ["steps", "minutes"] if trained else []
    lines = [" | ".join(["", *heads, ""]).strip(), "|" + "---|" * len(heads)]
    for row in rows:
        ratio = row.seconds_per_image / rows[0].seconds_per_image
        name = printable(row.name).replace("|", "\\|")  # which would begin a column
        cells = [f"`{name}`", _with_interval(row.ap, row.ap_interval),
                 _with_interval(row.difference, row.difference_interval, signed=True), _points(row.ap50)]  # fmt: skip
        cells += [_points(getattr(row, key)) for key in more]
        cells += [
            f"{1000 * row.seconds_per_image:.1f} ({ratio:.2f}x)",
            "-" if row.parameters is None else f"{row.parameters / 1e6:.2f} M",
        ]
        cells += [f"{row.megabytes:.1f}"]
        if trained:
            cells += ["-" if row.train_steps is None else str(row.train_steps),
                      "-" if row.train_seconds is None else f"{row.train_seconds / 60:.1f}"]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _points(value: float | None, *, signed: bool = False) -> str:
    return "-" if value is None else f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"


def _with_interval(value: float | None, around: tuple[float, float] | None, *, signed: bool = False) -> str:
    if value is None or around is None:
        return _points(value, signed=signed)
    low, high = (_points(end, signed=signed) for end in around)
    return f"{_points(value, signed=signed)} ({low} to {high})"


def _write(
    comparison: Comparison, inputs: Sequence[EvaluationInputs], scores: Sequence[float], count: int
) -> None:  # fmt: skip
    """`comparison.json`, `comparison.md` and, of the first images with objects, `side_by_side.jpg`."""
    folder = comparison.folder
    with writing(folder / "comparison.json") as path:
        content = {"images": comparison.images, "rows": [asdict(row) for row in comparison.rows]}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with writing(folder / "comparison.md") as path:
        path.write_text(markdown(comparison), encoding="utf-8")
    first = inputs[0]
    chosen = [place for place, one in enumerate(first.ground_truths) if len(one)][:count]
    titles = ["ground truth", *(row.name for row in comparison.rows)]
    strips = []
    for place in chosen:
        image = read_image(first.paths[place])
        found: list[GroundTruth | Detections] = [first.ground_truths[place]]
        for one, score in zip(inputs, scores, strict=True):
            found.append(one.detections[place].above(score))
        strips.append(side_by_side([draw(image, one, classes=first.classes) for one in found], titles))
    if strips:
        with writing(folder / "side_by_side.jpg") as path:
            save(contact_sheet(strips, 1), path)
