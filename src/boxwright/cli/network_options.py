"""What several verbs say of a detector, and how its network sees images or frames, as arguments of a detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from boxwright.inference.options import PredictOptions

DETECTOR = "Run folder, checkpoint (also of another library), exported file, or a name of `boxwright zoo`."
"""The help of an argument that is any detector."""
NETWORK = "Run folder, checkpoint (also of another library), or a name of `boxwright zoo`."
"""The help of one that has to hold a torch network."""


def check_shares(**values: float | None) -> None:
    """Raise ValueError for an option, of this name with dashes, that is not between 0 and 1."""
    for name, value in values.items():
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"--{name.replace('_', '-')}: expected 0 to 1, got {value}")


def network_options(
    *, score: float | None, nms_iou: float | None, max_detections: int | None, no_resize: bool, tiles: int | None,
    overlap: float | None, batch: int, memory: float,
) -> PredictOptions:  # fmt: skip
    """The options as they are given on the command line, where `--tiles 0` means whole images."""
    return {
        "score": score,
        "nms_iou": nms_iou,
        "max_detections": max_detections,
        "resize": None if no_resize else "recipe",
        "tiles": "recipe" if tiles is None else tiles or None,
        "overlap": overlap,
        "batch": batch,
        "memory": memory,
    }
