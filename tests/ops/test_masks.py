"""Run-length codes equal to the COCO API's, polygons close to them, tight boxes around masks."""

import numpy as np
import pytest
import torch

from boxwright.ops.masks import decode_rle, encode_cropped, encode_rle, mask_boxes, rasterise_polygons

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
    with pytest.raises(ValueError, match="of 4 pixels for a picture of 3 x 3"):
        decode_rle([2, 2], (3, 3))


def test_a_code_that_breaks_off_is_refused():
    with pytest.raises(ValueError, match="ends within a number"):
        decode_rle("o", (4, 4))


@pytest.mark.parametrize("polygon", [[10, 10, 60, 15, 50, 70, 12, 55], [5, 5, 45, 5, 45, 45, 5, 45]])
def test_polygons_differ_from_the_coco_api_on_the_border_only(polygon):
    ours = rasterise_polygons([polygon], (80, 80))
    theirs = torch.from_numpy(coco.decode(coco.frPyObjects([polygon], 80, 80))[..., 0].astype(bool))
    perimeter = sum(
        abs(polygon[k] - polygon[k - 2]) + abs(polygon[k + 1] - polygon[k - 1]) for k in range(0, len(polygon), 2)
    )
    assert (ours != theirs).sum() <= perimeter / 2
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.95


def test_several_polygons_of_one_object_are_united():
    left, right = [1, 1, 5, 1, 5, 5, 1, 5], [10, 1, 15, 1, 15, 5, 10, 5]
    both = rasterise_polygons([left, right], (20, 20))
    assert torch.equal(both, rasterise_polygons([left], (20, 20)) | rasterise_polygons([right], (20, 20)))


@pytest.mark.parametrize("polygon", [[1, 1, 2, 2], [1, 1, 2, 2, 3], []])
def test_a_polygon_that_is_none_is_refused(polygon):
    with pytest.raises(ValueError, match="three x, y pairs"):
        rasterise_polygons([polygon], (9, 9))


def test_boxes_are_tight_and_empty_masks_give_zeros():
    masks = torch.stack([torch.zeros(30, 40, dtype=torch.bool) for _ in range(3)])
    masks[0, 4:9, 10:31] = True
    masks[1, 29, 39] = True
    assert mask_boxes(masks).tolist() == [[10.0, 4.0, 31.0, 9.0], [39.0, 29.0, 40.0, 30.0], [0.0] * 4]
    assert mask_boxes(masks[:0]).shape == (0, 4)


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
