"""`boxwright.train`: one call from a folder of labelled images to a trained, evaluated detector and its report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from boxwright.data.dataset import DetectionDataset
from boxwright.nn.pretrained import load_pretrained
from boxwright.recipes import dump_recipe
from boxwright.runtime.precision import compile_parts
from boxwright.structures import Classes
from boxwright.training import report
from boxwright.training.accelerator import choose_accelerator
from boxwright.training.batches import training_batches
from boxwright.training.display import Display
from boxwright.training.failures import advised
from boxwright.training.fine_tune import load_weights
from boxwright.training.hooks import Hook, Hooks, TrainingRun, check_hooks
from boxwright.training.loop import Listener, fit
from boxwright.training.memory import check_fits
from boxwright.training.on_device import batch_source
from boxwright.training.optim import WeightAverage, build_optimizer
from boxwright.training.prepare import (
    image_sets,
    log_missing_proposals,
    open_checked,
    open_proposals,
    write_check,
)
from boxwright.training.processes import processes_to_start, run_in_processes
from boxwright.training.recorder import Recorder
from boxwright.training.resume import Arguments, ResumedRun, broken, open_run, refuse_beside_resume
from boxwright.training.run_folder import Results, new_run_folder, write_yaml
from boxwright.training.schedule import ScaledSchedule, scaled
from boxwright.training.signals import StopSignal
from boxwright.training.speed import check_speed, compiles_at_once, shapes_multiple, training_step
from boxwright.training.start import Start, open_start, source_of
from boxwright.training.state import Progress, RunSettings, TrainState
from boxwright.training.timing import now
from boxwright.training.trackers import Trackers, check_trackers
from boxwright.training.validate import ValidationResult, Validator
from boxwright.wording import counted

OVERFIT_STEPS = 500
REPORT_COST = 2.5
"""Of the seconds that the charts at the start of a run take: the estimated cost of the report at its end."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run came to: its folder, the checkpoints in it, the figures, and whether it was stopped before its end."""

    folder: Path
    best: Path
    last: Path
    metrics: dict[str, Any]
    finished: bool


def train(
    recipe: str | None = None,
    data: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    classes: str | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    weights: str | Path | None = None,
    name: str | None = None,
    runs: str | Path = "runs",
    resume: str | Path | None = None,
    overfit: int | None = None,
    minutes: float | None = None,
    device: str | None = None,
    seed: int | None = None,
    proposals: str | Path | None = None,
    num_gpus: int | None = None,
    hooks: Sequence[Hook] = (),
) -> TrainResult:
    """Train a detector and write a run folder.

    Args:
        recipe: a recipe's name, its short alias, or a YAML path; "fcos@auto" is the one that fits the machine. If not
            given, "fcos"; with `weights`, their own network and the settings for fine-tuning it.
        data: a folder of labelled images (VOC, COCO (panoptic too), LVIS, Cityscapes, CVAT, YOLO, DOTA or maps).
        overrides: recipe settings such as `optim.lr=0.01`.
        classes: a subset or merge of classes, such as "car+truck=vehicle,person".
        train_split, val_split: names of the splits to train and validate on; "train" and "val" if not given.
        weights: a trained detector to start from, whatever `Detector.load` takes: a checkpoint or run folder of ours, a
            file of another library, a name of the zoo, a URL.
        name: of the run folder below `runs`; the recipe's name if not given.
        resume: a run folder, one of its checkpoints, or "latest" (below `runs`, of this `name`), to go on with. All
            settings come from there; only `data` (it may have moved), `device`, `num_gpus` and `hooks` may be given
            beside it.
        overfit: train and validate on this many training images, not augmented: the loss must collapse.
        minutes: a time budget for the whole call, from opening the data to the report: validations count, and how many
            steps fit is planned anew while the run goes on (`training.budget`).
        device: "auto" (if not given, and not resumed), "cpu", "cuda", "cuda:1", "mps".
        seed: of everything random; 0 if not given.
        proposals: a file that `boxwright proposals` wrote, for recipes that find no regions themselves (Fast R-CNN).
        num_gpus: start so many processes, one on each GPU (on the CPU with `device="cpu"`). This process waits for
            them, and gets what the first one returns; Ctrl-C ends all. If not given, the run is that of this process,
            or one of those that torchrun or accelerate started; a resumed run has as many as it began with.
        hooks: code of your own that the run calls before and after itself, its steps and its validations.

    Raises ValueError or OSError with one sentence for whatever the user can put right.
    """
    check_hooks(hooks)
    if resume is not None:
        given = {
            "recipe": recipe, "overrides": overrides or None, "classes": classes, "train_split": train_split,
            "val_split": val_split, "weights": weights, "overfit": overfit, "minutes": minutes, "seed": seed,
            "proposals": proposals,
        }  # fmt: skip
        refuse_beside_resume([word for word, value in given.items() if value is not None])
        run = open_run(Path(resume), Path(runs), name, data, device, num_gpus)
        asked = run.arguments
        if count := processes_to_start(num_gpus, asked.device, saved=asked.num_gpus):
            again = partial(train, data=data, runs=runs, resume=run.path, device=device, num_gpus=count, hooks=hooks)
            return run_in_processes(again, count)
        return _run(Start(run.checkpoint.recipe), asked, Path(runs), name, run, hooks)
    if data is None:
        raise ValueError("no data: give a folder of labelled images (--data FOLDER)")
    settings = overrides if overfit is None else [*overfit_overrides(overfit), *overrides]
    if minutes is not None and not 0 < minutes < math.inf:
        raise ValueError(f"minutes: expected a number above 0, got {minutes}")
    if not 0 <= (seed or 0) < 2**63:
        raise ValueError(f"seed: expected 0 to 2**63 - 1, got {seed}")
    if Path(runs).resolve().is_relative_to(Path(data).resolve()):
        raise ValueError(f"{runs}: lies inside the data folder {data}, which is only read; choose another with --runs")
    asked = Arguments(
        str(Path(data).resolve()), classes, train_split or "train", val_split or "val", overfit, minutes,
        device or "auto", seed or 0,
        None if weights is None else source_of(weights),
        None if proposals is None else str(Path(proposals).resolve()),
        num_gpus,
    )  # fmt: skip
    count = processes_to_start(num_gpus, asked.device)
    start = open_start(recipe, weights, settings, asked.device)
    if count:
        return run_in_processes(
            partial(
                train, recipe, data, overrides=overrides, classes=classes, train_split=train_split, val_split=val_split,
                weights=weights, name=name, runs=runs, overfit=overfit, minutes=minutes, device=device, seed=seed,
                proposals=proposals, num_gpus=num_gpus, hooks=hooks,
            ),
            count,
        )  # fmt: skip
    return _run(start, asked, Path(runs), name, None, hooks)


