"""The checksum inside an exported file, which reveals any changed bit of its weights, its graph or its metadata.

It is the SHA-256 of all bytes of the file, with zeros in the place of the checksum.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

CHECKSUM = "boxwright_sha256"
"""The name of the checksum in a file's metadata; a file without it is not checked."""
WEIGHTS_CHECKSUM = "boxwright_weights_sha256"
"""The name of the checksum of the weights only, in files of earlier versions."""
BLANK = "0" * 64


def seal(path: Path, length: int = len(BLANK)) -> None:
    """Replace the zeros that were written for a file's checksum; `length` is theirs with what follows."""
    data = bytearray(path.read_bytes())
    start = _place(data, length)
    assert start is not None
    data[start : start + len(BLANK)] = hashlib.sha256(data).hexdigest().encode()
    path.write_bytes(data)


def check_seal(data: bytes, path: Path, length: int = len(BLANK)) -> str | None:
    """The digits of a file's checksum and what follows, None without one. Raises ValueError where it does not match."""
    start = _place(data, length)
    if start is None:
        return None
    end = start + len(BLANK)
    digest = hashlib.sha256(memoryview(data)[:start])
    digest.update(BLANK.encode())
    digest.update(memoryview(data)[end:])
    refuse_other(digest.hexdigest(), data[start:end].decode(), path)
    return data[start : start + length].decode()


def refuse_other(found: str, stored: str | None, path: Path) -> None:
    """Raise ValueError where a checksum differs from the stored one; None means that none was stored."""
    if stored is not None and found != stored:
        raise ValueError(f"{path} is damaged, or another program changed it; export it again from its checkpoint")


def _place(data: Any, length: int) -> int | None:
    """Where the checksum begins, the last of them; a file that was made from another may contain that one's too."""
    pattern = rb"%s.{1,12}?([0-9a-f]{%d})(?![0-9a-f])" % (CHECKSUM.encode(), length)
    found = [match.start(1) for match in re.finditer(pattern, data, re.DOTALL)]
    return found[-1] if found else None
