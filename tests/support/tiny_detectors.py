"""Every detector in a size that a test can afford, the images that they see, and their recorded loss curves.

`python tests/support/tiny_detectors.py NAME ...` records the curves of these detectors anew (of all without a name).
"""

import copy
import dataclasses
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from configs import BASELINE, COURSE, TWO_STAGE_COURSE, built
from torch import Tensor

from boxwright.models import MODELS
from boxwright.ops.rotated import upright_rotated
from boxwright.structures import CroppedMask, GroundTruth, ImageBatch, Proposals, Targets

SMALL = {"backbone.name": "mobilenet_v3_small", "fpn.channels": 16}
DENSE = {**SMALL, "head.stem_channels": (16,)}
NUM_CLASSES = 3
# samplers are so large that nothing is sampled away: what is drawn would depend on the order of boxes
FEW = {"samples": 4096, "train_candidates": 60, "test_candidates": 60, "train_proposals": 40, "test_proposals": 40}
FEW = {f"rpn.{name}": count for name, count in FEW.items()}
REGIONS = {"rpn.stem_channels": (16,), "rpn.anchor_sizes": ((8,), (16,), (32,), (64,), (128,)), **FEW}
BOX = {"box.fc_channels": (32,), "box.samples": 512, "box.positive_fraction": 1.0}
MASK = {"mask.conv_channels": (8,), "mask.upsampled_channels": 8}
KEYPOINT = {"keypoint.num_keypoints": 2, "keypoint.conv_channels": (8,), "keypoint.pool_size": 7}
TURNED = {"rpn.anchor_angles": (-30.0, 0.0), "box.pool_sampling": 1}
SEMANTIC = {"fpn.levels": ("c2", "c3", "c4", "c5"), "semantic.num_classes": 3, "semantic.channels": 16}
# a new detector is held to the contract by one line: its name in MODELS and its settings
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "improved": ("fcos", DENSE),
    "baseline": ("fcos", {**BASELINE, **DENSE}),
    "course": ("fcos", {**COURSE, **DENSE, "loss.normaliser_start": 10.0}),
    "retinanet": ("retinanet", {**DENSE, "anchors.sizes": (8, 16, 32, 64, 128)}),
    "rpn": ("rpn", {**SMALL, **REGIONS}),
    "fast_rcnn": ("fast_rcnn", {**SMALL, **BOX}),
    "faster_rcnn": ("faster_rcnn", {**SMALL, **REGIONS, **BOX}),
    "two_stage_course": (
        "faster_rcnn",
        {
            **TWO_STAGE_COURSE,
            **SMALL,
            **FEW,
            "rpn.stem_channels": (16,),
            "rpn.anchor_sizes": ((16,), (32,), (64,)),
            "box.conv_channels": (16,),
            "box.samples": 512,
            "box.positive_fraction": 1.0,
        },
    ),
    "mask_rcnn": ("mask_rcnn", {**SMALL, **REGIONS, **BOX, **MASK}),
    "keypoint_rcnn": ("keypoint_rcnn", {**SMALL, **REGIONS, **BOX, **KEYPOINT}),
    "semantic_fpn": ("semantic_fpn", {**SMALL, **SEMANTIC}),
    "panoptic_fpn": ("panoptic_fpn", {**SMALL, **REGIONS, **BOX, **MASK, **SEMANTIC}),
    "rotated_faster_rcnn": (
        "rotated_faster_rcnn",
        {**SMALL, **REGIONS, **BOX, **TURNED},
    ),
    "fcos_mask": ("fcos_mask", {**DENSE, **MASK}),
}
QUICK = {"backbone.norm": "bn", "backbone.frozen_stages": 0}  # learns fast from random weights
CURVES = Path(__file__).parents[1] / "models" / "golden_curves.json"
STEPS = 20
SMOOTH = {"semantic_fpn": {"semantic.norm": "none"}}
"""What is changed for a curve: untrained maps of C5 are nearly constant, of which group norm makes gradients of
millions, and of rounding differences 3 % of the loss. With group norm the branch is in the curve of Panoptic FPN.
"""


def build(name: str, changes: dict[str, Any] | None = None) -> Any:
    """A tiny detector, always with the same random weights."""
    return copy.deepcopy(_built(name, tuple((changes or {}).items())))


@cache  # a copy costs a tenth of drawing weights
def _built(name: str, changes: tuple[tuple[str, Any], ...]) -> Any:
    kind, settings = TINY[name]
    torch.manual_seed(0)
    return built(kind, NUM_CLASSES, {**settings, **dict(changes)})


