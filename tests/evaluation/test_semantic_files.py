"""Label maps of any program against ground truth: from their folder, with names or by number."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.data.class_selection import without_stuff
from boxwright.data.formats.folder import open_folder
from boxwright.data.semantic_maps import semantic_map_of
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.evaluation.semantic_files import compare_semantic_files, holds_semantic_results
from boxwright.evaluation.semantic_iou import label_confusion, semantic_iou

HW = (64, 64)


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    config = ShapesConfig(size=64, num_classes=3, max_pixels=30, stuff=True)
    folder = write_shapes(tmp_path_factory.mktemp("stuff") / "shapes", 4, 1, "panoptic", config)
    return open_folder(folder).splits["train"]


def write_maps(part, folder, change=lambda labels: labels, number_of=None):
    """The labels of the ground truth as PNG files, changed, with other numbers if `number_of` says which."""
    folder.mkdir(parents=True)
    for record in part.records:
        labels = change(semantic_map_of(record, HW).numpy().copy())
        if number_of is not None:
            labels = number_of[labels]
        Image.fromarray(labels.astype(np.uint8)).save(folder / f"{record.path.stem}.png")
    return folder


def names_of(part, numbers=None):
    known = part.classes.semantic_names
    return {str(number): name for number, name in zip(numbers or range(len(known)), known, strict=True)}


def test_the_ground_truth_itself_is_right_by_number(part, tmp_path):
    folder = write_maps(part, tmp_path / "semantic")
    assert holds_semantic_results(folder)
    compared = compare_semantic_files(part, folder)
    assert (compared.figures.semantic.mean_iou, compared.images, compared.warnings) == (1.0, 4, ())
    assert compared.figures.panoptic is None


def test_names_say_what_numbers_mean_wherever_they_stand(part, tmp_path):
    number_of = np.full(256, 255)
    numbers = [7, 3, 9, 0, 40][: len(part.classes.semantic_names)]
    number_of[: len(numbers)] = numbers
    folder = write_maps(part, tmp_path / "semantic", number_of=number_of)
    assert compare_semantic_files(part, folder).figures.semantic.mean_iou < 0.5  # without names
    names = tmp_path / "semantic.json"
    names.write_text(json.dumps(names_of(part, numbers)))
    for given in (folder, names):
        assert holds_semantic_results(given)
        assert compare_semantic_files(part, given).figures.semantic.mean_iou == 1.0
    names.rename(folder / "semantic.json")
    for given in (folder, folder / "semantic.json"):
        assert holds_semantic_results(given)
        assert compare_semantic_files(part, given).figures.semantic.mean_iou == 1.0


def test_figures_are_those_of_the_maps_and_255_is_no_label(part, tmp_path):
    def change(labels):
        labels[:, ::3], labels[::5] = 1, 255
        return labels

    compared = compare_semantic_files(part, write_maps(part, tmp_path / "semantic", change), limit=3)
    count, total = len(part.classes.semantic_names), 0
    for record in part.records[:3]:
        wanted = semantic_map_of(record, HW)
        total = total + label_confusion(torch.from_numpy(change(wanted.numpy().copy())), wanted, count)
    expected = semantic_iou(total, part.classes.semantic_names).mean_iou
    assert compared.figures.semantic.mean_iou == pytest.approx(expected, abs=1e-12)
    assert 0 < expected < 1


def test_an_image_without_a_map_is_told_and_has_no_label(part, tmp_path):
    folder = write_maps(part, tmp_path / "semantic")
    (folder / f"{part.records[3].path.stem}.png").unlink()
    compared = compare_semantic_files(part, folder)
    name = part.records[3].path.name
    assert compared.warnings == (f"1 image without a map, such as {name}: no pixel is labelled there.",)
    assert compared.figures.semantic.mean_iou < 1


def test_what_does_not_fit_is_one_sentence(part, tmp_path):
    folder = write_maps(part, tmp_path / "semantic")
    names = tmp_path / "semantic.json"
    names.write_text(json.dumps(names_of(part) | {"0": "cats"}))
    with pytest.raises(ValueError, match="the ground truth has no label 'cats'; it has things, "):
        compare_semantic_files(part, folder)
    names.unlink()
    with pytest.raises(ValueError, match="it has labels of pixels, and the ground truth has none"):
        compare_semantic_files(without_stuff(part), folder)
    Image.new("L", (9, 9)).save(folder / f"{part.records[0].path.stem}.png")
    with pytest.raises(ValueError, match="is 9 x 9, the image 64 x 64"):
        compare_semantic_files(part, folder)
    (tmp_path / "other").mkdir()
    Image.new("L", (9, 9)).save(tmp_path / "other" / "x.png")
    with pytest.raises(ValueError, match=r"it has no map of any image; expected names such as train_000000\.png"):
        compare_semantic_files(part, tmp_path / "other")


@pytest.mark.parametrize("content", ["[]", "{}", '{"a": 1}', '{"0": 1}', '{"x": "sky"}'])
def test_other_files_and_folders_are_none(tmp_path, content):
    (tmp_path / "semantic.json").write_text(content)
    assert not holds_semantic_results(tmp_path / "semantic.json")
    assert not holds_semantic_results(tmp_path)  # without a map
    (tmp_path / "a.png").touch()
    (tmp_path / "a.txt").touch()
    assert not holds_semantic_results(tmp_path)
    assert not holds_semantic_results(tmp_path / "nowhere")
