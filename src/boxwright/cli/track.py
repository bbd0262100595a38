"""The verb `track`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boxwright.cli.network_options import DETECTOR, check_shares, network_options


def track(
    checkpoint: Annotated[Path, typer.Argument(help=DETECTOR)],
    source: Annotated[str, typer.Argument(help="A video file, the number of a camera, or with --network a URL.")],
    out: Annotated[Path | None, typer.Option(help="Output folder; a new tracks, tracks-2, ... if not given.")] = None,
    tracker: Annotated[str, typer.Option(help="bytetrack, sort, ocsort, cbiou or botsort.")] = "bytetrack",
    lost: Annotated[
        float, typer.Option(min=0, help="Seconds after which an object that is not detected loses its identity.")
    ] = 1.0,
    line: Annotated[
        list[str] | None, typer.Option(metavar="X1,Y1,X2,Y2", help="Count what crosses a line; may be repeated.")
    ] = None,
    zone: Annotated[
        list[str] | None,
        typer.Option(metavar="X1,Y1,X2,Y2,...", help="Count what enters and leaves a polygon; may be repeated."),
    ] = None,
    draw: Annotated[bool, typer.Option(help="Write the video with objects, identities, lines and zones drawn.")] = True,
    score: Annotated[
        float | None,
        typer.Option(
            help="Score from which an object starts a track; the one with the best F1 in validation if not given."
        ),
    ] = None,
    nms_iou: Annotated[
        float | None, typer.Option(help="IoU above which NMS drops the weaker of two boxes; the recipe's if not given.")
    ] = None,
    max_detections: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of detections per frame; the recipe's if not given.")
    ] = None,
    no_resize: Annotated[
        bool, typer.Option("--no-resize", help="Use frames in their own size, not resized as the recipe says.")
    ] = False,
    tiles: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="PIXELS", help="Detect in tiles of this side; 0: whole frames; the recipe's if not given."
        ),
    ] = None,
    overlap: Annotated[
        float | None, typer.Option(help="Share of a tile that its neighbour shows too; 0.2 if not given.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Frames per forward pass.")] = 8,
    memory: Annotated[float, typer.Option(help="GiB that decoded frames may take.")] = 3.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="Of the network: auto (bf16 where supported natively), fp32, bf16 or fp16.")
    ] = "auto",
    compile: Annotated[
        bool, typer.Option("--compile", help="Use torch.compile: the first batch of each shape takes minutes.")
    ] = False,
    step: Annotated[int, typer.Option(min=1, help="Every N-th frame.")] = 1,
    start: Annotated[float, typer.Option(min=0, help="From this second on.")] = 0.0,
    end: Annotated[float | None, typer.Option(help="Until before this second.")] = None,
    network: Annotated[
        bool, typer.Option("--network", help="Let SOURCE be a URL of a video (rtsp://, http://).")
    ] = False,
) -> None:
    """Follow objects through a video: an identity for each, as MOT text, JSON lines and drawn, and counts.

    With --line and --zone, counts.json tells how many objects of each class crossed them in each direction.
    """
    from boxwright.cli.track_files import write_tracks
    from boxwright.inference.crossings import line_of, zone_of
    from boxwright.inference.predictor import Detector
    from boxwright.inference.tracking import algorithm_called
    from boxwright.inference.video import Video, is_video_source
    from boxwright.runtime.missing import required
    from boxwright.writing import printable

    check_shares(score=score, nms_iou=nms_iou)
    borders = [*map(line_of, line or ()), *map(zone_of, zone or ())]
    algorithm_called(tracker)
    if Path(source).exists() and not is_video_source(source):
        raise ValueError(
            f"{printable(source)}: expected a video, a camera or a stream: objects are tracked from frame to frame"
        )
    required("trackers", "track")
    video = Video(source, network=network)
    detector = Detector.load(checkpoint, device, precision=precision, compile=compile)
    options = network_options(
        score=score, nms_iou=nms_iou, max_detections=max_detections, no_resize=no_resize, tiles=tiles,
        overlap=overlap, batch=batch, memory=memory,
    )  # fmt: skip
    tracked = detector.track(
        video,
        tracker=tracker,
        lost=lost,
        step=step,
        start=start,
        end=end,
        **options,
    )
    write_tracks(video, tracked, video.count(step, start, end), out, borders, draw=draw)
