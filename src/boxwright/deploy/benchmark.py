"""Speed, file size and AP of a detector in each runtime of this machine.

Runtimes take turns, round by round, so that other load on the machine slows all of them alike.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from boxwright.checkpoint import Checkpoint
from boxwright.data.image_io.any_image import ImageLike
from boxwright.deploy.export.export_checkpoint import calibration_inputs, figures_on
from boxwright.deploy.export.graph import detector_graph, record
from boxwright.deploy.export.onnx import write_onnx
from boxwright.deploy.export.openvino import write_openvino
from boxwright.inference.overlap import DeviceUse
from boxwright.inference.predictor import Detector
from boxwright.ops.image import fit_image, resize_plan
from boxwright.recipes.schema import Recipe
from boxwright.runtime.openvino import computes_bf16
from boxwright.runtime.precision import choose_precision
from boxwright.runtime.winograd import direct_convolutions

RUNTIMES = (
    "torch",
    "torch-bf16",
    "torch-compiled",
    "onnx",
    "onnx-winograd",
    "openvino",
    "openvino-winograd",
    "openvino-bf16",
    "openvino-int8",
)
REST = 0.1
"""Seconds between turns: threads of a runtime keep spinning for a while after their work, on the cores of the next."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """A detector in one runtime, and the size of its files in bytes."""

    name: str
    detector: Detector
    size: int


def available_runtimes(device: torch.device, *, calibration: bool, wide: bool) -> dict[str, str]:
    """All runtimes by name, each with the reason why it is not available here, or "" if it is.

    `calibration`: whether there are images for int8; `wide`: whether the network has convolutions wide enough for
    Winograd's algorithm.
    """
    packages = ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf")
    lacking = [name for name in packages if importlib.util.find_spec(name) is None]
    needs: dict[str, tuple[str, ...]] = {
        "onnx": ("onnx", "onnxscript", "onnxruntime"),
        "openvino": ("onnx", "onnxscript", "openvino"),
    }
    needs["onnx-winograd"] = needs["onnx"]
    needs["openvino-winograd"] = needs["openvino-bf16"] = needs["openvino"]
    needs["openvino-int8"] = (*needs["openvino"], "nncf")
    reasons = dict.fromkeys(RUNTIMES, "")
    for name, wanted in needs.items():
        absent = [package for package in wanted if package in lacking]
        reasons[name] = f"pip install 'boxwright[export]' ({', '.join(absent)} missing)" if absent else ""
    if choose_precision("auto", device) != "bf16":
        reasons["torch-bf16"] = "this device does not support bf16 natively"
    if not reasons["openvino-bf16"] and not computes_bf16():
        reasons["openvino-bf16"] = "this processor does not support bf16"
    if not wide:
        reasons["onnx-winograd"] = reasons["openvino-winograd"] = "no convolution of this network is wide enough"
    if not reasons["openvino-int8"] and not calibration:
        reasons["openvino-int8"] = "needs images for calibration: --images FOLDER"
    return reasons


def build_runtimes(
    checkpoint: Checkpoint,
    names: Sequence[str],
    folder: Path,
    *,
    device: torch.device,
    weights_size: int,
    images: Path | None,
    log: Callable[[str], object],
) -> list[Runtime]:
    """The named runtimes of a checkpoint, with their files in `folder`; only `export` compares those with it."""
    made: list[Runtime] = []
    onnx_files = {False: folder / "detector.onnx", True: folder / "winograd.onnx"}
    description = detector_graph(checkpoint)[1]
    exported = [name for name in names if name.startswith(("onnx", "openvino"))]
    for winograd in {name.endswith("winograd") for name in exported}:
        log("exporting ...")
        graph, _ = detector_graph(checkpoint, winograd=winograd)
        write_onnx(record(graph, description), onnx_files[winograd], description)
    for name in names:
        kind, _, variant = name.partition("-")
        if kind == "torch":
            precision = "bf16" if variant == "bf16" else "fp32"
            detector = Detector(checkpoint, device, precision=precision, compile=variant == "compiled")
            detector.settings = description.settings  # those that are fixed in the files
            made.append(Runtime(name, detector, weights_size))
            continue
        file = onnx_file = onnx_files[variant == "winograd"]
        if kind == "openvino":
            file = folder / f"{name}.xml"
            inputs = None
            if variant == "int8":
                assert images is not None
                inputs = calibration_inputs(Detector(checkpoint, "cpu"), description, images)
            precision = variant if variant in ("bf16", "int8") else "fp32"
            write_openvino(onnx_file, file, replace(description, precision=precision), inputs)
        parts = (file, file.with_suffix(".bin")) if kind == "openvino" else (file,)
        size = sum(part.stat().st_size for part in parts)
        made.append(Runtime(name, Detector.load(file, "cpu"), size))
    return made


def measure_speed(
    runtimes: Sequence[Runtime], images: Sequence[Tensor], *, batch: int, repeats: int, score: float | None = None
) -> list[tuple[float, float]]:
    """Latency (seconds, one image) and throughput (images per second) of each runtime: medians over rounds.

    Images (3, H, W) are resized before; normalisation, network, NMS and the mapping to the original are timed.
    """
    times: dict[tuple[int, int], list[float]] = {}
    for round_ in range(-1, repeats):  # the first one warms up
        for number, runtime in enumerate(runtimes):
            for count in (1, batch):
                time.sleep(REST)
                chosen = [images[(round_ + place) % len(images)] for place in range(count)]
                start = time.perf_counter()
                runtime.detector.predict(chosen, resize=None, tiles=None, batch=count, score=score)
                if runtime.detector.device.type == "cuda":
                    torch.cuda.synchronize()
                if round_ >= 0:
                    times.setdefault((number, count), []).append(time.perf_counter() - start)
    return [
        (statistics.median(times[number, 1]), batch / statistics.median(times[number, batch]))
        for number in range(len(runtimes))
    ]


class FolderSpeed(NamedTuple):
    """`Detector.predict` from files to detections: images, images per second, the part of the time that was waited."""

    images: int
    images_per_second: float
    waited: float


def folder_speed(detector: Detector, images: Sequence[ImageLike], batch: int) -> FolderSpeed:
    """The speed of `predict` with the images as they are, read, resized and all; one pass before warms up."""
    for number in range(2):
        use, start = DeviceUse(detector.device), time.perf_counter()
        for one in detector.try_stream(images, batch=batch, use=use):
            if isinstance(one, Exception):
                raise one
        if number == 1:
            seconds = time.perf_counter() - start
    return FolderSpeed(len(images), len(images) / seconds, use.waited)


def main_figure(recipe: Recipe) -> str:
    """The figure that runtimes are compared by: AP, or what stands for it of a model that gives more than boxes."""
    if recipe.needs_semantic:
        return "PQ" if recipe.needs_masks else "mIoU"
    return "rotated_AP" if recipe.needs_rotated else "AP"


def evaluate_runtimes(
    runtimes: Sequence[Runtime], checkpoint: Checkpoint, device: torch.device, data: Path, split: str
) -> tuple[float, list[float]]:
    """The `main_figure` of the checkpoint in torch fp32 with direct convolutions, and of each runtime."""
    name = main_figure(checkpoint.recipe)

    def figure_of(detector: Detector) -> float:
        return figures_on(detector, data, split).get(name, 0.0)

    points = [figure_of(one.detector) for one in runtimes]
    with direct_convolutions():
        plain = Detector(checkpoint, device, precision="fp32")
    plain.settings = runtimes[0].detector.settings
    return figure_of(plain), points


def network_images(detector: Detector, images: Sequence[Tensor]) -> list[Tensor]:
    """Images at network size: those of the same size as the first, so that batches have no padding.

    Of images that the detector cuts into tiles, the first tile.
    """
    if detector.tiling is not None:
        corners = [detector.tiling.tile_hw((int(one.shape[1]), int(one.shape[2]))) for one in images]
        images = [one[:, :height, :width] for one, (height, width) in zip(images, corners, strict=True)]
    fitted = [fit_image(one, resize_plan((int(one.shape[1]), int(one.shape[2])), detector.resize)) for one in images]
    first = fitted[0].shape
    return [one for one in fitted if one.shape == first]
