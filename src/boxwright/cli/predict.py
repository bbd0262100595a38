"""The verb `predict`."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from boxwright.wording import counted

LOCAL_ONLY = ("draw", "json_", "coco", "polygons", "masks", "yolo", "text", "proposals", "compile", "memory")
"""Options that the Ray engine refuses."""


def predict(
    context: typer.Context,
    checkpoint: Annotated[Path, typer.Argument(help="A boxwright checkpoint, such as runs/NAME/weights/best.pt.")],
    sources: Annotated[list[str], typer.Argument(help="Images, folders of images, quoted patterns; listings for Ray.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for what is written; a new predictions, predictions-2, ... if not given."),
    ] = None,
    draw: Annotated[bool, typer.Option(help="Write each image with its detections drawn.")] = True,
    json_: Annotated[
        bool, typer.Option("--json", help="Write detections.json: boxes, scores and names per file.")
    ] = False,
    coco: Annotated[
        bool, typer.Option(help="Write detections.coco.json, a COCO result file (image_id: the file's stem).")
    ] = False,
    polygons: Annotated[
        bool, typer.Option("--polygons", help="Write masks in detections.coco.json as polygons, not run-length codes.")
    ] = False,
    masks: Annotated[
        bool, typer.Option("--masks", help="Write masks/*.png: 0, or n where the n-th object of the image is.")
    ] = False,
    yolo: Annotated[bool, typer.Option(help="Write labels/*.txt: class, centre, size as shares, score.")] = False,
    text: Annotated[bool, typer.Option(help="Write text/*.txt: class, score, x1, y1, x2, y2.")] = False,
    score: Annotated[
        float | None, typer.Option(help="Least score; the one of the best F1 in validation if not given.")
    ] = None,
    nms_iou: Annotated[
        float | None, typer.Option(help="Overlap from which the weaker of two boxes goes; the recipe's if not given.")
    ] = None,
    max_detections: Annotated[
        int | None, typer.Option(min=1, help="Detections an image at most; the recipe's if not given.")
    ] = None,
    no_resize: Annotated[
        bool, typer.Option("--no-resize", help="Feed images as they are, not resized as the recipe says.")
    ] = False,
    proposals: Annotated[
        Path | None, typer.Option(help="Proposal file for Fast R-CNN, as boxwright proposals writes it.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images a forward pass.")] = 8,
    memory: Annotated[
        float, typer.Option(help="GiB that decoded images may take; the largest images are done one by one.")
    ] = 3.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="Of the network: auto (bf16 where the processor computes it), fp32, bf16 or fp16.")
    ] = "auto",
    compile: Annotated[
        bool,
        typer.Option(
            "--compile", help="Let torch.compile fuse the network: the first batch of each shape takes minutes."
        ),
    ] = False,
    engine: Annotated[
        str, typer.Option(help="local, or ray: any number of images, into tables, on several processes or machines.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes of --engine ray; one a GPU, or a CPU core, if not given.")
    ] = None,
) -> None:
    """Find objects in images; draw them, and write them as JSON, COCO, YOLO or text, and their masks as PNG.

    An unreadable image is said and left out; the others are done, and the exit code is 2.
    """
    from boxwright.data.inputs import image_paths, refuse_among_images
    from boxwright.data.proposals import read_proposals
    from boxwright.evaluation.result_files import unique_stems
    from boxwright.inference.predictor import Detector
    from boxwright.visualize import draw as drawn
    from boxwright.visualize import save
    from boxwright.writing import free_folder, writing

    _check_shares(score=score, nms_iou=nms_iou)
    _check_engine(context, engine)
    if engine == "ray":
        return _predict_on_ray(checkpoint, sources, out, workers=workers, score=score, nms_iou=nms_iou,
                               max_detections=max_detections, resized=not no_resize, batch=batch, device=device,
                               precision=precision)  # fmt: skip
    detector = Detector.load(checkpoint, device, precision=precision, compile=compile)
    _check_masks(checkpoint, detector, masks=masks, polygons=polygons)
    stored = None if proposals is None else read_proposals(proposals)
    paths = list(dict.fromkeys(path for source in sources for path in image_paths(source)))
    refuse_among_images(out or Path("predictions"), [Path(source) for source in sources], paths)
    names = dict(zip(map(str, paths), unique_stems(paths), strict=True))
    kinds: Any = None if no_resize else "recipe"
    stream = detector.try_stream(
        paths, score=score, resize=kinds, batch=batch, nms_iou=nms_iou, max_detections=max_detections,
        proposals=stored, window=max(32 if draw else 64, batch), listed=True, memory=memory,
        keep=draw,  # what is drawn on is kept in full size
    )  # fmt: skip
    folder = out or free_folder(Path("predictions"))
    folder.mkdir(parents=True, exist_ok=True)
    write = _writer(folder, json_=json_, coco=coco, polygons=polygons, masks=masks, yolo=yolo, text=text)
    count = good = broken = 0
    try:
        with closing(stream):
            for one in stream:
                if isinstance(one, Exception):
                    typer.echo(f"boxwright: {one}", err=True)
                    broken += 1
                    continue
                image, found = one
                assert image.path is not None
                path, name = Path(image.path), names[image.path]  # the file that was read, and no other
                if image.note:
                    typer.echo(f"boxwright: {path}: {image.note}", err=True)
                write(path, name, found)
                if image.original is not None:
                    with writing(folder / f"{name}.jpg") as drawing:
                        save(drawn(image.original, found), drawing)
                count, good = count + len(found), good + 1
                del image, found, one  # before the next image: each may be large
    except BaseException:
        typer.echo(f"stopped; what was found in {good} of {counted(len(paths), 'image')} is in {folder}", err=True)
        raise
    least = detector.score_threshold if score is None else score
    typer.echo(f"{counted(count, 'object')} in {counted(good, 'image')} (score from {least:.2f})", err=True)
    typer.echo(str(folder))
    if broken:
        raise typer.Exit(2)


def _check_engine(context: typer.Context, engine: str) -> None:
    """Refuse what the engine does not do."""
    if engine not in ("local", "ray"):
        raise ValueError(f"--engine: expected local or ray, got {engine}")
    for name in ("workers",) if engine == "local" else LOCAL_ONLY:
        given = context.get_parameter_source(name)
        if given is not None and given.name == "COMMANDLINE" and context.params[name]:
            option = f"--{name.rstrip('_')}"
            if engine == "local":
                raise ValueError(f"{option} is for --engine ray; the local engine is one process")
            if name in ("proposals", "compile"):
                raise ValueError(f"--engine ray takes no {option}; use --engine local")
            raise ValueError(f"--engine ray writes tables only: leave {option} out, or use --engine local")


def _predict_on_ray(
    checkpoint: Path, sources: list[str], out: Path | None, *, workers: int | None, score: float | None,
    nms_iou: float | None, max_detections: int | None, resized: bool, batch: int, device: str,
    precision: str,
) -> None:  # fmt: skip
    """Tables of results and failures; the exit code is that of the local engine."""
    import time

    from boxwright.deploy.batch.ray_job import predict_batch

    if out is None:
        raise ValueError("--engine ray: give --out FOLDER; the same folder again resumes")
    said = time.monotonic()

    def say(done: int, todo: int) -> None:
        nonlocal said
        if time.monotonic() > said + 10:
            typer.echo(f"{done} of {counted(todo, 'image')}", err=True)
            said = time.monotonic()

    report = predict_batch(
        checkpoint, sources, out, workers=workers, score=score, nms_iou=nms_iou, max_detections=max_detections,
        resized=resized, batch=batch, device=device, precision=precision, progress=say,
    )  # fmt: skip
    done = report.images - report.done_before
    before = f", {report.done_before} were done before" if report.done_before else ""
    typer.echo(
        f"{counted(report.objects, 'object')} in {counted(done, 'image')} (score from {report.score:.2f})"
        f"{before}", err=True,
    )  # fmt: skip
    if report.failures:
        typer.echo(
            f"boxwright: {report.failures} of {counted(report.images, 'image')} failed: {out / 'failures'}",
            err=True,
        )
    typer.echo(str(out))
    if report.failures:
        raise typer.Exit(2)


def _check_masks(checkpoint: Path, detector: Any, **wanted: bool) -> None:
    given = [name for name, value in wanted.items() if value]
    if given and not detector.recipe.needs_masks:
        raise ValueError(f"{checkpoint} finds boxes and no masks: leave out --{given[0]}")


def _check_shares(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"--{name.replace('_', '-')}: expected 0 to 1, got {value}")


def _writer(
    folder: Path, *, json_: bool, coco: bool, polygons: bool, masks: bool, yolo: bool, text: bool
) -> Callable[[Path, str, Any], None]:
    """Writes what was found in an image, given its path and name, into all files that are wanted.

    Image by image and before it is drawn, so that a full disk or Ctrl-C loses nothing of the images before.
    """
    from boxwright.evaluation.result_files import write_text_results, write_yolo_results
    from boxwright.writing import GrowingJson

    by_path = GrowingJson(folder / "detections.json", "{}") if json_ else None
    rows = GrowingJson(folder / "detections.coco.json", "[]") if coco or polygons else None

    def write(path: Path, name: str, found: Any) -> None:
        if by_path is not None:
            by_path.add(_json_entry(path, found))
        if rows is not None:
            rows.add(",\n".join(map(json.dumps, found.to_coco(name, polygons=polygons))))
        if yolo:
            write_yolo_results(folder / "labels", [found], [name])
        if text:
            write_text_results(folder / "text", [found], [name])
        if masks:
            _write_masks(folder / "masks" / f"{name}.png", found)

    return write


def _write_masks(path: Path, found: Any) -> None:
    """An image of the masks of an image."""
    from boxwright.visualize import mask_image
    from boxwright.writing import writing

    path.parent.mkdir(exist_ok=True)
    image = mask_image(found)
    with writing(path):
        image.save(path)


def _json_entry(path: Path, found: Any) -> str:
    """Names, scores, boxes (x1, y1, x2, y2) and run-length codes of masks of an image, by its path."""
    rows = [
        {"name": name, "score": score, "box": box} | ({} if found.masks is None else {"mask": row["segmentation"]})
        for name, score, box, row in zip(
            found.names, found.scores.tolist(), found.boxes.tolist(), found.to_coco(""), strict=True
        )
    ]
    return json.dumps({str(path): rows}, indent=1, ensure_ascii=False)[2:-2]
