"""ONNX files, checked before they are loaded into ONNX Runtime."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from boxwright.runtime.description import KEY, Description
from boxwright.runtime.devices import parse_device
from boxwright.runtime.graph_check import check_onnx
from boxwright.runtime.missing import required
from boxwright.runtime.seal import WEIGHTS_CHECKSUM, check_seal, refuse_other


def read_description(path: Path) -> Description:
    """The description inside an ONNX file. Raises ValueError where the file is damaged or not ours."""
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


def load_onnx(path: Path, device: str | torch.device, num_threads: int | None = None) -> tuple[Any, Description]:
    """A session of ONNX Runtime on the CPU, or on a GPU with onnxruntime-gpu, and the file's description."""
    runtime = required("onnxruntime", "export")
    description = read_description(path)
    settings = runtime.SessionOptions()
    settings.log_severity_level = 3
    if num_threads is not None:
        settings.intra_op_num_threads = num_threads
    on_gpu = "CUDAExecutionProvider" in runtime.get_available_providers()
    chosen = parse_device(device) or torch.device("cuda" if on_gpu else "cpu")
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"{path}: ONNX Runtime runs on the CPU or a GPU of NVIDIA here; leave --device out")
    if chosen.type == "cuda" and not on_gpu:
        raise ValueError(f"{path}: this onnxruntime has no GPU; install onnxruntime-gpu, or use --device cpu")
    provider: Any = "CPUExecutionProvider"
    if chosen.type == "cuda":
        provider = ("CUDAExecutionProvider", {"device_id": chosen.index or 0})
    try:
        session = runtime.InferenceSession(os.fspath(path), settings, providers=[provider])
    except Exception as error:  # onnxruntime's own classes
        raise ValueError(f"{path}: ONNX Runtime cannot load it ({str(error).splitlines()[0][:160]})") from error
    return session, description


def _checksum(graph: Any) -> str:
    """SHA-256 of the names and bytes of all weights of a graph."""
    digest = hashlib.sha256()
    for weight in graph.initializer:
        digest.update(weight.name.encode())
        digest.update(weight.raw_data)
    return digest.hexdigest()
