"""The verb `inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxwright.cli.tables import table_console


def inspect(
    folder: Annotated[Path, typer.Argument(help="Folder of labelled images, a data .yaml, COCO .json or CVAT .xml.")],
    classes: Annotated[
        str | None, typer.Option(help='Only these classes, or merged ones: "car,person", "car+truck=vehicle".')
    ] = None,
    split: Annotated[str | None, typer.Option(help="Check one split only: train, val, test, ...")] = None,
    recipe: Annotated[
        str, typer.Option(help="Count boxes by the pyramid levels of this recipe's model.")
    ] = "fcos-small",
    decode: Annotated[bool, typer.Option("--decode", help="Decode every image, mask and map (slower).")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    all_findings: Annotated[bool, typer.Option("--all", help="Print every finding, not ten of a kind.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when there are errors or warnings.")] = False,
) -> None:
    """Check a dataset before training and report every invalid box with its file and line."""
    from dataclasses import replace
    from json import dumps

    from boxwright.data.checks.preflight import preflight
    from boxwright.data.checks.report_text import print_report
    from boxwright.data.formats.folder import find_split, open_folder
    from boxwright.inference.claims import unclaimed_findings
    from boxwright.ops.points import level_ranges
    from boxwright.recipes import load_recipe
    from boxwright.training.prepare import tiles_of

    settings = load_recipe(recipe)
    bounds = getattr(getattr(settings.model, "assignment", None), "level_bounds", None)
    dataset = open_folder(folder, classes)
    if split is not None:
        chosen = find_split(dataset, split)
        dataset = replace(dataset, splits={chosen.name: chosen})
    report = preflight(
        dataset,
        level_ranges=level_ranges(bounds) if bounds else None,
        resize=settings.data.resize.rule(),
        check_pixels=decode,
        check_masks=decode,
        need_masks=settings.needs_masks,
        value_range=settings.data.value_range,
        tiling=settings.data.tiling(),
        check_maps=decode or settings.needs_semantic or not dataset.classes.names,
    )
    cut = {name: tiles_of(part, settings) for name, part in report.dataset.splits.items()}
    lost = unclaimed_findings(replace(report.dataset, splits=cut), settings)
    report = replace(report, findings=(*report.findings, *lost))
    if json:
        typer.echo(dumps(report.as_dict(), indent=1))
    else:
        print_report(report, table_console(), None if all_findings else 10)
    if strict and report.serious:
        raise typer.Exit(1)
