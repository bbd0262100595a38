"""The verb `zoo`."""

from __future__ import annotations

from typing import Annotated

import typer


def zoo(
    word: Annotated[str, typer.Argument(help="Only names that contain this.")] = "",
    addresses: Annotated[bool, typer.Option(help="Print the URL of each, and where its file is stored.")] = False,
) -> None:
    """List detectors that load by name, as in `boxwright predict torchvision/fcos_resnet50_fpn IMAGES`."""
    from boxwright.weights.download import cache_folder, place_of
    from boxwright.weights.zoo import zoo as entries

    found = [entry for entry in entries() if word in entry.name]
    if not found:
        raise ValueError(f"no name in the zoo contains {word!r}")
    width = max(len(entry.name) for entry in found)
    typer.echo(f"{'name':{width}}  box AP  mask AP  M param  GFLOPs  licence       here")
    for entry in found:
        figures = [
            f"{_figure(entry.ap):>6}", f"{_figure(entry.mask_ap):>7}", f"{_figure(entry.parameters):>7}",
            f"{_figure(entry.gflops):>6}",
        ]  # fmt: skip
        here = "yes" if place_of(entry.url).exists() else "-"
        typer.echo(f"{entry.name:{width}}  {'  '.join(figures)}  {entry.licence:12}  {here}")
        if addresses:
            typer.echo(f"    {entry.url}\n    {place_of(entry.url)}")
    typer.echo(
        f"AP on COCO val2017 as published by its library. Weights are downloaded when a name is used, and kept in "
        f"{cache_folder()}; without network, download the URL (--addresses) elsewhere and put the file there.",
        err=True,
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
