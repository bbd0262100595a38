"""The synthetic set: its ground truth is what its images show, the same on every machine and in every layout."""

from __future__ import annotations

import colorsys
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from boxwright.cli.main import app
from boxwright.data.formats.folder import open_folder
from boxwright.data.ground_truth import ground_truth_of
from boxwright.data.synthetic import shapes as shapes_module
from boxwright.data.synthetic.drawing import DIFFICULTIES, OUTLINES, contrasting_colour, silhouette
from boxwright.data.synthetic.shapes import (
    VALIDATION_START,
    ShapesConfig,
    ShapesSource,
    draw_shapes,
    shapes_splits,
    write_shapes,
)
from boxwright.structures import GroundTruth

# Image 0 of seed 0, as drawn when this test was written.
RECORDED_LABELS = [4, 5, 1, 5, 2]
RECORDED_BOXES = [
    [53.0, 9.0, 164.0, 112.0],
    [16.0, 105.0, 90.0, 176.0],
    [149.0, 140.0, 248.0, 250.0],
    [48.0, 153.0, 165.0, 256.0],
    [94.0, 226.0, 116.0, 249.0],
]
RECORDED_MEANS = [76.79, 69.82, 59.59]
SMALL = ShapesConfig(size=96, max_objects=5)


@pytest.mark.parametrize("difficulty", list(DIFFICULTIES))
def test_boxes_are_tight_around_masks_and_masks_do_not_overlap(difficulty: str) -> None:
    config = ShapesConfig(difficulty=difficulty)  # type: ignore[arg-type]
    for index in range(15):
        image, ground_truth = draw_shapes(config, 1, index)
        assert image.shape == (256, 256, 3)
        assert image.dtype == np.uint8
        assert 1 <= len(ground_truth) <= 12
        assert ground_truth.masks is not None
        owners = torch.zeros(256, 256, dtype=torch.int64)
        for box, mask in zip(ground_truth.boxes.tolist(), ground_truth.masks, strict=True):
            height, width = mask.bitmap.shape
            assert box == [mask.x, mask.y, mask.x + width, mask.y + height]
            for border in (mask.bitmap[0], mask.bitmap[-1], mask.bitmap[:, 0], mask.bitmap[:, -1]):
                assert border.any()
            owners[mask.y : mask.y + height, mask.x : mask.x + width] += mask.bitmap
            assert max(height, width) <= 161
        assert int(owners.max()) == 1
        assert int(ground_truth.labels.max()) < 6


def test_an_image_is_fixed_by_seed_and_index() -> None:
    config = ShapesConfig()
    image, ground_truth = draw_shapes(config, 3, 5)
    draw_shapes(config, 3, 6)
    again, ground_truth_again = draw_shapes(config, 3, 5)
    assert np.array_equal(image, again)
    assert torch.equal(ground_truth.boxes, ground_truth_again.boxes)
    for seed, index in ((4, 5), (3, 6)):
        other, _ = draw_shapes(config, seed, index)
        assert not np.array_equal(image, other)


def test_the_first_image_is_the_recorded_one() -> None:
    image, ground_truth = draw_shapes(ShapesConfig(), 0, 0)
    assert ground_truth.labels.tolist() == RECORDED_LABELS
    assert ground_truth.boxes.tolist() == RECORDED_BOXES
    assert image.mean((0, 1)) == pytest.approx(RECORDED_MEANS, abs=0.2)


@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_objects_have_the_hue_of_their_class_but_in_hard_images(difficulty: str) -> None:
    level = DIFFICULTIES[difficulty]
    random = np.random.Generator(np.random.PCG64(3))
    ground = np.full(3, 128, np.float32)
    hues = []
    for _ in range(200):
        colour = contrasting_colour(random, ground, level.contrast, 0.5, level.hue_spread) / 255
        hues.append(colorsys.rgb_to_hsv(*colour.tolist())[0])
    widest = max(abs(hue - 0.5) for hue in hues)
    assert widest <= level.hue_spread + 1e-3
    assert widest > level.hue_spread * 0.9


def test_the_set_has_the_sizes_counts_and_classes_that_it_promises() -> None:
    ground_truths = [draw_shapes(ShapesConfig(), 0, index)[1] for index in range(60)]
    counts = [len(ground_truth) for ground_truth in ground_truths]
    assert min(counts) <= 2
    assert max(counts) >= 11
    sides = torch.cat(
        [(ground_truth.boxes[:, 2:] - ground_truth.boxes[:, :2]).amax(1) for ground_truth in ground_truths]
    )
    assert sides.min() < 18
    assert sides.max() > 120
    labels = torch.cat([ground_truth.labels for ground_truth in ground_truths])
    assert (labels.bincount(minlength=6) > len(labels) / 15).all()


