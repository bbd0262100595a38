"""`boxwright.train`: one call from a folder of labelled pictures to a trained, measured and drawn detector."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from boxwright.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from boxwright.data.loader import PictureSet, SampleKey, Collate, StepSampler, make_loader
from boxwright.models import MODELS
from boxwright.recipes import dump_recipe, load_recipe
from boxwright.recipes.schema import Recipe
from boxwright.structures import Classes
from boxwright.training import report
from boxwright.training.display import Display
from boxwright.training.ema import WeightAverage
from boxwright.training.fine_tune import load_weights
from boxwright.training.loop import Job, Progress, fit, progress_state
from boxwright.training.optim import build_optimizer, scaled
from boxwright.training.precision import choose_precision
from boxwright.training.prepare import Prepared, open_checked, picture_sets, worker_count, write_check
from boxwright.training.run_folder import Results, new_run_folder, newest_run, write_yaml
from boxwright.training.validate import Measured, measure

OVERFIT_STEPS = 500


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run came to: its folder, the checkpoints in it, the figures, and whether it was stopped before its end."""

    folder: Path
    best: Path
    last: Path
    metrics: dict[str, Any]
    finished: bool


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the user asked for; saved with the run, so that resume needs nothing else."""

    data: str
    classes: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    overfit: int | None = None
    minutes: float | None = None
    device: str = "auto"
    seed: int = 0
    weights: str | None = None


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
    device: str = "auto",
    seed: int = 0,
) -> TrainResult:
    """Train a detector and write a run folder.

    Args:
        recipe: a recipe's name, its short alias, or a YAML path.
        data: a folder of labelled pictures (VOC, COCO or YOLO layout).
        overrides: recipe settings such as `optim.lr=0.01`.
        classes: a subset or merge of classes, such as "car+truck=vehicle,person".
        train_split, val_split: names of the splits to train and measure on.
        weights: a boxwright checkpoint to start from (fine-tuning).
        name: of the run folder below `runs`; the recipe's name if not given.
        resume: a run folder (or its weights/last.pt) to go on with, or "latest"; everything else comes from there.
        overfit: train and measure on this many training pictures, not augmented: the loss must collapse.
        minutes: a time budget; the number of steps is fixed after a few measured ones.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        seed: of everything random.

    Raises ValueError or OSError with one sentence for whatever the user can put right.
    """
    if resume is not None:
        return _run(*_resumed(Path(resume), Path(runs), name, data))
    if data is None:
        raise ValueError("no data: give a folder of labelled pictures (--data FOLDER)")
    if overfit is not None:
        overrides = [*_overfit_overrides(overfit, minutes), *overrides]
    if minutes is not None and minutes <= 0:
        raise ValueError(f"minutes: expected more than 0, got {minutes}")
    asked = Arguments(
        str(Path(data).resolve()), classes, train_split, val_split, overfit, minutes, device, seed,
        None if weights is None else str(Path(weights).resolve()),
    )  # fmt: skip
    return _run(load_recipe(recipe, overrides), asked, Path(runs), name, None)


def _overfit_overrides(count: int, minutes: float | None) -> list[str]:
    if count < 1:
        raise ValueError(f"overfit: expected at least 1 picture, got {count}")
    settings = [f"data.batch_size={min(count, 16)}", f"optim.reference_batch={min(count, 16)}", "ema_decay=0.9",
                "optim.weight_decay=0", "schedule.kind=cosine", "schedule.warmup_steps=20", "validation.times=5"]  # fmt: skip
    return [*settings, f"schedule.steps={OVERFIT_STEPS}"]


def _resumed(
    path: Path, runs: Path, name: str | None, data: str | Path | None
) -> tuple[Recipe, Arguments, Path, str | None, Path]:
    """What a run was started with, from its checkpoint; a finished run is refused, not started again."""
    if str(path) == "latest":
        path = newest_run(runs, name)
    folder = path.parent.parent if path.is_file() else path
    last = folder / "weights" / "last.pt"
    if not last.exists():
        raise FileNotFoundError(f"{path}: nothing to resume, there is no {last}")
    checkpoint = load_checkpoint(last)
    state = checkpoint.training
    if state is None:
        raise ValueError(f"{last} holds weights only; start a new run from it with --weights")
    if state["progress"]["finished"] and (folder / "metrics.json").exists():
        raise ValueError(
            f"{folder} is finished ({state['progress']['step']} steps); to train on from it start a new run with "
            f"--weights {last}"
        )
    asked = Arguments(**state["arguments"])
    if data is not None:  # the data may have moved
        asked = Arguments(**{**state["arguments"], "data": str(Path(data).resolve())})
    return checkpoint.recipe, asked, runs, name, folder


def _run(recipe: Recipe, asked: Arguments, runs: Path, name: str | None, resumed: Path | None) -> TrainResult:
    accelerator = _accelerator(asked.device)
    device, main = accelerator.device, accelerator.is_main_process
    display = Display(enabled=main)
    data = open_checked(
        asked.data, classes=asked.classes, train_split=asked.train_split, val_split=asked.val_split,
        overfit=asked.overfit, say=display.say,
    )  # fmt: skip
    state, classes, folder = None, data.classes, Path()
    if resumed is not None:
        loaded = load_checkpoint(resumed / "weights" / "last.pt")
        state, classes, folder = loaded.training, loaded.classes, resumed
        if classes != data.classes:
            raise ValueError(f"{resumed} was trained on classes {list(classes.names)}, {asked.data} now has "
                             f"{list(data.classes.names)}")  # fmt: skip
    precision = choose_precision(recipe.precision, device) if state is None else state["precision"]
    if precision == "fp16":
        raise ValueError("precision fp16 is not stable for detectors; use bf16 or fp32")
    torch.manual_seed(asked.seed)
    config = recipe.model_config_of(len(classes))
    model = MODELS[recipe.model.name].build(config).to(device, memory_format=torch.channels_last)
    if asked.weights is not None and state is None:
        display.say(load_weights(model, classes, Path(asked.weights)))
    plan = scaled(recipe, len(data.train), accelerator.num_processes)
    average = WeightAverage(model, recipe.ema_decay) if recipe.ema_decay else None
    optimizer = build_optimizer(model, recipe.optim)
    progress = Progress(steps=plan.steps, fixed=asked.minutes is None)
    if state is not None:
        progress = _restore(state, model, optimizer, average)
    if main and resumed is None:
        folder = new_run_folder(runs, name or recipe.name)
        write_yaml(folder / "args.yaml", {"arguments": _plain(asked), "recipe": dump_recipe(recipe)})
        write_check(data.report, folder / "dataset_check.json")
    start = time.monotonic()
    train_set, val_set, aspects = picture_sets(recipe, data, augment=asked.overfit is None)
    workers = worker_count(recipe.data.workers, device, train_set.cached_bytes > 0)
    cached = f"{train_set.cached_bytes / 2**20:.0f} MiB of decoded pictures in memory" if train_set.cached_bytes else (
        "pictures are decoded anew each time")  # fmt: skip
    display.say(f"loader: {workers} workers, {cached} ({time.monotonic() - start:.1f} s)")
    display.say(f"training: {recipe.name} on {device}, {precision}, {plan.sentence}; folder {folder}")
    run = _Run(recipe, asked, folder, classes, model, average, optimizer, precision, accelerator, display, val_set)
    run.results = Results(folder, keep_until=progress.step if state is not None else None) if main else None
    if main and resumed is None:
        _first_pictures(run, train_set, aspects, asked.seed)
    job = Job(
        recipe, plan, asked.seed, asked.minutes, accelerator, precision, model, optimizer, average, train_set, aspects,
        workers, run.measure, len(val_set), run.on_row, run.on_measured, run.on_progress, run.save, run.stop_wanted,
    )  # fmt: skip
    with run.signals(), display:
        progress = _fit(job, progress)
    accelerator.wait_for_everyone()
    return run.conclude(progress)


def _fit(job: Job, progress: Progress) -> Progress:
    """The loop; running out of memory becomes advice."""
    try:
        return fit(job, progress)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "allocate memory" not in text:
            raise
        data = job.recipe.data
        raise ValueError(
            f"out of memory at batch {data.batch_size}: try data.batch_size={max(1, data.batch_size // 2)} with "
            f"optim.accumulate={job.recipe.optim.accumulate * 2} (the same learning), or a smaller data.resize "
            f"({text.splitlines()[0][:120]})"
        ) from error


class _Run:
    """The run's side of the loop: rows, pictures, checkpoints and signals."""

    def __init__(
        self, recipe: Recipe, asked: Arguments, folder: Path, classes: Classes, model: Any,
        average: WeightAverage | None, optimizer: Any, precision: str, accelerator: Accelerator, display: Display,
        val_set: PictureSet,
    ) -> None:  # fmt: skip
        self.recipe, self.asked, self.folder, self.classes = recipe, asked, folder, classes
        self.model, self.average, self.optimizer = model, average, optimizer
        self.precision, self.accelerator, self.display = precision, accelerator, display
        self.val_set = val_set
        self.results: Results | None = None
        self.progress = Progress(steps=1, fixed=True)
        self.score: float | None = None
        self._measured: Measured | None = None
        self._truths = report.validation_truths(val_set)
        self._signal: int | None = None

    def measure(self, model: Any) -> Measured:
        """Validate over all processes; each takes its share of the pictures."""
        limit = self.recipe.validation.max_pictures or len(self.val_set)
        indices = list(range(min(limit, len(self.val_set))))[
            self.accelerator.process_index :: self.accelerator.num_processes
        ]
        size = self.recipe.validation.batch_size or self.recipe.data.batch_size
        batches = [indices[start : start + size] for start in range(0, len(indices), size)]
        loader = make_loader(self.val_set, batches, workers=0)
        return measure(
            model, loader, self._truths, self.classes, self.recipe.detect.settings(),
            device=self.accelerator.device, precision=self.precision,
        )  # fmt: skip

    def on_row(self, row: dict[str, Any]) -> None:
        """Keep a row of numbers (main process)."""
        if self.results is not None:
            self.results.add(row)

    def on_progress(self, progress: Progress, row: dict[str, float]) -> None:
        """Move the progress bar."""
        self.display.update(progress.step, progress.steps, row)

    def on_measured(self, measured: Measured, best: bool) -> None:
        """Say the figures; keep the best weights."""
        self._measured = measured
        self.score = report.default_score(measured, self.classes)
        row = self.results.rows[-1] if self.results is not None else {}
        ap, ap50 = measured.coco.ap or 0.0, measured.coco.ap50 or 0.0
        self.display.say(f"step {row.get('step')}: AP {ap:.4f}  AP50 {ap50:.4f}  validation loss {row['val/loss']:.4f}"
                         + ("  (best)" if best else ""))  # fmt: skip
        if best:
            save_checkpoint(self._checkpoint(None, measured), self.folder / "weights" / "best.pt")

    def save(self, progress: Progress) -> None:
        """Write `last.pt`, from which the run can go on."""
        self.progress = progress
        if not self.accelerator.is_main_process:
            return
        training: dict[str, Any] = {
            "arguments": _plain(self.asked),
            "progress": progress_state(progress),
            "precision": self.precision,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average is not None else {},
            "average_updates": self.average.updates if self.average is not None else 0,
            "score": self.score,
        }
        save_checkpoint(self._checkpoint(training, self._measured), self.folder / "weights" / "last.pt")

    def _checkpoint(self, training: dict[str, Any] | None, measured: Measured | None) -> Checkpoint:
        weights = (self.average or self.model).state_dict()
        metrics = None if measured is None else measured.coco.figures()
        return Checkpoint(self.recipe, self.classes, weights, self.score, metrics, training)

    def stop_wanted(self) -> bool:
        """Whether any process was asked to stop."""
        if self.accelerator.num_processes == 1:
            return self._signal is not None
        flag = torch.tensor(int(self._signal is not None), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag).item())

    def signals(self) -> _Signals:
        """Turn SIGTERM and Ctrl-C into a wish that the loop sees after its step."""
        return _Signals(self)

    def conclude(self, progress: Progress) -> TrainResult:
        """Write the report, or say how to go on."""
        weights = self.folder / "weights"
        best, last = weights / "best.pt", weights / "last.pt"
        if not progress.finished:
            self.display.say(f"stopped at step {progress.step} of {progress.steps}; saved. Go on with: "
                             f"boxwright train --resume {self.folder}")  # fmt: skip
            return TrainResult(self.folder, best, last, {}, finished=False)
        if self._measured is None:  # resumed after the last step
            self._measured = self.measure(self.average.model if self.average is not None else self.model)
            self.score = report.default_score(self._measured, self.classes)
        figures: dict[str, Any] = {}
        if self.accelerator.is_main_process and self.results is not None:
            figures = report.write_report(
                self.folder, self.results, self._measured, self.val_set, self.classes, self.score
            )
            self.display.say(f"finished: AP {figures['AP'] or 0.0:.4f}  AP50 {figures['AP50'] or 0.0:.4f} with the last "
                             f"weights (best AP {progress.best_ap:.4f} at step {progress.best_step}); folder {self.folder}")  # fmt: skip
        return TrainResult(self.folder, best, last, figures, finished=True)


