"""The verb `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from boxwright.cli.network_options import NETWORK
from boxwright.cli.progress import log


def export(
    checkpoint: Annotated[Path, typer.Argument(help=NETWORK)],
    format: Annotated[str, typer.Option(help="onnx, openvino (.xml and .bin), or program (torch.export).")] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(help="File to write; next to the checkpoint, with the same stem, if not given."),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(help="fp32; for openvino also bf16 (if the processor supports it) or int8 (needs --calibration)."),
    ] = "fp32",
    calibration: Annotated[Path | None, typer.Option(help="Folder of typical images to calibrate int8 with.")] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of images to compare on; those of --data, or else synthetic ones, if not given."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Labelled folder: compare AP (mIoU, PQ) too.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of --data; val if not given.")] = None,
    normalise: Annotated[
        bool, typer.Option(help="Normalise pixels in the graph; otherwise the caller does (float32 input).")
    ] = True,
    nms: Annotated[bool, typer.Option(help="NMS in the graph; otherwise the output is candidates.")] = True,
    winograd: Annotated[
        bool,
        typer.Option(
            "--winograd",
            help="Wide 3x3 convolutions by Winograd's algorithm: faster in fp32 on a CPU, slower on a GPU.",
        ),
    ] = False,
    score: Annotated[
        float | None, typer.Option(help="Score threshold of the output; the recipe's, at most 0.05, if not given.")
    ] = None,
    nms_iou: Annotated[float | None, typer.Option(help="IoU threshold of NMS; the recipe's if not given.")] = None,
    max_detections: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of detections per image; the recipe's, at least 100, if not given."),
    ] = None,
) -> None:
    """Write a detector for another runtime, and check that it gives the same detections.

    The file is run on images, alone and in batches of mixed sizes, and is kept only if it gives the detections of the
    checkpoint. With --data its figures are compared too (AP of boxes, masks, keypoints and rotated boxes, mIoU, PQ), in
    points of 100: fp32 within 0.1, bf16 at most 0.1 less, int8 0.5 less.

    `predict`, `evaluate` and `serve` take it like a checkpoint. Prints its path.
    """
    from boxwright.deploy.export.export_checkpoint import ExportOptions, export_checkpoint

    for name, value in (("score", score), ("nms-iou", nms_iou)):
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"--{name}: expected 0 to 1, got {value}")
    if split is not None and data is None:
        raise ValueError("--split is of --data: give --data FOLDER, or leave --split out")
    chosen: Any = {"format": format, "precision": precision}
    options = ExportOptions(
        **chosen,
        normalise=normalise,
        nms=nms,
        score=score,
        nms_iou=nms_iou,
        max_detections=max_detections,
        calibration=calibration,
        winograd=winograd,
    )
    written = export_checkpoint(
        checkpoint,
        out,
        options,
        images=images,
        data=data,
        split=split or "val",
        log=log,
    )
    log(f"{written.size / 1e6:.1f} MB")
    typer.echo(str(written.path))
