"""Weights by name or address: fetched once, checked, and kept where torchvision keeps its own weights.

Nothing else in the library uses the network, and this only for a name or address that the user gave.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import torch

from boxwright.weights.zoo import DETECTRON2, zoo_entry

_BLOCK = 1 << 20
REMOTE = ("torchvision/", "detectron2/", "mmdetection/", "detectron2://", "https://")
"""What names of weights to fetch begin with."""


def is_remote(source: str) -> bool:
    """Whether this names weights to fetch rather than a file."""
    return source.startswith(REMOTE) and not Path(source).exists()


def source_name(source: str | Path) -> str:
    """A source as text; a URL that was made a path has its two slashes again.

    >>> source_name(Path("https://example.org/a.pth"))
    'https://example.org/a.pth'
    """
    return re.sub(r"^(https|detectron2):/+", r"\1://", str(source))


def address_of(source: str) -> str:
    """The https address that a zoo name or a shorthand stands for."""
    if source.startswith("detectron2://"):
        return DETECTRON2 + source.removeprefix("detectron2://").lstrip("/")
    if source.startswith("https://"):
        return source
    return zoo_entry(source).url


def cache_folder() -> Path:
    """Where fetched weights are kept: torch's own cache, `TORCH_HOME` moves it."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def fetched_file(source: str) -> Path:
    """The file of a zoo name, `detectron2://` shorthand or https address, from the cache or fetched into it.

    Its checksum must be the one in its name (sha256 in torchvision's and MMDetection's, md5 in Detectron2's), in the
    address where that ends in `#sha256=...`, and the one noted when it was fetched. Raises OSError with the address and
    the place to put the file where there is no network, ValueError where a checksum differs.
    """
    address = address_of(source)
    url, _, fragment = address.partition("#")
    place = place_of(url)
    note = place.with_name(place.name + ".sha256")
    checks = []  # (algorithm, what it must begin with, who says so)
    if fragment.startswith("sha256="):
        checks.append(("sha256", fragment.removeprefix("sha256=").lower(), "the address"))
    if named := re.search(r"-([0-9a-f]{8,})\.pth$", place.name):
        checks.append(("sha256", named[1], "its name"))
    if not place.exists():
        _fetch(url, place, source, checks[0][1] if checks else None)
        note.write_text(_digest(place) + "\n", encoding="ascii")
    if named := re.search(r"_model_\w+_([0-9a-f]{6})\.pkl$", place.name):
        checks.append(("md5", named[1], "its name"))
    if note.exists():
        checks.append(("sha256", note.read_text(encoding="ascii").strip(), str(note)))
    for algorithm, expected, who in checks:
        digest = _digest(place, algorithm)
        if not digest.startswith(expected):
            raise ValueError(
                f"{place}: its {algorithm} is {digest[:12]}..., {who} says {expected[:12]}; "
                f"remove the file to fetch it again"
            )
    return place


def place_of(url: str) -> Path:
    """Where the file of an address is kept."""
    return cache_folder() / _file_name(url)


def _file_name(url: str) -> str:
    """A name for the cache: the last part of the address, with the two before it where all files are called alike."""
    parts = [part for part in urlsplit(url).path.split("/") if part]
    if not parts:
        raise ValueError(f"{url}: names no file")
    name = "_".join(parts[-3:]) if parts[-1].startswith("model_") else parts[-1]
    return re.sub(r"[^\w.+-]", "_", name)


def _fetch(url: str, place: Path, source: str, sha256: str | None) -> None:
    """Download with torch's own loader, which shows its progress on a terminal; in place only when whole and right."""
    partial = place.with_name(place.name + f".{os.getpid()}.partial")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        length = _length(url)
        torch.hub.download_url_to_file(url, str(partial), sha256, progress=sys.stderr.isatty())
        size = partial.stat().st_size
        if length is not None and size != length:  # torch's loader takes a connection that broke off for the end
            raise OSError(f"only {size} of {length} bytes came")
        os.replace(partial, place)
    except RuntimeError as error:
        raise ValueError(f"{url}: not the file that was expected, {error}") from error
    except OSError as error:  # URLError, without a number, is one
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise OSError(error.errno, error.strerror, str(place)) from error
        raise OSError(
            f"no network for {source} ({error}): fetch {url} elsewhere and put it there as {place}"
        ) from error
    finally:
        with suppress(OSError):  # of a file system that can only be read
            partial.unlink(missing_ok=True)


def _length(url: str) -> int | None:
    """How many bytes an address holds, where its server says so; OSError where nobody answers within 30 seconds."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=30) as answer:
            length = answer.headers.get("Content-Length")
    except urllib.error.HTTPError:  # some servers give files but answer no such question
        return None
    return int(length) if length else None


def _digest(path: Path, algorithm: str = "sha256") -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
