"""Detectors that can be loaded by name: their published figures, and the addresses of their weights."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, NamedTuple

DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2/"
"""What `detectron2://` stands for."""


class Published(NamedTuple):
    """What a library says of its own training and speed; none of it was measured here."""

    seconds_per_iteration: float
    seconds_per_image: float
    memory_gb: float


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """One set of COCO weights: AP on val2017, million parameters and GFLOPs an image, as far as published.

    With keypoints `ap` is that of the boxes of persons, the only class.
    """

    name: str
    ap: float | None
    mask_ap: float | None
    parameters: float | None
    gflops: float | None
    licence: str
    url: str
    proposal_ar: float | None = None
    """Average recall of 1000 proposals, of a proposal network."""
    schedule: str | None = None
    """"1x" is 90,000 iterations of 16 images, "3x" three times as many."""
    model_id: str | None = None
    """Detectron2's number for a training run."""
    published: Published | None = None
    keypoint_ap: float | None = None


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
    "keypointrcnn_resnet50_fpn",
)
# name: (box AP, mask AP, the end of the address); from Detectron2's MODEL_ZOO.md and model_zoo.py.
# An RPN has no AP, but an average recall.
_BOXES, _MASKS, _KEYPOINTS = "COCO-Detection/", "COCO-InstanceSegmentation/", "COCO-Keypoints/"
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
    "keypoint_rcnn_R_50_FPN_1x": (53.6, None, "137261548/model_final_04e291.pkl"),
    "keypoint_rcnn_R_50_FPN_3x": (55.4, None, "137849621/model_final_a6e10b.pkl"),
    "keypoint_rcnn_R_101_FPN_3x": (56.4, None, "138363331/model_final_997cc7.pkl"),
    "keypoint_rcnn_X_101_32x8d_FPN_3x": (57.3, None, "139686956/model_final_5ad38f.pkl"),
}

PROPOSAL_AR = {"rpn_R_50_C4_1x": 51.6, "rpn_R_50_FPN_1x": 58.0}
"""Average recall of 1000 proposals; from Detectron2's MODEL_ZOO.md, as all that follows."""
KEYPOINT_AP = {
    "keypoint_rcnn_R_50_FPN_1x": 64.0,
    "keypoint_rcnn_R_50_FPN_3x": 65.5,
    "keypoint_rcnn_R_101_FPN_3x": 66.1,
    "keypoint_rcnn_X_101_32x8d_FPN_3x": 66.0,
}
HARDWARE = "8 NVIDIA V100, 16 images an iteration; inference of single images on one of them"
"""What Detectron2 measured its times and its memory (of one GPU) with."""
PUBLISHED = {
    "retinanet_R_50_FPN_1x": Published(0.205, 0.056, 4.1),
    "retinanet_R_50_FPN_3x": Published(0.205, 0.056, 4.1),
    "retinanet_R_101_FPN_3x": Published(0.291, 0.069, 5.2),
    "rpn_R_50_C4_1x": Published(0.130, 0.034, 1.5),
    "rpn_R_50_FPN_1x": Published(0.186, 0.032, 2.7),
    "fast_rcnn_R_50_FPN_1x": Published(0.140, 0.029, 2.6),
    "faster_rcnn_R_50_C4_1x": Published(0.551, 0.102, 4.8),
    "faster_rcnn_R_50_DC5_1x": Published(0.380, 0.068, 5.0),
    "faster_rcnn_R_50_FPN_1x": Published(0.210, 0.038, 3.0),
    "faster_rcnn_R_50_C4_3x": Published(0.543, 0.104, 4.8),
    "faster_rcnn_R_50_DC5_3x": Published(0.378, 0.070, 5.0),
    "faster_rcnn_R_50_FPN_3x": Published(0.209, 0.038, 3.0),
    "faster_rcnn_R_101_C4_3x": Published(0.619, 0.139, 5.9),
    "faster_rcnn_R_101_DC5_3x": Published(0.452, 0.086, 6.1),
    "faster_rcnn_R_101_FPN_3x": Published(0.286, 0.051, 4.1),
    "faster_rcnn_X_101_32x8d_FPN_3x": Published(0.638, 0.098, 6.7),
    "mask_rcnn_R_50_C4_1x": Published(0.584, 0.110, 5.2),
    "mask_rcnn_R_50_DC5_1x": Published(0.471, 0.076, 6.5),
    "mask_rcnn_R_50_FPN_1x": Published(0.261, 0.043, 3.4),
    "mask_rcnn_R_50_C4_3x": Published(0.575, 0.111, 5.2),
    "mask_rcnn_R_50_DC5_3x": Published(0.470, 0.076, 6.5),
    "mask_rcnn_R_50_FPN_3x": Published(0.261, 0.043, 3.4),
    "mask_rcnn_R_101_C4_3x": Published(0.652, 0.145, 6.3),
    "mask_rcnn_R_101_DC5_3x": Published(0.545, 0.092, 7.6),
    "mask_rcnn_R_101_FPN_3x": Published(0.340, 0.056, 4.6),
    "mask_rcnn_X_101_32x8d_FPN_3x": Published(0.690, 0.103, 7.2),
    "keypoint_rcnn_R_50_FPN_1x": Published(0.315, 0.072, 5.0),
    "keypoint_rcnn_R_50_FPN_3x": Published(0.316, 0.066, 5.0),
    "keypoint_rcnn_R_101_FPN_3x": Published(0.390, 0.076, 6.1),
    "keypoint_rcnn_X_101_32x8d_FPN_3x": Published(0.738, 0.121, 8.7),
}

