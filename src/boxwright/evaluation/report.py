"""The evaluation report: a table of classes, charts of the curves, and confusion matrices.

Charts are drawn on a plain `Figure` (no pyplot, no window, no global state). Shape legend: K = classes, S = score
thresholds.
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.evaluation.curves import BestThreshold, Curves, best_threshold, kept_any, mean_over_classes, score_curves
from boxwright.evaluation.matching import Floats, Integers, confusion_matrix
from boxwright.structures import Classes, Detections, GroundTruth
from boxwright.wording import counted
from boxwright.writing import printable, writing

if TYPE_CHECKING:
    from rich.table import Table

LEGEND_LIMIT = 8  # more lines than this cannot be distinguished by colour
COLOURS = ("#2a6fbb", "#d9622b", "#2f9e6e", "#b0418f", "#8a6d1d", "#5b57c2", "#c23b4b", "#3d8f9e")
GREY, INK = "#c3c7cc", "#22262b"


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One row of the table: a class, its number of objects, its metrics at the best-F1 threshold, and its AP."""

    name: str
    objects: int
    precision: float | None
    recall: float | None
    f1: float | None
    ap50: float | None
    ap: float | None


def class_rows(
    ground_truths: Sequence[GroundTruth],
    classes: Classes,
    curves: Curves,
    best: BestThreshold | None,
    per_class_ap: dict[str, float | None],
) -> list[ClassRow]:
    """A row for every class, in label order; undefined values are None (precision: no detection is kept)."""
    labels = np.array(
        [k for ground_truth in ground_truths for k in ground_truth.labels[~ground_truth.ignore].tolist()],
        dtype=np.int64,
    )
    counts = np.bincount(labels, minlength=len(classes))
    at = None if best is None else int(np.argmin(np.abs(curves.scores - best.score)))

    def figure(values: Floats, label: int) -> float | None:
        return None if at is None or np.isnan(values[label, at]) else float(values[label, at])

    kept = kept_any(curves)

    rows = []
    for label, name in enumerate(classes.names):
        ap50 = float(curves.average_precision[label])
        rows.append(
            ClassRow(
                name=name,
                objects=int(counts[label]),
                precision=figure(curves.precision, label) if at is None or kept[label, at] else None,
                recall=figure(curves.recall, label),
                f1=figure(curves.f1, label),
                ap50=None if np.isnan(ap50) else ap50,
                ap=per_class_ap.get(name),
            )
        )
    return rows


def class_table(rows: Sequence[ClassRow], iou: float = 0.5, *, voc: bool = False) -> Table:
    """The rows as a table for the terminal; `voc` leaves out the column of COCO's AP at a single IoU."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class")
    for column in ("objects", "precision", "recall", "F1", *(() if voc else (f"AP{round(100 * iou)}",)), "AP"):
        table.add_column(column, justify="right")
    for row in rows:
        figures = (row.precision, row.recall, row.f1, *(() if voc else (row.ap50,)), row.ap)
        table.add_row(
            Text(printable(row.name)),
            str(row.objects),
            *("-" if value is None else f"{value:.3f}" for value in figures),
        )
    return table


def class_csv(rows: Sequence[ClassRow]) -> str:
    """The rows as CSV text with a header; undefined values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "objects", "precision", "recall", "f1", "AP50", "AP"])
    for row in rows:
        figures = (row.precision, row.recall, row.f1, row.ap50, row.ap)
        writer.writerow([row.name, row.objects, *("" if value is None else f"{value:.6f}" for value in figures)])
    return text.getvalue()


def write_report(
    folder: Path,
    detections: Sequence[Detections],
    ground_truths: Sequence[GroundTruth],
    classes: Classes,
    per_class_ap: dict[str, float | None],
    *,
    iou: float = 0.5,
    plus_one: bool = False,
) -> list[Path]:
    """Write `per_class.csv`, the four curves and the two confusion matrices; returns the paths written.

    plus_one: boxes of the table and the curves include their last pixel, as for VOC AP.
    The confusion matrices are drawn at the best-F1 threshold (at 0.25 without any true positive).
    """
    folder.mkdir(parents=True, exist_ok=True)
    curves = score_curves(detections, ground_truths, len(classes), iou=iou, plus_one=plus_one)
    best = best_threshold(curves)
    table = folder / "per_class.csv"
    with writing(table):
        text = class_csv(class_rows(ground_truths, classes, curves, best, per_class_ap))
        table.write_text(text, encoding="utf-8", errors="backslashreplace")  # a name may hold half a character
    score = 0.25 if best is None else best.score
    matrix = confusion_matrix(detections, ground_truths, len(classes), score_threshold=score, iou=iou)
    return [table, *draw_curves(folder, curves, classes.names), *draw_confusion(folder, matrix, classes.names, score)]


