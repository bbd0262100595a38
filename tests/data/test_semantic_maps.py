"""Labels of pixels: decoded, moved with their pixels by every step, padded with 255, and never lost on the way."""

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from boxwright.data.dataset import Augmentation, DetectionDataset, SampleKey
from boxwright.data.drawn import DrawnCollate, DrawnDataset
from boxwright.data.formats.numbered_pixels import LabelPixels, ObjectPixels
from boxwright.data.loader import Collate
from boxwright.data.mosaic import Mosaic
from boxwright.data.placed_maps import place_map
from boxwright.data.records import Record, Split, TileOf
from boxwright.data.semantic_maps import semantic_map_of
from boxwright.data.tiles import cut_ground_truth
from boxwright.data.transforms import (
    Compose,
    HorizontalFlip,
    RandomIoUCrop,
    Sample,
    ScaleJitter,
    VerticalFlip,
    resize_ground_truth,
    resize_sample,
)
from boxwright.ops.image import PAD_COLOUR, Placement, ResizeRule
from boxwright.recipes import load_recipe
from boxwright.structures import Classes, GroundTruth, Targets
from boxwright.training.batches import DrawnBatches
from boxwright.training.scales import scale_batch
from boxwright.training.static_batch import padded, tensors_of, with_tensors

COLOURS = torch.tensor([[250, 0, 0], [0, 250, 0], [0, 0, 250], [0, 0, 0]], dtype=torch.uint8)
"""The colour of each label, none a mixture of others: what a step shows of the image says which label belongs there."""
CLASSES = Classes(("cat",), (7,), stuff=("sky", "road", "wall"))


