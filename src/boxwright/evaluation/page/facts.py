"""What the page tells of one run: its results, the check of its data, and its detections beside the ground truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from boxwright.evaluation.curves import Curves, score_curves
from boxwright.evaluation.detect_split import EvaluationInputs
from boxwright.evaluation.matching import Integers, confusion_matrix
from boxwright.evaluation.page.drawn import SmallImage, small_image
from boxwright.evaluation.page.mistakes import Mistakes, find_mistakes
from boxwright.evaluation.summary import Evaluation
from boxwright.structures import Classes

WITHOUT_BEST = 0.25
"""The score threshold where no detection is right, so that none has the best F1."""


@dataclass(frozen=True)
class RunFacts:
    """One run.

    `rows` are those of `results.jsonl`, `check` is the content of `dataset_check.json` (None where there is none),
    `read` gives the image (3, H, W) uint8 of a path of `inputs`.
    """

    name: str
    recipe: str
    data: str
    train_split: str
    split: str
    inputs: EvaluationInputs
    evaluation: Evaluation
    rows: Sequence[Mapping[str, Any]]
    check: Mapping[str, Any] | None
    read: Callable[[Path], Tensor]
    finished: bool = True

    @property
    def classes(self) -> Classes:
        """The classes of detections and ground truth."""
        return self.inputs.classes

    @property
    def score(self) -> float:
        """The score threshold of tables, matrices and drawings: that with the best F1."""
        best = self.evaluation.figures["best_f1"]
        return float(best["score_threshold"]) if best else WITHOUT_BEST

    @cached_property
    def curves(self) -> Curves:
        """Precision, recall and F1 over the score."""
        return score_curves(self.inputs.detections, self.inputs.ground_truths, len(self.classes))

    @cached_property
    def mistakes(self) -> Mistakes:
        """The mistakes at `score`."""
        one = self.inputs
        return find_mistakes(one.detections, one.ground_truths, len(self.classes), score=self.score)

    @cached_property
    def confusion(self) -> Integers:
        """Counts (K + 1, K + 1) at `score`: row = detected class, column = class of the ground truth."""
        one = self.inputs
        return confusion_matrix(one.detections, one.ground_truths, len(self.classes), score_threshold=self.score)

    @cached_property
    def _small(self) -> dict[Path, SmallImage]:
        return {}

    def small(self, path: Path) -> SmallImage:
        """An image of `inputs` for the page; one that is shown for several mistakes is read once."""
        if path not in self._small:
            self._small[path] = small_image(self.read(path))
        return self._small[path]

    def confused_pairs(self, most: int = 5) -> list[tuple[str, str, int]]:
        """The most frequent confusions of two classes: what it is, what it is taken for, and how often."""
        names, count = self.classes.names, len(self.classes)
        pairs = [
            (names[actual], names[found], int(self.confusion[found, actual]))
            for found in range(count)
            for actual in range(count)
            if found != actual and self.confusion[found, actual]
        ]
        return sorted(pairs, key=lambda pair: -pair[2])[:most]

    def statistics(self, split: str) -> Mapping[str, Any]:
        """What the check says of a split; empty where it says nothing."""
        return dict((self.check or {}).get("splits", {}).get(split, {}))

    def column(self, name: str) -> tuple[list[float], list[float | None]]:
        """Steps and values of a column of the results."""
        rows = [row for row in self.rows if name in row]
        return [float(row["step"]) for row in rows], [row[name] for row in rows]

    def training_loss(self) -> tuple[list[float], list[float | None]]:
        """Steps and training losses of single steps; the means at validations only where there is nothing else."""
        single = [row for row in self.rows if "train/loss" in row and "val/AP" not in row]
        rows = single or [row for row in self.rows if "train/loss" in row]
        return [float(row["step"]) for row in rows], [row["train/loss"] for row in rows]