def plain_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of width x height inches that needs no window.

    matplotlib's font cache goes to the system's temporary folder unless MPLCONFIGDIR is set: nothing is written into
    the home folder.
    """
    asked = os.environ.get("MPLCONFIGDIR")
    if asked is None:
        cache = Path(tempfile.gettempdir()) / f"boxwright-matplotlib-{getattr(os, 'getuid', lambda: 'user')()}"
        os.environ["MPLCONFIGDIR"] = str(cache)
    try:
        import matplotlib.font_manager  # noqa: F401  (reads and writes its cache when imported)
        from matplotlib.figure import Figure
    finally:
        if asked is None:
            del os.environ["MPLCONFIGDIR"]
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def draw_curves(folder: Path, curves: Curves, names: Sequence[str]) -> list[Path]:
    """Write `BoxPR_curve.png`, `BoxF1_curve.png`, `BoxP_curve.png` and `BoxR_curve.png`; returns their paths.

    Up to eight classes have a colour each; of more, the three with the lowest AP are coloured and the rest are grey.
    """
    best = best_threshold(curves)
    known = curves.average_precision[~np.isnan(curves.average_precision)]
    mean_ap = f", mean AP {known.mean():.3f}" if len(known) else ", no ground truth"
    at_best = f", best {best.f1:.3f} at {best.score:.3f}" if best else ""
    charts = (
        ("BoxPR_curve", "Precision by recall", "recall", "precision", curves.recalls, curves.precision_by_recall),
        ("BoxF1_curve", "F1 by score threshold", "score threshold", "F1", curves.scores, curves.f1),
        ("BoxP_curve", "Precision by score threshold", "score threshold", "precision", curves.scores, curves.precision),
        ("BoxR_curve", "Recall by score threshold", "score threshold", "recall", curves.scores, curves.recall),
    )
    paths = []
    for stem, title, across, up, x, values in charts:
        figures = {"BoxPR_curve": mean_ap, "BoxF1_curve": at_best}.get(stem, "")
        paths.append(folder / f"{stem}.png")
        figure = plain_figure(8, 5)
        axes = figure.add_subplot()
        _draw_lines(axes, x, values, names, curves.average_precision)
        if best and stem != "BoxPR_curve":
            axes.axvline(best.score, color=INK, linewidth=0.8, linestyle=":")
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=across, ylabel=up)
        axes.set_title(f"{title}{figures} (IoU {curves.iou:g})", loc="left", fontsize=11, color=INK)
        _save(figure, paths[-1])
    return paths


def _draw_lines(axes: Any, x: Floats, values: Floats, names: Sequence[str], aps: Floats) -> None:
    """A line per class with ground truth, and a thick one for their mean."""
    present = np.flatnonzero(~np.isnan(aps))
    by_ap = present[np.argsort(-aps[present], kind="stable")].tolist()
    coloured = by_ap if len(by_ap) <= LEGEND_LIMIT else by_ap[-3:]
    for label in by_ap:
        if label not in coloured:
            axes.plot(x, values[label], color=GREY, linewidth=0.8)
    for colour, label in zip(COLOURS, coloured, strict=False):
        axes.plot(x, values[label], color=colour, linewidth=1.3, label=f"{_short(names[label])} {aps[label]:.3f}")
    if len(by_ap) != 1:  # one class is its own mean
        axes.plot(x, mean_over_classes(values), color=INK, linewidth=2.4, label="all classes, mean")
    heading = "class and its AP" if len(coloured) == len(by_ap) else f"weakest 3 of {counted(len(by_ap), 'class')}"
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8, title=heading, title_fontsize=8,
        alignment="left",
    )  # fmt: skip
    axes.grid(color="#e6e8ea", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def draw_confusion(folder: Path, matrix: Integers, names: Sequence[str], score_threshold: float) -> list[Path]:
    """Write `confusion_matrix.png` (counts) and `confusion_matrix_normalized.png` (shares of each true class)."""
    totals = matrix.sum(0, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    at = f"score >= {score_threshold:.3f}"
    charts = (
        ("confusion_matrix", f"Predicted by true class, counts ({at})", matrix.astype(np.float64), "{:.0f}"),
        ("confusion_matrix_normalized", f"Predicted by true class, share of the true class ({at})", shares, "{:.2f}"),
    )
    paths = []
    for stem, title, values, form in charts:
        paths.append(folder / f"{stem}.png")
        side = min(max(4.5, 0.42 * len(matrix) + 2), 30.0)
        figure = plain_figure(side + 0.8, side)
        _draw_cells(figure, values, [*map(_short, names), "background"], form)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK)
        _save(figure, paths[-1])
    return paths


def _draw_cells(figure: Any, values: Floats, names: list[str], form: str) -> None:
    axes = figure.add_subplot()
    from matplotlib.colors import PowerNorm

    top = float(values.max(initial=0)) or 1.0  # over all cells, so that every cell is within the colour scale
    # Background counts are often far higher than the others: colours use the square root, so that these are visible.
    norm = PowerNorm(0.5 if form == "{:.0f}" else 1.0, vmin=0, vmax=top)
    image = axes.imshow(values, cmap="Blues", norm=norm, aspect="auto")
    count = len(names)
    if count <= 60:  # with more classes the numbers would be too small to read
        for row, column in np.argwhere(values > 0).tolist():
            value = values[row, column]
            text = form.format(value).replace("0.", ".", 1) if form == "{:.2f}" else form.format(value)
            axes.text(
                column, row, text, ha="center", va="center", fontsize=9 if count <= 10 else 6.5,
                color="white" if norm(value) > 0.55 else INK,
            )  # fmt: skip
    crowded = count > 6 or max(map(len, names)) * count > 40  # characters that fit side by side under the axis
    axes.set_xticks(range(count), names, rotation=90 if crowded else 0, fontsize=9 if count <= 10 else 7.5)
    axes.set_yticks(range(count), names, fontsize=9 if count <= 10 else 7.5)
    axes.set(xlabel="true", ylabel="predicted")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02).outline.set_visible(False)


def _short(name: str) -> str:
    """A name for a chart: a dollar sign would start a formula, a leading underscore would hide it from the legend."""
    name = printable(name)
    name = f" {name}" if name.startswith("_") else name
    return (name if len(name) <= 22 else f"{name[:20]}…").replace("$", r"\$")


def _save(figure: Any, path: Path) -> None:
    with writing(path):
        figure.savefig(path, format="png")
