"""Checking a dataset before training: findings with file, line and box, and the data without what is invalid.

Single boxes are left out, never the whole image, unless the image itself cannot be read or none of its labelled objects
is usable: it would be learned as background. Nothing is written into the data folder.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from boxwright.data.checks.balance import balance_problems
from boxwright.data.checks.boxes import checked_annotations, coordinate_problems
from boxwright.data.checks.images import ImageState, look_at_images, range_of, same_content, value_problems
from boxwright.data.checks.keypoints import unannotated_keypoints
from boxwright.data.checks.maps import MapState, look_at_maps, map_problems, pixels_by_class, value_findings
from boxwright.data.image_io.value_range import ValueRange
from boxwright.data.records import LabelledFolder, Problem, Record, Split
from boxwright.ops.image import ResizeRule, resize_plan
from boxwright.ops.tiling import Tiling
from boxwright.wording import counted, listed

_SEVERITY = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True, slots=True)
class SplitStatistics:
    """Statistics of a split after the check.

    per_level counts boxes by half their longer side in network pixels (what a location at their centre regresses), one
    number for each given range; side_px holds the smallest, median and largest square root of a box's area.
    """

    images: int
    empty: int
    objects: int
    ignored: int
    per_class: dict[str, int]
    per_level: tuple[int, ...]
    side_px: tuple[float, float, float] | None
    smallest_hw: tuple[int, int] | None
    largest_hw: tuple[int, int] | None
    pixels: dict[str, int] = field(default_factory=dict)
    """Of each label of a semantic map, where maps were decoded."""


@dataclass(frozen=True, slots=True)
class PreflightReport:
    """The findings, worst first, the dataset without what was quarantined, and statistics of each split."""

    findings: tuple[Problem, ...]
    dataset: LabelledFolder
    statistics: dict[str, SplitStatistics]
    level_ranges: tuple[tuple[float, float], ...] = ()
    value_range: ValueRange = "auto"
    """How pixels of more than 8 bits are scaled; for "auto" it is decided by the first split."""

    @property
    def serious(self) -> tuple[Problem, ...]:
        """Errors and warnings, without the notes."""
        return tuple(finding for finding in self.findings if finding.severity != "note")

    def counts(self) -> dict[str, int]:
        """Number of findings of each kind, in the order of the findings."""
        return dict(Counter(finding.kind for finding in self.findings))

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data for a JSON file; NaN and infinity become text."""
        classes = self.dataset.classes
        return {
            "root": str(self.dataset.root),
            "format": self.dataset.format,
            "classes": [{"id": i, "name": name} for i, name in zip(classes.ids, classes.names, strict=True)],
            "stuff": [{"id": i, "name": name} for i, name in zip(classes.stuff_ids, classes.stuff, strict=True)],
            "notes": list(self.dataset.notes),
            "level_ranges": _plain(self.level_ranges),
            "splits": {name: _plain(asdict(values)) for name, values in self.statistics.items()},
            "counts": self.counts(),
            "findings": [_plain(asdict(finding)) for finding in self.findings],
        }