@pytest.mark.parametrize("difficulty", list(DIFFICULTIES))
def test_no_object_is_hidden_by_more_than_its_share(difficulty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[np.ndarray, list[Any]]] = []
    original = shapes_module._ground_truth

    def spy(owner: np.ndarray, placed: list[Any]) -> GroundTruth:
        seen.append((owner, placed))
        return original(owner, placed)

    monkeypatch.setattr(shapes_module, "_ground_truth", spy)
    config = ShapesConfig(min_objects=12, difficulty=difficulty)  # type: ignore[arg-type]
    shares = []
    for index in range(25):
        draw_shapes(config, 2, index)
        owner, placed = seen[-1]
        visible = np.bincount(owner.ravel(), minlength=len(placed) + 1)[1:]
        shares += [count / part.area for count, part in zip(visible, placed, strict=True)]
    cover = DIFFICULTIES[difficulty].cover
    assert 1 - cover <= min(shares) < 1 - cover / 2  # objects do hide each other, but no more than that
    assert max(shares) == 1


@pytest.mark.parametrize("name", list(OUTLINES))
@pytest.mark.parametrize("longer", [12, 40, 160])
def test_a_silhouette_is_as_long_as_asked(name: str, longer: int) -> None:
    for degrees, aspect in ((0, 1.0), (25, 1.3), (-140, 0.7)):
        mask = silhouette(name, longer, degrees, aspect).mask
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        extent = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
        assert longer - 2 <= extent <= longer + 1
        assert not mask[[0, -1]].any()  # nothing is cut off by the border of the patch
        assert not mask[:, [0, -1]].any()


def test_classes_fill_different_parts_of_their_box() -> None:
    masks = {name: silhouette(name, 60, 0, 1.0).mask for name in OUTLINES}
    shares = {name: mask[1:-1, 1:-1].mean() for name, mask in masks.items()}
    assert shares["square"] > 0.95
    assert shares["circle"] == pytest.approx(np.pi / 4, abs=0.04)
    assert shares["ring"] == pytest.approx(np.pi / 4 * (1 - 0.55**2), abs=0.05)
    middle = masks["ring"].shape[0] // 2
    assert not masks["ring"][middle, middle]
    assert masks["circle"][middle, middle]


@pytest.mark.parametrize("difficulty", list(DIFFICULTIES))
def test_an_object_stands_out_from_what_surrounds_it(difficulty: str) -> None:
    config = ShapesConfig(difficulty=difficulty, max_objects=1, min_pixels=40)  # type: ignore[arg-type]
    distances = []
    for index in range(20):
        image, ground_truth = draw_shapes(config, 0, index)
        assert ground_truth.masks is not None
        mask = ground_truth.masks[0]
        height, width = mask.bitmap.shape
        patch = image[mask.y : mask.y + height, mask.x : mask.x + width].astype(float)
        inside = mask.bitmap.numpy()
        if (~inside).sum() > 50:
            distances.append(np.linalg.norm(patch[inside].mean(0) - patch[~inside].mean(0)))
    assert np.median(distances) > DIFFICULTIES[difficulty].contrast * 0.5


def test_harder_images_are_noisier() -> None:
    def roughness(difficulty: str) -> float:
        config = ShapesConfig(difficulty=difficulty)  # type: ignore[arg-type]
        images = [draw_shapes(config, 0, index)[0].astype(float) for index in range(10)]
        return float(np.mean([np.abs(np.diff(image, axis=1)).mean() for image in images]))

    assert roughness("easy") < roughness("medium") < roughness("hard")


def test_source_gives_samples_and_splits_share_nothing() -> None:
    splits = shapes_splits(SMALL, seed=0, train=4, val=3)
    assert [len(split) for split in splits.values()] == [4, 3]
    sample = splits["train"].sample(2)
    assert sample.image.shape == (3, 96, 96)
    assert sample.image.dtype == torch.uint8
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), draw_shapes(SMALL, 0, 2)[0])
    assert splits["val"].start == VALIDATION_START
    larger = shapes_splits(SMALL, seed=0, train=400, val=3)
    assert torch.equal(larger["val"].sample(1).image, splits["val"].sample(1).image)
    with pytest.raises(IndexError):
        ShapesSource(SMALL, 0, 4).sample(4)


