"""Clipped boxes and cropped masks from annotations as read."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from whole_masks import rasterise_polygons

from boxwright.data.ground_truth import clip_box, ground_truth_of
from boxwright.data.records import Annotation, Record
from boxwright.ops.masks import encode_rle

Box = tuple[float, float, float, float]


def record_of(*boxes: Box, masks: tuple[Any, ...] = ()) -> Record:
    filled = [*masks, *[None] * (len(boxes) - len(masks))]
    items = tuple(
        Annotation(box, n % 3, f"a.json: annotation id {n}", ignore=n == 1, segmentation=mask)
        for n, (box, mask) in enumerate(zip(boxes, filled, strict=True))
    )
    return Record(Path("a.jpg"), "a", None, items, "a.json")


def test_boxes_are_clipped_and_bad_ones_left_out() -> None:
    nan, inf = math.nan, math.inf
    boxes: list[Box] = [(-5, 10, 20, 99), (1, 1, 3, 3), (4, 4, 4, 9), (9, 9, 3, 3), (90, 0, 99, 9), (nan, 0, 1, 1)]
    ground_truth = ground_truth_of(record_of(*boxes, (0, 0, inf, 5), (5, 5, 8, 8)), (30, 40))
    assert ground_truth.boxes.tolist() == [[0, 10, 20, 30], [1, 1, 3, 3], [5, 5, 8, 8]]
    assert ground_truth.labels.tolist() == [0, 1, 1]
    assert ground_truth.ignore.tolist() == [False, True, False]
    assert ground_truth.masks is None


def test_an_empty_image() -> None:
    ground_truth = ground_truth_of(record_of(), (30, 40), masks=True)
    assert len(ground_truth) == 0
    assert ground_truth.masks == ()


@given(st.tuples(*[st.floats(-1e9, 1e9, width=32)] * 4), st.integers(1, 500), st.integers(1, 500))
def test_a_clipped_box_is_always_valid_ground_truth(box: Box, height: int, width: int) -> None:
    clipped = clip_box(box, (height, width))
    if clipped is not None:
        ground_truth = ground_truth_of(record_of(box), (height, width))
        assert len(ground_truth) == 1
        x1, y1, x2, y2 = clipped
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height


def full(mask: Any, hw: tuple[int, int]) -> torch.Tensor:
    plane = torch.zeros(hw, dtype=torch.bool)
    height, width = mask.bitmap.shape
    plane[mask.y : mask.y + height, mask.x : mask.x + width] = mask.bitmap
    return plane


@given(st.integers(0, 2**20 - 1), st.booleans())
def test_run_length_masks_survive_cropping(bits: int, compressed: bool) -> None:
    plane = torch.tensor([bool(bits >> n & 1) for n in range(20)]).reshape(4, 5)
    code = encode_rle(plane)
    if not compressed:
        flat = plane.T.flatten().tolist()
        counts, value = [0], False
        for bit in flat:
            if bit != value:
                counts.append(0)
                value = bit
            counts[-1] += 1
        code = {"size": [4, 5], "counts": counts}
    ground_truth = ground_truth_of(record_of((0, 0, 5, 4), masks=(code,)), (4, 5), masks=True)
    assert ground_truth.masks is not None
    assert torch.equal(full(ground_truth.masks[0], (4, 5)), plane)
    if bits:
        bitmap = ground_truth.masks[0].bitmap
        assert bitmap.any(0)[[0, -1]].all()
        assert bitmap.any(1)[[0, -1]].all()


def test_polygons_equal_those_on_the_whole_image() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        points = (torch.rand(2, 8, generator=generator) * 60 - 5).tolist()
        ground_truth = ground_truth_of(record_of((0, 0, 50, 40), masks=(points,)), (40, 50), masks=True)
        assert ground_truth.masks is not None
        assert torch.equal(full(ground_truth.masks[0], (40, 50)), rasterise_polygons(points, (40, 50)))
    flat = ground_truth_of(record_of((0, 0, 50, 40), masks=(points[0],)), (40, 50), masks=True)
    assert flat.masks is not None
    assert torch.equal(full(flat.masks[0], (40, 50)), rasterise_polygons(points[:1], (40, 50)))


def test_an_object_without_a_mask_has_an_empty_bitmap() -> None:
    ground_truth = ground_truth_of(
        record_of((3, 2, 9, 9), (0, 0, 4, 4), masks=(None, [[0, 0, 4, 0, 4, 4]])), (10, 10), masks=True
    )
    assert ground_truth.masks is not None
    assert ground_truth.masks[0].bitmap.tolist() == [[False]]
    assert (ground_truth.masks[0].x, ground_truth.masks[0].y) == (3, 2)
    assert ground_truth.masks[1].bitmap.any()
    assert [mask.known for mask in ground_truth.masks] == [False, True]


@pytest.mark.parametrize("mask", [{"size": [10, 10], "counts": [100]}, [[4.1, 4.1, 4.3, 4.1, 4.3, 4.3]]])
def test_a_mask_without_a_pixel_is_known_to_be_empty(mask: Any) -> None:
    ground_truth = ground_truth_of(record_of((3, 2, 9, 9), masks=(mask,)), (10, 10), masks=True)
    assert ground_truth.masks is not None
    assert ground_truth.masks[0].known
    assert ground_truth.masks[0].bitmap.numel() == 0


@pytest.mark.parametrize(
    "mask",
    [
        {"size": [4, 4], "counts": [16]},
        {"size": [10, 10], "counts": [5]},
        {"size": [10, 10], "counts": "5"},
        {"counts": "5"},
        {"size": 3, "counts": "5"},
        [[1, 2, 3, 4]],
        [["a", "b", "c", "d", "e", "f"]],
        "text",
        7,
    ],
)
def test_a_damaged_mask_is_one_sentence(mask: Any) -> None:
    record = record_of((0, 0, 5, 5), masks=(mask,))
    with pytest.raises(ValueError, match=r"a\.json: annotation id 0: the mask cannot be decoded"):
        ground_truth_of(record, (10, 10), masks=True)
    assert len(ground_truth_of(record, (10, 10))) == 1
