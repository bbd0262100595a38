"""CVAT's own XML ("CVAT for images 1.1"): one file for all images, each with its boxes, polygons and masks.

Supported: `annotations.xml` with the images beside it or in `images/` (also in sub-folders by subset), and a folder
`annotations/` of such files, one per split. Rotated boxes and ellipses become their upright bounding boxes. Polylines,
points, cuboids and skeletons are reported and left out; tags of a whole image are not used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from boxwright.data.formats.cvat_xml import CvatFile, CvatImage, read_cvat_file
from boxwright.data.formats.listing import ImageFinder, files_in, split_folders, split_name, split_order, subfolder
from boxwright.data.records import Annotation, LabelledFolder, Problem, Record, Split
from boxwright.reading.xml_text import root_element
from boxwright.structures import Classes

CVAT_LAYOUT = "CVAT for images (annotations.xml with images/)"


def recognises_cvat(path: Path) -> bool:
    """Whether a path is such a file, or a folder that contains one."""
    if path.is_file():
        return path.suffix.lower() == ".xml" and _is_cvat(path)
    return bool(_files(path))


def read_cvat(path: Path, class_names: Sequence[str] | None = None) -> LabelledFolder:
    """Read a CVAT folder or file; classes have the order of the task's labels, else of names, and the ids 1 to K."""
    files = [path] if path.is_file() else _files(path)
    root = path.parent if path.is_file() else path
    contents = [read_cvat_file(file) for file in files]
    problems = [content for content in contents if isinstance(content, Problem)]
    readable = [content for content in contents if isinstance(content, CvatFile)]
    if not readable:
        reason = f"; the first problem is {problems[0].where}: {problems[0].message}" if problems else ""
        raise ValueError(f"{path}: no CVAT file that can be read{reason}")
    classes = _classes(path, readable, class_names)
    members: dict[str, list[tuple[CvatFile, CvatImage]]] = {}
    for content in readable:
        for image in content.images:
            members.setdefault(_split_of(content, image), []).append((content, image))
    splits = {}
    for name in split_order(members):
        splits[name] = _split(name, root, members[name], classes, tuple(problems))
        problems = []
    return LabelledFolder(root, "cvat", classes, splits)


def _files(path: Path) -> list[Path]:
    """The CVAT files of a folder, or of `annotations/` in it."""
    for folder in (path, subfolder(path, "annotations")):
        names = [name for name in files_in(folder) if name.lower().endswith(".xml")] if folder else []
        if folder and 0 < len(names) <= 100:  # one file for all images, or one per split, but not one per image
            found = [folder / name for name in names if _is_cvat(folder / name)]
            if found:
                return found
    return []


def _is_cvat(file: Path) -> bool:
    return root_element(file) == "annotations"


def _split_of(content: CvatFile, image: CvatImage) -> str:
    """The split of an image: by its file, else its subset, else the first folder in its name, else train."""
    first = image.name.replace("\\", "/").split("/")
    names = [content.path.stem.lower(), *content.path.stem.lower().split("_"), image.subset]
    names += first[:-1]
    return next((found for found in map(split_name, names) if found), "train")


def _classes(path: Path, contents: list[CvatFile], given: Sequence[str] | None) -> Classes:
    if given:
        return Classes.named(given, first_id=1)
    labels = list(dict.fromkeys(label for content in contents for label in content.labels))
    used = sorted({shape.label for content in contents for image in content.images for shape in image.shapes} - {""})
    known = set(labels)
    names = labels + [label for label in used if label not in known]
    if not names:
        tracks = next((content for content in contents if content.num_tracks), None)
        if tracks is not None:
            raise ValueError(
                f'{tracks.path}: this is "CVAT for video" (tracks of frames); export the task as "CVAT for images 1.1" '
                "with its images"
            )
        raise ValueError(f"{path}: no image has a labelled object (CVAT for images)")
    return Classes.named(names, first_id=1)


def _split(
    name: str, root: Path, members: list[tuple[CvatFile, CvatImage]], classes: Classes, first: tuple[Problem, ...]
) -> Split:
    images = subfolder(root, "images", "imgs", "data", "pictures")
    folders = [split_folders(folder).get(name) for folder in (images, root) if folder]
    finder = ImageFinder([*folders, images, root], root, name)
    labels = {label: index for index, label in enumerate(classes.names)}
    ids = Counter(image.identity for _, image in members)
    records: list[Record] = []
    problems = list(first)
    for content, image in members:
        where = f"{content.path}:{image.line}"
        if not image.name:
            problems.append(Problem("bad-image", where, "the image has no name", quarantined=True, severity="error"))
            continue
        if image.fault:
            problems.append(Problem("bad-field", where, f"of image {image.name!r:.80} {image.fault}"))
        annotations, found, rejected = _annotations(content, image, labels)
        problems.extend(found)
        last = image.name.replace("\\", "/").rsplit("/", 1)[-1]
        path = finder.find(image.name) or (images or root) / last
        identity = image.identity if image.identity is not None and ids[image.identity] == 1 else image.name
        records.append(Record(path, identity, image.stated_hw, annotations, where, rejected))
    return Split(name, tuple(records), classes, tuple(problems))


def _annotations(
    content: CvatFile, image: CvatImage, labels: dict[str, int]
) -> tuple[tuple[Annotation, ...], list[Problem], int]:
    kept: list[Annotation] = []
    problems: list[Problem] = []
    for shape in image.shapes:
        where = f"{content.path}:{shape.line}"
        kind, message = "", ""
        if not shape.label:
            kind, message = "missing-class", f"a {shape.kind} has no label"
        elif shape.label not in labels:
            kind = "unknown-class"
            message = f'class "{shape.label}" is not among the classes given: {", ".join(labels)}'[:300]
        elif shape.box is None:
            kind = "bad-box"
            message = f"the {shape.label} is a {shape.kind} that cannot be used: {shape.fault}"
        else:
            kept.append(
                Annotation(
                    shape.box, labels[shape.label], where, segmentation=shape.segmentation, rotated=shape.rotated
                )
            )
        if kind:
            message = f"{message} (image {image.name!r:.80})"
            problems.append(Problem(kind, where, message, shape.box, quarantined=True, severity="error"))
    return tuple(kept), problems, len(problems)
