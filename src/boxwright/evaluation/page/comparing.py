"""Runs beside each other on equal images: AP, its interval, and the interval of its difference to the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from boxwright.evaluation.bootstrap import interval, redrawn_coco_ap
from boxwright.evaluation.coco_ap import IOU_THRESHOLDS
from boxwright.evaluation.matching import Floats, gather, match_at
from boxwright.evaluation.page.charts import Line, line_chart
from boxwright.evaluation.page.facts import RunFacts
from boxwright.evaluation.page.html import fraction, table, text
from boxwright.writing import printable


@dataclass(frozen=True, slots=True)
class Standing:
    """AP of a run with its 95 % interval, and its difference to the first run; None where undefined."""

    ap: float | None
    around: tuple[float, float] | None
    difference: float | None = None
    difference_around: tuple[float, float] | None = None


def standings(runs: Sequence[RunFacts]) -> list[Standing]:
    """The standing of each run; the draws of the images are those of `compare`.

    Raises ValueError where the runs were not evaluated on the same images with the same classes.
    """
    first = runs[0]
    for other in runs[1:]:
        if other.classes.names != first.classes.names:
            raise ValueError(
                f"{first.name} has the classes {', '.join(first.classes.names)}, {other.name} has "
                f"{', '.join(other.classes.names)}: only runs with the same classes can be put side by side"
            )
        if other.inputs.paths != first.inputs.paths:
            raise ValueError(
                f"{first.name} was evaluated on {len(first.inputs.paths)} images of {first.data} ({first.split}), "
                f"{other.name} on {len(other.inputs.paths)} of {other.data} ({other.split}), which are not the same: "
                "choose one set for all with --data and --split"
            )
    found: list[Standing] = []
    base: Floats = np.zeros(0)
    for run in runs:
        one, ap = run.inputs, run.evaluation.figures["AP"]
        matches = match_at(gather(one.detections, one.ground_truths), len(run.classes), IOU_THRESHOLDS)
        redrawn = redrawn_coco_ap(matches, len(one.paths)) if ap is not None else np.zeros(0)
        sure = len(redrawn) > 0 and len(one.paths) > 1
        around = interval(ap, redrawn) if sure else None
        if not found:
            base = redrawn
            found.append(Standing(ap, around))
            continue
        apart = None if ap is None or found[0].ap is None else ap - found[0].ap
        apart_around = interval(apart, redrawn - base) if sure and apart is not None else None
        found.append(Standing(ap, around, apart, apart_around))
    return found


def comparison_section(runs: Sequence[RunFacts], places: Sequence[Standing]) -> str:
    """The table of all runs, what it means, AP by class, and AP over the steps in one chart."""
    rows = []
    for number, (run, place) in enumerate(zip(runs, places, strict=True)):
        figures = run.evaluation.figures
        difference = "first" if number == 0 else _with_around(place.difference, place.difference_around, signed=True)
        rows.append([text(run.name), _with_around(place.ap, place.around), difference,
                     fraction(figures["AP50"]), fraction(figures["AP75"]), text(run.recipe)])  # fmt: skip
    caption = f"{len(runs[0].inputs.paths)} images, 95 % intervals in brackets, from drawing the images anew 200 times"
    heads = ["run", "AP", "difference to the first", "AP50", "AP75", "recipe"]
    said = "".join(f"<p>{sentence}</p>" for sentence in map(_verdict, runs[1:], places[1:]))
    return f'{table(caption, heads, rows)}{said}<div class="pair"><div>{_by_class(runs)}</div>{_chart(runs)}</div>'


def _verdict(run: RunFacts, place: Standing) -> str:
    """Whether the difference of a run to the first can be told from chance."""
    if place.difference is None or place.difference_around is None:
        return f"{text(run.name)}: no difference can be computed."
    low, high = place.difference_around
    if low > 0:
        return f'{text(run.name)} is <span class="better">better</span> than the first: the interval is above zero.'
    if high < 0:
        return f'{text(run.name)} is <span class="worse">worse</span> than the first: the interval is below zero.'
    return f"{text(run.name)}: these images cannot tell it from the first, as the interval holds zero."


def _with_around(value: float | None, around: tuple[float, float] | None, *, signed: bool = False) -> str:
    if value is None:
        return "–"
    form = "{:+.3f}" if signed else "{:.3f}"
    ends = "" if around is None else f" ({form.format(around[0])} to {form.format(around[1])})"
    return form.format(value) + ends


def _by_class(runs: Sequence[RunFacts]) -> str:
    rows = []
    for name in runs[0].classes.names:
        aps = [run.evaluation.per_class.get(name) for run in runs]
        cells = [fraction(aps[0])]
        for ap in aps[1:]:
            apart = "" if ap is None or aps[0] is None else f" ({ap - aps[0]:+.3f})"
            cells.append(fraction(ap) + apart)
        rows.append([text(name), *cells])
    return table("AP by class, with the difference to the first run", ["class", *(run.name for run in runs)], rows)


def _chart(runs: Sequence[RunFacts]) -> str:
    lines = [
        Line(printable(run.name), *run.column("val/AP"), colour=number, points=True, dashed=number % 2 == 0)
        for number, run in enumerate(runs, 1)
    ]
    steps = (0.0, max([1.0, *(step for line in lines for step in line.x)]))
    chart = line_chart(lines, label="AP by step of all runs", across="step", up="AP", x_range=steps, y_range=(0, 1))
    return f"<figure><h3>AP by step</h3>{chart}</figure>"
