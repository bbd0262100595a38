"""A worker of a batch job: loads the detector once, and turns chunks of images into files of rows.

A row of results is an image: key, size, boxes (D, 4) x1, y1, x2, y2 in its pixels, scores, labels, names and category
ids (D), best first, and what else the detector predicts: masks (D) as COCO's run-length codes, keypoints (D, P, 3) x,
y, score, rotated boxes (D, 5), the semantic and the panoptic map as PNG files, and COCO's rows of the segments. A row
of failures is an image and the reason, in one sentence.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from boxwright.data.image_io.decode import ReadImage
from boxwright.data.image_io.memory_need import MEMORY, Need, need_of_size
from boxwright.data.inputs import Ahead
from boxwright.deploy.batch.listing import Entry, read_with_note_of, stored_size_of
from boxwright.inference.predictor import Detector
from boxwright.ops.image import ResizeRule
from boxwright.recipes.schema import Recipe
from boxwright.runtime.missing import required
from boxwright.structures import Detections
from boxwright.structures.written import segments_info
from boxwright.visualize.label_images import panoptic_image, png_bytes, semantic_image

AT_ONCE = 2
"""Deaths of workers on a chunk after which its images are processed one by one, to find the one that kills them."""


@dataclass(frozen=True, slots=True)
class Job:
    """The settings of all workers; paths are absolute, as workers have other working folders."""

    checkpoint: str
    folder: str
    device: str
    precision: str
    batch: int
    score: float
    nms_iou: float | None
    max_detections: int | None
    resized: bool
    further: tuple[str, ...]
    """Columns of what the detector predicts beside boxes: see `further_columns`."""


class Chunk(NamedTuple):
    """Images that are processed together, as a row of a Ray dataset: the name of their files, and their entries."""

    name: str
    entries: str

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Chunk:
        """The same images give the same name, so that repeating a chunk replaces its rows."""
        keys = "\n".join(entry.key for entry in entries)
        return cls(hashlib.sha256(keys.encode()).hexdigest()[:24], json.dumps(entries))


class Failure(NamedTuple):
    """Why an image has no detections."""

    why: str


class Found(NamedTuple):
    """The detections in an image, and a note on a defect of its file, if there is one."""

    detections: Detections
    note: str | None


class Worker:
    """Detects the images of chunks; Ray Data holds one in each of its processes."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.problem = ""
        try:
            self.detector = Detector.load(job.checkpoint, job.device, precision=job.precision)
        except (ValueError, OSError, ImportError) as error:
            self.problem = str(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write the rows of a chunk; returns counts, or the problem that every worker would have.

        A problem is returned and not raised, as Ray wraps exceptions in texts of its own.
        """
        if not self.problem:
            try:
                return {**self._done(row), "problem": ""}
            except OSError as error:  # a full disk
                self.problem = str(error)
        return {"images": 0, "objects": 0, "problem": self.problem}

    def _done(self, row: dict[str, Any]) -> dict[str, int]:
        entries = [Entry(*values) for values in json.loads(row["entries"])]
        folder = Path(self.job.folder)
        attempt = Attempt(folder / "attempts" / row["name"])
        if attempt.deaths < AT_ONCE:
            found = [one for part in self._parts(entries) for one in self._detect(*part)]
        else:
            found = [one for index, entry in enumerate(entries) for one in self._alone(attempt, index, entry)]
        results = [
            _result(entry, one, self.job) for entry, one in zip(entries, found, strict=True) if isinstance(one, Found)
        ]
        failures = [
            {"image": entry.key, "why": one.why}
            for entry, one in zip(entries, found, strict=True)
            if isinstance(one, Failure)
        ]
        for name, rows, schema in (
            ("failures", failures, failure_schema()),
            ("results", results, result_schema(self.job.further)),
        ):
            if rows:
                _write_rows(folder / name / f"{row['name']}.parquet", rows, schema)
        attempt.finished()
        objects = sum(len(one.detections) for one in found if isinstance(one, Found))
        return {"images": len(entries), "objects": objects}

    def _parts(self, entries: list[Entry]) -> Iterator[tuple[list[Entry], list[ReadImage | Failure]]]:
        """A few batches at a time, decoded while the detector works on the previous ones; fewer if images are large."""
        size = 2 * self.job.batch

        def refused(entry: Entry, problem: str) -> ReadImage | Failure:
            return Failure(f"{entry.key}: {problem}")

        yield from Ahead(iter(entries), size, MEMORY, self._need, self._read, refused)

    def _need(self, entry: Entry) -> Need:
        """The memory need of an image, whose own pixels are kept until its detection."""
        try:
            hw, stored = stored_size_of(entry)
        except (ValueError, OSError):
            return Need(0, 0)
        rule = self.detector.resize if self.job.resized else ResizeRule("none")
        return need_of_size(hw, rule, keep=True, stored=stored, tiling=self.detector.tiling)

    def _read(self, entry: Entry) -> ReadImage | Failure:
        try:
            return read_with_note_of(entry, self.detector.value_range)
        except (ValueError, OSError, MemoryError) as error:
            return Failure(str(error) or f"{entry.key}: not enough memory")

    def _alone(self, attempt: Attempt, index: int, entry: Entry) -> list[Found | Failure]:
        """Process one image by itself; it is recorded before, in case the process dies."""
        if index in attempt.killers:
            return [Failure(f"{entry.key}: the worker died on it, also alone (not enough memory, or a broken decoder)")]
        attempt.note(index)
        return self._detect([entry], [self._read(entry)])

    def _detect(self, entries: list[Entry], images: list[ReadImage | Failure]) -> list[Found | Failure]:
        """Detections of the images that could be decoded; one by one if there is not enough memory for all."""
        good = [image.pixels for image in images if isinstance(image, ReadImage)]
        job = self.job
        try:
            found = iter(
                list(
                    self.detector.stream(
                        good,
                        score=job.score,
                        resize="recipe" if job.resized else None,
                        batch=job.batch,
                        nms_iou=job.nms_iou,
                        max_detections=job.max_detections,
                    )
                )
            )
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            if len(images) > 1:
                pairs = zip(entries, images, strict=True)
                return [one for entry, image in pairs for one in self._detect([entry], [image])]
            return [Failure(f"{entries[0].key}: {tuple(good[0].shape)} pixels need more memory than there is")]
        return [Found(next(found), image.note) if isinstance(image, ReadImage) else image for image in images]


class Attempt:
    """A file that records who works on a chunk, how many workers died on it, and which images alone killed them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        self.deaths: int = 0 if known is None else known["deaths"] + 1
        self.killers: list[int] = [] if known is None else known["killers"]
        if known is not None and known["alone"] is not None:
            self.killers.append(known["alone"])
        self.note(None)

    def note(self, alone: int | None) -> None:
        """Record the image that is processed alone, if one is."""
        known = {
            "deaths": self.deaths,
            "killers": self.killers,
            "alone": alone,
            "host": socket.gethostname(),
            "process": os.getpid(),
        }
        write_whole(self.path, lambda place: Path(place).write_text(json.dumps(known), encoding="utf-8"))

    def finished(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


def write_whole(path: Path, write: Callable[[str], object]) -> None:
    """Write a file atomically, replacing an earlier one, even if other processes write it too."""
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial")
    try:
        write(os.fspath(partial))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def further_columns(recipe: Recipe) -> tuple[str, ...]:
    """The columns of what a recipe's model predicts beside boxes."""
    maps, masks = recipe.needs_semantic, recipe.needs_masks
    have = {
        "masks": masks, "keypoints": recipe.num_keypoints > 0, "rotated": recipe.needs_rotated, "semantic": maps,
        "panoptic": maps and masks, "segments": maps and masks,
    }  # fmt: skip
    return tuple(name for name, there in have.items() if there)


def result_schema(further: Sequence[str]) -> Any:
    """The columns of the table of results, with those of `further_columns`."""
    arrow = required("pyarrow", "ray")
    number = arrow.float32()
    columns = {
        "image": arrow.string(),
        "width": arrow.int32(),
        "height": arrow.int32(),
        "boxes": arrow.list_(arrow.list_(number)),
        "scores": arrow.list_(number),
        "labels": arrow.list_(arrow.int32()),
        "names": arrow.list_(arrow.string()),
        "category_ids": arrow.list_(arrow.int64()),
        "note": arrow.string(),
    }
    segment = {
        "id": arrow.int32(), "category_id": arrow.int64(), "area": arrow.int64(), "isthing": arrow.int8(),
        "score": number,
    }  # fmt: skip
    more = {
        "masks": arrow.list_(arrow.struct({"size": arrow.list_(arrow.int32()), "counts": arrow.string()})),
        "keypoints": arrow.list_(arrow.list_(arrow.list_(number))),
        "rotated": arrow.list_(arrow.list_(number)),
        "semantic": arrow.binary(),
        "panoptic": arrow.binary(),
        "segments": arrow.list_(arrow.struct(segment)),
    }
    return arrow.schema(columns | {name: more[name] for name in further})


def failure_schema() -> Any:
    """The columns of the table of failures."""
    arrow = required("pyarrow", "ray")
    return arrow.schema({"image": arrow.string(), "why": arrow.string()})


def _write_rows(path: Path, rows: list[dict[str, Any]], schema: Any) -> None:
    table = required("pyarrow", "ray").Table.from_pylist(rows, schema=schema)
    write_whole(path, lambda place: required("pyarrow.parquet", "ray").write_table(table, place, compression="zstd"))


def _result(entry: Entry, one: Found, job: Job) -> dict[str, Any]:
    found = one.detections
    height, width = found.size_hw
    coco = found.to_coco("")
    row = {
        "image": entry.key,
        "width": width,
        "height": height,
        "boxes": found.boxes.tolist(),
        "scores": found.scores.tolist(),
        "labels": found.labels.tolist(),
        "names": found.names,
        "category_ids": [row["category_id"] for row in coco],
        "note": one.note,
    }
    return row | {name: _further(name, found, coco) for name in job.further}


def _further(name: str, found: Detections, coco: list[dict[str, Any]]) -> Any:
    """What stands in one of `further_columns`, of an image with the rows `coco`."""
    if name == "masks":
        return [code["segmentation"] for code in coco]
    if name == "semantic":
        return None if found.semantic is None else png_bytes(semantic_image(found.semantic))
    if name in ("panoptic", "segments"):
        merged = found.panoptic
        if merged is None:
            return None
        return segments_info(merged, found.classes) if name == "segments" else png_bytes(panoptic_image(merged.map))
    values = found.keypoints if name == "keypoints" else found.rotated
    return [] if values is None else values.tolist()


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
