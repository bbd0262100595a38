"""A shapes dataset with rotated boxes as files, in DOTA's layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from boxwright.ops.rotated import rotated_corners
from boxwright.structures import Classes, GroundTruth
from boxwright.writing import writing


def write_dota(folder: Path, split: str, entries: Sequence[tuple[str, GroundTruth]], classes: Classes) -> None:
    """Write one split, `labelTxt/SPLIT/`: the corners of each rotated box, its class, and 0 for not difficult."""
    labels = folder / "labelTxt" / split
    labels.mkdir(parents=True, exist_ok=True)
    for file, ground_truth in entries:
        assert ground_truth.rotated is not None
        lines = ["imagesource:boxwright", "gsd:null"]
        for corners, label in zip(
            rotated_corners(ground_truth.rotated.double()).flatten(1).tolist(),
            ground_truth.labels.tolist(),
            strict=True,
        ):
            lines.append(f"{' '.join(f'{place:.2f}' for place in corners)} {classes.names[label]} 0")
        with writing(labels / f"{Path(file).stem}.txt") as target:
            target.write_text("\n".join(lines) + "\n", encoding="utf-8")
