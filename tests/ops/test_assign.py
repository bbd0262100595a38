"""Assignment against a location-by-location reading of the paper, and the laws of a batch."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwright.ops import assign
from boxwright.ops.assign import assign_locations, gather_rows
from boxwright.ops.points import level_ranges, pyramid_locations

LEVELS, STRIDES, BOUNDS = ((8, 12), (4, 6), (2, 3)), (8, 16, 32), (24, 48)
LOCATIONS, STRIDE_OF = pyramid_locations(LEVELS, STRIDES)
RANGES = torch.tensor(level_ranges(BOUNDS)).repeat_interleave(torch.tensor([h * w for h, w in LEVELS]), dim=0)


def one_by_one(boxes, ignore, radius):
    """Owner and ignore flag of each location of one image, in plain Python."""
    owners, ignored = [], []
    for (x, y), stride, (low, high) in zip(LOCATIONS.tolist(), STRIDE_OF.tolist(), RANGES.tolist(), strict=True):
        owner, least, in_region = -1, math.inf, False
        for index, (x1, y1, x2, y2) in enumerate(boxes):
            sides = (x - x1, y - y1, x2 - x, y2 - y)
            if min(sides) <= 0:
                continue
            if ignore[index]:
                in_region = True
                continue
            off_centre = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2))
            near = radius is None or off_centre < radius * stride
            area = (x2 - x1) * (y2 - y1)
            if low <= max(sides) < high and near and area < least:
                owner, least = index, area
        owners.append(owner)
        ignored.append(in_region and owner < 0)
    return owners, ignored


def padded(images, flags, filler=(0.0, 0.0, 0.0, 0.0)):
    count = max((len(boxes) for boxes in images), default=0)
    boxes = torch.tensor([[*map(list, one), *[list(filler)] * (count - len(one))] for one in images])
    valid = torch.tensor([[n < len(one) for n in range(count)] for one in images], dtype=torch.bool)
    ignore = torch.tensor([[*one, *[False] * (count - len(one))] for one in flags], dtype=torch.bool)
    return boxes.reshape(len(images), count, 4), valid.view(len(images), -1), ignore.view(len(images), -1)


def assigned(boxes, valid, ignore, radius=None):
    return assign_locations(LOCATIONS, STRIDE_OF, RANGES, boxes, valid, ignore, center_radius=radius)


# quarter pixels: exact in float32, and often exactly on a cell centre, a range bound or an equal area
coordinate = st.integers(-40, 440).map(lambda quarter: quarter / 4)
box = st.tuples(coordinate, coordinate, st.integers(1, 300), st.integers(1, 300)).map(
    lambda v: (v[0], v[1], v[0] + v[2] / 4, v[1] + v[3] / 4)
)
image = st.lists(st.tuples(box, st.booleans()), max_size=6)


@settings(max_examples=60, deadline=None)
@given(images=st.lists(image, min_size=1, max_size=3), radius=st.sampled_from([None, 0.75, 1.5]))
def test_equals_a_location_by_location_reading_of_the_paper(images, radius):
    boxes = [[item[0] for item in one] for one in images]
    flags = [[item[1] for item in one] for one in images]
    result = assigned(*padded(boxes, flags), radius)
    for index in range(len(images)):
        owners, ignored = one_by_one(boxes[index], flags[index], radius)
        assert result.owner[index].tolist() == owners
        assert result.ignored[index].tolist() == ignored


def random_images(seed, batch=4, most=9):
    chance = random.Random(seed)
    images, flags = [], []
    for _ in range(batch):
        rows = []
        for _ in range(chance.randint(0, most)):
            x, y = chance.uniform(-5, 90), chance.uniform(-5, 60)
            rows.append((x, y, x + chance.uniform(2, 70), y + chance.uniform(2, 60)))
        images.append(rows)
        flags.append([chance.random() < 0.2 for _ in rows])
    images[0], flags[0] = images[0] or [(1.0, 1.0, 30.0, 30.0)], flags[0] or [False]
    return images, flags


@pytest.mark.parametrize("seed", range(5))
def test_a_batch_equals_its_images_one_by_one(seed):
    images, flags = random_images(seed)
    together = assigned(*padded(images, flags), 1.5)
    for index, (boxes, ignore) in enumerate(zip(images, flags, strict=True)):
        alone = assigned(*padded([boxes], [ignore]), 1.5)
        assert torch.equal(together.owner[index], alone.owner[0])
        assert torch.equal(together.ignored[index], alone.ignored[0])


@pytest.mark.parametrize("seed", range(5))
def test_shuffling_the_boxes_shuffles_the_owners(seed):
    images, flags = random_images(seed, batch=1)
    boxes, valid, ignore = padded(images, flags)
    order = torch.randperm(boxes.shape[1], generator=torch.Generator().manual_seed(seed))
    straight = assigned(boxes, valid, ignore)
    shuffled = assigned(boxes[:, order], valid[:, order], ignore[:, order])
    back = torch.where(shuffled.owner >= 0, order[shuffled.owner.clamp(min=0)], -1)
    assert torch.equal(back, straight.owner)
    assert torch.equal(shuffled.ignored, straight.ignored)


@pytest.mark.parametrize("elements", [1, 400, 1500])
@pytest.mark.parametrize("radius", [None, 1.5])
def test_chunks_give_the_same_as_one_piece(monkeypatch, elements, radius):
    arguments = padded(*random_images(7, most=20))
    whole = assigned(*arguments, radius)
    calls = []
    claims = assign._claims
    monkeypatch.setattr(assign, "_claims", lambda *rest: calls.append(1) or claims(*rest))
    monkeypatch.setattr(assign, "_CHUNK_ELEMENTS", elements)
    pieces = assigned(*arguments, radius)
    assert len(calls) > 1
    assert torch.equal(whole.owner, pieces.owner)
    assert torch.equal(whole.ignored, pieces.ignored)


def test_every_location_strictly_inside_a_lone_box_belongs_to_exactly_one_level():
    side = torch.arange(1, 90, dtype=torch.float32)
    for length in side.tolist():
        result = assigned(torch.tensor([[[0.0, 0.0, length, length]]]), torch.ones(1, 1) > 0, torch.zeros(1, 1) > 0)
        for low, high in level_ranges(BOUNDS):
            rows = (RANGES[:, 0] == low) & (RANGES[:, 1] == high)
            reach = torch.maximum(LOCATIONS, length - LOCATIONS).amax(1)
            inside = ((LOCATIONS > 0) & (length > LOCATIONS)).all(1)
            assert torch.equal(result.owner[0, rows] == 0, (inside & (reach >= low) & (reach < high))[rows])


def test_equal_areas_go_to_the_earlier_box():
    boxes = torch.tensor([[[0.0, 0.0, 20.0, 10.0], [0.0, 0.0, 10.0, 20.0]]])
    yes, no = torch.ones(1, 2) > 0, torch.zeros(1, 2) > 0
    assert assigned(boxes, yes, no).owner[0, 0] == 0  # (4, 4) lies in both
    assert assigned(boxes.flip(1), yes, no).owner[0, 0] == 0


def test_centre_sampling_takes_what_is_nearer_than_the_radius():
    box = torch.tensor([[[0.0, 0.0, 32.0, 32.0]]])  # its centre is (16, 16); P3 cells stand at 4, 12, 20, 28
    yes, no = torch.ones(1, 1) > 0, torch.zeros(1, 1) > 0
    finest = STRIDE_OF == 8
    for radius, expected in ((0.5, set()), (0.51, {12.0, 20.0})):
        owned = LOCATIONS[(assigned(box, yes, no, radius).owner[0] == 0) & finest]
        assert set(owned.flatten().tolist()) == expected


class TestIgnoredRegions:
    def test_a_region_owns_nothing_and_silences_what_nobody_owns(self):
        boxes, valid, ignore = padded([[(0.0, 0.0, 60.0, 60.0), (0.0, 0.0, 20.0, 20.0)]], [[True, False]])
        result = assigned(boxes, valid, ignore)
        assert not (result.owner == 0).any()
        assert (result.owner == 1).any()
        inside = ((LOCATIONS > 0) & (LOCATIONS < 60)).all(1)
        assert torch.equal(result.ignored[0], inside & (result.owner[0] < 0))

    def test_a_region_counts_on_every_level_and_outside_of_the_centre_too(self):
        boxes, valid, ignore = padded([[(0.0, 0.0, 96.0, 64.0)]], [[True]])
        assert assigned(boxes, valid, ignore, 0.5).ignored.all()

    def test_a_padding_row_that_says_ignore_ignores_nothing(self):
        boxes = torch.tensor([[[0.0, 0.0, 96.0, 64.0]]])
        result = assigned(boxes, torch.zeros(1, 1) > 0, torch.ones(1, 1) > 0)
        assert not result.ignored.any()


class TestGatherRows:
    def test_rows_of_boxes_and_of_labels(self):
        boxes = torch.arange(24.0).view(2, 3, 4)
        index = torch.tensor([[2, -1], [0, 1]])
        assert torch.equal(gather_rows(boxes, index)[0], torch.stack([boxes[0, 2], torch.zeros(4)]))
        assert torch.equal(gather_rows(boxes, index)[1], boxes[1, :2])
        assert gather_rows(boxes[..., 0].long(), index).tolist() == [[8, 0], [12, 16]]

    def test_no_rows_give_zeros_of_the_right_shape(self):
        rows = gather_rows(torch.zeros(2, 0, 4), torch.full((2, 5), -1))
        assert rows.shape == (2, 5, 4)
        assert not rows.any()
