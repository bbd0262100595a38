"""Detection in tiles: one tile is the whole image, and what tiles see of an object becomes that object again."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from boxwright.checkpoint import Checkpoint
from boxwright.data.image_io.memory_need import need_of_size
from boxwright.data.tiles import cut_ground_truth
from boxwright.inference.predictor import Detector
from boxwright.inference.tiles import merged
from boxwright.ops.boxes import pairwise_iou
from boxwright.ops.image import ResizeRule
from boxwright.ops.tiling import Tiling
from boxwright.recipes import load_recipe
from boxwright.structures import Classes, CroppedMask, Detections, GroundTruth

HW = (300, 420)
CLASSES = Classes.named(["a", "b"])


def seen_in_tiles(objects, windows, masks=False):
    """What a perfect detector finds in each tile: each object of which anything is seen, cut at the tile's border."""
    found = []
    for x1, y1, x2, y2 in windows:
        part = cut_ground_truth(objects, (x1, y1, x2, y2), HW)
        scores = torch.linspace(0.9, 0.7, len(part))
        found.append(
            Detections(part.boxes, scores, part.labels, (y2 - y1, x2 - x1), CLASSES, part.masks if masks else None)
        )
    return found


def spread_objects(seed, count=60, longest=200):
    """Boxes of whole pixels and any size, with masks that fill them, of which none overlaps another of its class."""
    generator = torch.Generator().manual_seed(seed)
    boxes, labels = torch.zeros(0, 4), []
    for _ in range(count):
        limit = 4 + int(torch.randint(longest, (), generator=generator))
        width, height = (4 + torch.randint(limit, (2,), generator=generator)).tolist()
        x = int(torch.randint(max(1, HW[1] - width), (), generator=generator))
        y = int(torch.randint(max(1, HW[0] - height), (), generator=generator))
        box = torch.tensor([[x, y, min(x + width, HW[1]), min(y + height, HW[0])]]).float()
        label = int(torch.randint(2, (), generator=generator))
        others = boxes[torch.tensor(labels) == label] if labels else boxes
        if not len(others) or pairwise_iou(others, box).max() == 0:
            boxes, labels = torch.cat([boxes, box]), [*labels, label]
    masks = [
        CroppedMask(int(x1), int(y1), torch.ones(int(y2 - y1), int(x2 - x1), dtype=torch.bool))
        for x1, y1, x2, y2 in boxes.tolist()
    ]
    return GroundTruth.of(boxes, labels, masks=masks)


def in_order(boxes, labels):
    rows = torch.cat([labels[:, None].float(), boxes], dim=1)
    return sorted(rows.tolist())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tiling", [Tiling(100, 0.2), Tiling(128, 0.5), Tiling(210, 0.1), Tiling(1000)])
def test_what_a_perfect_detector_sees_in_tiles_is_merged_into_the_objects(seed, tiling):
    objects = spread_objects(seed)
    windows = tiling.windows(HW)
    found = merged(seen_in_tiles(objects, windows, masks=True), windows, HW, 0.6, None)
    assert in_order(found.boxes, found.labels) == in_order(objects.boxes, objects.labels)
    assert found.size_hw == HW
    assert (found.scores[:-1] >= found.scores[1:]).all()
    for one in found:  # masks were put together as the boxes were
        assert one.mask.bitmap.all()
        height, width = one.mask.bitmap.shape
        assert (one.mask.x, one.mask.y, one.mask.x + width, one.mask.y + height) == one.box


def test_without_merging_there_would_be_more():
    objects, windows = spread_objects(0), Tiling(100, 0.2).windows(HW)
    assert sum(map(len, seen_in_tiles(objects, windows))) > 1.5 * len(objects)


def test_the_whole_object_is_kept_with_the_best_score_of_its_parts():
    windows = Tiling(100, 0.2).windows((100, 180))
    assert windows == [(0, 0, 100, 100), (80, 0, 180, 100)]
    part = Detections(torch.tensor([[90.0, 10, 100, 50]]), torch.tensor([0.9]), torch.tensor([1]), (100, 100), CLASSES)
    whole = replace(part, boxes=torch.tensor([[10.0, 10, 60, 50]]), scores=torch.tensor([0.7]))
    found = merged([part, whole], windows, (100, 180), 0.6, None)
    assert (found.boxes.tolist(), found.labels.tolist()) == ([[90, 10, 140, 50]], [1])
    assert found.scores.tolist() == pytest.approx([0.9])
    weak = replace(whole, scores=torch.tensor([0.1]))  # it is merged, and says nothing about the place
    found = merged([part, weak], windows, (100, 180), 0.6, None)
    assert found.boxes.tolist() == [[90, 10, 100, 50]]


def test_the_surest_detections_are_paired_before_those_that_merely_agree():
    windows = [(0, 0, 100, 100), (80, 0, 180, 100)]
    left = Detections(torch.tensor([[50.0, 10, 100, 50]]), torch.tensor([0.9]), torch.tensor([0]), (100, 100), CLASSES)
    boxes = torch.tensor([[0.0, 12, 40, 50], [0.0, 10, 95, 50]])  # the second agrees better where both tiles look
    right = Detections(boxes, torch.tensor([0.8, 0.1]), torch.tensor([0, 0]), (100, 100), CLASSES)
    found = merged([left, right], windows, (100, 180), 0.6, None)
    assert found.boxes[0].tolist() == [50, 10, 120, 50]
    assert found.scores.tolist() == pytest.approx([0.9, 0.1])


