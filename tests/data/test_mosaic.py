"""Law: a mosaic shows four images, and every box, label, flag and mask still lies on its object."""

from __future__ import annotations

import pytest
import torch

from boxwright.data.mosaic import Mosaic, mosaic
from boxwright.data.transforms import Sample
from boxwright.ops.image import PAD_COLOUR
from boxwright.structures import CroppedMask, GroundTruth


def square_image(label: int, *, hw: tuple[int, int] = (100, 120), masks: bool = True) -> Sample:
    """A 30-pixel square of brightness 100 + 10 * label on a dark ground of brightness 10 + label."""
    image = torch.full((3, *hw), 10 + label, dtype=torch.uint8)
    image[:, 35:65, 45:75] = 100 + 10 * label
    mask = [CroppedMask(45, 35, torch.ones(30, 30, dtype=torch.bool))]
    return Sample(image, GroundTruth.of([[45, 35, 75, 65]], [label], [label == 2], mask if masks else None))


@pytest.mark.parametrize("seed", range(20))
def test_boxes_masks_and_flags_lie_on_their_objects(seed: int) -> None:
    torch.manual_seed(seed)
    joined = mosaic([square_image(label) for label in range(4)], (100, 120))
    ground_truth = joined.ground_truth
    assert joined.size_hw == (100, 120)
    assert ground_truth.masks is not None
    assert ground_truth.ignore.tolist() == [label == 2 for label in ground_truth.labels.tolist()]
    for box, label, mask in zip(
        ground_truth.boxes.tolist(), ground_truth.labels.tolist(), ground_truth.masks, strict=True
    ):
        rows, columns = mask.bitmap.nonzero(as_tuple=True)
        tight = [mask.x + int(columns.min()), mask.y + int(rows.min()),
                 mask.x + int(columns.max()) + 1, mask.y + int(rows.max()) + 1]  # fmt: skip
        assert max(abs(one - other) for one, other in zip(tight, box, strict=True)) <= 1.5
        middle = joined.image[0, round((box[1] + box[3]) / 2) - 1, round((box[0] + box[2]) / 2) - 1]
        assert abs(int(middle) - (100 + 10 * label)) <= 12 or min(box[2] - box[0], box[3] - box[1]) < 3
        assert 0 <= box[0] < box[2] <= 120
        assert 0 <= box[1] < box[3] <= 100


def test_the_canvas_is_filled_whatever_the_sizes_of_the_images() -> None:
    sizes = [(100, 120), (40, 300), (500, 90), (8, 8)]
    for seed in range(10):
        torch.manual_seed(seed)
        samples = [square_image(0) if hw == (100, 120) else blank(hw) for hw in sizes]
        joined = mosaic(samples, (100, 120))
        padding = (joined.image == torch.tensor(PAD_COLOUR)[:, None, None]).all(0)
        assert not padding.any()


def blank(hw: tuple[int, int]) -> Sample:
    return Sample(torch.full((3, *hw), 10, dtype=torch.uint8), GroundTruth.empty())


def test_four_images_appear_and_the_draw_repeats_by_seed() -> None:
    fetched: list[int] = []

    def fetch(index: int) -> Sample:
        fetched.append(index)
        return square_image(index)

    torch.manual_seed(3)
    first = Mosaic()(fetch, 9, square_image(9))
    torch.manual_seed(3)
    second = Mosaic()(fetch, 9, square_image(9))
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.ground_truth.boxes, second.ground_truth.boxes)
    assert len(fetched) == 6
    assert fetched[:3] == fetched[3:]
    assert all(0 <= index < 9 for index in fetched)
    grounds = {int(value) for value in first.image[0].unique() if value < 30}
    assert {10 + label for label in (*fetched[:3], 9)} <= grounds


def test_little_of_an_object_is_not_an_object() -> None:
    for seed in range(30):
        torch.manual_seed(seed)
        strict = mosaic([square_image(label) for label in (0, 1, 3, 4)], (100, 120), min_visibility=1.0).ground_truth
        torch.manual_seed(seed)
        lax = mosaic([square_image(label) for label in (0, 1, 3, 4)], (100, 120), min_visibility=0.0).ground_truth
        assert set(strict.labels.tolist()) <= set(lax.labels.tolist())
        sides = strict.boxes[:, 2:] - strict.boxes[:, :2]
        assert ((sides[:, 0] - sides[:, 1]).abs() <= 2).all()  # whole squares


def test_probability_zero_and_empty_images() -> None:
    sample = square_image(1)
    assert Mosaic(0.0)(lambda index: sample, 1, sample) is sample
    nothing = mosaic([blank((50, 60))] * 4, (50, 60))
    assert len(nothing.ground_truth) == 0


def test_masks_survive_images_without_objects_but_not_images_without_masks() -> None:
    torch.manual_seed(0)
    with_empty = mosaic([square_image(0), blank((100, 120)), square_image(1), square_image(3)], (100, 120))
    assert with_empty.ground_truth.masks is not None
    for seed in range(10):
        torch.manual_seed(seed)
        bare = square_image(1, masks=False)
        mixed = mosaic([bare, bare, square_image(0), square_image(3)], (100, 120), min_visibility=0.0)
        shown = set(mixed.ground_truth.labels.tolist())
        assert (mixed.ground_truth.masks is None) == (1 in shown)


def test_a_mosaic_of_three_is_refused() -> None:
    with pytest.raises(ValueError, match="takes 4 images"):
        mosaic([square_image(0)] * 3, (100, 120))
