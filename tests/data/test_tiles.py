"""Training on tiles: what each shows is learnt, ignored or left out, and no object is lost."""

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.data.dataset import DetectionDataset
from boxwright.data.ground_truth import ground_truth_of
from boxwright.data.image_io.decode import read_image
from boxwright.data.records import Annotation, Record, Split
from boxwright.data.stored import store_images, store_objects
from boxwright.data.tiles import cut_ground_truth, cut_split
from boxwright.ops.image import ResizeRule
from boxwright.ops.tiling import Tiling
from boxwright.structures import Classes, CroppedMask, GroundTruth

HW = (100, 180)
TILING = Tiling(100, 0.2)  # x from 0 to 100 and from 80 to 180


def split_of(tmp_path, boxes, ignore=(), hw=HW, segmentation=None, images=1):
    pixels = np.random.default_rng(0).integers(0, 255, (*hw, 3), np.uint8)
    records = []
    for number in range(images):
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path)
        items = tuple(
            Annotation(tuple(box), 0, f"{number}:{n}", ignore=n in ignore, segmentation=segmentation)
            for n, box in enumerate(boxes)
        )
        records.append(Record(path, number, hw, items, str(number)))
    return Split("train", tuple(records), Classes.named(["a"]))


def shown(split, **options):
    """Boxes and ignore flags of each tile, in its own pixels."""
    cut, _ = cut_split(split, TILING, **{"min_visible": 0.3, "empty": 1.0, **options})
    found = [ground_truth_of(record, record.stated_hw) for record in cut.records]
    return [list(zip(one.boxes.tolist(), one.ignore.tolist(), strict=True)) for one in found]


def test_an_object_is_learnt_where_enough_of_it_is_seen_and_ignored_where_less_is(tmp_path):
    split = split_of(tmp_path, [[10, 10, 30, 30], [60, 10, 110, 30], [75, 50, 175, 60]])
    assert shown(split) == [
        [([10, 10, 30, 30], False), ([60, 10, 100, 30], False), ([75, 50, 100, 60], True)],
        [([0, 10, 30, 30], False), ([0, 50, 95, 60], False)],
    ]
    assert shown(split, min_visible=0.7)[1] == [([0, 10, 30, 30], True), ([0, 50, 95, 60], False)]
    assert not any(ignored for tile in shown(split, min_visible=0.0) for _, ignored in tile)


def test_a_region_to_ignore_stays_one_in_every_tile_that_shows_it(tmp_path):
    split = split_of(tmp_path, [[10, 10, 178, 30], [10, 50, 20, 60]], ignore=[0])
    assert shown(split) == [
        [([10, 10, 100, 30], True), ([10, 50, 20, 60], False)],
        [([0, 10, 98, 30], True)],
    ]


def test_the_visible_share_is_of_what_lies_within_the_image(tmp_path):
    split = split_of(tmp_path, [[-500, 10, 40, 30]])
    assert shown(split, empty=0.0) == [[([0, 10, 40, 30], False)]]


def test_every_object_no_larger_than_the_overlap_is_whole_in_some_tile(tmp_path):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(50, 2, generator=generator) * torch.tensor([280.0, 280.0])
    boxes = torch.cat([corners, corners + 20], dim=1).tolist()
    cut, _ = cut_split(split_of(tmp_path, boxes, hw=(300, 300)), TILING, min_visible=0.3, empty=0.0)
    whole = set()
    for record in cut.records:
        x, y = record.tile.window[:2]
        found = ground_truth_of(record, record.stated_hw)
        for item, box in zip(record.annotations, found.boxes.tolist(), strict=True):
            if torch.allclose(torch.tensor(box) + torch.tensor([x, y, x, y]), torch.tensor(item.box), atol=1e-3):
                whole.add(item.where)
    assert len(whole) == 50


