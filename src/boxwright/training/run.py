"""`boxwright.train`: one call from a folder of labelled images to a trained, measured and drawn detector."""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from traceback import clear_frames, walk_tb
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from boxwright.checkpoint import load_checkpoint
from boxwright.models import MODELS
from boxwright.models.config import with_values
from boxwright.recipes import dump_recipe, load_recipe
from boxwright.recipes.schema import Recipe
from boxwright.runtime.precision import choose_precision, compile_parts
from boxwright.training.display import Display
from boxwright.training.fine_tune import load_weights
from boxwright.training.loop import Job, Progress, fit, grouped_batches, progress_of
from boxwright.training.memory import check_fits
from boxwright.training.optim import WeightAverage, build_optimizer
from boxwright.training.prepare import (
    image_sets,
    log_missing_proposals,
    open_checked,
    open_proposals,
    worker_count,
    write_check,
)
from boxwright.training.run_folder import Results, new_run_folder, newest_run, write_yaml
from boxwright.training.schedule import Horizon, scaled
from boxwright.training.session import Arguments, Session, TrainResult
from boxwright.training.timing import now
from boxwright.wording import counted

OVERFIT_STEPS = 500
REPORT_COST = 2.5
"""Of the seconds that the charts at the start of a run take: what the report at its end is reckoned at."""


def train(
    recipe: str = "fcos",
    data: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    classes: str | None = None,
    train_split: str = "train",
    val_split: str = "val",
    weights: str | Path | None = None,
    name: str | None = None,
    runs: str | Path = "runs",
    resume: str | Path | None = None,
    overfit: int | None = None,
    minutes: float | None = None,
    device: str | None = None,
    seed: int = 0,
    proposals: str | Path | None = None,
) -> TrainResult:
    """Train a detector and write a run folder.

    Args:
        recipe: a recipe's name, its short alias, or a YAML path.
        data: a folder of labelled images (VOC, COCO or YOLO layout).
        overrides: recipe settings such as `optim.lr=0.01`.
        classes: a subset or merge of classes, such as "car+truck=vehicle,person".
        train_split, val_split: names of the splits to train and measure on.
        weights: a boxwright checkpoint to start from (fine-tuning).
        name: of the run folder below `runs`; the recipe's name if not given.
        resume: a run folder, one of its checkpoints, or "latest" (below `runs`, of this `name`), to go on with. All
            settings come from there; only `data` (it may have moved) and `device` may be given beside it.
        overfit: train and measure on this many training images, not augmented: the loss must collapse.
        minutes: a time budget for the whole call, from opening the data to the report: validations count, and how many
            steps fit is planned anew while the run goes on (`training.budget`).
        device: "auto" (if not given, and not resumed), "cpu", "cuda", "cuda:1", "mps".
        seed: of everything random.
        proposals: a file that `boxwright proposals` wrote, for recipes that find no regions themselves (Fast R-CNN).

    Raises ValueError or OSError with one sentence for whatever the user can put right.
    """
    if resume is not None:
        changed = {
            "recipe": recipe != "fcos", "overrides": bool(overrides), "classes": classes is not None,
            "train_split": train_split != "train", "val_split": val_split != "val", "weights": weights is not None,
            "overfit": overfit is not None, "minutes": minutes is not None, "seed": seed != 0,
            "proposals": proposals is not None,
        }  # fmt: skip
        refuse_beside_resume([word for word, given in changed.items() if given])
        return _run(*_resumed(Path(resume), Path(runs), name, data, device))
    if data is None:
        raise ValueError("no data: give a folder of labelled images (--data FOLDER)")
    if overfit is not None:
        overrides = [*overfit_overrides(overfit), *overrides]
    if minutes is not None and not 0 < minutes < math.inf:
        raise ValueError(f"minutes: expected a number above 0, got {minutes}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed: expected 0 to 2**63 - 1, got {seed}")
    if Path(runs).resolve().is_relative_to(Path(data).resolve()):
        raise ValueError(f"{runs}: lies inside the data folder {data}, which is only read; choose another with --runs")
    asked = Arguments(
        str(Path(data).resolve()), classes, train_split, val_split, overfit, minutes, device or "auto", seed,
        None if weights is None else str(Path(weights).resolve()),
        None if proposals is None else str(Path(proposals).resolve()),
    )  # fmt: skip
    return _run(load_recipe(recipe, overrides), asked, Path(runs), name, None)


def refuse_beside_resume(given: Sequence[str]) -> None:
    """ValueError that names what was given beside `resume`, if anything: it would do nothing."""
    if given:
        raise ValueError(
            f"--resume takes all settings from the run, so {', '.join(given)} would have no effect: leave that out, or "
            "start a new run with --weights"
        )


def overfit_overrides(count: int) -> list[str]:
    """Settings of the sanity check: nothing that keeps a network from learning its images by heart."""
    if count < 1:
        raise ValueError(f"overfit: expected at least 1 image, got {count}")
    batch = min(count, 16)
    settings = ["ema_decay=0.9", "optim.weight_decay=0", "schedule.kind=cosine", "schedule.warmup_steps=20"]
    settings += [f"data.batch_size={batch}", f"optim.reference_batch={batch}", "validation.times=5"]
    return [*settings, "data.train_scales=[]", f"schedule.steps={OVERFIT_STEPS}"]