def blocks(height=48, width=64, seed=0):
    """Blocks of 8 pixels, each of one of four labels."""
    draw = np.random.default_rng(seed).integers(4, size=(height // 8, width // 8)).astype(np.uint8)
    return torch.from_numpy(np.kron(draw, np.ones((8, 8), np.uint8)))


def sample(labels):
    image = COLOURS[labels.long()].permute(2, 0, 1).contiguous()
    return Sample(image, GroundTruth.of([[4, 4, 40, 40]], [0], semantic=labels))


def labels_seen(image):
    """The label that each pixel of an image shows, 255 in the padding, and which pixels are between two colours."""
    found = torch.full(image.shape[-2:], 255, dtype=torch.uint8)
    for label, colour in enumerate(COLOURS):
        found[(image == colour[:, None, None]).all(0)] = label
    padding = (image == torch.tensor(PAD_COLOUR)[:, None, None]).all(0)
    return found, (found == 255) & ~padding


@pytest.mark.parametrize(
    "step",
    [HorizontalFlip(1.0), VerticalFlip(1.0), ScaleJitter(0.4, 0.7), ScaleJitter(1.5, 3.0), RandomIoUCrop(p=1.0)],
    ids=["across", "down", "smaller", "larger", "crop"],
)
def test_a_step_moves_labels_with_their_pixels(step):
    for seed in range(8):
        torch.manual_seed(seed)
        moved = step(sample(blocks(seed=seed)))
        expected, between = labels_seen(moved.pixels)
        labels = moved.objects.semantic
        assert labels.dtype == torch.uint8
        assert torch.equal(labels[~between], expected[~between])
        assert not (labels[between] == 255).any()


def test_a_mosaic_shows_each_image_its_labels():
    four = [sample(blocks(seed=seed)) for seed in range(4)]
    torch.manual_seed(3)
    moved = Mosaic(1.0, low=1.0, high=1.0)(lambda index: four[index], 4, four[0])
    expected, between = labels_seen(moved.pixels)
    assert torch.equal(moved.objects.semantic[~between], expected[~between])
    assert float((~between).float().mean()) > 0.8
    assert moved.objects.semantic.max() < 4


def test_labels_are_moved_where_there_is_no_object():
    empty = sample(blocks())._replace(ground_truth=GroundTruth.of([], [], semantic=blocks()))
    assert torch.equal(HorizontalFlip(1.0)(empty).objects.semantic, blocks().flip(1))
    torch.manual_seed(0)
    zoomed = ScaleJitter(0.5, 0.5)(empty).objects.semantic
    assert 0.7 < float((zoomed == 255).float().mean()) < 0.8
    half = resize_ground_truth(empty.objects, (48, 64), ResizeRule("fixed", height=24, width=32)).semantic
    assert torch.equal(half, blocks()[::2, ::2])


@pytest.mark.parametrize(
    "rule",
    [
        ResizeRule("none"),
        ResizeRule("fixed", height=96, width=64),
        ResizeRule("letterbox", height=80, width=80),
        ResizeRule("short_side", size=72),
        ResizeRule("centre_crop", size=40),
    ],
    ids=lambda rule: rule.mode,
)
def test_labels_are_resized_as_their_image_and_never_mixed(rule):
    resized = resize_sample(sample(blocks()), rule)
    expected, between = labels_seen(resized.pixels)
    labels = resized.objects.semantic
    assert tuple(labels.shape) == resized.size_hw
    assert torch.equal(labels[~between], expected[~between])
    assert set(labels.unique().tolist()) <= {0, 1, 2, 3, 255}


def test_the_centre_of_a_pixel_decides_and_enlarging_and_back_is_the_same():
    labels = blocks()
    twice = place_map(labels, Placement((0, 0, 64, 48), (96, 128), (0, 0)), (96, 128))
    assert torch.equal(place_map(twice, Placement((0, 0, 128, 96), (48, 64), (0, 0)), (48, 64)), labels)
    assert place_map(
        torch.arange(6, dtype=torch.uint8)[None], Placement((0, 0, 6, 1), (1, 2), (0, 0)), (1, 2)
    ).tolist() == [[1, 4]]


def test_a_tile_shows_its_part():
    whole = sample(blocks()).objects
    assert torch.equal(cut_ground_truth(whole, (8, 16, 40, 48), whole.semantic.shape).semantic, blocks()[16:48, 8:40])


def test_targets_pad_labels_with_255_and_move_them():
    one, other = blocks(), blocks(32, 80, seed=1)
    targets = Targets.of([GroundTruth.of([], [], semantic=one), GroundTruth.of([], [], semantic=other)])
    assert targets.semantic.shape == (2, 48, 80)
    assert (targets.semantic[0, :, 64:] == 255).all()
    assert (targets.semantic[1, 32:] == 255).all()
    assert torch.equal(targets.image(1).semantic[:32], other)
    batch = Collate(ResizeRule("none"))([(sample(one), (48, 64), 0), (sample(other), (32, 80), 1)])
    assert torch.equal(batch.targets.semantic, targets.semantic)
    larger = scale_batch(batch, 2.0)
    assert larger.targets.semantic.shape[1:] == larger.images.pixels.shape[-2:] == (96, 160)
    assert torch.equal(larger.targets.semantic[:, ::2, ::2], targets.semantic)
    wide = padded(batch, 64)
    assert wide.targets.semantic.shape[1:] == wide.images.pixels.shape[-2:] == (64, 128)
    assert (wide.targets.semantic[:, 48:] == 255).all()
    assert any(tensor is wide.targets.semantic for tensor in tensors_of(wide))
    assert torch.equal(with_tensors(wide, torch.clone).targets.semantic, wide.targets.semantic)


def write(folder, count=3):
    """A split of images with maps in grey PNG files, whose numbers are ten times the labels."""
    records = []
    for index in range(count):
        one = sample(blocks(seed=index))
        Image.fromarray(one.pixels.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
        Image.fromarray((one.objects.semantic * 10).numpy()).save(folder / f"{index}_labels.png")
        pairs = tuple((10 * label, label) for label in range(4))
        semantic = LabelPixels(folder / f"{index}_labels.png", pairs)
        records.append(Record(folder / f"{index}.png", index, (48, 64), (), f"{index}.png", semantic=semantic))
    return Split("train", tuple(records), CLASSES)


@pytest.mark.parametrize("cache", [True, False])
def test_a_dataset_gives_labels_at_network_size_and_originals_at_their_own(tmp_path, cache):
    rule = ResizeRule("fixed", height=24, width=32)
    images = DetectionDataset(write(tmp_path), rule, semantic=True, cache=cache)
    assert torch.equal(images.base(1).objects.semantic, blocks(seed=1)[::2, ::2])
    assert torch.equal(images.network_ground_truth(1, (48, 64), semantic=True).semantic, blocks(seed=1)[::2, ::2])
    assert images.network_ground_truth(1, (48, 64)).semantic is None
    assert torch.equal(images.original_ground_truth(1, (48, 64)).semantic, blocks(seed=1))
    assert DetectionDataset(write(tmp_path), rule, cache=cache).base(1).objects.semantic is None


def test_batches_that_a_device_makes_have_the_labels_of_those_of_the_host(tmp_path):
    steps = Compose([ScaleJitter(0.5, 1.5), HorizontalFlip(0.5)])
    images = DetectionDataset(
        write(tmp_path), ResizeRule("none"), semantic=True, augmentation=Augmentation(steps, Mosaic())
    )
    source = DrawnBatches(images, 0, torch.device("cpu"))
    assert source.objects is None
    keys = [SampleKey(index, seed, seed % 2 == 0) for seed, index in enumerate([0, 1, 2, 0])]
    drawn = DrawnCollate(images)([DrawnDataset(images, source.objects, send_images=True)[key] for key in keys])
    made = drawn.to(torch.device("cpu"))
    host = Collate(images.rule)([images[key] for key in keys])
    assert torch.equal(made.targets.semantic, host.targets.semantic)
    assert made.targets.semantic.shape[1:] == made.images.pixels.shape[-2:]


def test_a_tile_of_an_image_decodes_its_part_and_a_number_without_a_label_is_unknown(tmp_path):
    record = write(tmp_path, 1).records[0]
    tile = Record(record.path, 0, (16, 24), (), "t", tile=TileOf((8, 16, 32, 32), (48, 64)), semantic=record.semantic)
    assert torch.equal(semantic_map_of(tile, (16, 24)), blocks()[16:32, 8:32])
    fewer = LabelPixels(record.semantic.path, ((0, 0), (10, 1)))
    labels = fewer.labels((48, 64))
    assert torch.equal(labels == 255, blocks() > 1)
    assert torch.equal(labels[blocks() < 2], blocks()[blocks() < 2])


def test_the_colour_of_a_panoptic_image_is_the_number_of_a_segment(tmp_path):
    numbers = np.array([[0, 1, 256], [65536, 1 + 2 * 256 + 3 * 65536, 1]])
    colours = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], -1).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "p.png")
    pairs = ((1, 1), (256, 2), (65536, 3), (197121, 4))
    assert LabelPixels(tmp_path / "p.png", pairs, True).labels((2, 3)).tolist() == [[255, 1, 2], [3, 4, 1]]
    mask = ObjectPixels(tmp_path / "p.png", 197121, True).mask((2, 3))
    assert (mask.x, mask.y, mask.bitmap.tolist()) == (1, 1, [[True]])
    assert LabelPixels(tmp_path / "p.png", (), True).labels((2, 3)).unique().tolist() == [255]


