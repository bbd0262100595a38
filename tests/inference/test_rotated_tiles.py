"""Rotated boxes in tiles: what tiles see of an object becomes that object again, with its angle."""

import numpy as np
import pytest
import torch
from rotated_boxes import random_rotated

from boxwright.checkpoint import Checkpoint
from boxwright.data.tiles import visible_rotated_shares
from boxwright.inference.predictor import Detector
from boxwright.inference.tiles import merged
from boxwright.ops.rotated import rotated_corners, rotated_hull
from boxwright.ops.rotated_iou import rotated_iou
from boxwright.ops.tiling import Tiling
from boxwright.recipes import load_recipe
from boxwright.structures import Classes, Detections, GroundTruth

HW = (300, 420)
CLASSES = Classes.named(["a", "b"])
LIMITS = torch.tensor([HW[1], HW[0]] * 2)
SEEN = 0.01
"""Share of an object of which a perfect detector sees something."""


def spread_objects(seed, count=80):
    """Rotated boxes of any size and angle inside of an image, of which none overlaps another of its class."""
    boxes = random_rotated(count, seed) * torch.tensor([4.2, 3.0, 2.5, 2.5, 1.0]) + torch.tensor([0, 0, 4.0, 4, 0])
    labels = torch.arange(count) % 2
    kept = []
    for row in range(count):
        hull = rotated_hull(boxes[row])
        if (hull < 0).any() or (hull > LIMITS).any():
            continue
        others = [other for other in kept if labels[other] == labels[row]]
        if not others or rotated_iou(boxes[others], boxes[[row]]).max() == 0:
            kept.append(row)
    return GroundTruth.of(rotated_hull(boxes[kept]), labels[kept], rotated=boxes[kept])


def clipped(points, window):
    """The corners of a convex polygon, cut to a window by one side after the other."""
    for axis, limit, sign in zip((0, 1, 0, 1), window, (1, 1, -1, -1), strict=True):
        left = []
        for one, two in zip(points, [*points[1:], *points[:1]], strict=True):
            inside = [sign * (point[axis] - limit) for point in (one, two)]
            if inside[0] >= 0:
                left.append(one)
            if inside[0] * inside[1] < 0:
                share = inside[0] / (inside[0] - inside[1])
                left.append(tuple(start + share * (end - start) for start, end in zip(one, two, strict=True)))
        points = left
    return points


def around_what_is_seen(boxes, window):
    """The rectangles, along the sides of rotated boxes (N, 5), around what a tile shows of them."""
    found = []
    for box in boxes.double():
        points = torch.tensor(clipped([tuple(point) for point in rotated_corners(box).tolist()], window))
        turn = torch.deg2rad(box[4])
        axes = torch.tensor([[turn.cos(), -turn.sin()], [turn.sin(), turn.cos()]]).double()
        low, high = ((points.double() - box[:2]) @ axes.T).aminmax(dim=0)
        found.append(torch.cat([box[:2] + (low + high) / 2 @ axes, high - low, box[4:]]))
    return torch.stack(found).float() if found else boxes


def seen_in_tiles(objects, windows, how):
    """What a perfect detector finds in each tile: each object of which something is seen, whole or what is seen of it,
    named by another side every other time.
    """
    found = []
    for number, window in enumerate(windows):
        x1, y1, x2, y2 = window
        some = objects[visible_rotated_shares(objects.rotated, [window], HW)[0] > SEEN]
        turned = some.rotated if how == "whole" else around_what_is_seen(some.rotated, window)
        if number % 2:
            turned = torch.cat([turned[:, :2], turned[:, [3, 2]], (turned[:, 4:] + 270) % 360 - 180], 1)
        turned = turned - torch.tensor([x1, y1, 0, 0, 0])
        boxes = rotated_hull(turned).clamp(min=0).minimum(torch.tensor([x2 - x1, y2 - y1] * 2))
        scores = torch.linspace(0.9, 0.7, len(some))
        found.append(Detections(boxes, scores, some.labels, (y2 - y1, x2 - x1), CLASSES, rotated=turned))
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tiling", [Tiling(100, 0.2), Tiling(128, 0.5), Tiling(210, 0.1), Tiling(1000)])
@pytest.mark.parametrize("how", ["whole", "what is seen"])
def test_what_a_perfect_detector_sees_in_tiles_is_merged_into_the_objects(seed, tiling, how):
    objects = spread_objects(seed)
    assert len(objects) > 15
    windows = tiling.windows(HW)
    found = merged(seen_in_tiles(objects, windows, how), windows, HW, 0.6, None)
    assert len(found) == len(objects)
    overlap, own = (rotated_iou(found.rotated, objects.rotated) * (found.labels[:, None] == objects.labels)).max(1)
    assert sorted(own.tolist()) == list(range(len(objects)))
    assert overlap.min() > 0.98 if how == "what is seen" else overlap.min() > 0.9999
    expected = rotated_hull(found.rotated).clamp(min=0).minimum(LIMITS)
    torch.testing.assert_close(found.boxes, expected)
    assert (found.scores[:-1] >= found.scores[1:]).all()


