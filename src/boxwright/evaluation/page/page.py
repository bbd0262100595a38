"""The page: sections in order, for one run or for several side by side, as one HTML text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files

from boxwright.evaluation.page.advice import advice
from boxwright.evaluation.page.comparing import comparison_section, standings
from boxwright.evaluation.page.data_section import data_section
from boxwright.evaluation.page.facts import RunFacts
from boxwright.evaluation.page.html import fraction, text
from boxwright.evaluation.page.mistake_section import mistake_section
from boxwright.evaluation.page.pixel_section import pixel_section
from boxwright.evaluation.page.result_sections import (
    class_section,
    confusion_section,
    curve_section,
    training_section,
)
from boxwright.wording import counted

SAMPLES, WORST = 6, 6
"""Images of each gallery of one run; of several runs each has fewer."""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def report_page(runs: Sequence[RunFacts]) -> str:
    """The HTML of the report of one run, or of several evaluated on the same images; ValueError where they are not."""
    places = standings(runs) if len(runs) > 1 else []
    worst = WORST if len(runs) == 1 else 3
    sections: list[tuple[str, str, str]] = []
    if places:
        sections.append(("comparison", "Side by side", comparison_section(runs, places)))
    shown: list[tuple[str, str, Callable[[RunFacts], str]]] = [
        ("next", "What to do next", _todo),
        ("training", "Training", training_section),
    ]
    if any(run.evaluation.pixels is not None for run in runs):
        shown.append(("pixels", "Pixels", lambda run: pixel_section(run, worst)))
    if all(run.inputs.objects for run in runs):
        shown += [
            ("classes", "Classes", class_section),
            ("curves", "Curves over the score", curve_section),
            ("confusion", "Confusion matrix", confusion_section),
            ("mistakes", "Mistakes", lambda run: mistake_section(run, worst)),
        ]
    sections += [(key, title, _beside(runs, draw)) for key, title, draw in shown]
    alike = all(run.check == runs[0].check for run in runs)
    told = runs[:1] if alike else runs
    sections.append(("data", "Data", _beside(told, lambda run: data_section(run, SAMPLES if len(told) == 1 else 2))))
    title = " and ".join(run.name for run in runs)
    links = "".join(f'<li><a href="#{key}">{heading}</a></li>' for key, heading, _ in sections)
    body = "".join(
        f'<section aria-labelledby="{key}"><h2 id="{key}">{heading}</h2>{html}</section>'
        for key, heading, html in sections
    )
    style = files("boxwright.evaluation.page").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{text(title)}: report</title>'
        f"<style>{style}</style></head>"
        f"<body><header><h1>{text(title)}</h1>{''.join(map(_headline, runs))}"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header><main>{body}</main>'
        '<footer class="quiet">Written by boxwright. AP is COCO\'s, a fraction; see docs/report.md.</footer>'
        "</body></html>\n"
    )


def _beside(runs: Sequence[RunFacts], draw: Callable[[RunFacts], str]) -> str:
    """A section of one run, or of all of them in columns."""
    if len(runs) == 1:
        return draw(runs[0])
    parts = "".join(f'<div><h3 class="run">{text(run.name)}</h3>{draw(run)}</div>' for run in runs)
    return f'<div class="runs several">{parts}</div>'


def _headline(run: RunFacts) -> str:
    """What was evaluated, and the figures that matter."""
    figures, count = run.evaluation.figures, len(run.inputs.paths)
    state = "" if run.finished else " This run is not finished: go on with boxwright train --resume."
    where = f"{counted(count, 'image')} of {run.split} in {run.data}"
    said = f"{run.name}: recipe {run.recipe}, last weights on {where}.{state}"
    interval, best = figures.get("AP50_interval"), figures["best_f1"]
    of_pixels = ("PQ", "SQ", "RQ", "mIoU", "pixel_accuracy")
    tiles: list[tuple[str, str]] = [(key, fraction(figures[key])) for key in of_pixels if key in figures]
    if run.inputs.objects:
        tiles += [(key, fraction(figures[key])) for key in ("AP", "AP50", "AP75")]
    if interval:
        at = tiles.index(("AP50", fraction(figures["AP50"])))
        tiles[at] = (f"AP50 ({interval[0]:.2f} to {interval[1]:.2f} at 95 %)", tiles[at][1])
    if figures.get("segm_AP") is not None:
        tiles.append(("mask AP", fraction(figures["segm_AP"])))
    for kind in ("keypoint", "rotated"):
        if figures.get(f"{kind}_AP") is not None:
            tiles += [(f"{kind} {name}", fraction(figures[f"{kind}_{name}"])) for name in ("AP", "AP50")]
    if best:
        tiles.append((f"best F1, at score {best['score_threshold']:.3f}", fraction(best["f1"])))
        tiles += [("precision there", fraction(best["precision"])), ("recall there", fraction(best["recall"]))]
    cells = "".join(f"<li><b>{value}</b><span>{text(name)}</span></li>" for name, value in tiles)
    notes = "".join(f"<p>{text(note)}</p>" for note in run.evaluation.notes)
    return f'<p class="quiet">{text(said)}</p><ul class="tiles">{cells}</ul>{notes}'


def _todo(run: RunFacts) -> str:
    rows = "".join(f"<li><b>{text(one.do)}</b><span>{text(one.because)}</span></li>" for one in advice(run))
    return f'<ol class="todo">{rows}</ol>'
