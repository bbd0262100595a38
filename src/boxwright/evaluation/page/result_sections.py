"""The sections about the results: curves of training, classes, curves over the score, the confusion matrix."""

from __future__ import annotations

import numpy as np

from boxwright.evaluation.curves import best_threshold, mean_over_classes
from boxwright.evaluation.matching import Floats
from boxwright.evaluation.page.charts import Line, line_chart, thinned
from boxwright.evaluation.page.facts import RunFacts
from boxwright.evaluation.page.html import fraction, table, text
from boxwright.evaluation.report import LEGEND_LIMIT
from boxwright.wording import counted
from boxwright.writing import printable

MATRIX_LIMIT = 20
"""Classes up to which the whole confusion matrix is shown."""


def training_section(facts: RunFacts) -> str:
    """Losses and AP over the steps."""
    losses = [
        Line("training", *facts.training_loss(), colour=1),
        Line("validation", *facts.column("val/loss"), colour=2, points=True),
    ]
    aps = [
        Line(name, *facts.column(key), colour=colour, points=True)
        for name, key, colour in (
            ("AP", "val/AP", 1),
            ("AP50", "val/AP50", 2),
            ("mask AP", "val/segm_AP", 3),
            ("mask AP50", "val/segm_AP50", 4),
            ("PQ", "val/PQ", 5),
            ("mIoU", "val/mIoU", 6),
            ("keypoint AP", "val/keypoint_AP", 3),  # no detector has masks and keypoints, nor rotated boxes beside them
            ("keypoint AP50", "val/keypoint_AP50", 4),
            ("rotated AP", "val/rotated_AP", 3),
            ("rotated AP50", "val/rotated_AP50", 4),
        )
    ]
    aps = [line for line in aps if line.x]
    name, steps = printable(facts.name), (0.0, max([1.0, *(float(row["step"]) for row in facts.rows)]))
    loss = line_chart(losses, label=f"Loss by step of {name}", across="step", up="loss", x_range=steps)
    what = "AP" if facts.inputs.objects else "mIoU"
    ap = line_chart(aps, label=f"{what} by step of {name}", across="step", up=what, x_range=steps, y_range=(0, 1))
    return (
        f'<div class="pair"><figure><h3>Loss</h3>{loss}</figure>'
        f"<figure><h3>{what} on {text(facts.split)}</h3>{ap}</figure></div>"
    )


def class_section(facts: RunFacts) -> str:
    """The table of classes, the weakest first."""
    rows = sorted(facts.evaluation.rows, key=lambda row: (row.ap is None, row.ap or 0.0))
    cells = [
        [text(row.name), str(row.objects), *map(fraction, (row.precision, row.recall, row.f1, row.ap50)),
         f'<span class="bar" style="width:{70 * (row.ap or 0):.0f}px"></span>{fraction(row.ap)}']
        for row in rows
    ]  # fmt: skip
    caption = f"Classes, the weakest first; precision, recall and F1 at score {facts.score:.3f}, IoU 0.5"
    return table(caption, ["class", "objects", "precision", "recall", "F1", "AP50", "AP"], cells)


def curve_section(facts: RunFacts) -> str:
    """Precision by recall and F1 by score."""
    curves, name, best = facts.curves, printable(facts.name), best_threshold(facts.curves)
    precision = line_chart(
        _class_lines(facts, curves.recalls, curves.precision_by_recall),
        label=f"Precision by recall of {name}, a line for each class", across="recall", up="precision",
        x_range=(0, 1), y_range=(0, 1),
    )  # fmt: skip
    f1 = line_chart(
        _class_lines(facts, curves.scores, curves.f1), label=f"F1 by score threshold of {name}, a line for each class",
        across="score threshold", up="F1", x_range=(0, 1), y_range=(0, 1), mark=None if best is None else best.score,
    )  # fmt: skip
    at = "" if best is None else f", best {best.f1:.3f} at {best.score:.3f}"
    return (
        f'<div class="pair"><figure><h3>Precision by recall (IoU 0.5)</h3>{precision}</figure>'
        f"<figure><h3>F1 by score{at}</h3>{f1}</figure></div>"
    )


def _class_lines(facts: RunFacts, x: Floats, values: Floats) -> list[Line]:
    """A line for each class with objects, the weakest three coloured where there are many, and their mean."""
    aps, names = facts.curves.average_precision, facts.classes.names
    present = [int(label) for label in np.argsort(-aps, kind="stable") if not np.isnan(aps[label])]
    coloured = present if len(present) <= LEGEND_LIMIT else present[-3:]
    lines = [Line("", *thinned(x, values[label]), colour=-1) for label in present if label not in coloured]
    lines += [
        Line(f"{printable(names[label])} {aps[label]:.2f}", *thinned(x, values[label]), colour=number)
        for number, label in enumerate(coloured, 1)
    ]
    if len(present) > 1:
        lines.append(Line("mean", *thinned(x, mean_over_classes(values))))
    return lines


def confusion_section(facts: RunFacts) -> str:
    """The confusion matrix as a table, or the most frequent confusions where there are many classes."""
    names = [*map(printable, facts.classes.names), "background"]
    pairs = [[text(actual), text(found), str(times)] for actual, found, times in facts.confused_pairs(12)]
    if len(facts.classes) > MATRIX_LIMIT:
        if not pairs:
            return "<p>No class is taken for another.</p>"
        caption = (
            f"The most frequent confusions among {counted(len(facts.classes), 'class')} at score {facts.score:.3f}"
        )
        return table(caption, ["ground truth", "detected as", "times"], pairs, words=(1,))
    shares = facts.confusion / np.maximum(facts.confusion.sum(0, keepdims=True), 1)
    rows = []
    for found, name in enumerate(names):
        cells = []
        for actual, count in enumerate(facts.confusion[found].tolist()):
            right = ' class="right"' if found == actual and found < len(names) - 1 else ""
            shade = f"color-mix(in srgb, var(--accent) {45 * shares[found, actual]:.0f}%, var(--panel))"
            cells.append(f'<td{right} style="background:{shade}">{count if count else "·"}</td>')
        rows.append(f'<tr><th scope="row">{text(name)}</th>{"".join(cells)}</tr>')
    heads = "".join(f'<th scope="col">{text(name)}</th>' for name in names)
    caption = (
        f"Rows: detected as; columns: ground truth. Score at least {facts.score:.3f}, IoU 0.5; shade: share of the "
        "column. The last row counts missed objects, the last column detections on background."
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix"><table class="matrix"><caption>'
        f"{text(caption)}</caption><thead><tr><td></td>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
