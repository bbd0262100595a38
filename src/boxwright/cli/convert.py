"""The verb `convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxwright.wording import counted
from boxwright.writing import printable


def convert(
    source: Annotated[
        str, typer.Argument(help="A checkpoint file, a zoo name, detectron2://... or https://...; see `boxwright zoo`.")
    ],
    to: Annotated[
        str | None,
        typer.Option(help="torchvision, detectron2, adelaidet, mmdetection or course: write a file for that code."),
    ] = None,
    adapt: Annotated[
        bool, typer.Option(help="With --to: take that library's rules of detection where no weight depends on them.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="The file to write; in the working folder if not given.")] = None,
    variant: Annotated[
        str | None,
        typer.Option(help="What a file does not tell: baseline, improved (original FCOS), 001, 003, 320, 800."),
    ] = None,
    stride_in_1x1: Annotated[
        bool | None, typer.Option(help="Position of the backbone's strides, if not as usual in that library.")
    ] = None,
    norm_eps: Annotated[float | None, typer.Option(help="eps of the backbone's BatchNorm, if not as usual.")] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Text file with one class name per line, for a checkpoint without class names.")
    ] = None,
) -> None:
    """Convert a checkpoint of torchvision, Detectron2, AdelaiDet, MMDetection, the original FCOS or the course.

    A recipe for fine-tuning, OUT.yaml, is written next to OUT.pt: boxwright train OUT.yaml --weights OUT.pt; to change
    nothing in it, boxwright train --weights FILE needs neither.
    """
    import yaml

    from boxwright.checkpoint import save_checkpoint
    from boxwright.convert.export import LIBRARIES, export, write_state
    from boxwright.convert.mmdetection_text import meta_of
    from boxwright.inference.loading import open_checkpoint
    from boxwright.recipes import dump_recipe
    from boxwright.recipes.fine_tuning import fine_tuning_recipe
    from boxwright.structures import Classes
    from boxwright.writing import writing

    if to is not None and to not in LIBRARIES:
        raise ValueError(f"--to: expected {' or '.join(LIBRARIES)}, got {to}")
    if adapt and to is None:
        raise ValueError("--adapt: expected --to with the library whose rules are to be taken")
    names = None
    if classes is not None:
        names = Classes.named(line.strip() for line in classes.read_text(encoding="utf-8").splitlines() if line.strip())
    found = open_checkpoint(
        source, variant=variant, stride_in_1x1=stride_in_1x1, norm_eps=norm_eps, classes=names
    )  # fmt: skip
    origin = found.origin or {}
    model = dump_recipe(found.recipe)["model"]
    stem = Path(source).name if "/" in source else source
    if to is not None:
        path = out or Path(f"{Path(stem).stem}-{to}.pth")
        _check_ending(path, (".pt", ".pth", ".pkl"))
        _refuse_existing(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = origin.get("kept") if origin.get("family") == to else None
        written = export(model, len(found.classes), found.weights, to, kept, adapt=adapt)
        write_state(
            written.state, path, to, meta_of(dump_recipe(found.recipe), found.classes) if to == "mmdetection" else None
        )
        for note in written.notes:
            typer.echo(note, err=True)
        typer.echo(f"{found.recipe.model.name} with {counted(len(found.classes), 'class')}, as {to} has it", err=True)
        typer.echo(str(path))
        return
    path = out or Path(f"{Path(stem).stem}.boxwright.pt")
    _check_ending(path, (".pt", ".pth"))
    _refuse_existing(path)
    _refuse_existing(path.with_suffix(".yaml"))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(found, path)
    recipe = dump_recipe(fine_tuning_recipe(found.recipe)) | {"description": f"Fine-tuning of {source}."}
    recipe.pop("name")
    with writing(path.with_suffix(".yaml")) as beside:
        beside.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    size = sum(tensor.numel() for tensor in found.weights.values()) / 1e6
    kind = f"{origin.get('family', 'boxwright')}: {origin.get('architecture', found.recipe.model.name)}"
    typer.echo(printable(f"{kind}, {counted(len(found.classes), 'class')}, {size:.1f} million parameters"), err=True)
    if origin.get("licence"):
        typer.echo(f"licence: {origin['licence']}", err=True)
    for note in origin.get("notes", []):
        typer.echo(printable(f"assumed: {note}"), err=True)
    typer.echo(str(path))


def _check_ending(path: Path, endings: tuple[str, ...]) -> None:
    """The suffix decides how a file is read later, and the recipe is named after the file."""
    if path.suffix not in endings:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(endings)}; choose another with --out")


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise ValueError(f"{path} exists already; choose another with --out")
