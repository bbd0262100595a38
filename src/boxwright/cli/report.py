"""The verb `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxwright.cli.progress import log, progress_bar


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="A run folder, or several to put side by side.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of labelled images to evaluate on; that of the run if not given.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split to evaluate on; that which the run was validated on if not given.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write; report.html (of another split than that of validation report-SPLIT.html) in the run "
            "folder, or here for several runs, if not given."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Write report.html: data, curves, classes, mistakes drawn, what to do next; of several runs, side by side.

    The last weights are evaluated again. The file needs no network and nothing beside it. Prints its path to standard
    output, everything else to standard error.
    """
    from boxwright.training.run_page import report as written

    with progress_bar("evaluating") as progress:
        path = written(list(runs), data=data, split=split, out=out, device=device, log=log, progress=progress)
    typer.echo(str(path))
