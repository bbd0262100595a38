"""ONNX files, written by torch's dynamo exporter, with NMS as ONNX's own operator.

Shape legend: B = images, N = candidates of an image, K = classes, M = boxes kept in the batch.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from boxwright.ops.suppress_pairs import largest_below
from boxwright.runtime.description import KEY, Description
from boxwright.runtime.missing import required
from boxwright.runtime.seal import BLANK, CHECKSUM, seal
from boxwright.runtime.winograd import FILTER, INPUT, OUTPUT
from boxwright.writing import writing

OPSET = 18
DIMENSIONS = {
    "images": {0: "batch", 2: "height", 3: "width"},
    "sizes": {0: "batch"},
    "proposals": {0: "batch", 1: "proposals"},
}


def write_onnx(program: ExportedProgram, path: Path, description: Description) -> None:
    """Write a recorded detector as one ONNX file with description, class names and named dimensions."""
    onnx = required("onnx", "export")
    required("onnxscript", "export")
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():  # the exporter prints
        warnings.simplefilter("ignore")
        written: Any = torch.onnx.export(
            program,
            input_names=list(description.inputs),
            output_names=list(description.outputs),
            opset_version=OPSET,
            dynamo=True,
            custom_translation_table=_translations(),
            verbose=False,
            external_data=False,
        )
        model = written.model_proto
    _name_sizes(model.graph)
    names = str(dict(enumerate(description.classes.names)))
    properties = {KEY: description.to_json(), CHECKSUM: BLANK, "names": names}
    onnx.helper.set_model_props(model, properties)
    with writing(path):
        onnx.save(model, str(path))
        seal(path)


def _name_sizes(graph: Any) -> None:
    """Name the dynamic dimensions batch, height and width, everywhere in the graph."""
    names = {}
    for value in graph.input:
        for place, name in DIMENSIONS[value.name].items():
            names[value.type.tensor_type.shape.dim[place].dim_param] = name
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in names:
                size.dim_param = names[size.dim_param]


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Torch operators that the exporter does not know, in terms of ONNX's."""
    import numpy as np
    from onnx import numpy_helper
    from onnxscript import opset18 as op

    def number(value: Any, kind: Any) -> Any:
        return op.Constant(value=numpy_helper.from_array(np.array(value, dtype=kind)))

    def suppress(boxes: Any, labels: Any, iou_threshold: float, limit: int) -> Any:
        # `ops.select.suppress`: a row's rank is its score, and each class sees the rows of its label only; the best
        # `limit` of all classes are among the best `limit` of each
        shape = op.Shape(labels)
        count = op.Gather(shape, number([1], np.int64))
        rank = op.Cast(op.Range(op.Squeeze(count), number(0, np.int64), number(-1, np.int64)), to=1)
        # one class more than the highest label, so that there is one where no row is a candidate
        end = op.Add(op.ReduceMax(labels, keepdims=0), number(2, np.int64))
        classes = op.Range(number(0, np.int64), end, number(1, np.int64))
        own = op.Equal(op.Unsqueeze(labels, number([1], np.int64)), op.Unsqueeze(classes, number([0, 2], np.int64)))
        scores = op.Where(own, rank, number(0.0, np.float32))  # (B, K, N)
        limits = number([largest_below(iou_threshold)], np.float32), number([0.5], np.float32)
        picked = op.NonMaxSuppression(boxes, scores, number([limit], np.int64), *limits)  # (M, 3): image, class, row
        rows = op.Gather(picked, number([0, 2], np.int64), axis=1)
        length = op.Gather(op.Shape(rows), number([0], np.int64))
        ones = op.Expand(number([1.0], np.float32), length)
        zeros = op.Expand(number([0.0], np.float32), shape)
        return op.Cast(op.ScatterND(zeros, rows, ones), to=9)

    def winograd(x: Any, weight: Any, bias: Any) -> Any:
        # `runtime/winograd.py`: the filters' transform depends on weights only, so that a runtime does it once
        def size(of: Any, dimension: int) -> Any:
            return op.Gather(op.Shape(of), number([dimension], np.int64))

        def steps(count: Any) -> Any:  # (6, count): 4 * step + place within a tile
            starts = op.Mul(op.Range(number(0, np.int64), op.Squeeze(count), number(1, np.int64)), number(4, np.int64))
            return op.Add(number([[0], [1], [2], [3], [4], [5]], np.int64), starts)

        def shape(*sizes: Any) -> Any:
            return op.Concat(*(number([one], np.int64) if isinstance(one, int) else one for one in sizes), axis=0)

        x = op.Transpose(x, perm=[0, 2, 3, 1])
        height, width, channels, channels_out = size(x, 1), size(x, 2), size(weight, 1), size(weight, 0)
        one, three, four = (number([value], np.int64) for value in (1, 3, 4))
        rows, columns = (op.Div(op.Add(side, three), four) for side in (height, width))
        across = op.Mul(columns, four)
        below, beside = (
            op.Sub(op.Add(op.Mul(count, four), one), side) for count, side in ((rows, height), (columns, width))
        )
        padded = op.Pad(x, shape(0, 1, 1, 0, 0, below, beside, 0))
        down = op.Mul(op.Unsqueeze(steps(rows), number([1, 3], np.int64)), op.Add(across, number([2], np.int64)))
        places = op.Reshape(
            op.Add(down, op.Unsqueeze(steps(columns), number([0, 2], np.int64))), number([-1], np.int64)
        )
        tiles = op.Gather(op.Reshape(padded, shape(0, -1, channels)), places, axis=1)  # (N, 36 * T, C)
        filters = op.MatMul(number(FILTER.numpy(), np.float32), op.Transpose(op.Reshape(weight, shape(-1, 9))))
        filters = op.Transpose(op.Reshape(filters, shape(36, channels_out, channels)), perm=[0, 2, 1])
        inputs = op.MatMul(number(INPUT.numpy(), np.float32), op.Reshape(tiles, shape(0, 36, -1)))
        products = op.MatMul(op.Reshape(inputs, shape(0, 36, -1, channels)), filters)  # (N, 36, T, O)
        outputs = op.MatMul(number(OUTPUT.numpy(), np.float32), op.Reshape(products, shape(0, 36, -1)))
        outputs = op.Reshape(outputs, shape(0, 4, 4, rows, columns, channels_out))
        outputs = op.Transpose(outputs, perm=[0, 3, 1, 4, 2, 5])
        outputs = op.Reshape(outputs, shape(0, op.Mul(rows, four), across, channels_out))
        found = op.Slice(outputs, number([0, 0], np.int64), op.Concat(height, width, axis=0), number([1, 2], np.int64))
        return op.Transpose(found if bias is None else op.Add(found, bias), perm=[0, 3, 1, 2])

    def sort(values: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
        size = op.Gather(op.Shape(values), number([dim], np.int64))
        return op.TopK(values, size, axis=dim, largest=int(descending), sorted=1)  # equal ones keep their order

    ops: Any = torch.ops
    return {
        ops.boxwright.suppress.default: suppress,
        ops.boxwright.winograd.default: winograd,
        ops.aten.sort.stable: sort,
    }
