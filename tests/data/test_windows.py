"""Images in memory: two windows at a time stay within the limit, whatever the images, and the largest are alone."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.data import inputs
from boxwright.data.image_io import memory_need
from boxwright.data.image_io.memory_need import Need, need_of_image
from boxwright.data.inputs import Window, prepared_ahead, windows_within
from boxwright.ops import image as resizing
from boxwright.ops.image import ResizeRule, resize_image

RULE = ResizeRule("short_side", size=32)
GIB = 2**30


def grouped(needs: list[tuple[float, float]], window: int, memory: float) -> list[Window[int]]:
    sizes = [Need(int(held * GIB), int(passing * GIB)) for held, passing in needs]
    return list(windows_within(iter(range(len(needs))), window, memory, lambda given: [sizes[n] for n in given]))


def test_small_images_fill_windows_in_their_order() -> None:
    assert [part.images for part in grouped([(0.001, 0.001)] * 5, 2, 1.0)] == [[0, 1], [2, 3], [4]]
    assert not any(part.alone or part.problem for part in grouped([(0.001, 0.001)] * 5, 2, 1.0))


def test_two_windows_stay_within_the_limit() -> None:
    rng = np.random.default_rng(0)
    needs = [tuple(pair) for pair in rng.uniform(0, 0.3, (200, 2)).tolist()]
    found = grouped(needs, 64, 2.0)
    assert [number for part in found for number in part.images] == list(range(200))

    def most(part: Window[int]) -> float:
        """GiB while it is made: what is held by all, and what passes in two at a time."""
        at_once = 1 if part.alone else memory_need.TOGETHER
        return sum(needs[n][0] for n in part.images) + at_once * max(needs[n][1] for n in part.images)

    for one, other in pairwise(found):
        assert max(most(one), most(other)) <= 2.0
        if not (one.alone or other.alone):
            assert most(one) + most(other) <= 2.0


def test_a_large_image_is_alone_and_one_above_the_limit_has_a_problem() -> None:
    first, large, above, last = grouped([(0, 0.01), (0.3, 0.5), (0.6, 0.5), (0, 0.01)], 8, 1.0)
    assert (first.images, large.images, above.images, last.images) == ([0], [1], [2], [3])
    assert [part.alone for part in (first, large, above, last)] == [False, True, True, False]
    assert large.problem is None
    assert above.problem is not None
    assert above.problem.startswith("needs 1.1 GiB of memory, more than the 1 GiB that images may take")


@pytest.mark.parametrize("size", [(60, 40), (300, 200)])
def test_what_an_image_needs_grows_with_its_pixels_and_is_known_from_its_header(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    path = tmp_path / "a.png"
    Image.new("1", size).save(path)
    pixels = size[0] * size[1]
    network = 3 * 32 * 48
    assert need_of_image(path, RULE, keep=False) == (network, 4 * pixels)
    assert need_of_image(path, RULE, keep=True).held == network + 3 * pixels
    array = np.zeros((size[1], size[0], 3), np.uint8)
    given = [array, torch.from_numpy(array).permute(2, 0, 1), Image.fromarray(array)]
    owned = [3 * pixels, 3 * pixels, 4 * pixels]
    needs = [need_of_image(one, RULE, keep=False) for one in given]
    assert needs == [(network + own, 7 * pixels) for own in owned]


def test_what_cannot_be_read_needs_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"text")
    for one in (tmp_path / "a.png", tmp_path / "none.png", ValueError("no image"), np.zeros((0, 4, 3), np.uint8)):
        assert need_of_image(one, RULE, keep=True) == (0, 0)


def test_large_images_are_decoded_one_by_one_and_only_when_the_one_before_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a", "b", "C", "D", "e", "f"]  # large ones in capitals
    for name in names:
        Image.new("L", (1000, 1000) if name.isupper() else (20, 20)).save(tmp_path / f"{name}.png")
    events: list[str] = []
    read = inputs.read_any_image

    def told(path: Path, *rest: object) -> object:
        events.append(f"read {path.stem}")
        return read(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(inputs, "read_any_image", told)
    source = iter([tmp_path / f"{name}.png" for name in names])
    for _, part in prepared_ahead(source, 8, RULE, None, keep=True, memory=0.015):
        for one in part:
            assert isinstance(one, inputs.PreparedImage)
            events.append(f"used {Path(str(one.path)).stem}")
    assert [event for event in events if event.startswith("used")] == [f"used {name}" for name in names]
    for before, large, after in (("b", "C", "D"), ("C", "D", "e")):
        assert events.index(f"used {before}") < events.index(f"read {large}")
        assert events.index(f"used {large}") < events.index(f"read {after}")


def test_the_largest_are_resized_plane_by_plane_to_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randint(0, 256, (130, 170, 3), dtype=torch.uint8).permute(2, 0, 1)
    whole = resize_image(image, (60, 81), "plain")
    monkeypatch.setattr(resizing, "LARGE", 1000)
    torch.testing.assert_close(resize_image(image, (60, 81), "plain"), whole, atol=1e-6, rtol=0)


def test_arrays_are_taken_one_by_one_where_they_are_large() -> None:
    """They are in memory as soon as they are taken from their source, so that frames of a video must not pile up."""
    taken = used = most = 0

    def frames() -> Iterator[np.ndarray]:
        nonlocal taken, most
        for _ in range(20):
            taken += 1
            most = max(most, taken - used)
            yield np.zeros((400, 500, 3), np.uint8)  # 600 kB

    for _, part in prepared_ahead(frames(), 64, RULE, None, keep=False, memory=0.01):
        used += len(part)
    assert used == 20
    assert most <= 0.01 * 2**30 / 600_000
