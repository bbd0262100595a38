"""Batches of few shapes: what is added is padding, and what was there stays."""

import pytest
import torch
from tiny_steps import batch

from boxwright.training.static_batch import SIDES, padded, side_multiple, tensors_of, with_tensors


def test_what_was_there_stays_and_what_is_added_is_marked() -> None:
    one = batch(1, (26, 44), 9, proposals=True)
    wider = padded(one, 16)
    assert wider.images.pixels.shape == (2, 3, 32, 48)
    assert torch.equal(wider.images.pixels[..., :26, :44], one.images.pixels)
    assert torch.equal(wider.images.sizes_hw, one.images.sizes_hw)
    assert not wider.images.pixels[..., 26:, :].any()
    assert wider.targets.boxes.shape == (2, 16, 4)
    assert wider.targets.valid.sum(1).tolist() == [9, 4]
    assert wider.proposals is not None
    assert wider.proposals.valid.sum(1).tolist() == [9, 4]
    assert torch.equal(wider.targets.boxes[:, :9], one.targets.boxes)


def test_a_batch_that_fits_is_not_copied() -> None:
    one = batch(1, (32, 48), 8)
    pairs = zip(tensors_of(padded(one, 16)), tensors_of(one), strict=True)
    assert all(own.data_ptr() == other.data_ptr() for own, other in pairs)


def test_every_tensor_of_a_batch_is_known() -> None:
    """A field that is added to a batch, and not to these two functions, would be a stale buffer."""
    one = batch(1, (32, 48), 8, proposals=True)
    fields = [*slots(one.images), *slots(one.targets), *slots(one.proposals)]
    assert {id(tensor) for tensor in fields} == {id(tensor) for tensor in tensors_of(one)}
    doubled = with_tensors(one, lambda tensor: tensor.clone())
    assert all(map(torch.equal, tensors_of(doubled), tensors_of(one)))
    assert not {tensor.data_ptr() for tensor in tensors_of(doubled)} & {tensor.data_ptr() for tensor in fields}


def slots(record: object) -> list[torch.Tensor]:
    return [value for name in record.__slots__ if torch.is_tensor(value := getattr(record, name))]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("sizes", "scales", "expected"),
    [
        ([(240, 320)] * 50, 4, 1),  # one size is not padded, at any scale
        ([(240, 320), (320, 240)], 1, 1),
        ([(240, 320), (320, 240)], 5, 1),  # 2 x 2 shapes at five scales are too many, but no padding makes them fewer
        ([(240, width) for width in range(240, 420, 5)], 1, 16),
        ([(side, side) for side in range(16, 4000)], 1, SIDES[-1]),
    ],
)
def test_sides_are_padded_as_little_as_few_shapes_allow(sizes, scales, expected) -> None:
    assert side_multiple(sizes, scales, 16) == expected
