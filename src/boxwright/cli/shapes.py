"""The verb `shapes`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from boxwright.wording import counted


def shapes(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.", show_default=False)],
    train: Annotated[int, typer.Option(help="Training images.")] = 800,
    val: Annotated[int, typer.Option(help="Validation images; they do not depend on --train.")] = 200,
    layout: Annotated[
        str,
        typer.Option(help="voc (XML files, masks as images), coco (JSON), panoptic, semantic or dota (rotated boxes)."),
    ] = "voc",
    size: Annotated[int, typer.Option(help="Height and width of the images.")] = 256,
    classes: Annotated[int, typer.Option(help="Number of classes, 1 to 8.")] = 6,
    difficulty: Annotated[str, typer.Option(help="easy, medium or hard.")] = "medium",
    seed: Annotated[int, typer.Option(help="The same seed gives the same images.")] = 0,
) -> None:
    """Generate the synthetic shapes dataset: images with exact boxes and masks."""
    import shlex

    from rich.console import Console
    from rich.progress import track

    from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes

    console = Console(stderr=True)

    def progress(split: str, indices: Iterator[int], count: int) -> Iterator[int]:
        yield from track(indices, description=f"drawing {split}", total=count, console=console)

    stuff = layout in ("panoptic", "semantic")
    config = ShapesConfig(
        size=size, num_classes=classes, difficulty=difficulty, stuff=stuff, rotated=layout == "dota",  # type: ignore[arg-type]
    )  # fmt: skip
    write_shapes(folder, train, val, layout, config, seed, progress)  # type: ignore[arg-type]
    classes_of = config.classes
    names = ", ".join(classes_of.semantic_names if layout == "semantic" else classes_of.names + classes_of.stuff)
    typer.echo(
        f"{folder}: {train} training and {counted(val, 'validation image')} in {layout.upper()} layout ({names})"
    )
    own = {"panoptic": "panoptic-fpn-shapes", "semantic": "semantic-fpn-shapes", "dota": "rotated-faster-rcnn-shapes"}
    recipe = own.get(layout, "fcos")
    typer.echo(f"next: boxwright train {recipe} --data {shlex.quote(str(folder))}")
