"""The engine of an exported file: ONNX Runtime, OpenVINO or a `torch.export` program.

Shape legend: B = images, N = detections at most, H W = pixels of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from boxwright.ops.select import select_detections
from boxwright.runtime.description import Description
from boxwright.runtime.devices import device_called, parse_device
from boxwright.runtime.onnx import load_onnx
from boxwright.runtime.openvino import load_openvino
from boxwright.runtime.program import load_program
from boxwright.structures import DetectSettings, ImageBatch, PaddedDetections, Proposals
from boxwright.wording import counted

Format = Literal["onnx", "openvino", "program"]
SUFFIX_OF: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "program": ".pt2"}
"""The formats that `export` writes, and what their files end in."""
SUFFIXES = tuple(SUFFIX_OF.values())
Arrays = Sequence[Any]


@dataclass
class ExportedEngine:
    """An exported file, ready to run; gives the detections of the detector that it was made from.

    `runtime` is what computes it: "onnxruntime", "openvino" or "torch.export".
    """

    runtime: str
    run: Callable[[dict[str, Tensor]], Arrays]
    description: Description
    path: Path
    device: torch.device
    bucket: int = 1
    fixed_batch: bool = False

    def __call__(
        self, images: ImageBatch, settings: DetectSettings, proposals: Proposals | None = None
    ) -> PaddedDetections:
        known = self.description
        self._check(settings)
        inputs = {"images": network_pixels(images, known), "sizes": images.sizes_hw}
        if proposals is not None:
            inputs["proposals"] = torch.where(proposals.valid[..., None], proposals.boxes, 0.0)
        arrays = self.run(inputs)
        outputs = [torch.as_tensor(array, device=self.device) for array in arrays]
        found = PaddedDetections(**dict(zip(known.outputs, outputs, strict=True)))
        if not known.nms:
            picked = select_detections(*found[:3], settings.nms_iou, settings.max_detections)
            found = PaddedDetections(*picked)
        return narrowed(found, settings)

    def _check(self, settings: DetectSettings) -> None:
        """Raise ValueError for settings that the graph has fixed to other values."""
        own = self.description.settings
        if settings.score_threshold < own.score_threshold:
            raise ValueError(
                f"{self.path} gives nothing below a score of {own.score_threshold:g}, got "
                f"{settings.score_threshold:g}; export it again with a lower --score"
            )
        if self.description.nms and settings.nms_iou != own.nms_iou:
            raise ValueError(
                f"{self.path} has NMS at an IoU of {own.nms_iou:g} in its graph, got {settings.nms_iou:g}; export it "
                "again with another --nms-iou or with --no-nms"
            )
        if self.description.nms and settings.max_detections > own.max_detections:
            raise ValueError(
                f"{self.path} gives at most {counted(own.max_detections, 'detection')}, got "
                f"{settings.max_detections}; export it again with --max-detections"
            )


def network_pixels(images: ImageBatch, known: Description) -> Tensor:
    """The pixels (B, 3, H, W) of a batch as the inputs of the file."""
    if not known.normalise:
        return images.normalised(known.mean, known.std).contiguous()
    pixels = images.pixels
    if known.pixels == "uint8" and pixels.dtype != torch.uint8:
        return (pixels * 255).round().to(torch.uint8)
    return pixels / 255 if known.pixels == "float" and pixels.dtype == torch.uint8 else pixels


def narrowed(found: PaddedDetections, settings: DetectSettings) -> PaddedDetections:
    """Detections (B, N) above a higher score, and fewer of them; rows are best first, so only the ends change."""
    most = settings.max_detections
    boxes, scores, labels = found.boxes[:, :most], found.scores[:, :most], found.labels[:, :most]
    masks = None if found.masks is None else found.masks[:, :most]
    heatmaps = None if found.heatmaps is None else found.heatmaps[:, :most]
    rotated = None if found.rotated is None else found.rotated[:, :most]
    keep = (scores > settings.score_threshold) & (labels >= 0)  # (B, N)
    return PaddedDetections(
        torch.where(keep[..., None], boxes, 0.0),
        torch.where(keep, scores, 0.0),
        torch.where(keep, labels, -1),
        keep.sum(1),
        masks if masks is None else torch.where(keep[..., None, None], masks, 0.0),
        heatmaps if heatmaps is None else torch.where(keep[..., None, None, None], heatmaps, 0.0),
        found.semantic,
        rotated if rotated is None else torch.where(keep[..., None], rotated, 0.0),
    )


def open_engine(file: Path, device: str | torch.device, num_threads: int | None = None) -> ExportedEngine:
    """The engine of an exported file, by its suffix. Raises FileNotFoundError, or ValueError for a damaged file."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    cpu = torch.device("cpu")
    if file.suffix == SUFFIX_OF["onnx"]:
        session, description = load_onnx(file, device, num_threads)

        def run_onnx(inputs: dict[str, Tensor]) -> Arrays:
            found: Arrays = session.run(None, {name: _array(value) for name, value in inputs.items()})
            return found

        return ExportedEngine("onnxruntime", run_onnx, description, file, cpu)
    if file.suffix == SUFFIX_OF["openvino"]:
        if (chosen := parse_device(device)) is not None and chosen.type != "cpu":
            raise ValueError(f"{file}: OpenVINO runs on the CPU here; leave --device out")
        compiled, description = load_openvino(file, num_threads)

        def run_openvino(inputs: dict[str, Tensor]) -> Arrays:
            results = compiled({name: _array(value) for name, value in inputs.items()})
            return [results[name] for name in description.outputs]

        return ExportedEngine("openvino", run_openvino, description, file, cpu)
    where = device_called(device)
    module, description = load_program(file, where)

    @torch.inference_mode()
    def run_program(inputs: dict[str, Tensor]) -> Arrays:
        found: Arrays = module(*(inputs[name] for name in description.inputs))
        return found

    return ExportedEngine("torch.export", run_program, description, file, where)


def _array(value: Tensor) -> np.ndarray[Any, Any]:
    return value.cpu().contiguous().numpy()
