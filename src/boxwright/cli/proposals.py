"""The verb `proposals`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxwright.cli.progress import log, progress_bar
from boxwright.wording import counted


def proposals(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint (or run folder) of a proposal network, such as RPN.")],
    data: Annotated[
        Path, typer.Option(help="Folder of labelled images: VOC, COCO, LVIS, Cityscapes, CVAT, YOLO or DOTA.")
    ],
    out: Annotated[Path, typer.Option(help="The file to write, .npz.")],
    split: Annotated[str | None, typer.Option(help="Only this split; all of them if not given.")] = None,
    max_proposals: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of boxes per image; the recipe's if not given.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Write the boxes that a detector proposes in every image of a data folder, for Fast R-CNN.

    One file serves training, validation and evaluation: boxwright train fast-rcnn --data FOLDER --proposals FILE.
    Unreadable images are reported and left out, and the exit code is then 2.
    """
    from boxwright.inference.propose import write_proposals_of

    with progress_bar("proposing") as progress:
        images, boxes, unreadable = write_proposals_of(
            checkpoint,
            data,
            out,
            split=split,
            max_proposals=max_proposals,
            batch=batch,
            device=device,
            log=log,
            progress=progress,
        )
    typer.echo(f"{out}: {counted(boxes, 'proposal')} for {counted(images, 'image')}")
    if unreadable:
        raise typer.Exit(2)