MMDETECTION = "https://download.openmmlab.com/mmdetection/v2.0/"
_FCOS, _TRICKS = "r50_caffe_fpn_gn-head_1x_coco", "fcos_center-normbbox-centeronreg-giou_"
# name: (box AP, mask AP, million parameters, what the file's name ends in); from the READMEs of MMDetection's configs,
# where each file lies in a folder of its name below one of its detector's
MMDETECTION_ROWS: dict[str, tuple[float, float | None, float, str]] = {
    f"fcos_{_FCOS}": (36.6, None, 32.3, "-821213aa"),
    f"{_TRICKS}{_FCOS}": (38.7, None, 32.3, "-0a0d75a8"),
    "fcos_r101_caffe_fpn_gn-head_1x_coco": (39.1, None, 51.3, "-0e37b982"),
    "fcos_r50_caffe_fpn_gn-head_mstrain_640-800_2x_coco": (38.5, None, 32.3, "-d92ceeea"),
    "fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco": (40.8, None, 51.3, "-511424d6"),
    "retinanet_r50_caffe_fpn_1x_coco": (36.3, None, 38.0, "_20200531-f11027c5"),
    "retinanet_r50_fpn_1x_coco": (36.5, None, 38.0, "_20200130-c2398f9e"),
    "retinanet_r50_fpn_2x_coco": (37.4, None, 38.0, "_20200131-fdb43119"),
    "retinanet_r101_fpn_1x_coco": (38.5, None, 57.0, "_20200130-7a93545f"),
    "retinanet_r101_fpn_2x_coco": (38.9, None, 57.0, "_20200131-5560aee8"),
    "retinanet_x101_32x4d_fpn_1x_coco": (39.9, None, 56.6, "_20200130-5c8b7ec4"),
    "faster_rcnn_r50_caffe_fpn_1x_coco": (37.8, None, 41.8, "_bbox_mAP-0.378_20200504_180032-c5925ee5"),
    "faster_rcnn_r50_fpn_1x_coco": (37.4, None, 41.8, "_20200130-047c8118"),
    "faster_rcnn_r50_fpn_2x_coco": (38.4, None, 41.8, "_bbox_mAP-0.384_20200504_210434-a5d8aa15"),
    "faster_rcnn_r101_fpn_1x_coco": (39.4, None, 60.7, "_20200130-f513f705"),
    "faster_rcnn_r101_fpn_2x_coco": (39.8, None, 60.7, "_bbox_mAP-0.398_20200504_210455-1d2dac9c"),
    "faster_rcnn_x101_32x4d_fpn_1x_coco": (41.2, None, 60.4, "_20200203-cff10310"),
    "mask_rcnn_r50_caffe_fpn_1x_coco": (
        38.0, 34.4, 44.4, "_bbox_mAP-0.38__segm_mAP-0.344_20200504_231812-0ebd1859",
    ),
    "mask_rcnn_r50_fpn_1x_coco": (38.2, 34.7, 44.4, "_20200205-d4b0c5d6"),
    "mask_rcnn_r50_fpn_2x_coco": (39.2, 35.4, 44.4, "_bbox_mAP-0.392__segm_mAP-0.354_20200505_003907-3e542a40"),
    "mask_rcnn_r101_fpn_1x_coco": (40.0, 36.1, 63.4, "_20200204-1efe0ed5"),
    "mask_rcnn_r101_fpn_2x_coco": (40.8, 36.6, 63.4, "_bbox_mAP-0.408__segm_mAP-0.366_20200505_071027-14b391c7"),
    "mask_rcnn_x101_32x4d_fpn_1x_coco": (41.9, 37.5, 63.0, "_20200205-478d0b67"),
}  # fmt: skip
"""Parameters are counted in ours."""


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
    "keypoint_rcnn_R_50_FPN": 59.1,
    "keypoint_rcnn_R_101_FPN": 78.1,
    "keypoint_rcnn_X_101_32x8d_FPN": 122.2,
}
"""Parameters of Detectron2's detectors, counted in ours; it publishes neither them nor operations."""


