"""The verb `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boxwright.cli.network_options import DETECTOR
from boxwright.cli.progress import log, progress_bar
from boxwright.cli.tables import table_console
from boxwright.wording import counted

if TYPE_CHECKING:
    from boxwright.evaluation.summary import Evaluation


OF_MODEL = ("proposals", "tiles", "overlap", "nms_iou", "batch", "device", "precision", "compile")
"""Options on how a checkpoint is run."""
OF_VOC = ("eleven_point", "plus_one")
OF_DETECTIONS = ("classes", "metric", "iou", "max_detections", "score_threshold")


def evaluate(
    context: typer.Context,
    checkpoint: Annotated[Path | None, typer.Argument(help=f"{DETECTOR} Needs --data.", show_default=False)] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of labelled images: VOC, COCO (panoptic too), LVIS, Cityscapes, CVAT, YOLO, DOTA or maps."
        ),
    ] = None,
    ground_truth: Annotated[
        Path | None,
        typer.Option(
            help="Instead of a checkpoint: COCO or LVIS JSON, a folder as for --data, or Cartucho text folder."
        ),
    ] = None,
    detections: Annotated[
        Path | None,
        typer.Option(
            help="Detections for --ground-truth: COCO results JSON (panoptic too), a folder of Cartucho, VOC, YOLO or "
            "DOTA text files, or of label maps (PNG)."
        ),
    ] = None,
    truth: Annotated[Path | None, typer.Option("--truth", hidden=True, help="Old name of --ground-truth.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Split to evaluate; val if not given (with --ground-truth: the only one).")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Select or merge classes: 'person,car+truck=vehicle'.")] = None,
    metric: Annotated[
        str, typer.Option(help="coco (AP over ten IoUs; LVIS's on LVIS data), lvis, cityscapes or voc (mAP at one).")
    ] = "coco",
    iou: Annotated[float, typer.Option(help="IoU threshold of the voc metric, the table and the curves.")] = 0.5,
    eleven_point: Annotated[bool, typer.Option("--eleven-point", help="voc: eleven points, as in VOC 2007.")] = False,
    plus_one: Annotated[
        bool, typer.Option(help="voc: boxes include their right and lower pixel, as in the VOC kit.")
    ] = True,
    proposals: Annotated[
        Path | None, typer.Option(help="Proposal file for Fast R-CNN, as boxwright proposals writes it.")
    ] = None,
    tiles: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="PIXELS",
            help="Cut images into tiles of this side, detect in each and merge; AP is that of the images. 0: whole "
            "images; the recipe's if not given.",
        ),
    ] = None,
    overlap: Annotated[
        float | None, typer.Option(help="Share of a tile that its neighbour shows too; 0.2 if not given.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images per batch; if not given, as in validation during training.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[
        str,
        typer.Option(help="Of the network: auto (the recipe's; bf16 where supported natively), fp32, bf16 or fp16."),
    ] = "auto",
    compile: Annotated[
        bool,
        typer.Option(
            "--compile", help="Let torch.compile fuse the network: the first batch of each shape takes minutes."
        ),
    ] = False,
    max_detections: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Maximum number of detections per image; if not given the recipe's, and COCO's 100 or LVIS's 300.",
        ),
    ] = None,
    score_threshold: Annotated[
        float | None, typer.Option(help="Score threshold; the recipe's if not given. Above 0.05 it lowers AP.")
    ] = None,
    nms_iou: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="IoU above which NMS drops the weaker of two boxes; the recipe's if not given."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Evaluate only the first N images.", metavar="N")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Folder for result files, the table, curves and confusion matrices.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Evaluate a checkpoint on labelled images, or detections from a file against ground truth.

    boxwright evaluate CHECKPOINT --data FOLDER, or boxwright evaluate --ground-truth PATH --detections PATH. Metrics go
    to standard output, everything else to standard error; all metrics are fractions in [0, 1]. The voc metric is the
    area under the whole curve, with boxes that include their last pixel (+1), unless --eleven-point or --no-plus-one is
    given.

    Unreadable images are reported and left out of the evaluation, and the exit code is then 2.
    """
    if truth is not None and ground_truth is not None:
        raise ValueError("--truth is the old name of --ground-truth; give one of them")
    ground_truth = ground_truth or truth
    _check(checkpoint, data, ground_truth, detections, metric)
    _refuse_given(
        context,
        OF_MODEL if ground_truth is not None else (),
        "is for a CHECKPOINT; it has no effect on detections from a file",
    )
    _refuse_given(context, OF_VOC if metric != "voc" else (), "is for --metric voc")
    if save is not None:
        _refuse_inside(save, [path for path in (data, ground_truth) if path is not None])
    unreadable = 0
    if (
        ground_truth is not None
        and detections is not None
        and _evaluated_maps(context, ground_truth, detections, split, limit, json_output, save)
    ):
        return
    if ground_truth is not None and detections is not None:
        from dataclasses import replace

        from boxwright.evaluation.comparison import compare_files
        from boxwright.evaluation.summary import evaluate_detections

        pixels = metric == "voc" and plus_one
        compared = compare_files(ground_truth, detections, split=split, classes=classes, plus_one=pixels)
        for warning in compared.warnings:
            log(warning)
        found, wanted, known, areas = compared.detections, compared.ground_truths, compared.classes, compared.areas
        image_ids, paths, federation, voids = compared.image_ids, compared.paths, compared.federation, compared.voids
        if score_threshold is not None:
            found = [image.above(score_threshold) for image in found]
        found, wanted = found[:limit], wanted[:limit]
        federation = federation and replace(federation, images=federation.images[:limit])
        voids = voids and voids[:limit]
        image_ids, paths, areas = image_ids[:limit], paths[:limit], None if areas is None else areas[:limit]
        evaluation = evaluate_detections(
            found,
            wanted,
            known,
            metric=metric,
            iou=iou,
            max_detections=max_detections,
            areas=areas,
            federation=federation,
            voids=voids,
            eleven_point=eleven_point,
            plus_one=plus_one,
        )
    else:
        assert checkpoint is not None  # checked by _check
        assert data is not None
        from boxwright.inference.evaluate import evaluate as evaluated

        with progress_bar("evaluating") as progress:
            result = evaluated(
                checkpoint,
                data,
                split or "val",
                classes=classes,
                metric=metric,
                iou=iou,
                eleven_point=eleven_point,
                plus_one=plus_one,
                score_threshold=score_threshold,
                nms_iou=nms_iou,
                max_detections=max_detections,
                limit=limit,
                batch=batch,
                proposals=proposals,
                tiles="recipe" if tiles is None else tiles or None,
                overlap=overlap,
                device=device,
                precision=precision,
                compile=compile,
                maps=save,
                log=log,
                progress=progress,
            )
        evaluation, inputs = result.evaluation, result.inputs
        found, wanted, known = inputs.detections, inputs.ground_truths, inputs.classes
        image_ids, paths = inputs.image_ids, [str(path) for path in inputs.paths]
        unreadable = inputs.unreadable
        each = inputs.seconds / max(len(found), 1)
        log(f"decoding and detecting took {inputs.seconds:.1f} s, {each:.3f} s an image")
    _print(evaluation, len(found), iou, json_output)
    if save is not None:
        from boxwright.evaluation.saving import save_evaluation

        save_evaluation(save, evaluation, found, wanted, known, image_ids=image_ids, paths=paths)
        log(f"result files, table and charts are in {save}")
    if unreadable:
        raise typer.Exit(2)


