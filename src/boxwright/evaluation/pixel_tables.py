"""The figures of labels of pixels and of segments, class by class: as tables for a terminal, and as CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from boxwright.evaluation.pixel_counts import PixelFigures
from boxwright.writing import printable, writing

if TYPE_CHECKING:
    from rich.table import Table


class PixelTable(NamedTuple):
    """One table: what its rows are, its columns, and its rows, names first; None is undefined."""

    rows_are: str
    columns: tuple[str, ...]
    rows: list[tuple[str, int, list[float | None]]]


def pixel_tables(figures: PixelFigures) -> list[PixelTable]:
    """A table of the labels of pixels, and one of the segments of each class where there are any."""
    semantic, panoptic = figures.semantic, figures.panoptic
    labels = [
        (name, amount, [semantic.per_class[name], semantic.per_class_accuracy[name]])
        for name, amount in semantic.pixels.items()
    ]
    tables = [PixelTable("label", ("pixels", "IoU", "accuracy"), labels)]
    if panoptic is not None:
        classes = [
            (name, panoptic.segments[name], [quality.pq, quality.sq, quality.rq])
            for name, quality in panoptic.per_class.items()
        ]
        tables.append(PixelTable("class", ("segments", "PQ", "SQ", "RQ"), classes))
    return tables


def rich_table(table: PixelTable) -> Table:
    """A table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column(table.rows_are)
    for column in table.columns:
        made.add_column(column, justify="right")
    for name, amount, values in table.rows:
        made.add_row(Text(printable(name)), str(amount), *("-" if v is None else f"{v:.3f}" for v in values))
    return made


def table_csv(table: PixelTable) -> str:
    """A table as CSV text with a header; undefined values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([table.rows_are, *table.columns])
    for name, amount, values in table.rows:
        writer.writerow([name, amount, *("" if value is None else f"{value:.6f}" for value in values)])
    return text.getvalue()


def write_pixel_tables(folder: Path, figures: PixelFigures) -> list[Path]:
    """Write `per_label.csv`, and `per_class_segments.csv` where there are segments; returns the paths written."""
    paths = []
    for table in pixel_tables(figures):
        paths.append(folder / ("per_label.csv" if table.rows_are == "label" else "per_class_segments.csv"))
        with writing(paths[-1]) as path:
            path.write_text(table_csv(table), encoding="utf-8", errors="backslashreplace")
    return paths