def _resumed(
    path: Path, runs: Path, name: str | None, data: str | Path | None, device: str | None
) -> tuple[Recipe, Arguments, Path, str | None, Path]:
    """What a run was started with, from its checkpoint; a finished run is refused, not started again."""
    if str(path) == "latest":
        path = newest_run(runs, name)
    folder = path.parent.parent if path.is_file() else path
    last = path if path.is_file() else folder / "weights" / "last.pt"
    if not last.exists():
        raise FileNotFoundError(f"{path}: nothing to resume, there is no {last}")
    checkpoint = load_checkpoint(last)
    state = checkpoint.training
    if state is None:
        raise ValueError(f"{last} holds weights only; start a new run from it with --weights")
    if state["progress"]["finished"] and (folder / "metrics.json").exists():
        raise ValueError(
            f"{folder} is finished ({counted(state['progress']['step'], 'step')}); to train on from it start a new run "
            f"with --weights {last}"
        )
    asked = Arguments(**state["arguments"])
    if data is not None:  # the data may have moved
        asked = replace(asked, data=str(Path(data).resolve()))
    if device is not None:  # the arithmetic stays that of the run
        asked = replace(asked, device=device)
    if not Path(asked.data).exists():
        raise FileNotFoundError(f"{asked.data}: the data of {folder} is not there; say where it is with --data FOLDER")
    return checkpoint.recipe, asked, runs, name, last


