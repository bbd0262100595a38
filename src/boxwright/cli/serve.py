"""The verb `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from boxwright.cli.network_options import DETECTOR
from boxwright.cli.progress import log
from boxwright.wording import counted


def serve(
    checkpoint: Annotated[Path, typer.Argument(help=DETECTOR)],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for other machines too.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")] = 8000,
    score: Annotated[
        float | None, typer.Option(help="Score threshold of requests that give none; the checkpoint's if not given.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Maximum number of images per forward pass.")] = 8,
    wait_ms: Annotated[
        float, typer.Option(min=0, help="Milliseconds that an image waits for others to form a batch.")
    ] = 5.0,
    queue: Annotated[
        int, typer.Option(min=1, help="Maximum number of images in progress; more are answered 503.")
    ] = 64,
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Maximum size of a request.")] = 20.0,
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Maximum size of an image.")] = 50.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="Of the network: auto (bf16 where supported natively), fp32, bf16 or fp16.")
    ] = "auto",
) -> None:
    """Answer images with detections over HTTP, and serve a page to try it in a browser.

    Prints the address when it is ready, and runs until Ctrl-C or SIGTERM. There is no password: anyone who can reach
    the port can use it.
    """
    from boxwright.deploy.serve.server import serve as run
    from boxwright.deploy.serve.service import ServeOptions
    from boxwright.deploy.serve.uploads import Limits

    if score is not None and not 0 <= score <= 1:
        raise ValueError(f"--score: expected 0 to 1, got {score}")

    def ready(address: str, known: dict[str, Any]) -> None:
        stuff = [one for one in known["stuff"] if one["category_id"] is not None]  # "things" is no class of its own
        log(
            f"{known['name']} ({known['detector']}, {counted(len(known['classes'] + stuff), 'class')}, "
            f"{known['runtime']} {known['precision']} on {known['device']}); stop it with Ctrl-C"
        )
        typer.echo(address)

    limits = Limits(round(max_megabytes * 1e6), round(max_megapixels * 1e6), queue)
    run(
        checkpoint,
        ServeOptions(score, batch, wait_ms / 1000, limits),
        host=host,
        port=port,
        device=device,
        precision=precision,
        ready=ready,
    )
