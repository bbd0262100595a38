"""The files of the course's tool for mAP (Cartucho/mAP): `results.txt` and its charts, from our own VOC AP.

Shape legend: D = detections of one class over all images, in order of score.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from boxwright.evaluation.matching import Floats
from boxwright.evaluation.report import COLOURS, INK, plain_figure
from boxwright.evaluation.voc_ap import VocClass, VocResult
from boxwright.evaluation.written_names import file_stems
from boxwright.structures import Detections
from boxwright.wording import counted
from boxwright.writing import printable, writing

REFERENCES = np.logspace(-2.0, 0.0, 9)
"""False positives an image at which the miss rate is read (Dollár et al. 2012, section 3.1)."""
GREEN, RED = "#2f9e6e", "#c23b4b"


def log_average_miss_rate(found: VocClass, num_images: int) -> float | None:
    """The geometric mean of the miss rates at nine numbers of false positives an image, from 0.01 to 1.

    Dollár et al. 2012, "Pedestrian Detection: An Evaluation of the State of the Art", section 3.1. Where a curve has no
    point with so few false positives the miss rate is 1 there. A class without objects has none (None); one without
    detections has 1.
    """
    if not found.objects:
        return None
    right = np.rint(found.recall * found.objects)  # (D,)
    wrong = np.arange(1, len(right) + 1) - right
    misses = np.concatenate([[1.0], 1 - found.recall])
    last = np.searchsorted(wrong / num_images, REFERENCES, side="right")  # detections with no more false positives
    return float(np.exp(np.log(np.maximum(misses[last], 1e-10)).mean()))


def results_text(result: VocResult, detections: Sequence[Detections]) -> str:
    """`results.txt`: AP, precision and recall of every class, mAP, objects and detections of every class.

    Classes are sorted by name, as in that tool. Detections of `difficult` objects are in no list. Detections of classes
    without ground truth are false positives; such a class has no AP.
    """
    names = sorted(result.classes)
    lines = ["# AP and precision/recall per class"]
    for name in names:
        one = result.classes[name]
        if one.ap is None:
            continue
        lines.append(f"{one.ap:.2%} = {printable(name)} AP ")
        lines.append(f" Precision: {[f'{value:.2f}' for value in one.precision.tolist()]}")
        lines.append(f" Recall :{[f'{value:.2f}' for value in one.recall.tolist()]}")
        lines.append("")
    lines += ["", "# mAP of all classes", f"mAP = {_percent(result.mean_ap)}"]
    lines += ["", "# Number of ground-truth objects per class"]
    lines += [f"{printable(name)}: {result.classes[name].objects}" for name in names if result.classes[name].objects]
    lines += ["", "# Number of detected objects per class"]
    for name, total, right in _totals(result, detections):
        lines.append(f"{printable(name)}: {total} (tp:{right}, fp:{total - right})")
    return "\n".join(lines) + "\n"


def write_voc_report(folder: Path, result: VocResult, detections: Sequence[Detections]) -> list[Path]:
    """Write `results.txt`, `mAP.png`, `lamr.png`, the two charts of counts, and `classes/NAME.png`; returns the paths.

    detections: those that `result` is of, with labels that index its classes.
    """
    text = folder / "results.txt"
    with writing(text):
        text.write_text(results_text(result, detections), encoding="utf-8", errors="backslashreplace")
    images = counted(len(detections), "image")
    known = {name: one for name, one in result.classes.items() if one.objects}
    aps = {name: one.ap or 0.0 for name, one in known.items()}
    rates = {name: log_average_miss_rate(one, len(detections)) or 0.0 for name, one in known.items()}
    objects = {name: float(one.objects) for name, one in known.items()}
    found = _totals(result, detections)
    right = {name: float(hits) for name, _, hits in found}
    wrong = {name: float(total - hits) for name, total, hits in found}
    paths = [
        _bars(folder / "mAP.png", f"mAP = {_percent(result.mean_ap)} (IoU {result.iou:g})", "average precision", aps),
        _bars(folder / "lamr.png", "log-average miss rate (lower is better)", "log-average miss rate", rates),
        _bars(
            folder / "ground-truth-info.png",
            f"ground truth: {images}, {counted(len(known), 'class')}",
            "objects per class",
            objects,
        ),
        _bars(folder / "detection-results-info.png", f"detections: {images}", "detections per class", right, wrong),
    ]
    stems = file_stems(list(result.classes))
    for stem, (name, one) in zip(stems, result.classes.items(), strict=True):
        if one.ap is not None:
            paths.append(_curve(folder / "classes" / f"{stem}.png", name, one))
    return [text, *paths]


def _percent(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2%}"


def _totals(result: VocResult, detections: Sequence[Detections]) -> list[tuple[str, int, int]]:
    """Of every class with detections, by name: all of them (those of difficult objects too), and the true positives."""
    labels = [label for image in detections for label in image.labels.tolist()]
    counts = np.bincount(np.asarray(labels, np.int64), minlength=len(result.classes))
    rows = []
    for (name, one), total in zip(result.classes.items(), counts.tolist(), strict=True):
        if total:
            right = round(float(one.recall[-1]) * one.objects) if len(one.recall) else 0
            rows.append((name, total, right))
    return sorted(rows)


def _bars(path: Path, title: str, across: str, values: dict[str, float], more: dict[str, float] | None = None) -> Path:
    """A bar for each class, the longest on top; `more` stands behind `values`, which are then the true positives."""
    more = more or {}
    names = sorted(values, key=lambda name: (values[name] + more.get(name, 0.0), name))
    figure = plain_figure(8, min(max(2.5, 0.26 * len(names) + 1.2), 60.0))
    axes = figure.add_subplot()
    lengths = [values[name] for name in names]
    if more:
        axes.barh(range(len(names)), [more[name] for name in names], color=RED, label="false positives")
        axes.barh(
            range(len(names)), lengths, left=[more[name] for name in names], color=GREEN, label="true positives"
        )  # fmt: skip
        axes.legend(loc="lower right", frameon=False, fontsize=8)
    else:
        axes.barh(range(len(names)), lengths, color=COLOURS[0])
    for row, name in enumerate(names):
        whole = values[name] + more.get(name, 0.0)
        shown = f"{more[name]:.0f} + {values[name]:.0f}" if more else f"{whole:.0f}" if whole > 1 else f"{whole:.2f}"
        axes.text(whole, row, f" {shown}", va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(names)), [printable(name).replace("$", r"\$")[:40] for name in names], fontsize=8)
    axes.set_xlabel(across)
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    longest = max((values[name] + more.get(name, 0.0) for name in names), default=0.0)
    axes.set_xlim(0, 1.12 * longest or 1.0)  # also where all are 0
    axes.set_ylim(-0.6, max(len(names), 1) - 0.4)
    axes.spines[["top", "right"]].set_visible(False)
    with writing(path):
        figure.savefig(path, format="png")
    return path


def _curve(path: Path, name: str, one: VocClass) -> Path:
    """Precision by recall of a class, and the envelope whose area is its AP."""
    path.parent.mkdir(parents=True, exist_ok=True)
    recall: Floats = np.concatenate([[0.0], one.recall, [one.recall[-1] if len(one.recall) else 0.0]])
    precision: Floats = np.concatenate([[one.precision[0] if len(one.precision) else 0.0], one.precision, [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    figure = plain_figure(6, 4.5)
    axes = figure.add_subplot()
    axes.fill_between(recall, envelope, step="pre", color=COLOURS[0], alpha=0.2, linewidth=0)
    axes.plot(recall[1:-1], precision[1:-1], color=COLOURS[0], linewidth=1.4, marker="o", markersize=2.5)
    axes.set(xlim=(0, 1), ylim=(0, 1.05), xlabel="recall", ylabel="precision")
    title = f"{_percent(one.ap)} = {printable(name)[:60]} AP".replace("$", r"\$")
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.grid(color="#e6e8ea", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    with writing(path):
        figure.savefig(path, format="png")
    return path
