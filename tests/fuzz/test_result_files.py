"""Result files of any content end in figures or in one sentence: generated ones, and damaged files of our own.

The budget is fixed: as many examples as below, always the same ones.
"""

import json
import math
import random
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boxwright.evaluation import result_files
from boxwright.evaluation.comparison import compare_files
from boxwright.evaluation.summary import evaluate_detections
from boxwright.structures import Classes, CroppedMask, Detections

pytestmark = pytest.mark.slow

MUTATIONS = 150
BUDGET = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
CLASSES = Classes(("w/o mask", "[/]", "dog"), (1, 3, 7))
SIZE = (40, 50)

NUMBER = st.one_of(
    st.integers(-5, 60),
    st.floats(),
    st.integers(-(10**400), 10**400),
    st.sampled_from(["1", "0.5", "x", "1e999", "NaN"]),
)
ODD = st.one_of(st.none(), st.booleans(), NUMBER, st.text(max_size=5), st.lists(NUMBER, max_size=5))
KEY = st.one_of(st.sampled_from([1, 2, 3, 7, 1.0, "1", "a", "a.png"]), ODD)
CODE = st.fixed_dictionaries(
    {},
    optional={
        "size": st.one_of(st.just(list(SIZE)), st.lists(NUMBER, max_size=3), ODD),
        "counts": st.one_of(st.lists(NUMBER, max_size=6), st.text(max_size=20), st.just([40 * 50]), ODD),
    },
)
MASK = st.one_of(ODD, CODE, st.lists(st.lists(NUMBER, max_size=9), max_size=3))
BOX = st.one_of(st.lists(st.integers(0, 40), min_size=4, max_size=4), st.lists(NUMBER, max_size=5), ODD)
ROW = st.fixed_dictionaries(
    {},
    optional={
        "image_id": KEY,
        "category_id": KEY,
        "bbox": BOX,
        "score": st.one_of(st.floats(0, 1), ODD),
        "segmentation": MASK,
    },
)
GOOD = {"image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "score": 0.5}
CONTENT = st.one_of(st.lists(ROW, max_size=4), st.lists(ROW.map(lambda row: {**GOOD, **row}), max_size=4), ODD)


def ground_truth_file(folder: Path) -> Path:
    images = [{"id": k, "file_name": f"{'ab'[k - 1]}.png", "height": SIZE[0], "width": SIZE[1]} for k in (1, 2)]
    polygon = [[5, 5, 25, 5, 25, 25, 5, 25]]
    rows = [
        {
            "id": k,
            "image_id": 1 + k % 2,
            "category_id": key,
            "bbox": [5, 5, 20, 20],
            "area": 400,
            "iscrowd": 0,
            "segmentation": polygon,
        }
        for k, key in enumerate(CLASSES.ids)
    ]
    categories = [{"id": k, "name": name} for k, name in zip(CLASSES.ids, CLASSES.names, strict=True)]
    file = folder / "ground truth.json"
    file.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    return file


def figures_or_a_sentence(ground_truth: Path, found: Path) -> bool:
    """Whether the files can be evaluated; if not, the error is one sentence that names a file."""
    try:
        compared = compare_files(ground_truth, found)
    except (ValueError, OSError) as error:
        sentence = str(error)
        assert str(found) in sentence or str(ground_truth) in sentence, sentence
        assert "\n" not in sentence.replace("\\n", "")
        assert len(sentence) < 2000
        return False
    for metric in ("coco", "voc"):
        measured = evaluate_detections(
            compared.detections, compared.ground_truths, compared.classes, metric=metric, areas=compared.areas
        )
        json.dumps(measured.figures, allow_nan=False)
        for value in measured.per_class.values():
            assert value is None or (math.isfinite(value) and 0 <= value <= 1)
    return True


@BUDGET
@given(content=CONTENT)
def test_any_json(tmp_path: Path, content: object) -> None:
    found = tmp_path / "found.json"
    found.write_text(json.dumps(content), errors="surrogatepass")
    figures_or_a_sentence(ground_truth_file(tmp_path), found)


@BUDGET
@given(
    text=st.one_of(
        st.text(max_size=60),
        st.lists(
            st.tuples(st.sampled_from([*CLASSES.names, "", "dog x", "3"]), st.lists(NUMBER, min_size=4, max_size=6)),
            max_size=4,
        ).map(lambda rows: "\n".join(" ".join([name, *map(str, numbers)]) for name, numbers in rows)),
    ),
    name=st.sampled_from(["a", "comp4_det_test_dog", "dog", "w%2Fo mask"]),
)
def test_any_text(tmp_path: Path, text: str, name: str) -> None:
    folder = tmp_path / "found"
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    (folder / f"{name}.txt").write_text(text, encoding="utf-8", errors="surrogatepass")
    figures_or_a_sentence(ground_truth_file(tmp_path), folder)


def written(folder: Path, kind: str) -> list[Path]:
    """Result files as we write them; the folder or file to read stands first."""
    boxes = torch.tensor([[5.0, 5, 25, 25], [1, 2, 30, 38]])
    masks = (CroppedMask(5, 5, torch.ones(20, 20, dtype=torch.bool)), CroppedMask(1, 2, torch.eye(30) > 0))
    found = [Detections(boxes, torch.tensor([0.9, 0.4]), torch.tensor([k, 2]), SIZE, CLASSES, masks) for k in (0, 1)]
    target = folder / ("found.json" if kind == "coco" else kind)
    if kind == "coco":
        result_files.write_coco_results(target, found, [1, 2])
    elif kind == "polygons":
        target = folder / "polygons.json"
        result_files.write_coco_results(target, found, [1, 2], polygons=True)
    elif kind == "text":
        result_files.write_text_results(target, found, ["a", "b"])
    elif kind == "voc":
        result_files.write_voc_results(target, found, ["a", "b"], CLASSES)
    else:
        result_files.write_yolo_results(target, found, ["a", "b"])
    return [target, *(sorted(target.iterdir()) if target.is_dir() else [target])]


def damaged(content: bytes, draw: random.Random) -> bytes:
    """A file with a few bytes changed, lost, doubled, or cut off."""
    changed = bytearray(content)
    for _ in range(draw.randrange(1, 4)):
        if not changed:
            break
        place = draw.randrange(len(changed))
        action = draw.randrange(5)
        if action == 0:
            changed[place] = draw.randrange(256)
        elif action == 1:
            del changed[place : place + draw.randrange(1, 9)]
        elif action == 2:
            changed[place:place] = changed[place : place + draw.randrange(1, 30)] * draw.randrange(1, 4)
        elif action == 3:
            del changed[place:]
        else:
            changed[place:place] = draw.choice(
                [b"-", b"e9", b"9" * 30, b"null", b"[]", b'"', b"\xff", b"nan", b"\n", b","]
            )
    return bytes(changed)


@pytest.mark.parametrize("kind", ["coco", "polygons", "text", "voc", "yolo"])
def test_files_of_our_own_with_damage(tmp_path: Path, kind: str) -> None:
    draw, ground_truth = random.Random(kind), ground_truth_file(tmp_path)
    target, *files = written(tmp_path, kind)
    whole = {file: file.read_bytes() for file in files}
    assert figures_or_a_sentence(ground_truth, target)
    outcomes = []
    for _ in range(MUTATIONS):
        file = draw.choice(files)
        file.write_bytes(damaged(whole[file], draw))
        outcomes.append(figures_or_a_sentence(ground_truth, target))
        file.write_bytes(whole[file])
    assert True in outcomes
    assert False in outcomes


@BUDGET
@given(text=st.text(max_size=60))
def test_any_ground_truth_text(tmp_path: Path, text: str) -> None:
    ground_truth, found = tmp_path / "ground truth", tmp_path / "found"
    for folder in (ground_truth, found):
        folder.mkdir(exist_ok=True)
    (ground_truth / "a.txt").write_text(f"dog 1 1 9 9\n{text}", encoding="utf-8", errors="surrogatepass")
    (found / "a.txt").write_text("dog 0.5 1 1 9 9\n")
    figures_or_a_sentence(ground_truth, found)