def test_two_objects_that_a_tile_tells_apart_stay_two():
    windows = [(0, 0, 100, 100), (80, 0, 180, 100)]
    left = Detections(
        torch.tensor([[60.0, 10, 95, 50], [64, 10, 99, 50]]), torch.tensor([0.9, 0.8]), torch.tensor([0, 0]),
        (100, 100), CLASSES,
    )  # fmt: skip
    right = Detections(torch.tensor([[0.0, 10, 17, 50]]), torch.tensor([0.7]), torch.tensor([0]), (100, 100), CLASSES)
    found = merged([left, right], windows, (100, 180), 0.6, None)
    assert found.boxes.tolist() == [[60, 10, 95, 50], [64, 10, 99, 50]]


def test_tiles_without_a_detection_give_none():
    windows = Tiling(100).windows(HW)
    found = merged(seen_in_tiles(GroundTruth.empty(), windows), windows, HW, 0.6, None)
    assert len(found) == 0
    assert found.size_hw == HW


def scene(height, width):
    return np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)


@pytest.mark.parametrize("tiles", [160, 1000])
def test_one_tile_gives_what_the_whole_image_gives(detector, tiles):
    image = scene(120, 160)
    (whole,) = detector.predict(image, score=0.3)
    (found,) = detector.predict(image, score=0.3, tiles=tiles)
    assert len(whole) > 3
    for one, other in ((whole.boxes, found.boxes), (whole.scores, found.scores), (whole.labels, found.labels)):
        assert torch.equal(one, other)


def test_each_tile_is_detected_as_if_it_were_an_image(detector):
    image = scene(160, 280)
    (found,) = detector.predict(image, score=0.3, tiles=160, overlap=0.2)
    parts = detector.predict([image[:, x : x + 160] for x in (0, 120)], score=0.3)
    expected = merged(parts, [(0, 0, 160, 160), (120, 0, 280, 160)], (160, 280), detector.settings.nms_iou, None)
    assert torch.equal(found.boxes, expected.boxes)
    assert len(found) < sum(map(len, parts))
    (some,) = detector.predict(image, score=0.3, tiles=160, overlap=0.2, max_detections=3)
    assert torch.equal(some.boxes, found.boxes[:3])


def test_images_of_all_sizes_and_one_that_is_broken_keep_their_order(detector, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    images = [scene(160, 280), tmp_path / "broken.jpg", scene(80, 96), scene(320, 160)]
    results = list(detector.try_stream(images, score=0.3, tiles=128, keep=True))
    assert isinstance(results[1], Exception)
    for image, result in zip(images, results, strict=True):
        if not isinstance(result, Exception):
            prepared, found = result
            assert prepared.original_hw == found.size_hw == image.shape[:2]
            assert torch.equal(prepared.original, torch.from_numpy(image).permute(2, 0, 1))
            (alone,) = detector.predict(image, score=0.3, tiles=128)
            assert torch.equal(alone.boxes, found.boxes)


def test_masks_of_one_tile_are_those_of_the_image_and_those_of_many_are_placed_in_it():
    torch.manual_seed(0)
    settings = ("model.fpn.channels=16", "model.head.stem_channels=[16]", "data.resize.size=64", "precision=fp32")
    recipe = load_recipe("fcos-mask-small", settings)
    masked = Detector(Checkpoint(recipe, CLASSES, recipe.build_model(2).state_dict()), "cpu")
    image = scene(64, 120)
    whole, one = (masked.predict(image, score=0.0, max_detections=4, tiles=tiles)[0] for tiles in (None, 200))
    assert len(whole) == 4
    assert torch.equal(whole.masks, one.masks)
    (many,) = masked.predict(image, score=0.0, max_detections=4, tiles=64)
    assert many.masks.shape == (4, 64, 120)


def test_memory_is_that_of_all_tiles_at_network_size():
    rule, hw = ResizeRule("fixed", height=50, width=50), (100, 180)  # two tiles
    whole, cut = (need_of_size(hw, rule, keep=False, tiling=tiling) for tiling in (None, Tiling(100)))
    assert (whole.held, cut.held) == (3 * 50 * 50, 2 * 3 * 50 * 50)
    assert whole.passing == cut.passing


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tiles": 4}, "tiles: expected a side of at least 16 pixels, got 4"),
        ({"tiles": 640, "overlap": 128}, "128 of 640 pixels are 0.2"),
        ({"overlap": 0.3}, "overlap: goes with tiles in pixels, such as tiles=640; images are not cut"),
        ({"tiles": None, "overlap": 0.3}, "images are not cut"),
        ({"tiles": Tiling(640), "overlap": 0.3}, "part of the tiling that is given"),
    ],
)
def test_tiles_that_cannot_be_are_refused_at_the_call(detector, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        detector.try_stream(["a.jpg"], **options)
