"""The images of an HTTP request, in its body or as the files of a form, within limits; or why they are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from boxwright.data.image_io.decode import bytes_with_note
from boxwright.data.image_io.value_range import ValueRange
from boxwright.data.inputs import PreparedImage, TiledImage, prepare, prepare_tiles
from boxwright.ops.image import ResizeRule
from boxwright.ops.tiling import Tiling
from boxwright.wording import counted

BODY_SECONDS = 60
"""Time limit of an upload, during which it occupies a place in the queue."""
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*")
"""First bytes of JPEG, PNG, GIF, BMP and TIFF: the supported formats that browsers and cameras send."""


class Refused(Exception):  # noqa: N818  # an answer, not an error
    """A request that is answered with a status and one sentence."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a request: total bytes, and pixels per image; and of all images in progress at a time."""

    num_bytes: int = 20_000_000
    num_pixels: int = 50_000_000
    num_images: int = 64


class Upload(NamedTuple):
    """The bytes of an image file, and its name at the client."""

    name: str
    data: bytes


class Places:
    """Places for images in progress, from the first byte to the answer; for one event loop only."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.num_taken = 0

    @contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """Occupy `count` places. Raises Refused (503) where they are not free."""
        if self.num_taken + count > self.limit:
            raise Refused(
                503,
                f"the queue is full ({counted(self.num_taken, 'image')}): try again in a second",
                {"Retry-After": "1"},
            )
        self.num_taken += count
        try:
            yield
        finally:
            self.num_taken -= count


async def uploads_in(request: Any, limits: Limits) -> tuple[list[Upload], bool]:
    """The images of a request, and whether they are the files of a form. Raises Refused."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    form = kind == "multipart/form-data"
    if not (form or kind.startswith("image/") or kind in ("application/octet-stream", "")):
        raise Refused(
            415,
            f"Content-Type: expected image/jpeg, image/png, application/octet-stream or multipart/form-data, got {kind}"
            "; with curl use -F file=@image.jpg",
        )
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await _body(request, limits.num_bytes)
    except TimeoutError as error:
        raise Refused(408, f"the request did not arrive within {BODY_SECONDS} seconds") from error
    if not form:
        return [Upload("image", body)], False
    return await _files(request, body, limits), True


def image_of(
    upload: Upload, limits: Limits, rule: ResizeRule, value_range: ValueRange = "auto", tiling: Tiling | None = None
) -> PreparedImage | TiledImage:
    """The image at network size, or cut into tiles that are.

    Raises Refused where it is not an image, damaged or too large.
    """
    data = upload.data
    webp, avif = data[:4] == b"RIFF" and data[8:12] == b"WEBP", data[4:12] in (b"ftypavif", b"ftypavis")
    if data and not (data.startswith(SIGNATURES) or webp or avif):
        raise Refused(400, f"{upload.name}: not a JPEG, PNG, WebP, BMP, GIF or TIFF image (nor AVIF)")
    try:
        read = bytes_with_note(data, upload.name, max_pixels=limits.num_pixels, value_range=value_range)
        if tiling is not None:
            return prepare_tiles(read.pixels, rule, tiling)._replace(note=read.note)
        return prepare(read.pixels, rule)._replace(note=read.note)
    except ValueError as error:
        raise Refused(413 if "more than the limit" in str(error) else 400, str(error)) from error


async def _body(request: Any, most: int) -> bytes:
    too_large = Refused(413, f"the request is larger than {most / 1e6:g} MB; make the image smaller")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise too_large
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise too_large
    return bytes(body)


async def _files(request: Any, body: bytes, limits: Limits) -> list[Upload]:
    """The files of a form with the bytes `body`, which are within the limit."""
    from starlette.exceptions import HTTPException
    from starlette.requests import Request

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        async with Request(request.scope, receive).form(max_files=limits.num_images, max_fields=0) as form:
            files = [
                Upload(PurePosixPath(file.filename or "image").name, await file.read())
                for _, file in form.multi_items()
                if not isinstance(file, str)
            ]
    except HTTPException as error:
        raise Refused(400, f"the form: expected files only, at most {limits.num_images} ({error.detail})") from error
    if not files:
        raise Refused(400, "the form has no file; with curl use -F file=@image.jpg")
    return files
