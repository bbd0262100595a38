"""Choosing, merging and matching classes: labels are [0, K) inside, names and original ids come out as they went in.

A subset or a merge is given as text such as "car,person" or "car+truck=vehicle,person"; the classes of a model and of
a dataset are matched by name. It is of classes of objects; stuff stays, unless the text names some of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from boxwright.data.formats.numbered_pixels import ObjectPixels
from boxwright.data.records import Annotation, Federated, LabelledFolder, Record, Split
from boxwright.structures import Classes
from boxwright.structures.classes import IGNORED
from boxwright.wording import counted, listed

_Data = TypeVar("_Data", LabelledFolder, Split)
ONE_CLASS = Classes(("object",), (0,))
"""The classes of a class-agnostic model (a proposal network)."""


def select_classes(data: _Data, spec: str) -> _Data:
    """The same data with only the classes named in `spec`, in that order; objects of other classes are dropped.

    Stuff stays as it is where none is named, else only what is named; the pixels of what is dropped are of no label.
    "car,person" selects two classes, "car+truck=vehicle" merges two into one, which gets the id of the first. Raises
    ValueError for an unknown name, with the most similar known one.
    """
    known = data.classes
    parts = [part.strip() for part in spec.split(",")]
    named = tuple(dict.fromkeys(part for part in parts if part in known.stuff))
    rest = ",".join(part for part in parts if part not in known.stuff)
    id_of = dict(zip(known.stuff, known.stuff_ids, strict=True))
    stuff = named or known.stuff
    ids = tuple(id_of[name] for name in stuff)
    if named and not rest:
        return _mapped(data, Classes((), (), None, stuff, ids), (None,) * len(known))
    chosen, mapping = parse_classes(known, rest)
    return _mapped(data, replace(chosen, stuff=stuff, stuff_ids=ids), mapping)


def parse_classes(known: Classes, spec: str) -> tuple[Classes, tuple[int | None, ...]]:
    """The classes named in a text, and for each known label the new label (None: dropped).

    >>> parse_classes(Classes(("car", "truck", "cat"), (3, 8, 17)), "cat,car+truck=vehicle")
    (Classes(names=('cat', 'vehicle'), ids=(17, 3)), (1, 1, 0))
    """
    names: list[str] = []
    ids: list[int] = []
    mapping: list[int | None] = [None] * len(known)
    # A class name may itself contain a plus or equals sign: a part that is a known name means that class.
    for part in (part.strip() for part in spec.split(",")):
        if not part:
            continue
        left, equals, new = (part, "", "") if part in known.names else map(str.strip, part.partition("="))
        members = [left] if left in known.names else [name.strip() for name in left.split("+")]
        if len(members) > 1 and not new:
            raise ValueError(f"classes {part!r}: a merge needs a name, as in {'+'.join(members)}=name")
        if equals and not new:
            raise ValueError(f"classes {part!r}: the name after = is missing")
        for member in members:
            if member in known.stuff:
                raise ValueError(f"classes {part!r}: {member!r} is stuff, which can be chosen but not merged")
            if member not in known.names:
                raise ValueError(_unknown(member, known.names))
            label = known.names.index(member)
            if mapping[label] is not None:
                raise ValueError(f"classes {spec!r}: {member!r} is named twice")
            mapping[label] = len(names)
        names.append(new or members[0])
        ids.append(known.ids[known.names.index(members[0])])
    if not names:
        raise ValueError(f"classes {spec!r} name no class; known classes: {', '.join(known.names)}")
    return Classes(tuple(names), tuple(ids), known.skeleton), tuple(mapping)


def check_same_classes(model: Classes, data: Classes) -> tuple[int, ...]:
    """For each label of the data, the model's label of the same name: 0, 1, 2, ... if the order is the same.

    Raises ValueError with both lists if the names differ, those of stuff too where the model has any.

    >>> check_same_classes(Classes.named(["a", "b"]), Classes.named(["b", "a"], first_id=1))
    (1, 0)
    """
    if bool(model.names) != bool(data.names):  # --classes cannot help there
        with_objects, without = ("the model", "the data") if model.names else ("the data", "the model")
        raise ValueError(
            f"the classes differ: {with_objects} has classes of objects ({', '.join(model.names or data.names)}), "
            f"{without} labels of pixels only; evaluate on data of the kind that the model was trained on"
        )
    if set(model.names) != set(data.names):
        raise ValueError(
            f"the classes differ: the model has {len(model)} ({', '.join(model.names)}), the data has {len(data)} "
            f"({', '.join(data.names)}); choose the data's classes with --classes or take another model"
        )
    if model.stuff and set(model.stuff) != set(data.stuff):
        theirs = ", ".join(data.stuff) if data.stuff else "none: it has no label of every pixel"
        raise ValueError(
            f"the stuff differs: the model has {len(model.stuff)} ({', '.join(model.stuff)}), the data has {theirs}; "
            "choose the data's classes with --classes or take another model"
        )
    return tuple(model.names.index(name) for name in data.names)


def without_stuff(data: _Data) -> _Data:
    """The same data as a detector of objects only has it."""
    if not data.classes.stuff or not data.classes.names:
        return data
    return _mapped(data, replace(data.classes, stuff=(), stuff_ids=()), range(len(data.classes)))


def as_one_class(data: _Data) -> _Data:
    """The same data with a single class, "object"."""
    return _mapped(data, ONE_CLASS, [0] * len(data.classes))


def relabelled(data: _Data, model: Classes) -> _Data:
    """The same data with the labels of a model that has the same class names; the data's own ids stay with their names.

    For a class-agnostic model all classes become one; for one without stuff there is none.
    """
    if model == ONE_CLASS:
        return as_one_class(data)
    mapping = check_same_classes(model, data.classes)
    if mapping == tuple(range(len(mapping))) and model.stuff == data.classes.stuff:
        return data
    known = data.classes
    id_of = dict(zip(known.names + known.stuff, known.ids + known.stuff_ids, strict=True))
    ids, stuff_ids = (tuple(id_of[name] for name in names) for names in (model.names, model.stuff))
    return _mapped(data, Classes(model.names, ids, known.skeleton, model.stuff, stuff_ids), mapping)


def _mapped(data: _Data, classes: Classes, mapping: Sequence[int | None]) -> _Data:
    if isinstance(data, Split):
        return _mapped_split(data, classes, mapping)
    splits = {name: _mapped_split(split, classes, mapping) for name, split in data.splits.items()}
    lost = [name for name, label in zip(data.classes.names, mapping, strict=True) if label is None]
    note: tuple[str, ...] = ()
    if lost:
        count = sum(len(row.annotations) for split in data.splits.values() for row in split.records)
        count -= sum(len(row.annotations) for split in splits.values() for row in split.records)
        dropped = f"{counted(count, 'object')} of {counted(len(lost), 'class')} that {_are(len(lost))} not selected "
        note = (f"{dropped}{_are(count)} dropped: {listed(lost)}",)
    return replace(data, classes=classes, splits=splits, notes=data.notes + note)


def _mapped_split(split: Split, classes: Classes, mapping: Sequence[int | None]) -> Split:
    records = []
    parts: dict[int, set[int]] = {}
    for old, new in enumerate(mapping):
        if new is not None:
            parts.setdefault(new, set()).add(old)
    for record in split.records:
        pairs = [(item, mapping[item.label]) for item in record.annotations]
        kept = tuple(replace(item, label=label) for item, label in pairs if label is not None)
        semantic = _mapped_pixels(record, split.classes, classes, [item for item, label in pairs if label is None])
        said = _mapped_federated(record, mapping, parts)
        records.append(replace(record, annotations=kept, federated=said, semantic=semantic))
    frequencies = _mapped_frequencies(split.frequencies, len(classes), mapping)
    return replace(split, records=tuple(records), classes=classes, frequencies=frequencies)


def _mapped_pixels(record: Record, old: Classes, new: Classes, dropped: Sequence[Annotation]) -> Any:
    """Where the labels of the pixels of an image stand, as those of the new classes; None where these have no stuff."""
    semantic, names = record.semantic, new.semantic_names
    if semantic is None or not names:
        return None
    numbers = {item.segmentation.index for item in dropped if isinstance(item.segmentation, ObjectPixels)}
    semantic = semantic.without(numbers) if numbers else semantic
    if names == old.semantic_names:
        return semantic
    return semantic.relabelled([names.index(name) if name in names else IGNORED for name in old.semantic_names])


def _mapped_federated(record: Record, mapping: Sequence[int | None], parts: dict[int, set[int]]) -> Federated | None:
    """What an image says of the new classes: of one that is merged, only what follows for all its parts.

    It is absent where all parts are; where it has an object, it is incomplete unless every part was looked for in full.
    """
    said = record.federated
    if said is None:
        return None
    present = {item.label for item in record.annotations}
    full = (present | said.absent) - said.incomplete
    absent, incomplete = set(), set()
    for label in {new for old in present | said.absent if (new := mapping[old]) is not None}:
        if parts[label] <= said.absent - present:
            absent.add(label)
        elif parts[label] & present and not parts[label] <= full:
            incomplete.add(label)
    return Federated(frozenset(absent), frozenset(incomplete))


def _mapped_frequencies(old: tuple[str, ...], count: int, mapping: Sequence[int | None]) -> tuple[str, ...]:
    """The frequencies of new classes; a merged one is as frequent as its most frequent part."""
    if not old:
        return ()
    new = ["r"] * count
    for frequency, label in zip(old, mapping, strict=True):
        if label is not None:
            new[label] = max(new[label], frequency, key="rcf".index)
    return tuple(new)


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1) or [other for other in known if other.lower() == name.lower()]
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"no class is called {name!r}{hint} Known classes: {', '.join(known)}"