def _evaluated_maps(
    context: typer.Context, ground_truth: Path, results: Path, split: str | None, limit: int | None,
    json_output: bool, save: Path | None,
) -> bool:  # fmt: skip
    """Evaluate panoptic results from a file, or label maps; False where they are detections."""
    from boxwright.evaluation.panoptic_files import compare_panoptic_files, holds_panoptic_results
    from boxwright.evaluation.semantic_files import compare_semantic_files, holds_semantic_results

    segments = holds_panoptic_results(results)
    if not segments and not holds_semantic_results(results):
        return False
    from boxwright.evaluation.comparison import ground_truth_split
    from boxwright.evaluation.saving import save_evaluation
    from boxwright.evaluation.summary import evaluate_detections

    has = "the file has panoptic segments" if segments else "these are labels of pixels"
    _refuse_given(context, OF_DETECTIONS, f"is for detections, and {has}")
    part = ground_truth_split(ground_truth, split)
    compared = (compare_panoptic_files if segments else compare_semantic_files)(part, results, limit)
    for warning in compared.warnings:
        log(warning)
    evaluation = evaluate_detections([], [], part.classes, pixels=compared.figures, objects=False)
    _print(evaluation, compared.images, 0.5, json_output)
    if save is not None:
        save_evaluation(save, evaluation, [], [], part.classes, image_ids=[], paths=[])
        log(f"figures and tables are in {save}")
    return True


def _check(
    checkpoint: Path | None, data: Path | None, ground_truth: Path | None, detections: Path | None, metric: str
) -> None:
    """Refuse arguments that do not go together, with one sentence."""
    of_model = [name for name, value in (("CHECKPOINT", checkpoint), ("--data", data)) if value is not None]
    of_files = [
        name for name, value in (("--ground-truth", ground_truth), ("--detections", detections)) if value is not None
    ]
    if len(of_model) + len(of_files) != 2 or len(of_model) == 1:
        given = " and ".join(of_model + of_files) or "neither"
        raise typer.BadParameter(
            f"give a CHECKPOINT with --data, or --ground-truth with --detections; got {given}", param_hint="arguments"
        )
    if metric not in ("coco", "lvis", "cityscapes", "voc"):
        raise typer.BadParameter(f"{metric!r} is none of coco, lvis, cityscapes and voc", param_hint="--metric")


def _refuse_given(context: typer.Context, names: tuple[str, ...], why: str) -> None:
    """Refuse options that would have no effect."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ValueError(f"--{name.replace('_', '-')} {why}")


def _refuse_inside(save: Path, sources: list[Path]) -> None:
    for source in sources:
        folder = source.resolve() if source.is_dir() else None
        if folder is not None and (save.resolve() == folder or folder in save.resolve().parents):
            raise ValueError(
                f"{save}: is inside the data folder {source}, which is never written to; choose another --save folder"
            )


def _print(evaluation: Evaluation, images: int, iou: float, json_output: bool) -> None:
    import json

    for sentence in (*evaluation.notes, *evaluation.diagnosis):
        log(sentence)
    if json_output:
        typer.echo(json.dumps(evaluation.figures, allow_nan=False))
        return
    from boxwright.evaluation.pixel_tables import pixel_tables, rich_table
    from boxwright.evaluation.report import class_table
    from boxwright.evaluation.summary import headline

    console = table_console(highlight=False)
    if evaluation.rows:
        console.print(class_table(evaluation.rows, iou, voc=evaluation.figures["metric"] == "voc"))
    for table in () if evaluation.pixels is None else pixel_tables(evaluation.pixels):
        console.print(rich_table(table))
    for line in (f"\n{counted(images, 'image')}", *headline(evaluation)):
        typer.echo(line)
