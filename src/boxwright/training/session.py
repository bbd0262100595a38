"""The run's side of the loop: rows of results, measurements, checkpoints, signals, and the report at the end."""

from __future__ import annotations

import signal
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.data.dataset import DetectionDataset
from boxwright.data.loader import Collate
from boxwright.data.sampler import StepSampler
from boxwright.inference.predictor import Detector
from boxwright.recipes.schema import Recipe
from boxwright.structures import Classes
from boxwright.training import report
from boxwright.training.display import Display
from boxwright.training.loop import Progress, progress_state
from boxwright.training.optim import WeightAverage
from boxwright.training.run_folder import Results
from boxwright.training.schedule import Horizon, Plan
from boxwright.training.validate import Measured, measure


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
    proposals: str | None = None


class Session:
    """The run's side of the loop: rows, images, checkpoints and signals."""

    def __init__(
        self, recipe: Recipe, asked: Arguments, folder: Path, classes: Classes, model: Any,
        average: WeightAverage | None, optimizer: Any, precision: str, accelerator: Accelerator, display: Display,
        val_set: DetectionDataset,
        plan: Plan,
    ) -> None:  # fmt: skip
        self.recipe, self.asked, self.folder, self.classes = recipe, asked, folder, classes
        self.model, self.average, self.optimizer = model, average, optimizer
        self.precision, self.accelerator, self.display = precision, accelerator, display
        self.val_set, self.plan = val_set, plan
        self.results: Results | None = None
        self.progress = Progress(Horizon(1), fixed=True)
        self.score: float | None = None
        self.figures: dict[str, Any] | None = None
        """Of the last measurement, also of one before this run was resumed."""
        self._measured: Measured | None = None
        self._signal: int | None = None

    def take_over(self, saved: Checkpoint | None) -> None:
        """Keep what was measured before a run was resumed, until it is measured again."""
        if saved is not None:
            self.score, self.figures = saved.score_threshold, saved.metrics

    def first_images(self, train_set: DetectionDataset, aspects: list[float]) -> None:
        """What the network will be shown: label statistics and the first three batches."""
        report.draw_labels(train_set, self.classes, self.recipe, self.folder / "labels.jpg")
        size = min(self.recipe.data.batch_size, report.SHOWN)
        collate = Collate(train_set.rule)
        sampler = StepSampler(aspects, size, seed=self.asked.seed, start=0, stop=3, mosaic=lambda _: True)
        for number, keys in enumerate(sampler):
            batch = collate([train_set[key] for key in keys])
            report.draw_training_batch(batch, self.classes, self.folder / f"train_batch{number}.jpg")

    def measure(self, model: Any, *, whole: bool = False) -> Measured:
        """Validate over all processes, as `evaluate` would do it with the checkpoint of this model's weights."""
        limit = None if whole else self.recipe.validation.max_images
        share = (self.accelerator.process_index, self.accelerator.num_processes)
        checkpoint = Checkpoint(self.recipe, self.classes, model.state_dict())
        detector = Detector(checkpoint, self.accelerator.device, precision=self.precision)
        return measure(detector, self.val_set, limit=limit, share=share)

    def on_row(self, row: dict[str, Any]) -> None:
        """Keep a row of numbers (main process)."""
        if self.results is not None:
            self.results.add(row)

    def on_progress(self, progress: Progress, row: dict[str, float]) -> None:
        """Move the progress bar."""
        left = (progress.steps - progress.step) * self.plan.batch / row["images_per_second"]
        self.display.update(progress.step, progress.steps, row, left)

    def on_measured(self, measured: Measured, progress: Progress, best: bool) -> None:
        """Say the figures; keep the best weights."""
        self._measured, self.progress = measured, progress
        self.score, self.figures = report.default_score(measured, self.classes), measured.figures()
        if not self.accelerator.is_main_process:
            return
        mark = "  (best)" if best else ""
        self.display.say(f"step {progress.step}: {_aps(measured)}{mark}")
        if best:
            save_checkpoint(self._checkpoint(), self.folder / "weights" / "best.pt")

    def save(self, progress: Progress) -> None:
        """Write `last.pt`, from which the run can go on."""
        self.progress = progress
        if self.accelerator.is_main_process:
            save_checkpoint(self._checkpoint(), self.folder / "weights" / "last.pt")

    def _checkpoint(self) -> Checkpoint:
        """The weights to use, and everything else for resume."""
        training: dict[str, Any] = {
            "arguments": asdict(self.asked),
            "progress": progress_state(self.progress),
            "precision": self.precision,
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average is not None else {},
            "average_updates": self.average.updates if self.average is not None else 0,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else {},
        }
        weights = (self.average or self.model).state_dict()
        floats = [t for part in (weights, training["model"]) for t in part.values() if t.is_floating_point()]
        if not bool(torch.stack([torch.isfinite(t).all() for t in floats]).all()):
            raise FloatingPointError(
                f"the weights are no numbers any more at step {self.progress.step} of {self.folder}; what was saved "
                "before is kept. A lower optim.lr or optim.clip_norm=10 often helps"
            )
        return Checkpoint(self.recipe, self.classes, weights, self.score, self.figures, training)

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
        part = (self.recipe.validation.max_images or len(self.val_set)) < len(self.val_set)
        if self._measured is None or part:  # resumed after the last step; or measured on some of the images so far
            model = self.average.model if self.average is not None else self.model
            self._measured = self.measure(model, whole=True)
            self.score = report.default_score(self._measured, self.classes)
        figures: dict[str, Any] = {}
        if self.accelerator.is_main_process and self.results is not None:
            figures = report.write_report(
                self.folder, self.results, self._measured, self.val_set, self.classes, self.score
            )
            kind = "AP" if self._measured.segm is None else "mask AP"
            best_so_far = f" (best {kind} {progress.best_ap:.4f} at step {progress.best_step})"
            if self._measured.ap is None:  # it was undefined at every step: the images are the same
                best_so_far = ""
            self.display.say(f"finished: {_aps(self._measured)} with the last weights{best_so_far}")
            waited = progress.waited / progress.seconds if progress.seconds else 0.0
            self.display.say(f"time: {progress.seconds:.0f} s, {waited:.0%} of it waiting for images")
            self.display.say(f"folder: {self.folder}")
        return TrainResult(self.folder, best, last, figures, finished=True)


def _aps(measured: Measured) -> str:
    """AP and AP50 of the boxes, and of the masks where there are any, for a line of the log."""
    ap, ap50, segm = measured.coco.ap, measured.coco.ap50, measured.segm
    if ap is None or ap50 is None:
        return "AP undefined (no object in the images measured on)"
    masks = ""
    if segm is not None and segm.ap is not None and segm.ap50 is not None:
        masks = f"  mask AP {segm.ap:.4f}  AP50 {segm.ap50:.4f}"
    elif segm is not None:
        masks = "  mask AP undefined"
    return f"AP {ap:.4f}  AP50 {ap50:.4f}{masks}"


class _Signals:
    """SIGTERM and SIGINT are noted while this is entered; a second Ctrl-C interrupts at once."""

    def __init__(self, run: Session) -> None:
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
