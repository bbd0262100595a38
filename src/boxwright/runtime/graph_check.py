"""Checks of the graph of an exported file: standard operators only, and weights inside the file only.

ONNX can refer to weights in other files by any path; an OpenVINO graph can refer to operators of libraries, and to
weights beyond the end of its `.bin`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

STANDARD = ("", "ai.onnx")
DEEPEST = 64
_EXTERNAL = 1


def check_onnx(model: Any, path: Path) -> None:
    """Raise ValueError where an ONNX model has weights outside of its file, or operators that are not ONNX's own."""
    own = {function.domain for function in model.functions}
    for message in _messages(model):
        kind = message.DESCRIPTOR.name
        if kind == "TensorProto" and (message.data_location == _EXTERNAL or message.external_data):
            places = {entry.key: entry.value for entry in message.external_data}
            raise ValueError(
                f"{path}: refused: its weight {message.name[:80]} lies in another file "
                f"({places.get('location', '')[:80]!r}); an exported file holds its weights itself: export it again"
            )
        if kind == "NodeProto" and message.domain not in (*STANDARD, *own):
            raise ValueError(
                f"{path}: refused: it asks for the operator {message.op_type[:80]} of {message.domain[:80]}, which is "
                "none of ONNX's own: export it again"
            )


def _messages(message: Any, depth: int = 0) -> Iterator[Any]:
    """A protobuf message and all messages within it."""
    yield message
    if depth > DEEPEST:
        raise ValueError("its graph is nested without end")
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if hasattr(value, "DESCRIPTOR") else value:
                if hasattr(inner, "DESCRIPTOR"):
                    yield from _messages(inner, depth + 1)


def check_openvino(text: bytes, path: Path) -> None:
    """Raise ValueError where an OpenVINO graph is no plain XML, names other operators, or weights beyond its `.bin`."""
    weights = path.with_suffix(".bin")
    room = weights.stat().st_size if weights.is_file() else 0
    depth = 0

    def begin(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise ValueError("it is nested without end")
        if tag == "layer" and re.fullmatch(r"opset\d{1,3}", attributes.get("version", "")) is None:
            name = f"{attributes.get('type', '')} of {attributes.get('version', 'nowhere')}"
            raise ValueError(f"it asks for the operator {name[:100]}, which is none of OpenVINO's own")
        if tag == "data" and "offset" in attributes:
            start, size = (int(attributes.get(key, "-1")) for key in ("offset", "size"))
            if start < 0 or size < 0 or (weights.is_file() and start + size > room):
                raise ValueError(f"it asks for bytes {start} to {start + size} of a .bin of {room}")

    def end(_tag: str) -> None:
        nonlocal depth
        depth -= 1

    def refuse(*_: Any) -> None:
        raise ValueError("it declares a document type, whose entities could grow without end")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise ValueError(f"{path} is not an OpenVINO model, or is damaged ({error}); export it again") from error
    except ValueError as error:
        raise ValueError(f"{path}: refused: {error}; export it again from its checkpoint") from error
