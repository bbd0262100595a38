"""Under which licence weights are, as far as that is known: by the library whose file it is, or by their address."""

from __future__ import annotations

from boxwright.weights.zoo import DETECTRON2, MMDETECTION, zoo

NON_COMMERCIAL = {
    "adelaidet": "non-commercial use only (AdelaiDet's own; ask its authors for another)",
    "fcos": "non-commercial use only (the FCOS authors' own; ask them for another)",
}
"""Of libraries whose own licence is more narrow than those of the others, whoever trained with them."""
_PLACES = {DETECTRON2: "CC-BY-SA-3.0", MMDETECTION: "Apache-2.0", "https://download.pytorch.org/": "BSD-3-Clause"}
"""What the libraries say of the weights that they publish at these addresses."""


def licence_of(family: str, source: str) -> str | None:
    """The licence of weights of a library (a name of `convert.files.FAMILIES`); None where it is not known.

    `source` is their address, or the name of their file, which the zoo may know.

    >>> licence_of("mmdetection", "faster_rcnn_r50_fpn_1x_coco_20200130-047c8118.pth")
    'Apache-2.0'
    >>> licence_of("torchvision", "mine.pth") is None
    True
    """
    if family in NON_COMMERCIAL:
        return NON_COMMERCIAL[family]
    at = next((licence for place, licence in _PLACES.items() if source.startswith(place)), None)
    if at is not None or "/" in source:
        return at
    return next((entry.licence for entry in zoo() if entry.url.endswith(f"/{source}")), None)
