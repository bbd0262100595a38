"""ONNX files in ONNX Runtime, after a look into the file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from boxwright.runtime.description import KEY, Description
from boxwright.runtime.graph_check import check_onnx
from boxwright.runtime.missing import required
from boxwright.runtime.seal import WEIGHTS_CHECKSUM, check_seal, refuse_other


def read_description(path: Path) -> Description:
    """What an ONNX file says about itself."""
    onnx = required("onnx", "export")
    try:
        content = path.read_bytes()
        model = onnx.load_model_from_string(content)
    except OSError:
        raise
    except Exception as error:  # protobuf's own errors
        raise ValueError(f"{path} is not an ONNX file, or damaged; export it again from its checkpoint") from error
    found = {entry.key: entry.value for entry in model.metadata_props}
    description = Description.from_json(found.get(KEY), path)
    check_onnx(model, path)
    if check_seal(content, path) is None and WEIGHTS_CHECKSUM in found:
        refuse_other(_checksum(model.graph), found[WEIGHTS_CHECKSUM], path)
    return description


def _checksum(graph: Any) -> str:
    """Of the weights in a graph, by their names, as they lie in the file."""
    digest = hashlib.sha256()
    for weight in graph.initializer:
        digest.update(weight.name.encode())
        digest.update(weight.raw_data)
    return digest.hexdigest()
