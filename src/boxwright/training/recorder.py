"""What a run leaves while it goes on: lines of the log, rows of results, and checkpoints."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from boxwright.checkpoint import Checkpoint, save_checkpoint
from boxwright.recipes.schema import Recipe
from boxwright.structures import Classes
from boxwright.training.columns import Row
from boxwright.training.display import Display
from boxwright.training.report import default_score
from boxwright.training.resume import Arguments
from boxwright.training.run_folder import Results
from boxwright.training.state import TrainState
from boxwright.training.trackers import Trackers
from boxwright.training.validate import ValidationResult


@dataclass(kw_only=True)
class Recorder:
    """Writes into the run folder what the loop tells; its methods are those of a `loop.Listener`.

    Processes other than the main one have no `results` and no `trackers`, and write nothing.
    """

    recipe: Recipe
    asked: Arguments
    precision: str
    classes: Classes
    folder: Path
    state: TrainState
    images_per_step: int
    display: Display
    results: Results | None = None
    trackers: Trackers | None = None
    score: float | None = None
    """The score threshold with the best F1 in the last validation."""
    figures: dict[str, Any] | None = None
    """Of the last validation, also of one before this run was resumed."""
    origin: dict[str, Any] | None = None
    """Where the weights that the run began with come from; None for a run from the start."""
    last: ValidationResult | None = field(default=None, init=False)
    """The last validation since the start or the resume."""

    def on_row(self, row: Row) -> None:
        """Write a row of numbers, and move the progress bar."""
        if self.results is None or self.trackers is None:
            return
        self.trackers.log(self.results.add(row))
        if "images_per_second" in row:
            progress = self.state.progress
            left = (progress.steps - progress.step) * self.images_per_step / row["images_per_second"]
            self.display.update(progress.step, progress.steps, row, left)

    def on_validated(self, result: ValidationResult, best: bool) -> None:
        """Log the figures; keep the best weights."""
        self.last = result
        self.score, self.figures = default_score(result, self.classes), result.figures()
        self.display.log(f"step {self.state.progress.step}: {result.summary()}{'  (best)' if best else ''}")
        if best:
            self._save("best.pt")

    def on_save(self) -> None:
        """Write `last.pt`, from which the run can go on."""
        self._save("last.pt")

    def _save(self, name: str) -> None:
        """Write the weights to use, and everything else for resume."""
        if self.results is None:
            return
        asked = {"arguments": asdict(self.asked), "precision": self.precision}
        try:
            training = asked | self.state.training_dict()
        except FloatingPointError as error:
            raise FloatingPointError(
                f"{self.folder}: {error}; what was saved before is kept. A lower optim.lr or optim.clip_norm=10 often "
                "helps"
            ) from error
        weights = self.state.model_in_use.state_dict()
        checkpoint = Checkpoint(self.recipe, self.classes, weights, self.score, self.figures, training, self.origin)
        save_checkpoint(checkpoint, self.folder / "weights" / name)
