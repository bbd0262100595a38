"""The verb `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FROM_THE_RUN = (
    "recipe", "overrides", "classes", "train_split", "val_split", "weights", "overfit", "minutes", "seed", "proposals",
)  # fmt: skip
"""Parameters that a resumed run takes from where it began."""
OF_A_FOLDER = ("name", "runs")
"""Parameters that say where a run folder is made, or looked for."""


def train(
    context: typer.Context,
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A recipe's name (see `boxwright recipes`), its short alias, a YAML path, or an alias with @auto: the "
            "recipe that fits this machine. If not given, fcos; with --weights, their own network and the settings for "
            "fine-tuning it."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings of the recipe: optim.lr=0.01 model.head.norm=gn ...")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of labelled images: VOC, COCO (panoptic too), LVIS, Cityscapes, CVAT, YOLO, DOTA or maps."
        ),
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Select or merge classes: 'person,car+truck=vehicle'.")] = None,
    train_split: Annotated[str, typer.Option(help="Split to train on.")] = "train",
    val_split: Annotated[str, typer.Option(help="Split to validate on while training.")] = "val",
    weights: Annotated[
        str | None,
        typer.Option(
            help="Start from this detector (fine-tuning): a checkpoint or run folder, a file of another library, a "
            "name of `boxwright zoo`, a URL."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run folder; the recipe's name if not given.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder that run folders are made in.")] = Path("runs"),
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="[RUN]",
            help="Resume a run folder; without a value, the newest unfinished one (of this --name). "
            "Recipe and settings come from the run; only --data, --device and --num-gpus may be given too.",
        ),
    ] = None,
    overfit: Annotated[
        int | None, typer.Option(help="Sanity check: train and validate on this many images; the loss must collapse.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Time budget from here to the report: reading data, steps and validation all count."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps; auto, or that of the resumed run, if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    proposals: Annotated[
        Path | None, typer.Option(help="Proposal file for Fast R-CNN, as boxwright proposals writes it.")
    ] = None,
    num_gpus: Annotated[
        int | None,
        typer.Option(
            help="Start so many processes, one on each GPU (with --device cpu, on the CPU); a resumed run has as many "
            "as it began with."
        ),
    ] = None,
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate", help="Added to the whole command: estimate how long it would take; nothing is written."
        ),
    ] = False,
) -> None:
    """Train a detector on a folder of labelled images.

    Prints the run folder to standard output, everything else to standard error. Several GPUs: --num-gpus 4; several
    machines: `torchrun ... -m boxwright train ...` or `accelerate launch ... -m boxwright train ...`.
    """
    if weights is not None and recipe is not None and "=" in recipe and not Path(recipe).exists():
        overrides, recipe = [recipe, *(overrides or ())], None  # settings of the fine-tuning recipe
    if estimate:
        from boxwright.training.estimate import estimate as estimated

        if data is None or _given(context, ("resume",)):
            raise ValueError("--estimate needs --data, and is for a run that begins: leave out --resume")
        if num_gpus is not None:
            raise ValueError("--estimate times the steps of one process: leave out --num-gpus")
        found = estimated(
            recipe, data, overrides=overrides or (), classes=classes, train_split=train_split, val_split=val_split,
            weights=weights, overfit=overfit, minutes=minutes, device=device or "auto", seed=seed, proposals=proposals,
        )  # fmt: skip
        typer.echo(found.sentence())
        return
    from boxwright.training.resume import refuse_beside_resume
    from boxwright.training.run import train as run

    if resume is not None:
        refuse_beside_resume(_given(context, FROM_THE_RUN if resume == "latest" else FROM_THE_RUN + OF_A_FOLDER))
        result = run(data=data, name=name, runs=runs, resume=resume, device=device, num_gpus=num_gpus)
    else:
        result = run(
            recipe, data, overrides=overrides or (), classes=classes, train_split=train_split, val_split=val_split,
            weights=weights, name=name, runs=runs, overfit=overfit, minutes=minutes, device=device, seed=seed,
            proposals=proposals, num_gpus=num_gpus,
        )  # fmt: skip
    typer.echo(str(result.folder))


def _given(context: typer.Context, names: tuple[str, ...]) -> list[str]:
    """Those of the parameters that the command line holds: options by name, arguments as they stand there."""
    found: list[str] = []
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            value = context.params[name]
            words = {"recipe": [value], "overrides": value}
            found += words.get(name, [f"--{name.replace('_', '-')}"])
    return found