def _run(recipe: Recipe, asked: Arguments, runs: Path, name: str | None, resumed: Path | None) -> TrainResult:
    saved = None if resumed is None else load_checkpoint(resumed)
    state = None if saved is None else saved.training
    started = now()
    accelerator, precision = choose_accelerator(asked.device, recipe.precision if state is None else state["precision"])
    device, main = accelerator.device, accelerator.is_main_process
    display = Display(enabled=main)
    data = open_checked(
        asked.data, classes=asked.classes, train_split=asked.train_split, val_split=asked.val_split,
        overfit=asked.overfit, recipe=recipe, say=display.say,
    )  # fmt: skip
    recipe = data.settled(recipe)
    proposals = open_proposals(asked.proposals, recipe, data)
    log_missing_proposals(proposals, recipe, data, display.say)
    classes, folder = data.classes, Path()
    if saved is not None and resumed is not None:
        classes, folder = saved.classes, resumed.parent.parent
        if classes != data.classes:
            raise ValueError(f"{resumed} was trained on classes {list(classes.names)}, {asked.data} now has "
                             f"{list(data.classes.names)}")  # fmt: skip
    torch.manual_seed(asked.seed)
    config = recipe.model_config_of(len(classes))
    if state is not None or asked.weights is not None:  # these weights replace pretrained ones: nothing to fetch
        config = with_values(config, backbone_weights=None)
    model = MODELS[recipe.model.name].build(config).to(device, memory_format=torch.channels_last)
    if asked.weights is not None and state is None:
        display.say(load_weights(model, classes, Path(asked.weights)))
    plan = scaled(recipe, len(data.train), accelerator.num_processes, asked.minutes)
    average = WeightAverage(model, recipe.ema_decay) if recipe.ema_decay else None
    if recipe.compile:  # after the copy, which only validates
        compile_parts(model)
    optimizer = build_optimizer(model, recipe.optim)
    progress = Progress(Horizon(plan.steps, min(plan.warmup_steps, max(1, plan.steps // 4))), asked.minutes is None)
    if state is not None:
        _restore(state, model, optimizer, average, accelerator)
        progress = progress_of(state["progress"], plan)
    start = now()
    train_set, val_set, aspects = image_sets(recipe, data, augment=asked.overfit is None, proposals=proposals)
    seconds = now() - start
    check_fits(model, train_set, recipe, precision, device)
    if main and resumed is None:  # not before all images that are kept in memory could be read
        folder = new_run_folder(runs, name or recipe.name)
        write_yaml(folder / "args.yaml", {"arguments": asdict(asked), "recipe": dump_recipe(recipe)})
        write_check(data.report, folder / "dataset_check.json")
    if main:
        display.log_to(folder / "log.txt")
    workers = worker_count(recipe.data.workers, device, train_set.cached_bytes > 0)
    cached = f"{train_set.cached_bytes / 2**20:.0f} MiB of decoded images in memory" if train_set.cached_bytes else (
        "images are decoded anew each time")  # fmt: skip
    display.say(f"loader: {counted(workers, 'worker')}, {cached} ({seconds:.1f} s)")
    where = f"{accelerator.num_processes} x {device.type}" if accelerator.num_processes > 1 else device
    display.say(f"training: {recipe.name} on {where}, {precision}, {plan.sentence}; folder {folder}")
    if not progress.fixed:
        given = counted(asked.minutes or 0, "minute")
        display.say(f"training: {given} from the start to the report; steps are planned as they go")
    run = Session(
        recipe, asked, folder, classes, model, average, optimizer, precision, accelerator, display, val_set, plan
    )
    run.take_over(saved)
    run.results = Results(folder, keep_until=progress.step if state is not None else None) if main else None
    if main and resumed is None:
        start = now()
        run.first_images(train_set, aspects)
        progress.pace.report = REPORT_COST * (now() - start)  # the report at the end is drawn alike
    job = Job(
        recipe, plan, asked.seed, asked.minutes, started, accelerator, precision, model, optimizer, average, train_set,
        aspects, workers, run.measure, len(val_set), run.on_row, run.on_measured, run.on_progress, run.save,
        run.stop_wanted,
    )  # fmt: skip
    with run.signals(), display, run.results or nullcontext():
        progress = _fit(job, progress, folder)
    accelerator.wait_for_everyone()
    try:
        return run.conclude(progress)
    except (ValueError, OSError) as error:
        raise ValueError(_how_to_go_on(error, folder)) from error


def _fit(job: Job, progress: Progress, folder: Path) -> Progress:
    """The loop; running out of memory becomes advice, and other mishaps say how to go on."""
    try:
        return fit(job, progress)
    except (ValueError, OSError) as error:  # a damaged image, a full disk
        if any(frame.f_code is grouped_batches.__code__ for frame, _ in walk_tb(error.__traceback__)):
            with suppress(ValueError, OSError, FloatingPointError):  # images are fetched between two whole steps
                job.save(progress)
            clear_frames(error.__traceback__)  # lets go of the loader, whose processes would hold up the program's end
        raise ValueError(_how_to_go_on(error, folder)) from error
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        if "DataLoader worker" in text:  # killed from outside, for want of memory most often
            raise ValueError(
                f"a loader process ended unexpectedly ({text.splitlines()[0][:120]}): give it more shared memory "
                f"(docker run --shm-size=8g); data.workers=0 does without such processes"
            ) from error
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "allocate memory" not in text:
            raise
        data = job.recipe.data
        raise ValueError(
            f"out of memory at batch {data.batch_size}: try data.batch_size={max(1, data.batch_size // 2)} with "
            f"optim.accumulate={job.recipe.optim.accumulate * 2} (the same learning), or a smaller data.resize "
            f"({text.splitlines()[0][:120]})"
        ) from error


def _how_to_go_on(error: ValueError | OSError, folder: Path) -> str:
    """What went wrong, and the command that goes on with the run, in one sentence."""
    text = str(error).strip()
    if "in DataLoader worker" in text:  # its last line is what went wrong, after the traceback of the worker
        text = text.splitlines()[-1].partition(": ")[2]
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is not None:
        text = f"{error.filename}: the disk is full (no space left on device); free some space"
    return f"{text}; then go on with: boxwright train --resume {folder}"


def choose_accelerator(device: str, precision: str) -> tuple[Accelerator, str]:
    """Accelerate's view of the processes, and the arithmetic; only fp16 needs its help (it scales the gradient)."""
    kind = "cuda" if device == "auto" and torch.cuda.is_available() else device.removesuffix("auto") or "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", kind):
        raise ValueError(f"device: expected auto, cpu, cuda, cuda:N or mps, got {device!r}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device {device}: this machine (or this torch) has no Apple GPU; use --device cpu or auto")
    if kind.startswith("cuda"):
        if not torch.cuda.is_available():
            raise ValueError(f"device {device}: this machine (or this torch) has no CUDA GPU; use --device cpu or auto")
        if ":" in kind:
            count = torch.cuda.device_count()
            if int(kind[5:]) >= count:
                raise ValueError(f"device {device}: this machine has {count} CUDA GPUs, cuda:0 to cuda:{count - 1}")
            torch.cuda.set_device(torch.device(kind))
    chosen = choose_precision(precision, torch.device(kind))
    mixed = "fp16" if chosen == "fp16" else "no"
    _forget_other_state(kind.partition(":")[0], mixed)
    return Accelerator(mixed_precision=mixed, cpu=kind == "cpu"), chosen


def _forget_other_state(kind: str, mixed: str) -> None:
    """Let a second run in one process have another device: accelerate keeps that of the first for the whole process."""
    if not PartialState._shared_state or PartialState().num_processes > 1:
        return
    other_precision = AcceleratorState._shared_state.get("_mixed_precision", mixed) != mixed
    if PartialState().device.type != kind or other_precision:
        AcceleratorState._reset_state(reset_partial_state=True)


def _restore(
    state: dict[str, Any], model: Any, optimizer: Any, average: WeightAverage | None, accelerator: Accelerator
) -> None:
    """Bring model, optimiser and mean weights back to where the checkpoint was written."""
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if average is not None:
        average.model.load_state_dict(state["average"])
        average.updates = state["average_updates"]
    if accelerator.scaler is not None and state["scaler"]:
        accelerator.scaler.load_state_dict(state["scaler"])