@pytest.mark.parametrize(("empty", "count"), [(0.0, 0), (0.25, 1), (1.0, 4), (9.0, 20)])
def test_of_tiles_without_an_object_as_many_are_kept_as_asked_for_from_all_images(tmp_path, empty, count):
    split = split_of(tmp_path, [[10, 10, 30, 30]], hw=(100, 500), images=4)  # 6 tiles each, one with an object
    cut, sentence = cut_split(split, TILING, min_visible=0.3, empty=empty)
    idle = [record for record in cut.records if not record.annotations]
    assert (len(idle), len(cut.records)) == (count, count + 4)
    assert len({record.path for record in idle}) == min(4, count)
    assert sentence == (
        f"4 images cut into 24 tiles of 100 pixels, of which 4 with objects and {count} of 20 without are an epoch"
    )


def test_an_image_that_one_tile_covers_stays_as_it_is_also_without_objects(tmp_path):
    split = split_of(tmp_path, [], hw=(100, 100))
    assert cut_split(split, TILING, min_visible=0.3, empty=0.0).split == split


def test_a_cut_mask_is_cut_and_its_box_shrinks_to_what_is_left_of_it():
    bitmap = torch.zeros(40, 60, dtype=torch.bool)
    bitmap[:, :20] = True
    bitmap[:10] = True  # an L turned over, from (60, 20) to (120, 60)
    whole = GroundTruth.of([[60.0, 20, 120, 60]], [0], masks=[CroppedMask(60, 20, bitmap)])
    right = cut_ground_truth(whole, (80, 0, 180, 100), HW)
    assert right.boxes.tolist() == [[0, 20, 40, 30]]
    assert right.masks[0].bitmap[:10].all()
    assert cut_ground_truth(whole, (80, 40, 180, 140), HW).boxes.tolist() == []  # in the box, but none of the object


def test_the_dataset_gives_the_pixels_of_each_tile_however_they_are_read(tmp_path):
    split = split_of(tmp_path, [[10, 10, 30, 30], [120, 10, 140, 30]])
    cut = cut_split(split, TILING, min_visible=0.3, empty=0.0).split
    whole, rule = read_image(split.records[0].path), ResizeRule("fixed", height=50, width=50)
    plain, kept = (DetectionDataset(cut, rule, cache=cache) for cache in (False, True))
    stored = store_images(kept, torch.device("cpu"))
    for index, (x1, x2) in enumerate([(0, 100), (80, 180)]):
        assert torch.equal(plain.original(index), whole[:, :, x1:x2])
        assert plain.original_hw(index) == kept.original_hw(index) == (100, 100)
        assert torch.equal(plain[index][0].pixels, kept[index][0].pixels)
        assert torch.equal(plain.pixels(index), kept.pixels(index))
        on_device = stored.pixels[stored.starts[index] :][:2500].T.reshape(3, 50, 50)
        assert torch.equal(on_device, kept.pixels(index))
        assert torch.equal(plain[index][0].objects.boxes, kept[index][0].objects.boxes)
    assert plain[1][0].objects.boxes.tolist() == [[20, 5, 30, 15]]
    assert store_objects(plain).boxes[:2].tolist() == [[5, 5, 15, 15], [20, 5, 30, 15]]


def test_a_file_of_another_size_than_at_the_start_is_refused(tmp_path):
    cut = cut_split(split_of(tmp_path, [[10, 10, 30, 30]]), TILING, min_visible=0.3, empty=0.0).split
    Image.new("RGB", (90, 90)).save(cut.records[0].path)
    with pytest.raises(ValueError, match=r"0\.png: has another size than at the start of the run"):
        DetectionDataset(cut, ResizeRule("none"), cache=False)[0]


def test_the_losses_of_a_cut_image_are_those_of_its_tiles(tmp_path):
    split = split_of(tmp_path, [[60, 10, 110, 30], [75, 50, 175, 60]])
    images = DetectionDataset(
        split, ResizeRule("fixed", height=50, width=50), tiling=TILING, min_visible=0.3, cache=False
    )
    prepared = images.prepared(0)
    ground_truths = images.network_ground_truths(0, prepared)
    assert [tile.pixels.shape for tile in prepared.tiles] == [(3, 50, 50)] * 2
    assert [one.boxes.tolist() for one in ground_truths] == [
        [[30, 5, 50, 15], [37.5, 25, 50, 30]],
        [[0, 5, 15, 15], [0, 25, 47.5, 30]],
    ]
    assert [one.ignore.tolist() for one in ground_truths] == [[False, True], [False, False]]
