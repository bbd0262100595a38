"""OpenVINO models from an ONNX file: float32, bfloat16 where the processor supports it, or int8 by NNCF."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.runtime.description import KEY, Description
from boxwright.runtime.missing import required
from boxwright.runtime.openvino import _checksum
from boxwright.runtime.seal import BLANK, CHECKSUM, seal
from boxwright.writing import writing

Inputs = dict[str, np.ndarray[Any, Any]]
NETWORK = frozenset({"Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"})
"""Operations to quantise, with everything between two of them; the rest stays float."""
REGIONS = frozenset({"ROIAlign"})


def write_openvino(
    onnx_file: Path, path: Path, description: Description, calibration: Iterable[Inputs] | None = None
) -> None:
    """Convert an ONNX file to `path` (.xml) and .bin; with calibration inputs, its network computes in int8."""
    openvino = required("openvino", "export")
    model = openvino.Core().read_model(onnx_file)
    if calibration is not None:
        model = _quantised(model, list(calibration))
    model.set_rt_info(description.to_json(), [KEY])
    with writing(path):
        openvino.save_model(model, path, compress_to_fp16=False)
        model.set_rt_info(BLANK + _checksum(path), [CHECKSUM])  # of the .bin, which must be written first
        openvino.save_model(model, path, compress_to_fp16=False)
        seal(path, 2 * len(BLANK))


def _quantised(model: Any, calibration: list[Inputs]) -> Any:
    nncf = required("nncf", "export")
    if not calibration:
        raise ValueError("int8 needs images to calibrate with")
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
    """Names of all that is not between two operations of the network: normalisation, box decoding, selection."""
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
    """The inputs that are feature maps: of RoIAlign the map and not the boxes."""
    values: list[Any] = op.input_values()
    return values[:1] if op.get_type_name() in REGIONS else values


def _source(value: Any) -> str:
    return str(value.get_node().get_friendly_name())
