"""The verb `predict`."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from boxwright.cli.network_options import DETECTOR, check_shares, network_options
from boxwright.cli.progress import log
from boxwright.wording import counted
from boxwright.writing import printable

OLD_FLAGS = ("json_", "coco", "polygons", "masks", "yolo", "text")
"""Flags of version 0.1 that --format replaces: they still work, hidden from the help."""
LOCAL_ONLY = ("draw", "format", *OLD_FLAGS, "proposals", "compile", "memory", "tiles", "overlap")
"""Options that the Ray engine refuses."""


def predict(
    context: typer.Context,
    checkpoint: Annotated[Path, typer.Argument(help=DETECTOR)],
    sources: Annotated[
        list[str], typer.Argument(help="Images, folders, quoted patterns, or one video; listings for Ray.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Output folder; a new predictions, predictions-2, ... if not given."),
    ] = None,
    draw: Annotated[bool, typer.Option(help="Write each image with its detections drawn on it.")] = True,
    format: Annotated[
        str | None,
        typer.Option(
            help="Result files to write: some of json, coco, polygons (COCO with masks as polygons), yolo, dota, text, "
            "and masks, semantic and panoptic as PNG, with commas between them.",
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", hidden=True)] = False,
    coco: Annotated[bool, typer.Option("--coco", hidden=True)] = False,
    polygons: Annotated[bool, typer.Option("--polygons", hidden=True)] = False,
    masks: Annotated[bool, typer.Option("--masks", hidden=True)] = False,
    yolo: Annotated[bool, typer.Option("--yolo", hidden=True)] = False,
    text: Annotated[bool, typer.Option("--text", hidden=True)] = False,
    score: Annotated[
        float | None, typer.Option(help="Score threshold; the one with the best F1 in validation if not given.")
    ] = None,
    nms_iou: Annotated[
        float | None, typer.Option(help="IoU above which NMS drops the weaker of two boxes; the recipe's if not given.")
    ] = None,
    max_detections: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of detections per image; the recipe's if not given.")
    ] = None,
    no_resize: Annotated[
        bool, typer.Option("--no-resize", help="Use images in their own size, not resized as the recipe says.")
    ] = False,
    tiles: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="PIXELS",
            help="Cut images into tiles of this side, detect in each and merge; 0: whole images; the recipe's if not "
            "given.",
        ),
    ] = None,
    overlap: Annotated[
        float | None, typer.Option(help="Share of a tile that its neighbour shows too; 0.2 if not given.")
    ] = None,
    proposals: Annotated[
        Path | None, typer.Option(help="Proposal file for Fast R-CNN, as boxwright proposals writes it.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 8,
    memory: Annotated[
        float, typer.Option(help="GiB that decoded images may take; the largest images are processed one by one.")
    ] = 3.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="Of the network: auto (bf16 where supported natively), fp32, bf16 or fp16.")
    ] = "auto",
    compile: Annotated[
        bool,
        typer.Option("--compile", help="Use torch.compile: the first batch of each shape takes minutes."),
    ] = False,
    engine: Annotated[
        str, typer.Option(help="local, or ray: tables for any number of images, on several processes or machines.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes of --engine ray; one per GPU, or per CPU core, if not given.")
    ] = None,
    step: Annotated[int, typer.Option(min=1, help="Of a video: every N-th frame.")] = 1,
    start: Annotated[float, typer.Option(min=0, help="Of a video: from this second on.")] = 0.0,
    end: Annotated[float | None, typer.Option(help="Of a video: until before this second.")] = None,
    network: Annotated[
        bool, typer.Option("--network", help="Let SOURCE be a URL of a video (rtsp://, http://).")
    ] = False,
) -> None:
    """Find objects in images: draw them, and write them as JSON, COCO, YOLO or text, and masks and maps as PNG.

    An image that cannot be read is named on standard error and left out; the exit code is then 2.
    """
    from boxwright.cli.predict_video import write_video
    from boxwright.data.inputs import image_paths, refuse_among_images
    from boxwright.data.proposals import read_proposals
    from boxwright.evaluation.result_files import unique_stems
    from boxwright.inference.prediction_files import PredictionFiles, formats_called, refuse_formats
    from boxwright.inference.predictor import Detector
    from boxwright.models import MODELS, refuse_of_objects
    from boxwright.visualize import save
    from boxwright.writing import free_folder, writing

    check_shares(score=score, nms_iou=nms_iou)
    formats = [] if format is None else [*formats_called(format)]
    formats += [name.rstrip("_") for name in OLD_FLAGS if context.params[name]]
    _check_engine(context, engine)
    if engine == "ray":
        return _predict_on_ray(
            checkpoint,
            sources,
            out,
            workers=workers,
            score=score,
            nms_iou=nms_iou,
            max_detections=max_detections,
            resized=not no_resize,
            batch=batch,
            device=device,
            precision=precision,
        )
    video = _video_of(context, sources, network, formats, engine)
    detector = Detector.load(checkpoint, device, precision=precision, compile=compile)
    refuse_of_objects(detector.recipe.model.name, score=score, nms_iou=nms_iou, max_detections=max_detections)
    detects = MODELS[detector.recipe.model.name].detects
    options = network_options(
        score=score, nms_iou=nms_iou, max_detections=max_detections, no_resize=no_resize, tiles=tiles,
        overlap=overlap, batch=batch, memory=memory,
    )  # fmt: skip
    if video is not None:
        frames = detector.video(video, step=step, start=start, end=end, **options)
        return write_video(video, frames, video.count(step, start, end), out, draw=draw, detects=detects)
    refuse_formats(str(checkpoint), formats, detector.recipe.model.name)
    stored = None if proposals is None else read_proposals(proposals)
    paths = list(dict.fromkeys(path for source in sources for path in image_paths(source)))
    refuse_among_images(out or Path("predictions"), [Path(source) for source in sources], paths)
    names = dict(zip(map(str, paths), unique_stems(paths), strict=True))
    options["proposals"], options["window"] = stored, max(32 if draw else 64, batch)
    stream = detector.try_stream(paths, **options, listed=True, keep=draw)  # what is drawn on is kept in full size
    folder = out or free_folder(Path("predictions"))
    folder.mkdir(parents=True, exist_ok=True)
    files = PredictionFiles(folder, formats)
    count = good = broken = 0
    started = time.monotonic()
    try:
        with closing(stream):
            for one in stream:
                if isinstance(one, Exception):
                    log(str(one))
                    broken += 1
                    continue
                image, found = one
                assert image.path is not None
                path, name = Path(image.path), names[image.path]  # that of the file that was read
                if image.note:
                    log(f"{path}: {image.note}")
                files.add(path, name, found)  # before drawing, so that nothing is lost
                if image.original is not None:
                    with writing(folder / f"{name}.jpg") as drawing:
                        save(found.draw(image.original), drawing)
                count, good = count + len(found), good + 1
                del image, found, one  # before the next image: each may be large
    except BaseException:
        where = printable(str(folder))
        typer.echo(f"stopped; what was found in {good} of {counted(len(paths), 'image')} is in {where}", err=True)
        raise
    least = detector.score_threshold if score is None else score
    seconds = time.monotonic() - started
    took = f"{seconds:.1f} s, {seconds / max(good + broken, 1):.3f} s an image with {'drawing' if draw else 'decoding'}"
    said = f"{counted(count, 'object')} in {counted(good, 'image')} (score from {least:.2f})"
    if not detects:
        said = f"a label for each pixel of {counted(good, 'image')}"
    typer.echo(f"{said}; {took}", err=True)
    typer.echo(str(folder))
    if broken:
        raise typer.Exit(2)


def _video_of(context: typer.Context, sources: list[str], network: bool, formats: list[str], engine: str) -> Any:
    """The opened video, if the source is one; ValueError for options that do not go with what is given."""
    from boxwright.inference.video import Video, is_video_source

    given = [name for name in context.params if (at := context.get_parameter_source(name)) and at.name == "COMMANDLINE"]
    videos = [source for source in sources if is_video_source(source)]
    wrong = [name for name in (("proposals",) if videos else ("step", "start", "end", "network")) if name in given]
    if wrong:
        raise ValueError(f"--{wrong[0]} is for {'images' if videos else 'a video'}, and the source is not one")
    if not videos:
        return None
    if len(sources) > 1:
        raise ValueError(f"{printable(videos[0])}: a video is predicted alone: give it as the only source")
    if formats not in ([], ["json"]):
        raise ValueError(f"--format {formats[0]} is for images; of a video frames.jsonl is written")
    return Video(sources[0], network=network)


def _check_engine(context: typer.Context, engine: str) -> None:
    """Raise ValueError for options that the engine does not support."""
    if engine not in ("local", "ray"):
        raise ValueError(f"--engine: expected local or ray, got {engine}")
    for name in ("workers",) if engine == "local" else LOCAL_ONLY:
        given = context.get_parameter_source(name)
        if given is not None and given.name == "COMMANDLINE" and context.params[name]:
            option = f"--{name.rstrip('_')}"
            if engine == "local":
                raise ValueError(f"{option} is for --engine ray; the local engine is one process")
            if name in ("proposals", "compile", "tiles", "overlap"):
                raise ValueError(f"--engine ray does not support {option}; use --engine local")
            raise ValueError(f"--engine ray writes tables only: leave {option} out, or use --engine local")


def _predict_on_ray(
    checkpoint: Path,
    sources: list[str],
    out: Path | None,
    *,
    workers: int | None,
    score: float | None,
    nms_iou: float | None,
    max_detections: int | None,
    resized: bool,
    batch: int,
    device: str,
    precision: str,
) -> None:
    """Write tables of results and failures; the exit code is that of the local engine."""
    from boxwright.deploy.batch.ray_job import predict_batch

    if out is None:
        raise ValueError("--engine ray: give --out FOLDER; the same folder again resumes")
    last = time.monotonic()

    def progress(done: int, todo: int) -> None:
        nonlocal last
        if time.monotonic() > last + 10:
            typer.echo(f"{done} of {counted(todo, 'image')}", err=True)
            last = time.monotonic()

    report = predict_batch(
        checkpoint,
        sources,
        out,
        workers=workers,
        score=score,
        nms_iou=nms_iou,
        max_detections=max_detections,
        resized=resized,
        batch=batch,
        device=device,
        precision=precision,
        progress=progress,
    )
    done = report.images - report.done_before
    before = f", {report.done_before} were done before" if report.done_before else ""
    typer.echo(
        f"{counted(report.objects, 'object')} in {counted(done, 'image')} (score from {report.score:.2f}){before}",
        err=True,
    )
    if report.failures:
        log(f"{report.failures} of {counted(report.images, 'image')} failed: {out / 'failures'}")
    typer.echo(str(out))
    if report.failures:
        raise typer.Exit(2)
