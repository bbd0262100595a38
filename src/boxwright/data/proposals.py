"""Proposal files: the boxes that a proposal network found in the images of a data folder, for Fast R-CNN.

A file is a NumPy archive (.npz) of plain arrays: `names` (N,) paths of the images relative to the data folder, `sizes`
(N, 2) their height and width, `counts` (N,) numbers of proposals, and, image after image, `boxes` (sum, 4) in the
pixels of the original images and `scores` (sum,), best first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from boxwright.data.records import Record
from boxwright.reading.archives import DamagedError
from boxwright.reading.numpy_files import check_arrays
from boxwright.structures import Detections
from boxwright.wording import counted
from boxwright.writing import writing

_ARRAYS = {"names": 1, "sizes": 2, "counts": 1, "boxes": 2, "scores": 1}
_KINDS = {"names": "U", "sizes": "iu", "counts": "iu", "boxes": "iuf", "scores": "iuf"}
"""NumPy's kind letters for text, integers and real numbers."""


class StoredProposals:
    """The proposals of a file, by image. Images are identified by the end of their path, so a folder may move."""

    def __init__(self, path: Path, arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]) -> None:
        self.path = path
        self.sizes = [(int(height), int(width)) for height, width in arrays["sizes"].tolist()]
        self._rows = torch.cat(
            [torch.from_numpy(arrays["boxes"]).float(), torch.from_numpy(arrays["scores"]).float()[:, None]], dim=1
        )
        self._ends = np.cumsum(arrays["counts"], dtype=np.int64).tolist()
        self._of_name: dict[str, list[tuple[str, int]]] = {}
        for index, name in enumerate(arrays["names"].tolist()):
            self._of_name.setdefault(PurePosixPath(name).name, []).append((name, index))

    def __len__(self) -> int:
        return len(self._ends)

    def index_of(self, image: str | Path) -> int | None:
        """The file's image for a path: the one whose name is the longest matching end of the path; None without one."""
        place = "/" + Path(image).absolute().as_posix()
        fitting = [row for row in self._of_name.get(Path(image).name, []) if place.endswith("/" + row[0])]
        return max(fitting, key=lambda row: len(row[0]))[1] if fitting else None

    def of(self, image: str | Path, hw: tuple[int, int]) -> Tensor:
        """Boxes and scores (R, 5) of an image of size `hw`; ValueError if the file has none for it."""
        index = self.index_of(image)
        if index is None:
            raise ValueError(
                f"{self.path} has no proposals for {image}: write them with boxwright proposals CHECKPOINT --data "
                "FOLDER --out FILE"
            )
        if self.sizes[index] != tuple(hw):
            stated = "{} x {}".format(*self.sizes[index])
            raise ValueError(
                f"{self.path}: the proposals for {image} are for an image of {stated} pixels (height x width), it "
                f"has {hw[0]} x {hw[1]}: they were made for other images"
            )
        return self._rows[self._ends[index - 1] if index else 0 : self._ends[index]]

    def check(self, records: Sequence[Record]) -> None:
        """Raise ValueError if images have no proposals, before any work starts."""
        missing = [record.path for record in records if self.index_of(record.path) is None]
        if missing:
            raise ValueError(
                f"{self.path} has no proposals for {len(missing)} of {counted(len(records), 'image')}, first "
                f"{missing[0]}; write them with boxwright proposals CHECKPOINT --data FOLDER --out FILE"
            )
        for record in records:
            if record.stated_hw is not None:
                self.of(record.path, record.stated_hw)


def read_proposals(path: str | Path) -> StoredProposals:
    """The proposals of a file. Raises FileNotFoundError, or ValueError if it is not a proposal file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such proposal file")
    try:
        check_arrays(path, tuple(_ARRAYS))
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in _ARRAYS}
    except DamagedError as error:
        raise DamagedError(
            f"{path}: not a proposal file, or damaged: {error}; write it again with boxwright proposals"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged archive raises anything from zlib.error to SyntaxError
        raise ValueError(
            f"{path}: not a proposal file (an .npz as boxwright proposals writes it); {str(error)[:120]}"
        ) from error
    good = all(arrays[name].ndim == rank for name, rank in _ARRAYS.items())
    good = good and len(arrays["names"]) == len(arrays["sizes"]) == len(arrays["counts"])
    good = good and arrays["boxes"].shape == (len(arrays["scores"]), 4) and arrays["sizes"].shape[1] == 2
    good = good and all(not arrays[name].size or arrays[name].dtype.kind in kinds for name, kinds in _KINDS.items())
    if not good or (arrays["counts"] < 0).any() or int(arrays["counts"].sum()) != len(arrays["scores"]):
        shapes = ", ".join(f"{name} {arrays[name].shape} of {arrays[name].dtype}" for name in _ARRAYS)
        raise ValueError(f"{path}: its arrays do not fit together ({shapes}); write it again with boxwright proposals")
    if not np.isfinite(arrays["boxes"]).all() or not np.isfinite(arrays["scores"]).all():
        raise ValueError(f"{path}: a box or a score is not a number; write it again with boxwright proposals")
    turned = (arrays["boxes"][:, 2:] < arrays["boxes"][:, :2]).any(1)
    if turned.any():
        box = [float(value) for value in arrays["boxes"][turned.argmax()]]
        raise ValueError(f"{path}: expected boxes as x1, y1, x2, y2, got {box}, whose end lies before its start")
    names, times = np.unique(arrays["names"], return_counts=True)
    if (times > 1).any():
        raise ValueError(f"{path}: {names[times.argmax()]} occurs {times.max()} times; expected one entry per image")
    return StoredProposals(path, arrays)


def write_proposals(path: Path, found: Iterable[tuple[str, Detections]]) -> tuple[int, int]:
    """Write the detections of images, with their names, as a proposal file; returns the numbers of images and boxes.

    A path that cannot be written is reported before the first image is detected; an existing file stays until the new
    one is complete.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.touch()
        pairs = list(found)
        rows = [one for _, one in pairs]
        with writing(path, whole=False), partial.open("wb") as file:
            np.savez_compressed(
                file,
                names=np.array([name for name, _ in pairs], dtype=np.str_),
                sizes=np.array([one.size_hw for one in rows], dtype=np.int64).reshape(-1, 2),
                counts=np.array([len(one) for one in rows], dtype=np.int64),
                boxes=torch.cat([torch.zeros(0, 4), *(one.boxes.float() for one in rows)]).numpy(),
                scores=torch.cat([torch.zeros(0), *(one.scores.float() for one in rows)]).numpy(),
            )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return len(rows), sum(len(one) for one in rows)