def ground_truth(boxes: Any, labels: Any, ignore: Any = None, size_hw: tuple[int, int] = (64, 64)) -> GroundTruth:
    """Boxes whose masks and rotated boxes are the boxes themselves, and whose keypoints their centres and corners.

    The semantic map has things in them, and one kind of stuff above the other.
    """
    corners = torch.as_tensor(boxes).reshape(-1, 4).int().tolist()
    masks = [CroppedMask(x1, y1, torch.ones(y2 - y1, x2 - x1, dtype=torch.bool)) for x1, y1, x2, y2 in corners]
    points = [[((x1 + x2) / 2, (y1 + y2) / 2, 2.0), (x1, y1, 1.0)] for x1, y1, x2, y2 in corners]
    semantic = torch.ones(size_hw, dtype=torch.uint8)
    semantic[size_hw[0] // 2 :] = 2
    for x1, y1, x2, y2 in corners:
        semantic[y1:y2, x1:x2] = 0
    rotated = upright_rotated(torch.as_tensor(boxes).reshape(-1, 4))
    return GroundTruth.of(boxes, labels, ignore, masks, torch.tensor(points).reshape(-1, 2, 3), semantic, rotated)


def without_map(one: GroundTruth) -> GroundTruth:
    """The same ground truth for an image of another size."""
    return dataclasses.replace(one, semantic=None)


BOXES = {
    "one": ground_truth([[10.0, 12.0, 50.0, 40.0]], [1]),
    "two": ground_truth([[4.0, 4.0, 30.0, 60.0], [20.0, 8.0, 60.0, 30.0]], [0, 2]),
    "region": ground_truth([[4.0, 4.0, 30.0, 60.0], [20.0, 8.0, 60.0, 30.0]], [0, 2], [False, True]),
    "none": GroundTruth.empty(),
}


def image(seed: int, height: int = 64, width: int = 64) -> Tensor:
    """Noise (3, H, W) uint8."""
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def forward(model: Any, images: ImageBatch, targets: Targets | None = None, call: Any = None) -> Any:
    """Outputs of a detector (called through `call`, where it is wrapped), with a lattice of proposals if it needs them.

    Samplers start from the same seed each time.
    """
    torch.manual_seed(5)
    return (call or model)(images, targets, _lattice(images) if needs_proposals(model) else None)


def needs_proposals(model: Any) -> bool:
    """Whether a detector finds no regions itself."""
    return any(entry.build is type(model) and getattr(entry, "needs_proposals", False) for entry in MODELS.values())


def detects(model: Any) -> bool:
    """Whether a model finds objects, and not only the label of each pixel."""
    return any(entry.build is type(model) and getattr(entry, "detects", True) for entry in MODELS.values())


def is_one_class(model: Any) -> bool:
    """Whether a detector has one class, "object"."""
    return any(entry.build is type(model) and getattr(entry, "one_class", False) for entry in MODELS.values())


def _lattice(images: ImageBatch) -> Proposals:
    """Squares of two sizes all over each image, cut to it: what an image gets does not depend on its batch."""
    rows = []
    for height, width in images.sizes_hw.tolist():
        corners = [(x, y, s) for s in (24, 48) for y in range(0, height - 8, 12) for x in range(0, width - 8, 12)]
        rows.append(torch.tensor([[x, y, min(x + s, width), min(y + s, height)] for x, y, s in corners]).float())
    return Proposals.of(rows).to(images.pixels.device)


def total(losses: dict[str, Tensor]) -> Tensor:
    """What training sums up."""
    return torch.stack(list(losses.values())).sum()


def tensors(value: Any) -> list[Tensor]:
    """All tensors of nested outputs, in order."""
    if isinstance(value, Tensor):
        return [value]
    if dataclasses.is_dataclass(value):
        value = tuple(getattr(value, field.name) for field in dataclasses.fields(value))
    return [tensor for part in value for tensor in tensors(part)] if isinstance(value, tuple | list) else []


def loss_curve(name: str) -> list[float]:
    """The losses of the first steps of training on two images."""
    model = build(name, SMOOTH.get(name)).train()
    images, targets = ImageBatch.of([image(1), image(2)]), Targets.of([BOXES["two"], BOXES["one"]])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    curve = []
    for _ in range(STEPS):
        loss = total(model.loss(forward(model, images, targets), targets))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        curve.append(float(loss.detach()))
    return curve


if __name__ == "__main__":
    torch.set_num_threads(1)
    recorded = json.loads(CURVES.read_text()) if CURVES.exists() else {}
    recorded |= {name: loss_curve(name) for name in sys.argv[1:] or TINY}
    lines = (f'  "{name}": {json.dumps(recorded[name])}' for name in TINY if name in recorded)
    CURVES.write_text("{\n" + ",\n".join(lines) + "\n}\n")