def test_a_map_that_is_missing_or_damaged_or_of_another_size_is_named(tmp_path):
    record = write(tmp_path, 1).records[0]
    with pytest.raises(ValueError, match=r"0\.png: .*0_labels\.png is 48 x 64, the image 40 x 64; correct or remove"):
        semantic_map_of(record, (40, 64))
    Image.new("RGB", (64, 48)).save(record.semantic.path)
    with pytest.raises(ValueError, match=r"is an image of mode RGB, where each pixel should hold the number"):
        semantic_map_of(record, (48, 64))
    Image.new("L", (64, 48)).save(tmp_path / "g.png")
    with pytest.raises(ValueError, match=r"mode L, expected colours that are the numbers of segments"):
        LabelPixels(tmp_path / "g.png", (), True).labels((48, 64))
    record.semantic.path.unlink()
    with pytest.raises(ValueError, match=r"0_labels\.png cannot be read"):
        semantic_map_of(record, (48, 64))


def test_classes_know_their_stuff(tmp_path):
    assert CLASSES.semantic_names == ("things", "sky", "road", "wall")
    assert CLASSES.stuff_ids == (8, 9, 10)
    assert Classes((), (), stuff=("sky", "road")).semantic_names == ("sky", "road")
    assert Classes(("cat",), (1,)).semantic_names == ()
    assert Classes.from_dict(CLASSES.as_dict()) == CLASSES
    save_checkpoint(Checkpoint(load_recipe("fcos"), CLASSES, {}), tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt").classes == CLASSES


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"names": ("a",), "ids": (1,), "stuff": ("a",)}, "class names repeat"),
        ({"names": ("a",), "ids": (1,), "stuff": ("b",), "stuff_ids": (1,)}, "class ids repeat"),
        ({"names": ("a",), "ids": (1,), "stuff": ("b",), "stuff_ids": (2, 3)}, "1 names of stuff but 2 ids"),
        ({"names": ("a",), "ids": (1,), "stuff": ("things",)}, "is called 'things'"),
        ({"names": (), "ids": (), "stuff": ()}, "no classes"),
        ({"names": (), "ids": (), "stuff": tuple(map(str, range(256)))}, "at most 255 labels of a pixel, got 256"),
    ],
)
def test_stuff_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Classes(**wrong)


@pytest.mark.parametrize("changed", [{"stuff": "sky"}, {"stuff_ids": [8, 9]}, {"stuff": [1, 2, 3]}])
def test_a_changed_list_of_stuff_is_refused(changed):
    with pytest.raises(ValueError, match="the stuff is no list of names with as many ids"):
        Classes.from_dict(CLASSES.as_dict() | changed)


def test_a_map_of_another_shape_or_type_is_refused():
    with pytest.raises(ValueError, match=r"semantic: expected \(H, W\) uint8"):
        GroundTruth.of([], [], semantic=torch.zeros(1, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"semantic: expected \(H, W\) uint8, got \(4, 4\) torch.int64"):
        GroundTruth.of([], [], semantic=torch.zeros(4, 4, dtype=torch.int64))
