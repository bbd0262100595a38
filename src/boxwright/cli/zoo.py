"""The verb `zoo`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from boxwright.weights.zoo import ZooEntry


def zoo(
    word: Annotated[str, typer.Argument(help="Only names that contain this.")] = "",
    addresses: Annotated[bool, typer.Option(help="Print the URL of each, and where its file is stored.")] = False,
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="Print the tables of Detectron2's zoo instead: schedule, times, memory, AP, proposal AR, model id, "
            "and the recipe; all as Detectron2 published it.",
        ),
    ] = False,
) -> None:
    """List detectors that load by name, as in `boxwright predict torchvision/fcos_resnet50_fpn IMAGES`."""
    from boxwright.weights.download import cache_folder, place_of
    from boxwright.weights.zoo import zoo as entries

    found = [entry for entry in entries() if word in entry.name]
    if not found:
        raise ValueError(f"no name in the zoo contains {word!r}")
    if published:
        _print_published(found)
        return
    width = max(len(entry.name) for entry in found)
    typer.echo(f"{'name':{width}}  box AP  mask AP  keypoint AP  M param  GFLOPs  licence       here")
    for entry in found:
        figures = [
            f"{_figure(entry.ap):>6}", f"{_figure(entry.mask_ap):>7}", f"{_figure(entry.keypoint_ap):>11}",
            f"{_figure(entry.parameters):>7}", f"{_figure(entry.gflops):>6}",
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


def _print_published(entries: Sequence[ZooEntry]) -> None:
    """The columns of Detectron2's own tables, and the recipe that has its settings."""
    from boxwright.weights.zoo import HARDWARE, recipe_of

    known = [entry for entry in entries if entry.published is not None]
    if not known:
        raise ValueError(
            "none of these has published times: only Detectron2 publishes them (boxwright zoo detectron2/)"
        )
    typer.echo("| published by Detectron2 | schedule | train s/iteration | inference s/image | train GB | box AP | "
               "mask AP | keypoint AP | proposal AR | model id | recipe |")  # fmt: skip
    typer.echo("|---|---|---|---|---|---|---|---|---|---|---|")
    for entry in known:
        times = entry.published
        assert times is not None
        typer.echo(
            f"| {entry.name.partition('/')[2]} | {entry.schedule} | {times.seconds_per_iteration:.3f} | "
            f"{times.seconds_per_image:.3f} | {times.memory_gb:.1f} | "
            f"{_figure(entry.ap)} | {_figure(entry.mask_ap)} | {_figure(entry.keypoint_ap)} | "
            f"{_figure(entry.proposal_ar)} | {entry.model_id} | {recipe_of(entry.name)} |"
        )
    typer.echo(
        f"Measured by Detectron2 ({HARDWARE}), not here. `boxwright benchmark --train RECIPE` measures ours.", err=True
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
