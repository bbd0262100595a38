"""The keyword arguments of prediction, described once."""

from __future__ import annotations

from typing import Literal, TypedDict

from boxwright.data.proposals import StoredProposals
from boxwright.ops.image import ResizeRule
from boxwright.ops.tiling import Tiling


class PredictOptions(TypedDict, total=False):
    """Keyword arguments of `Detector.predict` and `Detector.stream`; `try_stream` has their defaults."""

    score: float | None
    """Lowest score; the checkpoint's own threshold if not given."""
    nms_iou: float | None
    """IoU above which the weaker of two boxes of a class is dropped, instead of the recipe's."""
    max_detections: int | None
    """Detections an image at most, instead of the recipe's."""
    resize: ResizeRule | Literal["recipe"] | None
    """The recipe's resizing, another rule, or None for images as they are."""
    batch: int
    """Images a forward pass. Sizes may be mixed: images of one network size are put together."""
    proposals: StoredProposals | None
    """Regions of the images (which are then paths), for a detector that finds none itself."""
    window: int
    """Images that are decoded ahead and sorted into batches together."""
    tiles: Tiling | int | Literal["recipe"] | None
    """Cut images into tiles of so many pixels, detect in each, and merge what is found; None for whole images; the
    recipe's (`data.tiles`) if not given. `max_detections` is that of an image where it is given, else of a tile."""
    overlap: float | None
    """With `tiles` in pixels: the share of a tile that its neighbour shows too; 0.2 if not given."""
    memory: float
    """GiB that decoded images may take at most."""
