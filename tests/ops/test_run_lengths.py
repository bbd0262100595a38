"""Run-length codes: decoded as they were encoded, and checked against their image before one is made."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from whole_masks import decode_rle

from boxwright.ops.masks import encode_rle
from boxwright.ops.run_lengths import decode_cropped, rle_extent, runs_of
from boxwright.structures import CroppedMask


@settings(max_examples=200, deadline=None)
@given(height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 2**31), filled=st.floats(0, 1))
def test_what_was_encoded_is_decoded_whole_and_cropped(height: int, width: int, seed: int, filled: float) -> None:
    mask = torch.from_numpy(np.random.default_rng(seed).random((height, width)) < filled)
    code = encode_rle(mask)
    runs = runs_of(code["counts"], (height, width)).tolist()
    for counts in (
        code["counts"],
        code["counts"].encode(),
        runs,
        [float(run) for run in runs],
        [str(run) for run in runs],
    ):
        assert torch.equal(decode_rle(counts, (height, width)), mask)
        x, y, bitmap = decode_cropped(counts, (height, width))
        rows, columns = np.nonzero(mask.numpy())
        assert rle_extent(counts, (height, width)) == (x, y, bitmap.shape[1], bitmap.shape[0])
        assert np.array_equal(bitmap, mask[y : y + bitmap.shape[0], x : x + bitmap.shape[1]].numpy())
        if len(rows):
            assert (x, y) == (columns.min(), rows.min())
            assert bitmap.shape == (rows.max() - y + 1, columns.max() - x + 1)


@pytest.mark.parametrize("hw", [(1, 400), (400, 1), (31, 33), (100, 100)])
def test_the_longest_valid_codes_are_within_the_bound(hw: tuple[int, int]) -> None:
    """Runs that change between long and short take the most characters."""
    pixels = hw[0] * hw[1]
    for pattern in ([1], [1, 40], [16, 1, 1, 1], [1, 1, 33, 17]):
        runs: list[int] = []
        while sum(runs) < pixels:
            runs.append(min(pattern[len(runs) % len(pattern)], pixels - sum(runs)))
        mask = decode_rle(runs, hw)
        assert runs_of(encode_rle(mask)["counts"], hw).tolist() == runs


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ("0" * 10_000_000, "code of 10000000 characters, more than an image of 20 x 40 can need"),
        ([1] * 10_000_000, "code of 10000000 characters"),
        ("o" * 30 + "0", "a number of 31 characters"),
        ("oooooo0", "pixels in an image of 800"),
        ("P", "ends within a number"),
        ("!", "means nothing"),
        ("é", "ascii"),
        ([10**30], "in an image of 800"),
        ([-5, 805], "a run of -5"),
        ([0.5, 799.5], "no whole number"),
        ([True, 799], "no whole number"),
        (["9" * 10_000], "in an image of 800"),
        ("1", "code of 1 pixels for an image of 20 x 40"),
        (800, "expected text or a list"),
        (None, "expected text or a list"),
    ],
)
def test_an_invalid_code_is_refused_at_once(counts: object, reason: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ValueError, match=reason):
        runs_of(counts, (20, 40))  # type: ignore[arg-type]
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize(
    "size", [[10**6, 10**6], [10**12, 1], [20_000, 20_000], ["x", 4], [4], [True, 4], [4.5, 4], None]
)
def test_a_size_that_no_image_has_is_refused_before_it_is_made(size: object) -> None:
    counts = [size[0] * size[1]] if isinstance(size, list) and len(size) == 2 and size[0] != "x" else [16]
    with pytest.raises((ValueError, TypeError)):
        CroppedMask.decoded({"size": size, "counts": [0, *counts]}, None)
    with pytest.raises((ValueError, TypeError)):
        CroppedMask.decoded({"size": size, "counts": [0, *counts]}, (20, 40))


def test_sizes_and_polygons_may_be_numbers_as_text() -> None:
    assert CroppedMask.decoded({"size": ["2", 2.0], "counts": [0, "4"]}, (2, 2)).bitmap.tolist() == [[True] * 2] * 2
    as_text = CroppedMask.decoded([["1", "1", "4", "1", "4", "3", "1", "3"]], (4, 5))
    plain = CroppedMask.decoded([1, 1, 4, 1, 4, 3, 1, 3], (4, 5))
    assert (as_text.x, as_text.y) == (plain.x, plain.y)
    assert torch.equal(as_text.bitmap, plain.bitmap)


def test_a_code_of_a_million_runs_is_read_at_once() -> None:
    text = encode_rle(decode_rle([1] * 10**6, (1000, 1000)))["counts"]
    begun = time.monotonic()
    assert runs_of(text, (1000, 1000)).tolist() == [1] * 10**6
    assert time.monotonic() - begun < 2
