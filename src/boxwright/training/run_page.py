"""`report.html`: written at the end of a run from what is in memory, or from run folders by `boxwright report`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from boxwright.data.image_io.decode import read_image
from boxwright.evaluation.page.facts import RunFacts
from boxwright.evaluation.page.page import report_page
from boxwright.evaluation.summary import evaluate_detections
from boxwright.inference.evaluate import EvaluationResult, evaluate
from boxwright.inference.predictor import Detector
from boxwright.training.run_folder import RESULTS
from boxwright.writing import replacing

NAME = "report.html"
_NEEDED = ("args.yaml", RESULTS, "weights/last.pt")


def report(
    runs: Sequence[str | Path],
    *,
    data: str | Path | None = None,
    split: str | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    log: Callable[[str], object] = lambda line: None,
    progress: Callable[[int, int], object] | None = None,
) -> Path:
    """Evaluate the last weights of run folders and write `report.html`; of several runs, side by side.

    Args:
        runs: run folders that `train` wrote.
        data: the folder of labelled images; that of the runs if not given. Several runs need one for all.
        split: what is evaluated; the validation split of the runs if not given.
        out: the file; if not given `report.html`, or `report-SPLIT.html` for another split than that of validation, in
            the folder of a single run, in the working folder for several.
        device: auto, cpu, cuda, cuda:N or mps.
        log: is called with a sentence for each thing that is done.
        progress: is called with the images done and those to do.

    Returns the file. Raises ValueError or FileNotFoundError with one sentence for whatever the user can put right,
    before anything is evaluated where that can be known.
    """
    folders = [Path(run) for run in runs]
    if not folders:
        raise ValueError("no run: give a run folder, or several to put side by side")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"the same run twice: {', '.join(map(str, folders))}")
    arguments = [_arguments(folder) for folder in folders]
    places = [(str(data or one["data"]), split or _split(one)) for one in arguments]
    if len(set(places)) > 1:
        said = ", ".join(f"{folder} on {where} ({part})" for folder, (where, part) in zip(folders, places, strict=True))
        raise ValueError(
            f"these runs were validated on different data: {said}; the interval of a difference needs the same images, "
            "so choose them for all with --data FOLDER --split NAME"
        )
    if not Path(places[0][0]).exists():
        raise FileNotFoundError(f"{places[0][0]}: the data of {folders[0]} is not there; say where it is with --data")
    # that of the validation split, which training wrote, stays
    name = NAME if split is None or split in map(_split, arguments) else f"report-{split}.html"
    target = Path(out) if out is not None else folders[0] / name if len(folders) == 1 else Path(name)
    if target.is_dir():
        raise ValueError(f"{target}: expected a file to write, got a folder; give --out {target / NAME}")
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"{target}: there is no folder {target.parent} to write it into; make it, or give --out"
        )
    facts = []
    for folder, one, (where, part) in zip(folders, arguments, places, strict=True):
        log(f"evaluating {folder} on {part} of {where}")
        detector = Detector.load(folder / "weights" / "last.pt", device)
        result = evaluate(
            detector,
            where,
            part,
            classes=one.get("classes"),
            proposals=one.get("proposals"),
            log=log,
            progress=progress,
        )
        learned = one.get("overfit")
        if learned is not None and data is None and split is None:
            result = _of_learned(result, int(learned))
        facts.append(
            RunFacts(
                str(folder) if len(folders) > 1 else folder.resolve().name, detector.recipe.name, where,
                str(one.get("train_split") or "train"), part, result.inputs, result.evaluation, _rows(folder),
                read_check(folder), partial(read_image, value_range=detector.value_range),
                (folder / "metrics.json").exists(),
            )
        )  # fmt: skip
    write_page(facts, target)
    return target


def write_page(facts: Sequence[RunFacts], path: Path) -> None:
    """Write the page of runs; an older one is replaced when the new one is whole."""
    html = report_page(facts)
    with replacing(path) as partial:
        partial.write_text(html, encoding="utf-8", errors="backslashreplace")


def _arguments(folder: Path) -> dict[str, Any]:
    """What a run was asked for; a sentence where the folder is not one of a run with results."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such run folder")
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder}: expected a run folder with results ({', '.join(_NEEDED)}), got one without "
            f"{' and '.join(missing)}; give a folder that boxwright train wrote, after its first validation"
        )
    try:
        content = yaml.safe_load((folder / "args.yaml").read_text(encoding="utf-8"))
        arguments = dict(content["arguments"])
        arguments["data"]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / 'args.yaml'}: expected what boxwright train wrote (arguments with data), got something else"
        ) from error
    return arguments


def _split(arguments: Mapping[str, Any]) -> str:
    """What a run was validated on: the training images where it was to learn some of them by heart."""
    key = "val_split" if arguments.get("overfit") is None else "train_split"
    return str(arguments.get(key) or key.split("_")[0])


def _of_learned(result: EvaluationResult, count: int) -> EvaluationResult:
    """The figures of the images alone that a run with --overfit learned: the first `count` with an object."""
    one = result.inputs
    rows = [row for row, ground_truth in enumerate(one.ground_truths) if len(ground_truth)][:count]
    inputs = replace(
        one,
        detections=[one.detections[row] for row in rows],
        ground_truths=[one.ground_truths[row] for row in rows],
        image_ids=[one.image_ids[row] for row in rows],
        paths=[one.paths[row] for row in rows],
        areas=[one.areas[row] for row in rows],
    )
    figures = evaluate_detections(inputs.detections, inputs.ground_truths, inputs.classes, areas=inputs.areas)
    return EvaluationResult(figures, inputs)


def _rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of results; lines that a crash cut off are left out."""
    path = folder / RESULTS
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.endswith("}"):
            continue
        try:
            row = json.loads(line)
            row["step"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: expected an object with step, got {line:.60}") from error
        rows.append(row)
    return rows


def read_check(folder: Path) -> Mapping[str, Any] | None:
    """The content of `dataset_check.json`; None where there is none."""
    path = folder / "dataset_check.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a JSON file; delete it, and the report says nothing of the check") from error
    return content if isinstance(content, dict) else None