def preflight(
    dataset: LabelledFolder,
    *,
    level_ranges: Sequence[tuple[float, float]] | None = None,
    resize: ResizeRule | None = None,
    check_pixels: bool = False,
    check_masks: bool = False,
    need_masks: bool = False,
    value_range: ValueRange = "auto",
    tiling: Tiling | None = None,
    check_maps: bool = False,
) -> PreflightReport:
    """Check every image and box of a dataset; returns the findings and the data without what is invalid.

    level_ranges: the model's, in network pixels, with the resizing rule that leads there; check_pixels: decode every
    image instead of reading headers; check_masks: decode every mask; need_masks: also report objects without a mask;
    value_range: how pixels of more than 8 bits are scaled; "auto" is decided by the first split; tiling: the tiles that
    images are cut into before they are resized; check_maps: decode every map of pixels' labels, of which else only the
    size is looked at.
    """
    states = look_at_images(
        (record.path for split in dataset.splits.values() for record in split.records), decode=check_pixels
    )
    findings: list[Problem] = []
    splits: dict[str, Split] = {}
    pixels: dict[str, dict[str, int]] = {}
    for name, split in dataset.splits.items():
        findings.extend(split.problems)
        sizes = [states[record.path].hw for record in split.records]
        findings.extend(coordinate_problems(split, sizes, dataset.format))
        maps = look_at_maps(split.records, sizes, decode=check_maps) if split.classes.stuff else [None] * len(split)
        findings.extend(value_findings(split.records, maps, split))
        pixels[name] = pixels_by_class(maps, split.classes.semantic_names if check_maps else ())
        records: list[Record] = []
        for record, labels in zip(split.records, maps, strict=True):
            clean, found = _check_record(record, states[record.path], split, check_masks, need_masks, labels)
            findings.extend(found)
            records.extend([clean] if clean else [])
        splits[name] = replace(split, records=tuple(records))
        findings.extend(unannotated_keypoints(splits[name], dataset.root))
        if split.records and not records:
            message = f"none of the {counted(len(split), 'image')} of {name} can be used"
            findings.append(Problem("no-image-left", str(dataset.root), message, severity="error"))
    settled = value_range
    if value_range == "auto" and dataset.splits:
        settled = range_of(next(iter(dataset.splits.values())), states)
    findings.extend(value_problems(states, settled, was_auto=value_range == "auto"))
    findings.extend(_duplicate_images(dataset, states))
    findings.extend(_class_problems(dataset, splits))
    findings.extend(_stuff_problems(dataset, pixels))
    ranges = tuple(level_ranges or ())
    statistics = {
        name: replace(_statistics(split, states, ranges, resize, tiling), pixels=pixels[name])
        for name, split in splits.items()
    }
    # trainval repeats the findings of train and val.
    unique = {(finding.kind, finding.where, finding.message): finding for finding in reversed(findings)}
    ordered = sorted(reversed(unique.values()), key=lambda finding: _SEVERITY[finding.severity])
    return PreflightReport(tuple(ordered), replace(dataset, splits=splits), statistics, ranges, settled)


def _check_record(
    record: Record, state: ImageState, split: Split, masks: bool, need_masks: bool, labels: MapState | None
) -> tuple[Record | None, list[Problem]]:
    if state.hw is None:
        bad = Problem("", str(record.path), f"{state.fault}; it is left out", quarantined=True, severity="error")
        if state.missing:
            message = f"there is no image {record.path}; it is left out"
            return None, [replace(bad, kind="missing-image", where=record.where, message=message)]
        return None, [replace(bad, kind="unreadable-image")]
    problems: list[Problem] = []
    if record.stated_hw and record.stated_hw != state.hw:
        problems.append(_size_problem(record, record.stated_hw, state.hw, state.turned))
    annotations, found = checked_annotations(record, state.hw, split.classes, masks=masks, need_masks=need_masks)
    problems.extend(found)
    of_map = list(map_problems(record, labels, split))
    problems.extend(of_map)
    if any(problem.quarantined for problem in of_map):
        return None, problems
    if labels is not None and labels.fault:
        record = replace(record, semantic=None)
    lost = len(record.annotations) + record.rejected
    if not annotations and lost:
        message = f"{counted(lost, 'object')} labelled and none usable, so the image must not count as background: "
        problems.append(Problem("no-usable-object", str(record.path), f"{message}it is left out", quarantined=True))
        return None, problems
    if not annotations and split.classes.names:
        message = "no object is labelled: it counts as background"
        problems.append(Problem("empty-image", str(record.path), message, severity="note"))
    return replace(record, annotations=annotations, stated_hw=state.hw), problems


def _size_problem(record: Record, stated: tuple[int, int], real: tuple[int, int], turned: bool) -> Problem:
    says = f"the annotation file gives {stated[1]} x {stated[0]} pixels, {record.path} has {real[1]} x {real[0]}"
    if turned and stated == real[::-1]:
        message = f"{says} after its EXIF rotation; boxes drawn on the unrotated image are wrong: label it again"
        return Problem("size-mismatch-exif", record.where, message, severity="error")
    scaled = "; its boxes may belong to another version of the image"
    return Problem("size-mismatch", record.where, says + scaled, severity="error")


def _duplicate_images(dataset: LabelledFolder, states: dict[Path, ImageState]) -> Iterable[Problem]:
    """Duplicate images: the same file, or files with the same content, within a split or across splits."""
    members: dict[Path, list[str]] = defaultdict(list)
    for name, split in dataset.splits.items():
        for record in split.records:
            members[record.path].append(name)
    groups = [[path] for path, names in members.items() if len(names) > 1]
    for group in groups + same_content(states):
        names = [name for path in group for name in members[path]]
        counted = Counter(names)
        if counted["train"] or counted["val"]:
            del counted["trainval"]  # it consists of train and val
        first, others = group[0], group[1:]
        same = f"the same content as {listed(others, 3)}" if others else "the same image"
        if len(counted) > 1:
            message = f"{same} is in {' and '.join(counted)}: training images must not be used for evaluation"
            yield Problem("image-in-two-splits", str(first), message)
        elif max(counted.values()) > 1:
            yield Problem("duplicate-image", str(first), f"{same} is in {names[0]} {max(counted.values())} times")
    yield from _same_names(dataset, states)


