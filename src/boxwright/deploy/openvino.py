"""OpenVINO models from an ONNX file: float32, bfloat16 where the processor computes it, or int8 by NNCF.

Two files, NAME.xml and NAME.bin. The precision of a model in bf16 is a wish: a processor without bf16 computes float32.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.deploy.description import KEY, Description
from boxwright.deploy.graph_check import check_openvino
from boxwright.deploy.missing import required
from boxwright.deploy.seal import BLANK, CHECKSUM, WEIGHTS_CHECKSUM, check_seal, refuse_other, seal
from boxwright.writing import writing

Inputs = dict[str, np.ndarray[Any, Any]]
NETWORK = frozenset({"Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"})
"""Operations that int8 is for; what lies between two of them goes with them, the rest stays float."""
REGIONS = frozenset({"ROIAlign"})


def write_openvino(
    onnx_file: Path, path: Path, description: Description, calibration: Iterable[Inputs] | None = None
) -> None:
    """Convert an ONNX file to path (.xml) and .bin; with calibration inputs, its network computes in int8."""
    openvino = required("openvino", "export")
    model = openvino.Core().read_model(onnx_file)
    if calibration is not None:
        model = _quantised(model, list(calibration))
    model.set_rt_info(description.to_json(), [KEY])
    with writing(path):
        openvino.save_model(model, path, compress_to_fp16=False)
        model.set_rt_info(BLANK + _checksum(path), [CHECKSUM])  # of the .bin, which must lie there first
        openvino.save_model(model, path, compress_to_fp16=False)
        seal(path, 2 * len(BLANK))


def load_openvino(path: Path, num_threads: int | None = None) -> tuple[Any, Description]:
    """A compiled model that takes a dict of arrays, and its description."""
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
    """Whether OpenVINO's CPU plugin has bf16 here."""
    openvino = required("openvino", "export")
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _quantised(model: Any, calibration: list[Inputs]) -> Any:
    nncf = required("nncf", "export")
    if not calibration:
        raise ValueError("int8 needs pictures to calibrate with")
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr):  # its progress bar
        return nncf.quantize(
            model,
            nncf.Dataset(calibration),
            subset_size=len(calibration),
            preset=nncf.QuantizationPreset.PERFORMANCE,  # symmetric: no zero points
            ignored_scope=nncf.IgnoredScope(names=_outside_network(model), validate=False),
        )


def _outside_network(model: Any) -> list[str]:
    """Names of what is not between two operations of the network: normalising pixels, decoding boxes, selection."""
    ops = list(model.get_ordered_ops())
    after: set[str] = set()
    for op in ops:
        if op.get_type_name() in NETWORK or any(_source(value) in after for value in _features(op)):
            after.add(op.get_friendly_name())
    before: set[str] = set()
    for op in reversed(ops):
        name = op.get_friendly_name()
        if op.get_type_name() in NETWORK or name in before:
            before.add(name)
            before.update(_source(value) for value in _features(op))
    return [op.get_friendly_name() for op in ops if op.get_friendly_name() not in before & after]


def _features(op: Any) -> list[Any]:
    """The inputs through which maps flow: of RoIAlign the map and not the boxes."""
    values: list[Any] = op.input_values()
    return values[:1] if op.get_type_name() in REGIONS else values


def _source(value: Any) -> str:
    return str(value.get_node().get_friendly_name())