@pytest.mark.parametrize("layout", ["voc", "coco"])
def test_a_written_folder_reads_back_as_it_was_drawn(tmp_path: Path, layout: str) -> None:
    folder = write_shapes(tmp_path / "shapes", 8, 2, layout, SMALL, seed=4)  # type: ignore[arg-type]
    data = open_folder(folder)
    assert data.format == layout
    assert data.classes.names == SMALL.classes.names
    for name, source in shapes_splits(SMALL, 4, 8, 2).items():
        records = sorted(data.splits[name].records, key=lambda record: record.path.name)
        assert len(records) == len(source)
        for index, record in enumerate(records):
            drawn = source.sample(index).ground_truth
            read = ground_truth_of(record, (96, 96), masks=True)
            assert read.boxes.tolist() == drawn.boxes.tolist()
            assert read.labels.tolist() == drawn.labels.tolist()
            for one, other in zip(read.masks or (), drawn.masks or (), strict=True):
                assert one[:2] == other[:2]
                assert torch.equal(one.bitmap, other.bitmap)


def test_coco_ids_count_from_one_and_areas_are_those_of_the_masks(tmp_path: Path) -> None:
    folder = write_shapes(tmp_path / "shapes", 2, 0, "coco", SMALL)
    content = json.loads((folder / "annotations" / "instances_train.json").read_text(encoding="utf-8"))
    assert [row["id"] for row in content["categories"]] == [1, 2, 3, 4, 5, 6]
    assert [row["name"] for row in content["categories"]] == sorted(row["name"] for row in content["categories"])
    areas = [int(mask.bitmap.sum()) for index in range(2) for mask in draw_shapes(SMALL, 0, index)[1].masks or ()]
    assert [row["area"] for row in content["annotations"]] == areas
    assert not (folder / "annotations" / "instances_val.json").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(ValueError, match="not empty"):
        write_shapes(tmp_path, 1, 1, "voc", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(ValueError, match="not empty"):
        write_shapes(tmp_path / "mine.txt", 1, 1, "voc", SMALL)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"difficulty": "insane"}, "difficulty"),
        ({"num_classes": 0}, "classes"),
        ({"num_classes": 99}, "classes"),
        ({"size": 8}, "pixels"),
        ({"min_objects": 5, "max_objects": 4}, "objects"),
        ({"min_pixels": 100}, "objects"),
    ],
)
def test_impossible_images_are_refused(change: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        replace(SMALL, **change)  # type: ignore[arg-type]


def test_the_verb_writes_and_says_what_comes_next(tmp_path: Path) -> None:
    target = tmp_path / "a b"
    arguments = ["shapes", str(target), "--train", "2", "--val", "1", "--size", "64", "--classes", "3", "--seed", "9"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert f"next: boxwright train fcos --data '{target}'" in result.stdout
    assert len(list((target / "JPEGImages").iterdir())) == 3
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, ValueError)
    assert "not empty" in str(refused.exception)


@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_stuff_fills_the_background_with_textures_and_objects_are_things(difficulty: str) -> None:
    config = ShapesConfig(size=96, difficulty=difficulty, max_pixels=50, stuff=True)  # type: ignore[arg-type]
    assert config.classes.semantic_names == ("things", "checks", "dots", "plain", "stripes")
    assert ShapesConfig(size=96).classes.stuff == ()
    seen = np.zeros(5, int)
    for index in range(12):
        image, ground_truth = draw_shapes(config, 0, index)
        semantic = ground_truth.semantic
        assert semantic is not None
        things = torch.zeros(96, 96, dtype=torch.bool)
        for mask in ground_truth.masks or ():
            height, width = mask.bitmap.shape
            things[mask.y : mask.y + height, mask.x : mask.x + width] |= mask.bitmap
        assert torch.equal(things, semantic == 0)
        assert 1 <= len(semantic.unique()) - 1 <= 4
        seen += np.bincount(semantic.flatten().numpy(), minlength=5)
        assert np.array_equal(image, draw_shapes(config, 0, index)[0])
    assert (seen / seen.sum() > 0.05).all()


def test_layouts_with_maps_are_for_images_with_stuff_and_the_others_for_those_without(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layout 'panoptic': expected only images with stuff"):
        write_shapes(tmp_path / "a", 1, 1, "panoptic", SMALL)
    with pytest.raises(ValueError, match=r"layout 'voc': .*stuff=False.*got stuff=True"):
        write_shapes(tmp_path / "a", 1, 1, "voc", ShapesConfig(stuff=True))
    assert not (tmp_path / "a").exists()
