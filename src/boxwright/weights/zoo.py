"""Detectors that can be loaded by name: their published figures, and the addresses of their weights."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2/"
"""What `detectron2://` stands for."""


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """One set of COCO weights: AP on val2017, million parameters and GFLOPs an image, as far as published."""

    name: str
    ap: float | None
    mask_ap: float | None
    parameters: float | None
    gflops: float | None
    licence: str
    url: str


TORCHVISION = (
    "fcos_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
)
# name: (box AP, mask AP, the end of the address); from Detectron2's MODEL_ZOO.md and model_zoo.py.
# An RPN has no AP: its average recall of 1000 proposals is 51.6 on C4 and 58.0 on a pyramid.
_BOXES, _MASKS = "COCO-Detection/", "COCO-InstanceSegmentation/"
DETECTRON2_ROWS: dict[str, tuple[float | None, float | None, str]] = {
    "retinanet_R_50_FPN_1x": (37.4, None, "190397773/model_final_bfca0b.pkl"),
    "retinanet_R_50_FPN_3x": (38.7, None, "190397829/model_final_5bd44e.pkl"),
    "retinanet_R_101_FPN_3x": (40.4, None, "190397697/model_final_971ab9.pkl"),
    "rpn_R_50_C4_1x": (None, None, "137258005/model_final_450694.pkl"),
    "rpn_R_50_FPN_1x": (None, None, "137258492/model_final_02ce48.pkl"),
    "fast_rcnn_R_50_FPN_1x": (37.8, None, "137635226/model_final_e5f7ce.pkl"),
    "faster_rcnn_R_50_C4_1x": (35.7, None, "137257644/model_final_721ade.pkl"),
    "faster_rcnn_R_50_DC5_1x": (37.3, None, "137847829/model_final_51d356.pkl"),
    "faster_rcnn_R_50_FPN_1x": (37.9, None, "137257794/model_final_b275ba.pkl"),
    "faster_rcnn_R_50_C4_3x": (38.4, None, "137849393/model_final_f97cb7.pkl"),
    "faster_rcnn_R_50_DC5_3x": (39.0, None, "137849425/model_final_68d202.pkl"),
    "faster_rcnn_R_50_FPN_3x": (40.2, None, "137849458/model_final_280758.pkl"),
    "faster_rcnn_R_101_C4_3x": (41.1, None, "138204752/model_final_298dad.pkl"),
    "faster_rcnn_R_101_DC5_3x": (40.6, None, "138204841/model_final_3e0943.pkl"),
    "faster_rcnn_R_101_FPN_3x": (42.0, None, "137851257/model_final_f6e8b1.pkl"),
    "faster_rcnn_X_101_32x8d_FPN_3x": (43.0, None, "139173657/model_final_68b088.pkl"),
    "mask_rcnn_R_50_C4_1x": (36.8, 32.2, "137259246/model_final_9243eb.pkl"),
    "mask_rcnn_R_50_DC5_1x": (38.3, 34.2, "137260150/model_final_4f86c3.pkl"),
    "mask_rcnn_R_50_FPN_1x": (38.6, 35.2, "137260431/model_final_a54504.pkl"),
    "mask_rcnn_R_50_C4_3x": (39.8, 34.4, "137849525/model_final_4ce675.pkl"),
    "mask_rcnn_R_50_DC5_3x": (40.0, 35.9, "137849551/model_final_84107b.pkl"),
    "mask_rcnn_R_50_FPN_3x": (41.0, 37.2, "137849600/model_final_f10217.pkl"),
    "mask_rcnn_R_101_C4_3x": (42.6, 36.7, "138363239/model_final_a2914c.pkl"),
    "mask_rcnn_R_101_DC5_3x": (41.9, 37.3, "138363294/model_final_0464b7.pkl"),
    "mask_rcnn_R_101_FPN_3x": (42.9, 38.6, "138205316/model_final_a3ec72.pkl"),
    "mask_rcnn_X_101_32x8d_FPN_3x": (44.3, 39.5, "139653917/model_final_2d9806.pkl"),
}


MILLIONS = {
    "retinanet_R_50_FPN": 38.0,
    "retinanet_R_101_FPN": 57.0,
    "rpn_R_50_C4": 18.1,
    "rpn_R_50_FPN": 27.4,
    "fast_rcnn_R_50_FPN": 41.2,
    "faster_rcnn_R_50_C4": 33.8,
    "faster_rcnn_R_50_DC5": 165.6,
    "faster_rcnn_R_50_FPN": 41.8,
    "faster_rcnn_R_101_C4": 52.8,
    "faster_rcnn_R_101_DC5": 184.6,
    "faster_rcnn_R_101_FPN": 60.7,
    "faster_rcnn_X_101_32x8d_FPN": 105.0,
    "mask_rcnn_R_50_C4": 36.0,
    "mask_rcnn_R_50_DC5": 172.4,
    "mask_rcnn_R_50_FPN": 44.4,
    "mask_rcnn_R_101_C4": 55.0,
    "mask_rcnn_R_101_DC5": 191.4,
    "mask_rcnn_R_101_FPN": 63.4,
    "mask_rcnn_X_101_32x8d_FPN": 107.6,
}
"""Parameters of Detectron2's detectors, counted in ours; it publishes neither them nor operations."""


def zoo() -> list[ZooEntry]:
    """Everything that can be loaded by name."""
    return [*(_torchvision_entry(name) for name in TORCHVISION), *(_detectron2_entry(name) for name in DETECTRON2_ROWS)]


def zoo_entry(name: str) -> ZooEntry:
    """One detector by its name, such as `torchvision/fcos_resnet50_fpn`; ValueError with the nearest where unknown."""
    library, _, model = name.partition("/")
    if library == "torchvision" and model in TORCHVISION:
        return _torchvision_entry(model)
    if library == "detectron2" and model in DETECTRON2_ROWS:
        return _detectron2_entry(model)
    known = [*(f"torchvision/{n}" for n in TORCHVISION), *(f"detectron2/{n}" for n in DETECTRON2_ROWS)]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"no detector {name!r} in the zoo{hint} (`boxwright zoo` lists them)")


def _torchvision_entry(name: str) -> ZooEntry:
    """Torchvision publishes these figures with its weights."""
    from torchvision.models import get_model_weights

    weights: Any = next(iter(get_model_weights(name)))
    meta = weights.meta
    figures = meta["_metrics"]["COCO-val2017"]
    return ZooEntry(
        f"torchvision/{name}",
        figures["box_map"],
        figures.get("mask_map"),
        round(meta["num_params"] / 1e6, 1),
        meta["_ops"],
        "BSD-3-Clause",
        weights.url,
    )


def _detectron2_entry(name: str) -> ZooEntry:
    ap, mask_ap, end = DETECTRON2_ROWS[name]
    folder = _MASKS if name.startswith("mask") else _BOXES
    url = f"{DETECTRON2}{folder}{name}/{end}"
    return ZooEntry(f"detectron2/{name}", ap, mask_ap, MILLIONS[name.rsplit("_", 1)[0]], None, "CC-BY-SA-3.0", url)
