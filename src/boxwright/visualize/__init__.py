"""Drawing: boxes, masks and label tags on images, and several images on one sheet."""

from __future__ import annotations

from boxwright.visualize.drawing import class_colour, draw, save, text_colour
from boxwright.visualize.label_images import panoptic_image, semantic_image
from boxwright.visualize.mask_image import mask_image
from boxwright.visualize.sheets import contact_sheet, side_by_side, titled

__all__ = [
    "class_colour",
    "contact_sheet",
    "draw",
    "mask_image",
    "panoptic_image",
    "save",
    "semantic_image",
    "side_by_side",
    "text_colour",
    "titled",
]