def overfit_overrides(count: int) -> list[str]:
    """Settings of the sanity check: nothing that keeps a network from learning its images by heart."""
    if count < 1:
        raise ValueError(f"overfit: expected at least 1 image, got {count}")
    batch = min(count, 16)
    settings = ["ema_decay=0.9", "optim.weight_decay=0", "schedule.kind=cosine", "schedule.warmup_steps=20"]
    settings += [f"data.batch_size={batch}", f"optim.reference_batch={batch}", "validation.times=5"]
    return [*settings, "data.train_scales=[]", f"schedule.steps={OVERFIT_STEPS}"]


def _run(
    start: Start, asked: Arguments, runs: Path, name: str | None, resumed: ResumedRun | None, hooks: Sequence[Hook]
) -> TrainResult:
    """Open the data, build what is trained, train it, and report."""
    started, recipe = now(), start.recipe
    check_trackers(recipe.trackers)
    accelerator, precision = choose_accelerator(asked.device, resumed.precision if resumed else recipe.precision)
    check_speed(recipe, accelerator.device)
    main = accelerator.is_main_process
    display = Display(enabled=main)
    data = open_checked(
        asked.data, classes=asked.classes, train_split=asked.train_split, val_split=asked.val_split,
        overfit=asked.overfit, recipe=recipe, log=display.log,
    )  # fmt: skip
    for note in start.notes:
        display.log(note)
    recipe, classes = data.settled(recipe), data.classes
    proposals = open_proposals(asked.proposals, recipe, data)
    log_missing_proposals(proposals, recipe, data, display.log)
    if resumed is not None and resumed.checkpoint.classes != classes:
        raise ValueError(f"{resumed.path} was trained on classes {list(resumed.checkpoint.classes.names)}, "
                         f"{asked.data} now has {list(classes.names)}")  # fmt: skip
    numbers = scaled(recipe, len(data.train), accelerator.num_processes, asked.minutes)
    state = _state(start._replace(recipe=recipe), asked, classes, numbers, accelerator, display, resumed)
    train_set, val_set, aspects = image_sets(recipe, data, augment=asked.overfit is None, proposals=proposals)
    check_fits(state.model, train_set, recipe, precision, accelerator.device)
    source = batch_source(recipe.data, train_set, accelerator.device, display.log, graphs=recipe.speed != "eager")
    folder = Path() if resumed is None else resumed.folder
    if main and resumed is None:  # not before all images that are kept in memory could be read
        folder = new_run_folder(runs, name or recipe.name)
        write_yaml(folder / "args.yaml", {"arguments": asdict(asked), "recipe": dump_recipe(recipe)})
        write_check(data.report, folder / "dataset_check.json")
    if main:
        display.log_to(folder / "log.txt")
    world, device = accelerator.num_processes, accelerator.device
    where = f"{world} x {device.type}" if world > 1 else device
    display.log(f"training: {recipe.name} on {where}, {precision}, {numbers.sentence}; folder {folder}")
    if not state.progress.fixed:
        given = counted(asked.minutes or 0, "minute")
        display.log(f"training: {given} from the start to the report; steps are planned as they go")
    done = state.progress.step
    recorder = Recorder(
        recipe=recipe, asked=asked, precision=precision, classes=classes, folder=folder, state=state,
        images_per_step=numbers.batch, display=display,
        results=Results(folder, keep_until=None if resumed is None else done) if main else None,
        trackers=Trackers(recipe, accelerator, folder, log=display.log, after=done) if main else None,
        score=None if resumed is None else resumed.checkpoint.score_threshold,
        figures=None if resumed is None else resumed.checkpoint.metrics,
        origin=start.origin if resumed is None else resumed.checkpoint.origin,
    )  # fmt: skip
    if main and resumed is None:
        drawing = now()
        report.draw_first_batches(train_set, aspects, classes, recipe, asked.seed, folder)
        state.progress.pace.report = REPORT_COST * (now() - drawing)  # the report at the end is drawn alike
    run = RunSettings(
        recipe, numbers, asked.seed, asked.minutes, started, [record.path for record in train_set.records], len(val_set)
    )
    some = recipe.validation.max_images
    limit = None if some is None or some >= len(val_set) else some
    validate = Validator(recipe, classes, val_set, accelerator, precision, limit)
    stop = StopSignal(accelerator, display.log)
    calls = Hooks(hooks, TrainingRun(
        recipe=recipe, classes=classes, folder=folder, state=state, device=accelerator.device, is_main=main,
        log=display.log, stop=stop.stop,
    ))  # fmt: skip

    def validated(result: ValidationResult, best: bool) -> None:
        recorder.on_validated(result, best)
        calls.after_validation(result, best)

    listener = Listener(
        before_step=calls.before_step, after_step=calls.after_step, on_row=recorder.on_row,
        before_validation=calls.before_validation, on_validated=validated, on_save=recorder.on_save,
        stop_wanted=stop.wanted,
    )  # fmt: skip
    with calls, advised(recipe, folder, recorder.on_save):
        with stop, display, recorder.trackers or nullcontext():
            step = training_step(
                state, accelerator, precision, recipe, multiple=shapes_multiple(train_set, recipe), log=display.log,
                steps_left=lambda: state.progress.steps - state.progress.step if state.progress.fixed else 0,
            )  # fmt: skip
            batches = training_batches(run, state.progress, source, aspects, accelerator)
            fit(state, run, step, batches, validate, accelerator, listener)
        accelerator.wait_for_everyone()
        return _concluded(recorder, validate, val_set)


