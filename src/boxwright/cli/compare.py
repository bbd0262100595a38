"""The verb `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxwright.cli.progress import log


def compare(
    candidates: Annotated[
        list[str],
        typer.Argument(
            help="Two or more: a recipe, with overrides in the same quotes ('fcos model.loss.box=iou'), which is "
            "trained; or a checkpoint or run folder."
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="Folder of labelled images: VOC, COCO (panoptic too), LVIS, Cityscapes, CVAT, YOLO, DOTA or maps."
        ),
    ],
    minutes: Annotated[float | None, typer.Option(help="Time budget of each training.")] = None,
    steps: Annotated[int | None, typer.Option(help="Instead of minutes: optimiser steps of each training.")] = None,
    classes: Annotated[str | None, typer.Option(help="Select or merge classes: 'person,car+truck=vehicle'.")] = None,
    train_split: Annotated[str, typer.Option(help="Split to train on.")] = "train",
    val_split: Annotated[str, typer.Option(help="Split to validate on while training.")] = "val",
    split: Annotated[
        str | None, typer.Option(help="Split that all are compared on; the validation split if not given.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder; a new comparison, comparison-2, ... if not given.")
    ] = None,
    images: Annotated[int, typer.Option(min=0, help="How many images to draw side by side.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of everything random, the same for all.")] = 0,
) -> None:
    """Compare recipes under one budget, or checkpoints: AP, its interval, speed, size, images side by side.

    Prints a table in Markdown to standard output, everything else to standard error. An interval that is all above or
    below zero in the column "against the first" is a difference that these images can tell (95 %).
    """
    from boxwright.training.compare import compare as compared
    from boxwright.training.compare import markdown

    result = compared(
        candidates, data, minutes=minutes, steps=steps, classes=classes, train_split=train_split, val_split=val_split,
        split=split, out=out, images=images, device=device, seed=seed, log=log,
    )  # fmt: skip
    typer.echo(markdown(result), nl=False)
    log(f"{result.images} images; runs, comparison.json, comparison.md and side_by_side.jpg are in {result.folder}")