class _Signals:
    """SIGTERM and SIGINT are noted while this is entered; a second Ctrl-C interrupts at once."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():  # a notebook or server may train in a thread
            self.before = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}

    def _note(self, number: int, _frame: Any) -> None:
        if self.run._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.run._signal = number
        self.run.display.say("stopping after this step ...")

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def _accelerator(device: str) -> Accelerator:
    """Accelerate's view of the processes; mixed precision is ours, since the loss is float32."""
    if device == "auto" or device.startswith("cuda"):
        if device != "auto" and not torch.cuda.is_available():
            raise ValueError(f"device {device}: this machine (or this torch) has no CUDA GPU; use --device cpu or auto")
        if device.startswith("cuda:"):
            torch.cuda.set_device(torch.device(device))
        return Accelerator(mixed_precision="no")
    if device not in ("cpu", "mps"):
        raise ValueError(f"device: expected auto, cpu, cuda, cuda:N or mps, got {device!r}")
    return Accelerator(mixed_precision="no", cpu=device == "cpu")


def _restore(state: dict[str, Any], model: Any, optimizer: Any, average: WeightAverage | None) -> Progress:
    """Bring model, optimiser and mean weights back to where the checkpoint was written."""
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if average is not None:
        average.model.load_state_dict(state["average"])
        average.updates = state["average_updates"]
    return Progress(**state["progress"])


def _first_pictures(run: _Run, train_set: PictureSet, aspects: list[float], seed: int) -> None:
    """What the network will be shown: label statistics and the first three batches."""
    report.draw_labels(train_set, run.classes, run.recipe, run.folder / "labels.jpg")
    size = min(run.recipe.data.batch_size, report.SHOWN)
    collate = Collate(train_set.rule)
    sampler = StepSampler(aspects, size, seed=seed, start=0, stop=3, mosaic_stop=3)
    for number, keys in enumerate(sampler):
        batch = collate([train_set[key] for key in keys])
        report.draw_training_batch(batch, run.classes, run.folder / f"train_batch{number}.jpg")


def _plain(asked: Arguments) -> dict[str, Any]:
    return {field: getattr(asked, field) for field in asked.__slots__}
