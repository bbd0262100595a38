"""OpenVINO models, checked before they are compiled for the CPU."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from boxwright.runtime.description import KEY, Description
from boxwright.runtime.graph_check import check_openvino
from boxwright.runtime.missing import required
from boxwright.runtime.seal import BLANK, WEIGHTS_CHECKSUM, check_seal, refuse_other


def load_openvino(path: Path, num_threads: int | None = None) -> tuple[Any, Description]:
    """A compiled model, which takes a dict of arrays, and its description."""
    openvino = required("openvino", "export")
    core = openvino.Core()
    content = path.read_bytes()
    check_openvino(content, path)
    both = check_seal(content, path, 2 * len(BLANK))
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        raise ValueError(f"{path} is not an OpenVINO model, or its .bin is missing") from error
    text, stored = (
        model.get_rt_info([key]).astype(str) if model.has_rt_info([key]) else None for key in (KEY, WEIGHTS_CHECKSUM)
    )
    description = Description.from_json(text, path)
    refuse_other(_checksum(path), stored if both is None else both[len(BLANK) :], path)
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if num_threads is not None:
        settings["INFERENCE_NUM_THREADS"] = num_threads
    wanted = "bf16" if description.precision == "bf16" and computes_bf16() else "f32"
    settings["INFERENCE_PRECISION_HINT"] = wanted
    return core.compile_model(model, "CPU", settings), description


def _checksum(path: Path) -> str:
    with path.with_suffix(".bin").open("rb") as weights:
        return hashlib.file_digest(weights, "sha256").hexdigest()


def computes_bf16() -> bool:
    """Whether OpenVINO computes in bf16 on this processor."""
    openvino = required("openvino", "export")
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
