"""Checks of the maps of pixels' labels: missing, damaged, of another size than their image, or with unknown numbers.

An image keeps its objects without its map; one of a dataset without objects is left out then. Headers are read, and
pixels only if asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from boxwright.data.formats.numbered_pixels import UNASSIGNED, LabelPixels, numbered_pixels
from boxwright.data.image_io.decode import image_size
from boxwright.data.records import Problem, Record, Split
from boxwright.wording import counted, listed


@dataclass(frozen=True, slots=True)
class MapState:
    """The result of checking one map: what makes it useless, or the number of pixels of each number in it.

    `unknown` are numbers of pixels that no label has, `absent` such of the annotation file that no pixel has.
    """

    kind: str = ""
    fault: str = ""
    pixels: dict[int, int] = field(default_factory=dict)
    unknown: dict[int, int] = field(default_factory=dict)
    absent: tuple[int, ...] = ()


def look_at_maps(
    records: Sequence[Record], sizes: Iterable[tuple[int, int] | None], *, decode: bool
) -> list[MapState | None]:
    """The state of the map of each image, whose size may be unknown; None for an image that has none."""
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        return list(pool.map(lambda record, hw: _state(record.semantic, hw, decode), records, sizes))


def _state(semantic: LabelPixels | None, hw: tuple[int, int] | None, decode: bool) -> MapState | None:
    if semantic is None or hw is None:
        return None
    if not semantic.path.is_file():
        return MapState("missing-map", f"there is no file {semantic.path} with the labels of its pixels")
    try:
        size = image_size(semantic.path)
        plane = numbered_pixels(semantic.path, colours=semantic.colours) if decode and size == hw else None
    except (ValueError, OSError) as error:
        return MapState("bad-map", f"the labels of its pixels cannot be read: {error}")
    if size != hw:
        message = f"{semantic.path} has {size[1]} x {size[0]} pixels, its image {hw[1]} x {hw[0]}"
        return MapState("map-size", message)
    if plane is None:
        return MapState()
    counts = np.bincount(plane.ravel()) if plane.max(initial=0) < 1 << 16 else None
    if counts is not None:
        found = {int(number): int(counts[number]) for number in np.flatnonzero(counts)}
    else:
        values, amounts = np.unique(plane, return_counts=True)
        found = dict(zip(values.tolist(), amounts.tolist(), strict=True))
    label_of = dict(semantic.label_of)
    void = 0 if semantic.colours else UNASSIGNED
    pixels: dict[int, int] = {}
    for number, amount in found.items():
        if number in label_of:
            pixels[label_of[number]] = pixels.get(label_of[number], 0) + amount
    unknown = {number: amount for number, amount in found.items() if number not in label_of and number != void}
    absent = tuple(number for number in label_of if number not in found) if semantic.colours else ()
    return MapState("", "", pixels, unknown, absent)


def map_problems(record: Record, state: MapState | None, split: Split) -> Iterator[Problem]:
    """The findings on the map of one image; an error, if it is of no use."""
    alone = not split.classes.names
    loss = "it is left out" if alone else "its pixels are of no class"
    if state is None:
        if split.classes.stuff:
            message = f"the labels of its pixels are missing; {loss}"
            yield Problem("missing-map", record.where, message, quarantined=alone, severity="error")
        return
    if state.fault:
        yield Problem(state.kind, record.where, f"{state.fault}; {loss}", quarantined=alone, severity="error")
        return
    if record.semantic.colours and state.unknown:
        amount = counted(sum(state.unknown.values()), "pixel")
        ids = listed(state.unknown, 5)
        message = f"{record.semantic.path} has segments that segments_info does not name (id {ids}; {amount}): no class"
        yield Problem("unknown-segment", record.where, message)
    if state.absent:
        message = f"{record.semantic.path} has no pixel of segment id {listed(state.absent, 5)} of segments_info"
        yield Problem("segment-without-pixels", record.where, message)
    if state.pixels.keys() <= {255} and (state.pixels or state.unknown):
        yield Problem("empty-map", record.where, "no pixel of the image has a class", severity="note")


def value_findings(records: Sequence[Record], states: Sequence[MapState | None], split: Split) -> Iterator[Problem]:
    """A finding for each value of grey or indexed maps that no class has."""
    places: dict[int, list[Record]] = {}
    amounts: dict[int, int] = {}
    for record, state in zip(records, states, strict=True):
        if state is not None and not record.semantic.colours:
            for number, amount in state.unknown.items():
                places.setdefault(number, []).append(record)
                amounts[number] = amounts.get(number, 0) + amount
    for number, found in sorted(places.items()):
        pixels, images = counted(amounts[number], "pixel"), counted(len(found), "image")
        message = f"no class has the value {number}: {pixels} in {images} of {split.name} are of no class"
        yield Problem("unknown-label", str(found[0].semantic.path), message)


def pixels_by_class(states: Iterable[MapState | None], names: Sequence[str]) -> dict[str, int]:
    """How many pixels of a split each label of `Classes.semantic_names` has."""
    totals = dict.fromkeys(names, 0)
    for state in states:
        for label, amount in () if state is None else state.pixels.items():
            if label < len(names):
                totals[names[label]] += amount
    return totals