def zoo() -> list[ZooEntry]:
    """Everything that can be loaded by name."""
    return [
        *(_torchvision_entry(name) for name in TORCHVISION),
        *(_detectron2_entry(name) for name in DETECTRON2_ROWS),
        *(_mmdetection_entry(name) for name in MMDETECTION_ROWS),
    ]


def zoo_entry(name: str) -> ZooEntry:
    """One detector by its name, such as `torchvision/fcos_resnet50_fpn`; ValueError with the nearest where unknown."""
    library, _, model = name.partition("/")
    if library == "torchvision" and model in TORCHVISION:
        return _torchvision_entry(model)
    if library == "detectron2" and model in DETECTRON2_ROWS:
        return _detectron2_entry(model)
    if library == "mmdetection" and model in MMDETECTION_ROWS:
        return _mmdetection_entry(model)
    names = {"torchvision": TORCHVISION, "detectron2": DETECTRON2_ROWS, "mmdetection": MMDETECTION_ROWS}
    known = [f"{library}/{n}" for library, rows in names.items() for n in rows]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"no detector {name!r} in the zoo{hint} (`boxwright zoo` lists them)")


def _torchvision_entry(name: str) -> ZooEntry:
    """Torchvision publishes these figures with its weights."""
    from torchvision.models import get_model_weights

    weights: Any = get_model_weights(name).DEFAULT
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
        keypoint_ap=figures.get("kp_map"),
    )


def _detectron2_entry(name: str) -> ZooEntry:
    ap, mask_ap, end = DETECTRON2_ROWS[name]
    folder = {"mask": _MASKS, "keypoint": _KEYPOINTS}.get(name.partition("_")[0], _BOXES)
    url = f"{DETECTRON2}{folder}{name}/{end}"
    return ZooEntry(
        f"detectron2/{name}", ap, mask_ap, MILLIONS[name.rsplit("_", 1)[0]], None, "CC-BY-SA-3.0", url,
        proposal_ar=PROPOSAL_AR.get(name), schedule=name.rpartition("_")[2], model_id=end.partition("/")[0],
        published=PUBLISHED[name], keypoint_ap=KEYPOINT_AP.get(name),
    )  # fmt: skip


def recipe_of(name: str) -> str | None:
    """The recipe that trains a detector of Detectron2's zoo; None for other libraries, whose settings are others.

    >>> recipe_of("detectron2/faster_rcnn_X_101_32x8d_FPN_3x")
    'faster-rcnn-x101-fpn-3x'
    """
    library, _, row = name.partition("/")
    if library != "detectron2":
        return None
    return row.replace("X_101_32x8d", "X101").replace("R_", "R").replace("_", "-").lower()


def _mmdetection_entry(name: str) -> ZooEntry:
    ap, mask_ap, millions, end = MMDETECTION_ROWS[name]
    folder = next(word for word in ("faster_rcnn", "mask_rcnn", "retinanet", "fcos") if name.startswith(word))
    url = f"{MMDETECTION}{folder}/{name}/{name}{end}.pth"
    return ZooEntry(f"mmdetection/{name}", ap, mask_ap, millions, None, "Apache-2.0", url)
