"""A detector over HTTP: images in, detections as JSON out, and one page that draws them in a browser.

FastAPI evaluates the annotations of routes when `build_app` defines them, so this file has no postponed annotations.
"""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch

from boxwright.deploy.serve.service import ServeOptions, Service
from boxwright.deploy.serve.uploads import Refused
from boxwright.inference.predictor import Detector
from boxwright.models import refuse_of_objects
from boxwright.runtime.missing import required
from boxwright.structures.written import Masks

if TYPE_CHECKING:
    from fastapi import FastAPI

MOST_DETECTIONS = 1000
SHUTDOWN_SECONDS = 10
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob: data:; connect-src 'self'"
)
"""Content security policy of the page, which is self-contained: the browser loads nothing from elsewhere."""
_BYTES = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "properties": {"file": {"type": "array", "items": _BYTES}}, "required": ["file"]}
_KINDS = ("image/jpeg", "image/png", "application/octet-stream")
BODY = {
    "required": True,
    "content": {**{kind: {"schema": _BYTES} for kind in _KINDS}, "multipart/form-data": {"schema": _FORM}},
}
"""The request body of `/v1/detect` for OpenAPI."""


def serve(
    checkpoint: str | Path,
    options: ServeOptions,
    *,
    host: str,
    port: int,
    device: str,
    precision: str,
    ready: Callable[[str, dict[str, Any]], None],
) -> None:
    """Answer requests until SIGINT or SIGTERM; requests in progress are completed.

    `ready` is called with the address and the description of `/v1/model` as soon as connections are accepted. Raises
    ValueError where the port is not available or the detector cannot be served.
    """
    uvicorn = required("uvicorn", "serve")
    for package in ("fastapi", "python_multipart"):
        required(package, "serve")
    with _listener(host, port) as listener:
        detector = Detector.load(checkpoint, device, precision=precision)
        refuse_of_objects(detector.recipe.model.name, score=options.score)
        service = Service(detector, Path(checkpoint), options)
        blank = torch.zeros(3, 64, 64, dtype=torch.uint8)
        detector.predict(blank, score=options.score)  # warm-up, which also fails early
        server = uvicorn.Server(
            uvicorn.Config(
                build_app(service),
                log_level="warning",
                access_log=False,
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            )
        )

        def end(*_: object) -> None:
            server.should_exit = True

        # uvicorn raises the signal again after shutdown, and the process would end as if it was killed
        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            listener.listen(128)
            shown = f"[{host}]" if ":" in host else host
            ready(f"http://{shown}:{listener.getsockname()[1]}", service.description)
            server.run(sockets=[listener])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def build_app(service: Service) -> "FastAPI":
    """The FastAPI application, which starts and closes the service."""
    from fastapi import FastAPI, Query, Request
    from fastapi.responses import HTMLResponse, JSONResponse

    page = files("boxwright.deploy.serve").joinpath("page.html").read_text(encoding="utf-8")

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="boxwright", lifespan=life, docs_url=None, redoc_url=None
    )  # those pages load scripts from elsewhere
    _answer_errors(app)

    @app.get("/", include_in_schema=False)
    async def _page() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})

    @app.get("/healthz", summary="Health check")
    async def _health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/model", summary="The model: classes with their ids, scores, runtime, limits")
    async def _model() -> dict[str, Any]:
        return service.description

    @app.post(
        "/v1/detect", summary="Detections in an image, or in the images of a form", openapi_extra={"requestBody": BODY}
    )
    async def _detect(
        request: Request,
        score: Annotated[float | None, Query(ge=0, le=1, allow_inf_nan=False, description="score threshold")] = None,
        max_detections: Annotated[int | None, Query(ge=1, le=MOST_DETECTIONS)] = None,
        masks: Annotated[Masks | None, Query(description="rle if not given and the detector predicts masks")] = None,
        maps: Annotated[Literal["png"] | None, Query(description="semantic and panoptic map as PNG in base64")] = None,
    ) -> JSONResponse:
        answer = await service.answers(
            request, score=score, max_detections=max_detections, masks=masks, maps=maps is not None
        )  # fmt: skip
        return JSONResponse(answer)

    return app


def _answer_errors(app: "FastAPI") -> None:
    """Answer every error with a status and one sentence, as JSON."""
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    def refusal(status: int, sentence: str, headers: Any = None) -> JSONResponse:
        return JSONResponse({"error": sentence}, status, headers)

    @app.exception_handler(Refused)
    async def _refused(_: Request, error: Refused) -> JSONResponse:
        return refusal(error.status, str(error), error.headers)

    @app.exception_handler(RequestValidationError)
    async def _wrong_value(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        wrong = first["msg"].removeprefix("Input ")
        return refusal(422, f"{first['loc'][-1]}: {wrong}, got {first['input']}")

    @app.exception_handler(HTTPException)
    async def _no_such(request: Request, error: HTTPException) -> JSONResponse:
        return refusal(error.status_code, f"{request.method} {request.url.path}: {error.detail}", error.headers)

    @app.exception_handler(ClientDisconnect)
    async def _gone(_: Request, __: ClientDisconnect) -> JSONResponse:
        return refusal(400, "the connection was closed during the request")

    @app.exception_handler(Exception)
    async def _failed(_: Request, __: Exception) -> JSONResponse:
        return refusal(500, "the server failed; its log says why")


def _listener(host: str, port: int) -> socket.socket:
    """A socket bound to the port, before the detector is loaded; it does not accept connections yet."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ValueError(f"--host {host}: this machine has no such address") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ValueError(
            f"port {port} of {host} is not available ({(error.strerror or 'no reason given').lower()}); choose another "
            "with --port, or 0 for any"
        ) from error
    return listener
