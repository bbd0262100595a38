"""Pascal VOC: one XML file per image, split lists in ImageSets, in the layouts found in practice.

Supported: `Annotations/` + `JPEGImages/` with or without `ImageSets/Main/<split>.txt`, the same below
`VOCdevkit/VOC2007`, `train/ valid/ test/` folders with XML beside images, and everything in one folder. Folders of
other names are recognised by their content: XML files whose root element is `<annotation>`, and images.
`SegmentationObject/NAME.png` beside them holds masks.
Coordinates are not shifted: the standard counts pixels from 1 and includes both ends, files in practice hold 0-based
floats, and no file tells which. `difficult` objects become ignore regions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from boxwright.data.formats.listing import (
    ImageFinder,
    files_in,
    folders_in,
    is_image,
    split_folders,
    split_name,
    split_order,
    subfolder,
)
from boxwright.data.formats.numbered_pixels import ObjectPixels
from boxwright.data.formats.voc_masks import FOLDER
from boxwright.data.formats.voc_xml import VocFile, read_voc_file
from boxwright.data.records import Annotation, LabelledFolder, Problem, Record, Split
from boxwright.reading.xml_text import root_element
from boxwright.structures import Classes
from boxwright.wording import counted

VOC_LAYOUT = "Pascal VOC (Annotations/*.xml with JPEGImages/ and perhaps ImageSets/Main/*.txt, or XML beside images)"
_ANNOTATIONS = ("annotations", "annotation", "xmls", "xml", "labels")
_NO_IMAGES = ("segmentationclass", "segmentationobject", "masks")
_LOOKED_AT = 20  # XML files of a folder whose root element is checked
_FLAGS = ("-1", "0", "1")  # not in the split, in it but difficult, in it


@dataclass
class _Place:
    """One folder of XML files, where its images are, and its split lists or else its only split."""

    root: Path
    annotations: Path
    split: str = "train"
    lists: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.files = {name[:-4]: self.annotations / name for name in files_in(self.annotations) if _is_xml(name)}
        folder = subfolder(self.root, "jpegimages", "images", "image", "imgs", "pictures", "jpegs")
        folder = folder or _with_images(self.root, self.annotations)
        below = split_folders(folder).get(self.split) if folder else None
        self.images = below or folder or self.annotations
        self.finder = ImageFinder([below, folder, self.annotations, self.root], self.root, self.split)
        self.parsed: dict[str, VocFile | Problem] = {}
        whole = subfolder(self.root, FOLDER.lower())
        masks = whole and (split_folders(whole).get(self.split) or whole)
        self.masks = (
            {name[:-4]: masks / name for name in files_in(masks) if name.lower().endswith(".png")} if masks else {}
        )

    def content(self, stem: str) -> VocFile | Problem:
        if stem not in self.parsed:
            self.parsed[stem] = read_voc_file(self.files[stem])
        return self.parsed[stem]

    def image(self, stem: str, filename: str) -> Path:
        """The file of an image: the one named like the XML file, as in the standard, or else by `<filename>`."""
        same_name = filename and Path(filename.replace("\\", "/")).stem == stem
        found = self.finder.find_exact(filename) if same_name else None
        found = found or self.finder.find_stem(stem) or (self.finder.find(filename) if filename else None)
        found = found or self.finder.find_below(stem)
        return found or self.images / (Path(filename.replace("\\", "/")).name or f"{stem}.jpg")


def recognises_voc(path: Path) -> bool:
    """Whether a folder holds Pascal VOC annotation files in a layout that `read_voc` supports."""
    return path.is_dir() and next(_places(path), None) is not None


def read_voc(path: Path, class_names: Sequence[str] | None = None) -> LabelledFolder:
    """Read a Pascal VOC folder; classes are ordered by name unless `class_names` gives them; their ids are 1 to K."""
    places = list(_places(path))
    notes = []
    if len({place.root for place in places if place.lists}) > 1:
        notes.append("several VOC folders are read together: " + ", ".join(place.root.name for place in places))
    members: dict[str, list[tuple[_Place, str]]] = {}
    problems: dict[str, list[Problem]] = {}
    for place in places:
        for split, stems, found in _membership(place):
            members.setdefault(split, []).extend((place, stem) for stem in stems)
            problems.setdefault(split, []).extend(found)
    classes = _classes(path, [item for items in members.values() for item in items], class_names)
    splits = {}
    for split in split_order(members):
        records, found = _records(members[split], classes)
        splits[split] = Split(split, records, classes, tuple(problems[split] + found))
    return LabelledFolder(path, "voc", classes, splits, tuple(notes))


def _is_xml(name: str) -> bool:
    return name.lower().endswith(".xml")


def _holds_voc(folder: Path | None, named: bool = True) -> bool:
    """Whether a folder holds annotation files; if it is `named` for them, unreadable files count too."""
    if folder is None:
        return False
    files = [name for name in files_in(folder) if _is_xml(name)][:_LOOKED_AT]
    elements = [root_element(folder / name).lower() for name in files]
    return "annotation" in elements or (named and bool(files) and not any(elements))


def _with_images(root: Path, annotations: Path) -> Path | None:
    """The first sub-folder with images, if neither the folder itself nor that of the annotations has any."""
    if any(is_image(name) for folder in (root, annotations) for name in files_in(folder)):
        return None
    others = [root / name for name in folders_in(root) if not split_name(name) and name.lower() not in _NO_IMAGES]
    return next((folder for folder in others if any(map(is_image, files_in(folder)))), None)


def _places(path: Path) -> Iterator[_Place]:
    """Where the XML files are: the folder itself or VOC years below it, else folders named like splits."""
    kit = subfolder(path, "vocdevkit") or path
    years = [kit / name for name in folders_in(kit) if re.fullmatch(r"(?i)voc(19|20)\d\d", name)]
    plain = False
    for root in dict.fromkeys([path, kit, *years]):
        for split, folder in _annotation_folders(root):
            plain = True
            yield _Place(root, folder, split, lists=_lists(root) if split == "train" else {})
    if not plain:
        for split, root in split_folders(path).items():
            for _, folder in _annotation_folders(root):
                yield _Place(root, folder, split)


def _annotation_folders(root: Path) -> list[tuple[str, Path]]:
    """The folders of XML files of one root with their splits: one named for them or the root, else any sub-folder."""
    named = subfolder(root, *_ANNOTATIONS)
    for folder in (named, root):
        if folder is not None and _holds_voc(folder):
            return [("train", folder)]
    others = [root / name for name in folders_in(root) if not split_name(name) and name.lower() not in _ANNOTATIONS]
    found: list[tuple[str, Path]] = []
    for split, folder in split_folders(named).items() if named else ():
        found += [(split, folder)] if _holds_voc(folder) else []
    if found:
        return found
    known: set[str] = set()  # a second folder with files of the same names is another version of the first
    for folder in others:
        names = {name.lower() for name in files_in(folder) if _is_xml(name)}
        if not names & known and _holds_voc(folder, named=False):
            known |= names
            found.append(("train", folder))
    if _lists(root):
        found = found[:1]  # a list names the files of one folder
    for folder in others if not found else ():
        found = [(split, part) for split, part in split_folders(folder).items() if _holds_voc(part, named=False)]
        if found:
            break
    return found


def _lists(root: Path) -> dict[str, Path]:
    """Split lists by split name; the per-class lists of VOC (aeroplane_train.txt) are not splits."""
    sets = subfolder(root, "imagesets")
    main = subfolder(sets, "main") if sets else None
    for folder in (main, sets):
        if folder is not None:
            names = [name[:-4] for name in files_in(folder) if name.lower().endswith(".txt")]
            plain = [name for name in names if not re.fullmatch(r".+_(train|val|trainval|test)", name)]
            if plain:
                return {split_name(name) or name: folder / f"{name}.txt" for name in plain}
    names = [name for name in files_in(root) if name.lower().endswith(".txt") and split_name(name[:-4])]
    return {split_name(name[:-4]) or name: root / name for name in names}


def _membership(place: _Place) -> Iterator[tuple[str, list[str], list[Problem]]]:
    """Each split of a place with the stems of its images and the problems of its list."""
    for split, file in place.lists.items():
        yield split, *_listed(place, file)
    if not place.lists:
        lonely = []
        if place.images.is_dir():
            stems = {stem.lower() for stem in place.files}
            images = [name for name in files_in(place.images) if is_image(name)]
            lonely = [name for name in images if name.rsplit(".", 1)[0].lower() not in stems]
        found = []
        if lonely:
            message = f"{counted(len(lonely), 'image')} without an XML file: left out, such as {lonely[0]}"
            found.append(Problem("image-without-annotation", str(place.images), message))
        yield place.split, list(place.files), found


def _listed(place: _Place, file: Path) -> tuple[list[str], list[Problem]]:
    stems: dict[str, int] = {}
    problems = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        name = line.strip()
        head, _, flag = name.rpartition(" ")
        if name not in place.files and flag in _FLAGS and head:
            name = head.strip()
            if flag == "-1":
                continue
        if not name:
            continue
        stem = name if name in place.files else _stem(name)
        where = f"{file}:{number}"
        if stem in stems:
            message = f"{stem} is already in line {stems[stem]}; it is kept once"
            problems.append(Problem("repeated-line", where, message))
        elif stem not in place.files:
            message = f"{stem} has no annotation file {place.annotations.name}/{stem}.xml; the image is left out"
            problems.append(Problem("missing-annotation", where, message, quarantined=True, severity="error"))
        stems.setdefault(stem, number)
    return [stem for stem in stems if stem in place.files], problems


def _stem(name: str) -> str:
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return last.rsplit(".", 1)[0] if is_image(last) or _is_xml(last) else last


def _classes(path: Path, members: list[tuple[_Place, str]], given: Sequence[str] | None) -> Classes:
    if given:
        return Classes.named(given, first_id=1)
    contents = [place.content(stem) for place, stem in members]
    names = sorted({thing.name for file in contents if isinstance(file, VocFile) for thing in file.objects} - {""})
    if not names:
        broken = [content for content in contents if isinstance(content, Problem)]
        reason = f"; the first problem is {broken[0].where}: {broken[0].message}" if broken else ""
        raise ValueError(f"{path}: no XML file of a split holds an object with a class name{reason}")
    return Classes.named(names, first_id=1)


def _records(members: list[tuple[_Place, str]], classes: Classes) -> tuple[tuple[Record, ...], list[Problem]]:
    labels = {name: label for label, name in enumerate(classes.names)}
    stems = Counter(stem for _, stem in members)
    records: list[Record] = []
    problems: list[Problem] = []
    for place, stem in members:
        content = place.content(stem)
        if isinstance(content, Problem):
            problems.append(content)
            continue
        annotations, found = _annotations(content, labels, place.masks.get(stem))
        image_id = stem if stems[stem] == 1 else f"{place.root.name}/{stem}"
        image = place.image(stem, content.filename)
        rejected = len(content.objects) - len(annotations)
        records.append(Record(image, image_id, content.stated_hw, annotations, str(content.path), rejected))
        problems.extend(found)
        if content.odd_size:
            message = f"in <size> {content.odd_size}, which is not a number; the size of the image itself is used"
            problems.append(Problem("bad-field", str(content.path), message))
    return tuple(records), problems


def _annotations(
    content: VocFile, labels: dict[str, int], masks: Path | None
) -> tuple[tuple[Annotation, ...], list[Problem]]:
    annotations, problems = [], []
    for number, thing in enumerate(content.objects, start=1):
        where = f"{content.path}:{thing.line}"
        bad = Problem("", where, "", thing.box, quarantined=True, severity="error")
        if not thing.name:
            problems.append(replace(bad, kind="missing-class", message="the object has no <name>"))
        elif thing.name not in labels:
            names = counted(len(labels), "class")
            message = f'class "{thing.name}" is not among the {names} given'
            problems.append(replace(bad, kind="unknown-class", message=message))
        elif thing.box is None:
            why = f": {thing.fault}" if thing.fault else ""
            message = f"the {thing.name} has no <bndbox> of four numbers xmin, ymin, xmax, ymax{why}"
            problems.append(replace(bad, kind="bad-box", message=message))
        elif thing.fault:
            problems.append(replace(bad, kind="bad-field", message=f"the {thing.name}'s {thing.fault}"))
        else:
            pixels = None if masks is None else ObjectPixels(masks, number)
            annotations.append(Annotation(thing.box, labels[thing.name], where, thing.difficult, pixels))
    return tuple(annotations), problems