def _same_names(dataset: LabelledFolder, states: dict[Path, ImageState]) -> Iterable[Problem]:
    names = [name for name in dataset.splits if name != "trainval"]
    files = {name: {record.path.name: record.path for record in dataset.splits[name].records} for name in names}
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            common = [file for file in files[name] if files[other].get(file, files[name][file]) != files[name][file]]
            if common:
                message = f"{counted(len(common), 'file name')} {'is' if len(common) == 1 else 'are'} in both {name} "
                message += f"and {other}, such as {common[0]}"
                yield Problem("same-name-in-two-splits", str(dataset.root), message, severity="note")


def _class_problems(dataset: LabelledFolder, splits: dict[str, Split]) -> Iterable[Problem]:
    names = dataset.classes.names
    lower = Counter(name.lower() for name in names)
    alike = [name for name in names if lower[name.lower()] > 1]
    if alike:
        message = f"class names differ only in case: {listed(alike)}; merge them with --classes"
        yield Problem("similar-class-names", str(dataset.root), message)
    used = {name: {item.label for record in split.records for item in record.annotations}
            for name, split in splits.items()}  # fmt: skip
    everywhere = set().union(*used.values()) if used else set()
    never = [names[label] for label in range(len(names)) if label not in everywhere]
    if never:
        message = f"no split has an object of {listed(never)}"
        yield Problem("class-without-objects", str(dataset.root), message, severity="note")
    trained_on = next((splits[name] for name in ("train", "trainval") if name in splits), None)
    if trained_on is not None:
        yield from balance_problems(trained_on, dataset.root)
    for split, labels in used.items():
        absent = [names[label] for label in sorted(everywhere - labels)]
        if absent and splits[split].records:
            severity = "warning" if split == "train" else "note"
            message = f"{split} has no object of {listed(absent)}"
            yield Problem("class-missing-in-split", str(dataset.root), message, severity=severity)


def _stuff_problems(dataset: LabelledFolder, pixels: dict[str, dict[str, int]]) -> Iterable[Problem]:
    """Stuff of which no pixel was found, where pixels were counted."""
    if not any(pixels.values()):
        return
    never = [name for name in dataset.classes.stuff if not any(counts.get(name) for counts in pixels.values())]
    if never:
        message = f"no split has a pixel of {listed(never)}"
        yield Problem("class-without-pixels", str(dataset.root), message, severity="note")


def _statistics(
    split: Split,
    states: dict[Path, ImageState],
    ranges: tuple[tuple[float, float], ...],
    resize: ResizeRule | None,
    tiling: Tiling | None,
) -> SplitStatistics:
    per_class = dict.fromkeys(split.classes.names, 0)
    per_level = [0] * len(ranges)
    sides: list[float] = []
    sizes: list[tuple[int, int]] = []
    ignored = 0
    for record in split.records:
        hw = states[record.path].hw or (1, 1)
        sizes.append(hw)
        resized_hw = hw if tiling is None else tiling.tile_hw(hw)
        scale_x, scale_y = resize_plan(resized_hw, resize).scale_xy if resize else (1.0, 1.0)
        for item in record.annotations:
            if item.ignore:
                ignored += 1
                continue
            x1, y1, x2, y2 = item.box
            per_class[split.classes.names[item.label]] += 1
            sides.append(math.sqrt((x2 - x1) * (y2 - y1)))
            reach = max((x2 - x1) * scale_x, (y2 - y1) * scale_y) / 2
            for level, (low, high) in enumerate(ranges):
                per_level[level] += low <= reach < high
    return SplitStatistics(
        images=len(split.records),
        empty=sum(not record.annotations and record.semantic is None for record in split.records),
        objects=len(sides),
        ignored=ignored,
        per_class=per_class,
        per_level=tuple(per_level),
        side_px=(min(sides), median(sides), max(sides)) if sides else None,
        smallest_hw=min(sizes, key=math.prod) if sizes else None,
        largest_hw=max(sizes, key=math.prod) if sizes else None,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
