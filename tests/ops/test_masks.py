"""Run-length codes and filled polygons equal to pycocotools', and bounds on what a polygon may cost."""

import time

import numpy as np
import pytest
import torch
from whole_masks import decode_rle, rasterise_polygons

from boxwright.ops.masks import check_outline, encode_cropped, encode_rle, rasterise_cropped
from boxwright.ops.run_lengths import rle_extent

coco = pytest.importorskip("pycocotools.mask")


def random_mask(seed):
    generator = torch.Generator().manual_seed(seed)
    height, width = (int(side) for side in torch.randint(1, 90, (2,), generator=generator))
    mask = torch.rand(height, width, generator=generator) < torch.rand((), generator=generator)
    if seed % 2:  # blobs, with long runs, rather than noise
        mask = torch.zeros(height, width, dtype=torch.bool)
        mask[height // 4 : height // 2 + 1, width // 3 :] = True
    return mask


def reference_code(mask):
    code = coco.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


@pytest.mark.parametrize("seed", range(30))
def test_code_equals_the_coco_apis_and_decodes_to_the_mask(seed):
    mask = random_mask(seed)
    code = encode_rle(mask)
    assert code == reference_code(mask)
    assert torch.equal(decode_rle(code["counts"], (mask.shape[0], mask.shape[1])), mask)


@pytest.mark.parametrize("value", [True, False])
def test_full_and_empty_masks(value):
    mask = torch.full((5, 7), value)
    assert encode_rle(mask) == reference_code(mask)
    assert torch.equal(decode_rle(encode_rle(mask)["counts"], (5, 7)), mask)


def test_plain_and_compressed_codes_mean_the_same():
    mask = random_mask(4)
    flat = mask.T.flatten().int().tolist()
    runs, value, length = [], 0, 0
    for pixel in flat:
        if pixel != value:
            runs.append(length)
            value, length = pixel, 0
        length += 1
    runs.append(length)
    assert torch.equal(decode_rle(runs, (mask.shape[0], mask.shape[1])), mask)


def test_a_code_for_another_size_is_refused():
    with pytest.raises(ValueError, match="of 4 pixels for an image of 3 x 3"):
        decode_rle([2, 2], (3, 3))


def test_a_code_that_breaks_off_is_refused():
    with pytest.raises(ValueError, match="ends within a number"):
        decode_rle("o", (4, 4))


def reference_bitmap(polygons, size_hw):
    return torch.from_numpy(coco.decode(coco.merge(coco.frPyObjects(polygons, *size_hw))).astype(bool))


def random_polygons(rng, size_hw):
    """One to three polygons of random corners, so most of them concave and self-crossing, of every size and place."""
    polygons = []
    for _ in range(rng.integers(1, 4)):
        centre = rng.uniform(-0.2, 1.2, 2) * size_hw[::-1]
        points = centre + rng.uniform(-0.5, 0.5, (rng.integers(3, 25), 2)) * rng.choice([1, 5, 60, 200, 3000])
        points = [points, points.round(2), (points * 5).round() / 5, (points * 4).round() / 4, points.round()][
            rng.integers(0, 5)
        ]
        if rng.random() < 0.1:
            points[:, rng.integers(0, 2)] = points[0, 0]  # without area
        if rng.random() < 0.1:
            points[1] = points[0]
        polygons.append(points.ravel().tolist())
    return polygons


@pytest.mark.parametrize("seed", range(8))
def test_polygons_are_filled_as_by_the_coco_api(seed):
    rng = np.random.default_rng(seed)
    covered = 0
    for _ in range(250):
        size_hw = (int(rng.integers(1, 120)), int(rng.integers(1, 120)))
        polygons = random_polygons(rng, size_hw)
        expected = reference_bitmap(polygons, size_hw)
        assert torch.equal(rasterise_polygons(polygons, size_hw), expected), (polygons, size_hw)
        covered += bool(expected.any())
    assert covered > 120


@pytest.mark.parametrize(
    "polygon",
    [
        [10, 10, 60, 15, 50, 70, 12, 55],
        [5, 5, 45, 5, 45, 45, 5, 45],
        [-7.3, -4.1, 30.2, 8.8, 12.5, 91.6, -0.1, 40],  # C rounds coordinates below zero upwards
        [-0.28, -0.3, 3, -0.3, 3, 3, -0.28, 3],
        [0, 0, 80, 0, 80, 80, 0, 80],
        [79.9, 79.9, 81, 79.9, 81, 81],
        [20.5, 20.5, 20.5, 60.5, 21.5, 60.5, 21.5, 20.5],
        [1, 1, 9, 9, 9, 1, 1, 9],
        [3.2, 3.2, 3.2, 3.2, 3.2, 3.2],
        [1, 1, 5, 5, 9, 9],
        [40, 40, 40.3, 40.1, 40.2, 40.4],
        [-500, -400, -300, -400, -300, -200],
        [-1e4, 33, 1e4, 34, 0, 1e4],
    ],
)
def test_polygons_at_borders_and_without_area_are_those_of_the_coco_api(polygon):
    assert torch.equal(rasterise_polygons([polygon], (80, 80)), reference_bitmap([polygon], (80, 80)))


def test_a_polygon_that_reaches_very_far_fills_its_image():
    for far in (1e5, 1e12, 1e300):
        assert rasterise_polygons([[-far, -far, far, -far, far, far, -far, far]], (6, 7)).all()


def test_no_polygons_are_an_empty_mask():
    assert not rasterise_polygons([], (3, 4)).any()
    assert rasterise_cropped([], (3, 4))[2].shape == (0, 0)


def test_several_polygons_of_one_object_are_united():
    left, right = [1, 1, 5, 1, 5, 5, 1, 5], [10, 1, 15, 1, 15, 5, 10, 5]
    both = rasterise_polygons([left, right], (20, 20))
    assert torch.equal(both, rasterise_polygons([left], (20, 20)) | rasterise_polygons([right], (20, 20)))


@pytest.mark.parametrize("polygon", [[1, 1, 2, 2], [1, 1, 2, 2, 3], []])
def test_a_polygon_that_is_none_is_refused(polygon):
    with pytest.raises(ValueError, match="three x, y pairs"):
        rasterise_polygons([polygon], (9, 9))


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([1, 1, 2, 2, 3, float("nan")], "not finite"),
        ([1, 1, 2, 2, 3, float("inf")], "not finite"),
        ([1, 1, 2, 2, 3, None], "not finite"),
        (["1", "1", "2", "2", "3", "1"], "flat list of numbers"),
        ([[1, 1], [2, 2], [3, 1], [3, 1], [2, 2], [1, 1]], "flat list of numbers"),
    ],
)
def test_points_that_are_no_numbers_are_refused(polygon, message):
    with pytest.raises(ValueError, match=message):
        rasterise_polygons([polygon], (9, 9))