def _state(
    start: Start, asked: Arguments, classes: Classes, numbers: ScaledSchedule, accelerator: Accelerator,
    display: Display, resumed: ResumedRun | None,
) -> TrainState:  # fmt: skip
    """What is trained: new, from the weights of another detector, or as a run was left."""
    torch.manual_seed(asked.seed)
    recipe = start.recipe
    model = recipe.build_model(len(classes)).to(accelerator.device, memory_format=torch.channels_last)
    assert isinstance(model, torch.nn.Module)
    if start.checkpoint is not None:
        display.log(load_weights(model, classes, start.checkpoint, str(start.source)))
    elif resumed is None:  # else other weights replace them: nothing to fetch
        load_pretrained(model, recipe.model.backbone.weights)
    average = WeightAverage(model, recipe.ema_decay) if recipe.ema_decay else None
    if compiles_at_once(recipe):  # after the copy, which is only validated
        compile_parts(model)
    progress = Progress.at_start(numbers, fixed=asked.minutes is None)
    state = TrainState(model, build_optimizer(model, recipe.optim), average, accelerator.scaler, progress)
    if resumed is not None:
        try:
            state.load(resumed.training, numbers.warmup_steps)
        except ValueError as error:
            raise broken(resumed.path, error) from error
    return state


def _concluded(recorder: Recorder, validate: Validator, val_set: DetectionDataset) -> TrainResult:
    """Write the report, or log how to go on."""
    folder, display, progress = recorder.folder, recorder.display, recorder.state.progress
    best, last = folder / "weights" / "best.pt", folder / "weights" / "last.pt"
    if not progress.finished:
        display.log(f"stopped at step {progress.step} of {progress.steps}; saved. Go on with: "
                    f"boxwright train --resume {folder}")  # fmt: skip
        return TrainResult(folder, best, last, {}, finished=False)
    result, score = recorder.last, recorder.score
    if result is None or validate.limit is not None:  # resumed after the last step; or some of the images so far
        result = replace(validate, limit=None)(recorder.state.model_in_use)
        score = report.default_score(result, recorder.classes)
    figures: dict[str, Any] = {}
    if recorder.results is not None:
        asked, recipe = recorder.asked, recorder.recipe
        validated = asked.val_split if asked.overfit is None else asked.train_split
        page = report.PageOf(recipe.name, asked.data, asked.train_split, validated) if recipe.report else None
        figures = report.write_report(folder, recorder.results, result, val_set, recorder.classes, score, page)
        best_so_far = f" (best {result.best_by} {progress.best_ap:.4f} at step {progress.best_step})"
        if result.ap is None:  # it was undefined at every step: the images are the same
            best_so_far = ""
        display.log(f"finished: {result.summary()} with the last weights{best_so_far}")
        waited = progress.waited / progress.seconds if progress.seconds else 0.0
        display.log(f"time: {progress.seconds:.0f} s, {waited:.0%} of it waiting for images")
        display.log(f"folder: {folder}")
    return TrainResult(folder, best, last, figures, finished=True)
