"""The verb `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from boxwright.cli.progress import log


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A boxwright checkpoint, such as runs/NAME/weights/best.pt.")],
    format: Annotated[str, typer.Option(help="onnx, openvino (.xml and .bin), or program (torch.export).")] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; beside the checkpoint, by its name with a new ending, if not given."),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(help="fp32; for openvino also bf16 (needs a processor with it) or int8 (needs --calibration)."),
    ] = "fp32",
    calibration: Annotated[Path | None, typer.Option(help="Folder of typical images for int8.")] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of images to compare on; those of --data, or else synthetic ones, if not given."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Labelled folder: compare AP too.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of --data; val if not given.")] = None,
    normalise: Annotated[
        bool, typer.Option(help="Normalise pixels in the file; else the caller does, and feeds float32.")
    ] = True,
    nms: Annotated[bool, typer.Option(help="NMS in the file; else candidates come out.")] = True,
    winograd: Annotated[
        bool,
        typer.Option(
            "--winograd",
            help="Wide 3x3 convolutions by Winograd's algorithm: faster in fp32 on a CPU, slower on a GPU.",
        ),
    ] = False,
    score: Annotated[
        float | None, typer.Option(help="Least score that comes out; the recipe's, at most 0.05, if not given.")
    ] = None,
    nms_iou: Annotated[float | None, typer.Option(help="Overlap of NMS; the recipe's if not given.")] = None,
    max_detections: Annotated[int | None, typer.Option(min=1, help="Detections an image at most.")] = None,
) -> None:
    """Write a detector for another runtime, and prove that it finds the same.

    The file runs on images, alone and in batches of mixed sizes, and is written only if its detections are those of
    the checkpoint. With --data its AP is compared too, in points of 100: fp32 within 0.1, bf16 at most 0.1 less, int8
    0.5 less. `predict`, `evaluate` and `serve` take it as they take a checkpoint. Prints the file.
    """
    from boxwright.deploy.export.export_checkpoint import ExportOptions, export_checkpoint

    for name, value in (("score", score), ("nms-iou", nms_iou)):
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"--{name}: expected 0 to 1, got {value}")
    if split is not None and data is None:
        raise ValueError("--split is of --data: give --data FOLDER, or leave --split out")
    chosen: Any = {"format": format, "precision": precision}
    options = ExportOptions(
        **chosen, normalise=normalise, nms=nms, score=score, nms_iou=nms_iou, max_detections=max_detections,
        calibration=calibration, winograd=winograd,
    )  # fmt: skip
    written = export_checkpoint(
        checkpoint, out, options, images=images, data=data, split=split or "val",
        log=log,
    )  # fmt: skip
    log(f"{written.size / 1e6:.1f} MB")
    typer.echo(str(written.path))
