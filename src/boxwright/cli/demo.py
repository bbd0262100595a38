"""The verb `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxwright.wording import counted


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the demo's data, run and images.")] = Path("runs/demo"),
    minutes: Annotated[float, typer.Option(help="Time for the run: training, evaluation and report.")] = 3.5,
    train: Annotated[int, typer.Option(help="Images to train on.")] = 1000,
    val: Annotated[int, typer.Option(help="Images to validate on.")] = 150,
    seed: Annotated[int, typer.Option(help="Seed of images and training.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Train, evaluate and draw on synthetic images in four minutes, from nothing.

    Draws a shapes dataset, trains `fcos-shapes` on it from random weights, evaluates, predicts, and prints where the
    images are. The last line has AP and AP50; metrics.json has all metrics.
    """
    import json

    from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
    from boxwright.inference.predictor import Detector
    from boxwright.training.run import train as run
    from boxwright.visualize import contact_sheet, save
    from boxwright.visualize import draw as drawn
    from boxwright.writing import free_folder, writing

    folder = free_folder(out)
    data = folder / "data"
    typer.echo(f"demo: drawing {train} + {counted(val, 'image')} of shapes into {data}", err=True)
    write_shapes(data, train, val, "voc", ShapesConfig(), seed)
    result = run("fcos-shapes", data, name="run", runs=folder, minutes=minutes, device=device, seed=seed)
    if not result.finished:
        raise typer.Exit(1)
    figures = result.metrics  # digit for digit what `evaluate` says of the checkpoint
    with writing(folder / "metrics.json") as file:
        file.write_text(json.dumps(figures, indent=1), encoding="utf-8")

    from boxwright.data.image_io.decode import read_image

    detector = Detector.load(result.last, device)
    chosen = sorted((data / "JPEGImages").glob("val_*.jpg"))[:9]
    images = [drawn(read_image(path), one) for path, one in zip(chosen, detector.predict(chosen), strict=True)]
    with writing(folder / "predictions.jpg") as file:
        save(contact_sheet(images), file)
    typer.echo(f"images: {folder / 'predictions.jpg'} (found), {result.folder} (curves, batches, confusion matrix)")
    typer.echo(f"weights:  {result.last}   try: boxwright predict {result.last} {data / 'JPEGImages'}")
    typer.echo(f"AP {figures['AP'] or 0.0:.4f}  AP50 {figures['AP50'] or 0.0:.4f}")