@pytest.mark.parametrize("seed", range(6))
def test_a_cropped_mask_is_encoded_as_the_whole_one(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    for _ in range(100):
        height, width = draw(1, 9), draw(1, 9)
        h, w = draw(0, height), draw(0, width)
        x, y = draw(0, width - w), draw(0, height - h)
        bitmap = torch.rand(h, w, generator=generator) > torch.rand((), generator=generator)
        plane = torch.zeros(height, width, dtype=torch.bool)
        plane[y : y + h, x : x + w] = bitmap
        assert encode_cropped(bitmap, x, y, (height, width)) == encode_rle(plane)


@pytest.mark.parametrize("seed", range(5))
def test_the_box_of_a_code_is_that_of_its_bitmap(seed):
    generator = torch.Generator().manual_seed(seed)
    for share in (0.0, 0.02, 0.3, 1.0):
        bitmap = torch.rand(7, 9, generator=generator) < share
        code = encode_rle(bitmap)
        expected = coco.toBbox({**code, "counts": code["counts"].encode()}).tolist()
        assert list(rle_extent(code["counts"], (7, 9))) == expected
    with pytest.raises(ValueError, match="for an image of 7 x 9"):
        rle_extent([60, 4], (7, 9))


@pytest.mark.parametrize("short", [[3, 3, 9, 3], [3, 3], []])
def test_points_without_area_beside_a_polygon_cover_no_pixel(short):
    square = [2, 2, 12, 2, 12, 9, 2, 9]
    expected = reference_bitmap([square], (20, 20))
    for polygons in ([square, short], [short, square]):
        assert torch.equal(rasterise_polygons(polygons, (20, 20)), expected)
        assert rasterise_cropped(polygons, (20, 20))[:2] == (2, 2)


def zigzag(points, height, width):
    return [value for n in range(points) for value in ((width if n % 2 else 0.0), n * height / points)]


@pytest.mark.parametrize(
    "outline", [zigzag(100_000, 1000, 2000), zigzag(100_000, 2000, 1000)[::-1], [3.0, -1e9, 3.0, 1e9] * 500]
)
def test_an_outline_of_absurd_length_is_refused_in_little_time_and_memory(outline):
    begun = time.monotonic()
    for refused in (lambda: rasterise_cropped([outline], (1000, 2000)), lambda: check_outline(outline, (1000, 2000))):
        with pytest.raises(ValueError, match=f"polygon of {len(outline) // 2} points has an outline of"):
            refused()
    assert time.monotonic() - begun < 2


def test_a_long_outline_is_filled_as_by_the_coco_api():
    circle = [v for n in range(3000) for v in (100 + 90 * np.cos(n / 477.5), 60 + 50 * np.sin(n / 477.5))]
    for polygon in (zigzag(200, 120, 200), circle, circle + zigzag(50, 120, 200)):
        check_outline(polygon, (120, 200))
        assert torch.equal(rasterise_polygons([polygon], (120, 200)), reference_bitmap([polygon], (120, 200)))


def test_a_polygon_of_a_hundred_thousand_fine_points_is_drawn():
    angles = np.linspace(0, 2 * np.pi, 100_000, endpoint=False)
    points = np.stack([100 + 50 * np.cos(angles), 100 + 50 * np.sin(angles)], 1).ravel().tolist()
    area = int(rasterise_polygons([points], (200, 200)).sum())
    assert area == pytest.approx(np.pi * 2500, rel=0.02)


def test_a_polygon_in_an_image_of_two_hundred_million_pixels_makes_no_such_image():
    begun = time.monotonic()
    x, y, bitmap = rasterise_cropped([[9990, 19990, 9999, 19990, 9999, 19999, 9990, 19999]], (20_000, 10_000))
    assert (x, y, *bitmap.shape) == (9990, 19990, 9, 9)
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("value", ["1" * 10_000_000, ["1"], {"a": 1}])
def test_text_among_points_makes_no_wide_array(value):
    points = [1.0, 2.0, 3.0, 4.0, 5.0] * 1000
    with pytest.raises(ValueError, match="flat list of numbers"):
        rasterise_polygons([[*points[1:], value]], (20, 40))