def test_the_cut_parts_are_joined_along_the_best_ones_sides_and_a_whole_one_wins():
    windows = [(0, 0, 100, 100), (80, 0, 180, 100)]

    def one(window, box, score):
        width, height = window[2] - window[0], window[3] - window[1]
        turned = torch.tensor([box]) - torch.tensor([window[0], window[1], 0, 0, 0])
        hull = rotated_hull(turned).clamp(min=0).minimum(torch.tensor([width, height] * 2))
        return Detections(hull, torch.tensor([score]), torch.tensor([0]), (height, width), CLASSES, rotated=turned)

    left, right = [60.0, 44.4, 80, 10, 15], [118.0, 28.8, 80, 10, 16]  # one bar, longer than the overlap
    found = merged([one(windows[0], left, 0.8), one(windows[1], right, 0.9)], windows, (100, 180), 0.6, None)
    assert len(found) == 1
    assert found.scores.tolist() == pytest.approx([0.9])
    assert found.rotated[0, 4] == 16
    assert 135 < found.rotated[0, 2] < 145
    assert 10 < found.rotated[0, 3] < 14
    torch.testing.assert_close(found.boxes, rotated_hull(found.rotated))
    # the left tile sees all of a short bar, the right one guesses what it does not see
    whole, guess = [70.0, 50, 40, 10, 30], [75.0, 47.1, 60, 10, 30]
    found = merged([one(windows[0], whole, 0.8), one(windows[1], guess, 0.9)], windows, (100, 180), 0.6, None)
    torch.testing.assert_close(found.rotated, torch.tensor([whole]))
    assert found.scores.tolist() == pytest.approx([0.9])
    # what one tile found alone leaves its tile: its upright box is the hull, cut to the image
    alone = [95.0, 50, 40, 10, 0.0]
    empty = one(windows[1], right, 0.9)[:0]
    found = merged([one(windows[0], alone, 0.8), empty], windows, (100, 180), 0.6, None)
    assert found.boxes.tolist() == [[75, 45, 115, 55]]
    outside = [10.0, 50, 40, 10, 0.0]
    found = merged([one(windows[0], outside, 0.8), empty], windows, (100, 180), 0.6, None)
    assert (found.rotated.tolist(), found.boxes.tolist()) == ([outside], [[0, 45, 30, 55]])


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    settings = (
        "model.backbone={name: mobilenet_v3_small}", "model.fpn.channels=16", "model.rpn.stem_channels=[16]",
        "model.box.fc_channels=[32]", "model.rpn.test_candidates=200", "model.rpn.test_proposals=100",
        "data.resize.size=96", "precision=fp32", "detect.score_threshold=0.0",
    )  # fmt: skip
    recipe = load_recipe("rotated-faster-rcnn-small", settings)
    return Detector(Checkpoint(recipe, CLASSES, recipe.build_model(2).state_dict()), "cpu")


def scene(height, width):
    return np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)


@pytest.mark.parametrize("tiles", [160, 1000])
def test_one_tile_gives_what_the_whole_image_gives(detector, tiles):
    image = scene(120, 160)
    (whole,) = detector.predict(image, score=0.0)
    (found,) = detector.predict(image, score=0.0, tiles=tiles)
    assert len(whole) > 20
    for name in ("boxes", "scores", "labels", "rotated"):
        assert torch.equal(getattr(whole, name), getattr(found, name))


def test_each_tile_is_detected_as_if_it_were_an_image(detector):
    image, windows = scene(160, 280), [(0, 0, 160, 160), (120, 0, 280, 160)]
    (found,) = detector.predict(image, score=0.0, tiles=160, overlap=0.2)
    parts = detector.predict([image[:, x : x + 160] for x in (0, 120)], score=0.0)
    expected = merged(parts, windows, (160, 280), detector.settings.nms_iou, None)
    assert torch.equal(found.rotated, expected.rotated)
    assert 20 < len(found) < sum(map(len, parts))
    assert found.rotated[:, 0].max() > 170
    (some,) = detector.predict(image, score=0.0, tiles=160, overlap=0.2, max_detections=3)
    assert torch.equal(some.rotated, found.rotated[:3])
