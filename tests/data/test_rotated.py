"""Rotated boxes in the data: moved with their pixels, their hulls kept around what is seen of them."""

import pytest
import torch
from PIL import Image
from rotated_boxes import random_rotated

from boxwright.data.dataset import Augmentation, DetectionDataset, SampleKey
from boxwright.data.ground_truth import ground_truth_of
from boxwright.data.mosaic import join_ground_truths, mosaic
from boxwright.data.records import Annotation, Record, Split, TileOf
from boxwright.data.tiles import cut_ground_truth
from boxwright.data.transforms import (
    Compose,
    HorizontalFlip,
    RandomIoUCrop,
    Sample,
    ScaleJitter,
    VerticalFlip,
    place_ground_truth,
    resize_sample,
)
from boxwright.ops.image import Placement, ResizeRule
from boxwright.ops.rotated import resize_rotated, rotated_around, rotated_corners, rotated_hull
from boxwright.ops.rotated_iou import rotated_iou
from boxwright.structures import Classes, GroundTruth

HW = (60, 80)


def inside(boxes, hw):
    limits = torch.tensor([hw[1], hw[0]] * 2)
    return boxes.clamp(min=0).minimum(limits)


def ground_truth(count=6, seed=0, hw=HW):
    rotated = random_rotated(count, seed, span=50)
    return GroundTruth.of(inside(rotated_hull(rotated), hw), list(range(count)), rotated=rotated)


def sample(objects=None, hw=HW):
    return Sample(torch.zeros(3, *hw, dtype=torch.uint8), objects or ground_truth(hw=hw))


def marked(rotated, hw=HW, channel=0):
    """An image that is bright inside one rotated box."""
    y, x = torch.meshgrid(torch.arange(hw[0]) + 0.5, torch.arange(hw[1]) + 0.5, indexing="ij")
    cx, cy, width, height, angle = rotated
    cos, sin = torch.deg2rad(angle).cos(), torch.deg2rad(angle).sin()
    along, across = (x - cx) * cos - (y - cy) * sin, (x - cx) * sin + (y - cy) * cos
    image = torch.zeros(3, *hw, dtype=torch.uint8)
    image[channel] = ((along.abs() < width / 2) & (across.abs() < height / 2)) * 255
    return image


def seen_in(image):
    """The rotated box around the bright pixels of an image: of least area among 180 angles."""
    rows, columns = (image[0] > 127).nonzero().unbind(1)
    points = torch.stack([columns, rows], 1).float() + 0.5
    best = None
    for angle in torch.arange(-90, 90, 2.0):
        radians = torch.deg2rad(angle)
        axes = torch.stack([radians.cos(), -radians.sin()]), torch.stack([radians.sin(), radians.cos()])
        low, high = (torch.stack([kind(points @ axis) for axis in axes]) for kind in (torch.amin, torch.amax))
        if best is None or (high - low).prod() < best[0]:
            centre = sum(axis * middle for axis, middle in zip(axes, (low + high) / 2, strict=True))
            best = ((high - low).prod(), torch.cat([centre, high - low + 1, angle[None]]))
    return best[1][None]


BOX = torch.tensor([[38.0, 30, 40, 12, 25]])
STEPS = [
    HorizontalFlip(1.0),
    VerticalFlip(1.0),
    ScaleJitter(0.6, 0.6),
    ScaleJitter(1.3, 1.3, min_visibility=0.0),
    lambda sample: resize_sample(sample, ResizeRule("fixed", height=90, width=120)),
    lambda sample: resize_sample(sample, ResizeRule("letterbox", height=40, width=40)),
]


@pytest.mark.parametrize("step", STEPS)
def test_every_step_moves_a_rotated_box_with_its_pixels(step):
    torch.manual_seed(3)
    moved = step(Sample(marked(BOX[0]), GroundTruth.of(rotated_hull(BOX), [0], rotated=BOX)))
    assert float(rotated_iou(moved.objects.rotated, seen_in(moved.pixels))) > 0.75
    torch.testing.assert_close(
        moved.objects.boxes, inside(rotated_hull(moved.objects.rotated), moved.size_hw), atol=1e-3, rtol=0
    )


def test_unequal_factors_resize_as_detectron2_does():
    resized = resize_sample(sample(), ResizeRule("fixed", height=30, width=160)).objects
    expected = resize_rotated(ground_truth().rotated, torch.tensor([2.0, 0.5]))
    torch.testing.assert_close(resized.rotated, expected)
    torch.testing.assert_close(resized.boxes, inside(rotated_hull(expected), (30, 160)), atol=1e-3, rtol=0)


def test_a_flip_and_its_repetition_is_the_same():
    for flip in (HorizontalFlip(1.0), VerticalFlip(1.0)):
        twice = flip(flip(sample())).objects
        torch.testing.assert_close(twice.rotated, ground_truth().rotated)


