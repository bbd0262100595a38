"""The verb `benchmark`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from boxwright.cli.progress import log
from boxwright.wording import counted

FOLDER_IMAGES = 512
"""Images of a folder that `predict` is timed with at most."""


OF_RUNTIMES = ("images", "data", "split", "runtimes", "batch", "repeats")
"""Parameters that do nothing with --train."""


def benchmark(
    context: typer.Context,
    checkpoint: Annotated[
        Path,
        typer.Argument(help="A boxwright checkpoint, such as runs/NAME/weights/best.pt; with --train a recipe's name."),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="With --train: settings of the recipe, as for train.")
    ] = None,
    train: Annotated[
        bool,
        typer.Option(
            "--train", help="Time the training step of a recipe: seconds an iteration, images a second, peak memory."
        ),
    ] = False,
    steps: Annotated[
        int | None, typer.Option(min=1, help="With --train: steps that are timed; three of each scale if not given.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of images to run on (and to calibrate int8); synthetic ones if not given."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Labelled folder: compute AP (rotated AP, PQ, mIoU) in each runtime.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of --data; val if not given.")] = None,
    runtimes: Annotated[
        str | None, typer.Option(help="Such as torch,onnx,openvino-int8; all but torch-compiled if not given.")
    ] = None,
    batch: Annotated[int, typer.Option(min=2, help="Images per batch, for the throughput.")] = 8,
    repeats: Annotated[
        int, typer.Option(min=1, help="Rounds in which runtimes take turns; the median is reported.")
    ] = 7,
    device: Annotated[str, typer.Option(help="Of torch: auto, cpu, cuda, cuda:N or mps.")] = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Compare the runtimes of this machine for a checkpoint: latency, throughput, file size, AP.

    Exported files are temporary; `boxwright export` writes and checks them. Latency is that of one image, throughput
    that of batches; both from pixels at network size to detections. The last line is `predict` as a whole, from files
    to detections, with the part of the time in which the device had nothing to do.
    """
    if train:
        sources = {name: context.get_parameter_source(name) for name in OF_RUNTIMES}
        given = [f"--{name}" for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
        if given:
            raise ValueError(f"{given[0]} is for the runtimes of a checkpoint, and would have no effect with --train")
        _train(str(checkpoint), overrides or (), steps or 0, device, json_output)
        return
    if overrides or steps is not None:
        word = "--steps" if steps is not None else str(overrides[0]) if overrides else ""
        raise ValueError(f"{word} is for --train, which measures the training of a recipe")
    _runtimes(checkpoint, images, data, split, runtimes, batch, repeats, device, json_output)


def _train(recipe: str, overrides: Sequence[str], steps: int, device: str, json_output: bool) -> None:
    """Print what a training step of a recipe takes."""
    import json

    from boxwright.recipes import load_recipe
    from boxwright.recipes.choice import settled, this_machine
    from boxwright.runtime.devices import device_called
    from boxwright.training.measured_steps import training_speed

    name, _ = settled(recipe, this_machine(device_called(device)))
    speed = training_speed(load_recipe(name, overrides), device=device, steps=steps)
    if json_output:
        typer.echo(json.dumps({"recipe": name, **speed._asdict()}))
        return
    typer.echo("| measured here | device | precision | images/iteration | s/iteration | images/s | peak GiB |")
    typer.echo("|---|---|---|---|---|---|---|")
    typer.echo(
        f"| {name} | {speed.device} | {speed.precision} | {speed.batch} of {speed.height} x {speed.width} | "
        f"{speed.seconds_per_iteration:.3f} | {speed.images_per_second:.2f} | {speed.memory_gb:.2f} |"
    )


def _runtimes(
    checkpoint: Path, images: Path | None, data: Path | None, split: str | None, runtimes: str | None, batch: int,
    repeats: int, device: str, json_output: bool,
) -> None:  # fmt: skip
    """Print what each runtime makes of a checkpoint."""
    import json
    import tempfile

    from boxwright.data.formats.folder import find_split, open_folder
    from boxwright.data.image_io.decode import read_image
    from boxwright.data.inputs import image_paths
    from boxwright.deploy.benchmark import (
        RUNTIMES,
        available_runtimes,
        build_runtimes,
        evaluate_runtimes,
        folder_speed,
        main_figure,
        measure_speed,
        network_images,
    )
    from boxwright.deploy.export.gate import synthetic_images
    from boxwright.inference.loading import open_checkpoint
    from boxwright.models import MODELS
    from boxwright.runtime.devices import device_called
    from boxwright.runtime.winograd import wide_convolutions

    where = device_called(device)
    source = open_checkpoint(checkpoint)
    if MODELS[source.recipe.model.name].needs_proposals:
        raise ValueError(f"{source.recipe.model.name} needs proposals for every image, which benchmark does not read")
    network: Any = source.build()
    wide = bool(wide_convolutions(network))
    reasons = available_runtimes(where, calibration=images is not None, wide=wide)
    wanted = [name for name in RUNTIMES if name != "torch-compiled"] if runtimes is None else runtimes.split(",")
    for name in wanted:
        if name not in reasons:
            raise ValueError(f"--runtimes: expected some of {', '.join(RUNTIMES)}, got {name!r}")
        if reasons[name]:
            log(f"{name} left out: {reasons[name]}")
    names = [name for name in wanted if not reasons[name]]
    if not names:
        raise ValueError("none of these runtimes is available")
    if split is not None and data is None:
        raise ValueError("--split is of --data: give --data FOLDER, or leave --split out")
    part = split or "val"
    if data is not None:
        find_split(open_folder(data), part)  # errors are reported before minutes of work
    paths = [] if images is None else image_paths(images)
    given = synthetic_images() if images is None else [read_image(one) for one in paths[:32]]
    with tempfile.TemporaryDirectory() as folder:
        size = sum(value.numel() * value.element_size() for value in source.weights.values())
        made = build_runtimes(source, names, Path(folder), device=where, weights_size=size, images=images, log=log)
        fed = network_images(made[0].detector, given)
        speeds = measure_speed(made, fed, batch=batch, repeats=repeats)
        whole = folder_speed(made[0].detector, paths[:FOLDER_IMAGES] or given, batch)
        points: list[float | None] = [None] * len(made)
        torch_ap = None
        if data is not None:
            torch_ap, points[:] = evaluate_runtimes(made, source, where, data, part)
    base = speeds[0]
    height, width = fed[0].shape[1:]
    rows: list[dict[str, Any]] = [
        {
            "runtime": one.name,
            "latency_ms": round(latency * 1000, 2),
            "images_per_second": round(throughput, 2),
            "faster": round(throughput / base[1], 2),
            "megabytes": round(one.size / 1e6, 1),
            "ap": point,
            "ap_difference": None if point is None or torch_ap is None else point - torch_ap,
        }
        for one, (latency, throughput), point in zip(made, speeds, points, strict=True)
    ]
    if json_output:
        printed: dict[str, Any] = {
            "height": height,
            "width": width,
            "batch": batch,
            "figure": main_figure(source.recipe),
            "torch_ap": torch_ap,
            "runtimes": rows,
        }
        printed["predict"] = {"runtime": names[0], **whole._asdict()}
        typer.echo(json.dumps(printed))
        return
    typer.echo(f"{source.recipe.model.name}, images of {height} x {width}, batches of {batch}\n")
    figure = main_figure(source.recipe)
    _print_table(rows, figure)
    where_from = "in memory" if images is None else "from files"
    typer.echo(
        f"\npredict with {names[0]}, {counted(whole.images, 'image')} {where_from}: "
        f"{whole.images_per_second:.2f} images/s; the device waited {whole.waited:.0%} of the time"
    )
    if torch_ap is not None and "torch" not in names:
        typer.echo(f"\n{figure} of the checkpoint in torch fp32, which is not listed: {torch_ap:.4f}")


def _print_table(rows: list[dict[str, Any]], figure: str) -> None:
    typer.echo(f"| runtime | latency | images/s | against the first | file | {figure} | against torch fp32 |")
    typer.echo("|---|---|---|---|---|---|---|")
    for row in rows:
        ap = "- | -" if row["ap"] is None else f"{row['ap']:.4f} | {row['ap_difference']:+.4f}"
        typer.echo(
            f"| {row['runtime']} | {row['latency_ms']:.1f} ms | {row['images_per_second']:.2f} | "
            f"{row['faster']:.2f} | {row['megabytes']:.1f} MB | {ap} |"
        )
