"""The preflight report as tables for a terminal."""

from __future__ import annotations

import math
from collections import defaultdict

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from boxwright.data.checks.preflight import PreflightReport
from boxwright.data.records import Problem
from boxwright.wording import counted
from boxwright.writing import printable

_CLASSES_SHOWN = 200
_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


def print_report(report: PreflightReport, console: Console, shown: int | None = 10) -> None:
    """Print a report: the dataset, its classes and box sizes by split, and its findings by kind.

    At most `shown` findings of a kind are printed (None: all).
    """
    dataset = report.dataset
    things, stuff = len(dataset.classes), len(dataset.classes.stuff)
    size = f"{counted(things or stuff, 'class')}{'' if things else ' of stuff'}"
    size += f" and {stuff} of stuff" if things and stuff else ""
    root = escape(printable(str(dataset.root)))
    console.print(f"[bold]{root}[/]: {dataset.format}, {size}", soft_wrap=True)
    for note in dataset.notes:
        console.print(f"  {printable(note)}", soft_wrap=True, markup=False, emoji=False)
    console.print(_images(report))
    if report.level_ranges and dataset.classes.names:
        console.print(_levels(report))
    most = len(dataset.classes) if shown is None else _CLASSES_SHOWN
    if dataset.classes.names:
        console.print(_classes(report, most))
    if len(dataset.classes) > most:
        console.print(f" ... and {counted(len(dataset.classes) - most, 'class')} more; --all shows them\n")
    if any(values.pixels for values in report.statistics.values()):
        console.print(_pixels(report))
    _print_findings(report, console, shown)


def finding_line(finding: Problem) -> str:
    """A finding's place, message, the corners of its box, and whether that is left out."""
    corners = f" box {', '.join(f'{value:g}' for value in finding.box)}" if finding.box else ""
    left_out = " (left out)" if finding.quarantined and finding.box else ""
    return printable(f"{finding.where}: {finding.message}{corners}{left_out}")


def _as_it_is(name: str) -> Text:
    """A name from the data for a table, with markup escaped."""
    return Text(printable(name))


def _table(title: str, first: str) -> Table:
    table = Table(box=box.SIMPLE, title=title, title_justify="left", caption_justify="left", pad_edge=False)
    table.add_column(first, no_wrap=True)
    return table


def _images(report: PreflightReport) -> Table:
    table = _table("Images", "split")
    for heading in ("images", "empty", "objects", "ignored", "width x height", "object side"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, values in report.statistics.items():
        small, large = values.smallest_hw, values.largest_hw
        size = f"{small[1]}x{small[0]}" if small else "-"
        size += f" - {large[1]}x{large[0]}" if large and large != small else ""
        sides = "{:.0f}/{:.0f}/{:.0f}".format(*values.side_px) if values.side_px else "-"
        counts = (values.images, values.empty, values.objects, values.ignored)
        table.add_row(_as_it_is(name), *map(str, counts), size, sides)
    table.caption = "object side: square root of the area, smallest/median/largest, in pixels"
    return table


def _levels(report: PreflightReport) -> Table:
    table = _table("Objects by pyramid level", "split")
    for low, high in report.level_ranges:
        heading = f"{low:g} and more" if math.isinf(high) else f"{low:g} to {high:g}"
        table.add_column(heading, justify="right", no_wrap=True)
    for name, values in report.statistics.items():
        table.add_row(_as_it_is(name), *map(str, values.per_level))
    table.caption = "by half the longer side at network size"
    return table


def _classes(report: PreflightReport, most: int) -> Table:
    table = _table("Objects by class", "class")
    table.add_column("id", justify="right")
    for name in report.statistics:
        table.add_column(_as_it_is(name), justify="right")
    classes = report.dataset.classes
    for identity, label in list(zip(classes.ids, classes.names, strict=True))[:most]:
        counts = (values.per_class[label] for values in report.statistics.values())
        table.add_row(_as_it_is(label), str(identity), *map(str, counts))
    return table


def _pixels(report: PreflightReport) -> Table:
    table = _table("Pixels by class", "class")
    for name in report.statistics:
        table.add_column(_as_it_is(name), justify="right")
    for label in report.dataset.classes.semantic_names:
        shares = (
            values.pixels.get(label, 0) / max(1, sum(values.pixels.values())) for values in report.statistics.values()
        )
        table.add_row(_as_it_is(label), *(f"{share:.1%}" for share in shares))
    table.caption = "share of the pixels that have a class"
    return table


def _print_findings(report: PreflightReport, console: Console, shown: int | None) -> None:
    if not report.findings:
        console.print("[green]No findings.[/]")
        return
    by_kind: dict[str, list[Problem]] = defaultdict(list)
    for finding in report.findings:
        by_kind[finding.kind].append(finding)
    for kind, found in by_kind.items():
        worst = found[0].severity
        console.print(f"[{_COLOURS[worst]}]{worst}[/] [bold]{kind}[/] ({len(found)})")
        lines = "\n".join(f"  {finding_line(finding)}" for finding in found[:shown])
        console.out(lines, highlight=False)
        if shown is not None and len(found) > shown:
            console.print(f"  ... and {len(found) - shown} more; --all shows them")
    errors, warnings = (sum(f.severity == name for f in report.findings) for name in ("error", "warning"))
    rest = len(report.findings) - errors - warnings
    console.print(f"{counted(errors, 'error')}, {counted(warnings, 'warning')}, {counted(rest, 'note')}")