def test_a_crop_keeps_the_whole_box_and_cuts_its_hull():
    placement = Placement((0, 0, 30, 60), (60, 30), (0, 0))
    one = GroundTruth.of(rotated_hull(BOX), [0], rotated=BOX)
    cut = place_ground_truth(one, placement, min_visibility=0.1)
    assert torch.equal(cut.rotated, BOX)
    assert cut.boxes[0, 2] == 30
    share = float((rotated_corners(BOX)[0, :, 0] < 30).float().mean())  # half of its corners
    assert 0 < share < 1
    assert not len(place_ground_truth(one, placement, min_visibility=0.5))


def test_what_a_window_shows_is_asked_of_the_box_and_not_of_its_hull():
    """The corner of the hull of a thin diagonal box is empty: a window there shows nothing of the object."""
    diagonal = torch.tensor([[40.0, 30, 60, 2, 45]])
    one = GroundTruth.of(rotated_hull(diagonal), [0], [True], rotated=diagonal)
    corner = Placement((20, 10, 30, 20), (10, 10), (0, 0))  # top left, where the box leads to the top right
    assert not len(place_ground_truth(one, corner, min_visibility=0.0))


def test_mosaics_and_crops_keep_angles_and_hulls_together():
    torch.manual_seed(1)
    samples = [sample(ground_truth(4, seed)) for seed in range(3)] + [sample(GroundTruth.empty())]
    for _ in range(5):
        made = RandomIoUCrop(1.0)(mosaic(samples, HW, min_visibility=0.2)).objects
        assert made.rotated.shape == (len(made), 5)
        hulls = rotated_hull(made.rotated)
        assert (made.boxes >= hulls - 1e-2)[:, :2].all()
        assert (made.boxes <= hulls + 1e-2)[:, 2:].all()


def test_images_without_angles_do_not_join_those_with():
    upright = GroundTruth.of([[0, 0, 4, 4]], [0])
    assert join_ground_truths([ground_truth(), upright]).rotated is None
    assert len(join_ground_truths([ground_truth(), GroundTruth.empty()]).rotated) == 6


def test_a_tile_shows_rotated_boxes_in_its_own_pixels():
    whole = ground_truth()
    cut = cut_ground_truth(whole, (20, 10, 60, 50), HW, 0.3)
    assert len(cut) > 0
    shifted = whole.rotated[cut.labels] - torch.tensor([20.0, 10, 0, 0, 0])
    torch.testing.assert_close(cut.rotated, shifted)


def annotation(rotated, box=(10.0, 10, 40, 40)):
    return Annotation(box, 0, "a.txt:1", rotated=rotated)


def record(*items, tile=None):
    return Record("a.png", "a", HW, items, "a.txt", tile=tile)


def test_ground_truth_has_angles_where_they_are_asked_for_and_upright_boxes_get_angle_0():
    one = record(annotation((25.0, 25, 30, 10, 30)), annotation(None, (50.0, 40, 100, 60)))
    assert ground_truth_of(one, HW).rotated is None
    found = ground_truth_of(one, HW, rotated=True)
    assert found.rotated.tolist() == [[25, 25, 30, 10, 30], [65, 50, 30, 20, 0]]
    tile = record(*one.annotations, tile=TileOf((20, 20, 60, 60), HW))
    assert ground_truth_of(tile, (40, 40), rotated=True).rotated[0].tolist() == [5, 5, 30, 10, 30]


def test_boxes_whose_corners_lie_on_a_line_are_left_out():
    nan = float("nan")
    flat = record(annotation((25.0, 25, 30, 0.001, 30)), annotation((25.0, 25, 30, nan, 30)))
    assert not len(ground_truth_of(flat, HW, rotated=True))
    assert len(ground_truth_of(flat, HW)) == 2


def test_the_corners_of_an_annotation_come_back_through_the_whole_of_the_data(tmp_path):
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    corners = rotated_corners(BOX[0])
    rotated = tuple(rotated_around(corners).tolist())
    item = Annotation(tuple(rotated_hull(BOX[0]).tolist()), 0, "a.txt:1", rotated=rotated)
    split = Split("train", (Record(tmp_path / "a.png", "a", HW, (item,), "a.txt"),), Classes.named(["ship"]))
    images = DetectionDataset(
        split, ResizeRule("none"), rotated=True, cache=False, augmentation=Augmentation(Compose([HorizontalFlip(1.0)]))
    )
    torch.testing.assert_close(rotated_corners(images.base(0).objects.rotated)[0], corners, atol=1e-3, rtol=0)
    flipped = images[SampleKey(0, 1)][0].objects.rotated
    assert flipped[0].tolist() == pytest.approx([42, 30, 40, 12, -25], abs=1e-3)
