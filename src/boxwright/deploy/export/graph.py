"""A detector as one graph of tensors: pixels and sizes in, detections at fixed ranks out; for any batch and image size.

Shape legend: B = images, H W = pixels of the batch, N = detections at most, R = proposals, M = side of a mask's grid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._sympy.numbers import int_oo

from boxwright.checkpoint import Checkpoint
from boxwright.models import MODELS, DetectionModel, ModelEntry
from boxwright.models.rotated_faster_rcnn import RotatedFasterRCNNConfig
from boxwright.runtime.description import Description
from boxwright.runtime.folding import fold_norms
from boxwright.runtime.winograd import require_winograd
from boxwright.structures import DetectSettings, ImageBatch, Proposals

OUTPUTS = ("boxes", "scores", "labels", "counts")
SAMPLE_HW = (224, 288)
"""Size of the image that a graph is recorded with: every pyramid level has several rows and columns."""
LEAST_SCORE = 0.05
"""AP is computed from this score on; an export keeps what is above it, or above the recipe's own if that is lower."""
CANDIDATES = 5000
"""Without NMS in the graph: number of candidates of an image in the output."""
DYNAMIC = torch.export.Dim.DYNAMIC


class DetectorGraph(nn.Module):
    """images (B, 3, H, W), sizes (B, 2) as height and width, and proposals (B, R, 4) for Fast R-CNN only.

    Gives boxes (B, N, 4) in pixels of the batch, scores (B, N), labels (B, N), counts (B,), masks (B, N, M, M),
    heatmaps (B, N, P, M, M) of keypoints or rotated boxes (B, N, 5) where the detector has them, and logits
    (B, S, h, w) of semantic maps.
    """

    def __init__(self, model: DetectionModel, settings: DetectSettings) -> None:
        super().__init__()
        self.model = model
        self.settings = settings

    def forward(self, images: Tensor, sizes: Tensor, proposals: Tensor | None = None) -> tuple[Tensor, ...]:
        count = images.shape[0]
        batch = ImageBatch(
            images, sizes, sizes, images.new_ones((count, 2)).float(), images.new_zeros((count, 2)).float()
        )
        regions = None
        if proposals is not None:
            valid = (proposals[..., 2:] > proposals[..., :2]).all(-1)
            regions = Proposals(proposals, valid.float(), valid)
        padded = self.model.detect_padded(self.model(batch, None, regions), self.settings)
        return tuple(part for part in padded if part is not None)


def detector_graph(
    checkpoint: Checkpoint,
    *,
    normalise: bool = True,
    nms: bool = True,
    score: float | None = None,
    nms_iou: float | None = None,
    max_detections: int | None = None,
    winograd: bool = False,
) -> tuple[DetectorGraph, Description]:
    """The graph of a checkpoint, norms folded, and its description (of precision fp32).

    Raises ValueError for masks or keypoints without NMS, and for Winograd's algorithm in a network without wide
    convolutions.
    """
    recipe = checkpoint.recipe
    entry = MODELS[recipe.model.name]
    own = recipe.detect.settings()
    settings = replace(
        own,
        score_threshold=min(LEAST_SCORE, own.score_threshold) if score is None else score,
        nms_iou=own.nms_iou if nms_iou is None else nms_iou,
        max_detections=max(100, own.max_detections) if max_detections is None else max_detections,
    )
    if not nms and not entry.detects:
        raise ValueError(f"{recipe.model.name} labels pixels and has no NMS to leave out")
    if not nms and entry.needs_keypoints:
        raise ValueError(
            "keypoints are predicted for what NMS keeps: a keypoint detector is exported with NMS in the graph"
        )
    if not nms and entry.needs_rotated:
        raise ValueError("rotated boxes have an NMS of their own: a rotated detector is exported with it in the graph")
    if isinstance(recipe.model, RotatedFasterRCNNConfig) and not recipe.model.box.pool_sampling:
        raise ValueError(
            "model.box.pool_sampling: 0 takes as many points of a rotated region as it has cells, which no graph can; "
            "only a detector trained with another number, such as 2, is exported"
        )
    if not nms and entry.needs_masks:
        raise ValueError("masks are predicted for what NMS keeps: a mask detector is exported with NMS in the graph")
    model = checkpoint.build()
    assert isinstance(model, nn.Module)
    fold_norms(model)
    if winograd:
        require_winograd(model)
    mean, std = _normalisation(model)
    if not normalise:
        _skip_normalisation(model)
    inside = settings if nms else replace(settings, nms_iou=1.0, max_detections=CANDIDATES)
    description = Description(
        recipe,
        checkpoint.classes,
        checkpoint.score_threshold,
        settings,
        pixels="float" if not normalise or recipe.data.resize.rule().filter == "plain" else "uint8",
        normalise=normalise,
        nms=nms,
        precision="fp32",
        mean=mean,
        std=std,
        outputs=(*OUTPUTS, *_parts_of(entry)),
    )
    return DetectorGraph(model, inside).eval(), description


def _parts_of(entry: ModelEntry) -> tuple[str, ...]:
    """What a graph gives besides `OUTPUTS`."""
    needed = {
        "masks": entry.needs_masks, "heatmaps": entry.needs_keypoints, "semantic": entry.needs_semantic,
        "rotated": entry.needs_rotated,
    }  # fmt: skip
    return tuple(name for name, given in needed.items() if given)


def _normalisation(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    for module in model.modules():
        if hasattr(module, "pixel_mean"):
            mean, std = (torch.as_tensor(getattr(module, name)).tolist() for name in ("pixel_mean", "pixel_std"))
            return tuple(mean), tuple(std)
    raise AssertionError("a detector keeps pixel_mean and pixel_std")


def _skip_normalisation(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(getattr(module, "pixel_mean", None), Tensor):
            module.pixel_mean, module.pixel_std = torch.zeros(3), torch.ones(3)


def sample_inputs(description: Description) -> tuple[Tensor, ...]:
    """A batch of two images of noise (and proposals), to record a graph with."""
    generator = torch.Generator().manual_seed(0)
    height, width = SAMPLE_HW
    pixels = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)
    images = pixels if description.pixels == "uint8" else pixels / 255
    inputs = [images, torch.tensor([[height, width], [height - 20, width - 30]])]
    if "proposals" in description.inputs:
        corner = torch.rand(2, 30, 2, generator=generator) * 150
        inputs.append(torch.cat([corner, corner + 40], dim=-1))
    return tuple(inputs)


@torch.no_grad()
def record(graph: DetectorGraph, description: Description) -> ExportedProgram:
    """The graph as a `torch.export` program, dynamic in batch, height, width and number of proposals.

    Its guards on sizes are about memory layout only; run it as `program.module(check_guards=False)`.
    """
    free: dict[str, dict[int, Any]] = {
        "images": {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC},
        "sizes": {0: DYNAMIC},
        "proposals": {0: DYNAMIC, 1: DYNAMIC},
    }
    shapes = {name: free[name] for name in description.inputs}
    program = torch.export.export(graph, sample_inputs(description), dynamic_shapes=shapes, strict=False)
    for symbol, values in program.range_constraints.items():  # the sample's memory layout drew bounds
        program.range_constraints[symbol] = type(values)(1, values.upper if values.upper < 1 << 30 else int_oo)
    return program
