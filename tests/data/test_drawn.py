"""Law: batches made on the device show what the loader's do, for each step and for all together; boxes are the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from other_device import OTHER, OtherDevice
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from boxwright.data.dataset import Augmentation, DetectionDataset, SampleKey
from boxwright.data.drawn import DrawnCollate, DrawnDataset
from boxwright.data.loader import Collate, load_collated
from boxwright.data.mosaic import Mosaic
from boxwright.data.records import Annotation, Record, Split
from boxwright.data.sampler import StepSampler, aspects_of
from boxwright.data.stored import store_images, store_objects
from boxwright.data.transforms import ColourJitter, Compose, HorizontalFlip, RandomIoUCrop, ScaleJitter, VerticalFlip
from boxwright.data.view import View
from boxwright.ops.image import Placement, ResizeRule
from boxwright.structures import Classes

RULE = ResizeRule("short_side", size=64, max_size=128)
SIZES = [(80, 107), (107, 80), (70, 120), (90, 90), (120, 70), (80, 107)]
CPU = torch.device("cpu")
FLIPS = (HorizontalFlip(0.5), VerticalFlip(0.5))
EVERYTHING = (RandomIoUCrop(0.5), ScaleJitter(0.6, 1.6), *FLIPS)


def split_of(folder, image_of):
    records = []
    for index, (height, width) in enumerate(SIZES):
        path = folder / f"{index}.png"
        Image.fromarray(image_of(index, height, width)).save(path)
        annotations = tuple(
            Annotation((5.0 + 9 * n, 6.0 + 4 * n, 30.0 + 15 * n, 28.0 + 14 * n), n % 2, path.name, n == 2, polygon(n))
            for n in range(0 if index == 5 else 3)
        )
        records.append(Record(path, index, (height, width), annotations, path.name))
    return Split("train", tuple(records), Classes.named(["a", "b"]))


def polygon(number):
    x, y = 5.0 + 9 * number, 6.0 + 4 * number
    return [[x, y, x + 25 + 6 * number, y, x, y + 22 + 10 * number]]


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Noise that changes over some pixels, so that what lies elsewhere shows."""
    generator = np.random.default_rng(0)

    def image(_, height, width):
        coarse = generator.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))

    return split_of(tmp_path_factory.mktemp("noisy"), image)


@pytest.fixture(scope="module")
def ramps(tmp_path_factory):
    """Each pixel's place in red and green, and its image in blue: what interpolation does not change."""

    def image(index, height, width):
        red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
        return np.stack([red, green, np.full_like(red, 40 * index)], axis=2).round().astype(np.uint8)

    return split_of(tmp_path_factory.mktemp("ramps"), image)


def keys_of(seed, mosaic=True):
    return [SampleKey(index, 100 * seed + index, mosaic) for index in range(len(SIZES))]


def drawn_of(images, *, send_images=False):
    """What the host draws; with masks it transforms the ground truth too."""
    return DrawnDataset(images, None if images.masks else store_objects(images), send_images=send_images)


def both(images, keys, device=CPU, stored=None):
    """A batch as the loader makes it, and as a device does."""
    stored, drawn = stored or store_images(images, device), drawn_of(images)
    made = DrawnCollate(images, stored.starts)([drawn[key] for key in keys]).to(device, stored.pixels, drawn.objects)
    return Collate(images.rule)([images[key] for key in keys]), made


def assert_same_but_pixels(expected, made):
    """Everything but the pixels is equal; what is added is marked as padding."""
    count = expected.targets.valid.shape[1]
    assert made.targets.valid.shape[1] in (8, 16, 32)
    assert not made.targets.valid[:, count:].any()
    for name in ("valid", "boxes", "labels", "ignore"):
        assert torch.equal(getattr(made.targets, name)[:, :count], getattr(expected.targets, name)), name
    for name in ("sizes_hw", "original_hw", "scale_xy", "offset_xy"):
        assert torch.equal(getattr(made.images, name), getattr(expected.images, name)), name
    assert made.indices == expected.indices
    assert made.images.pixels.dtype == torch.uint8
    assert made.images.pixels.shape == expected.images.pixels.shape
    for image, (height, width) in zip(made.images.pixels, made.images.sizes_hw.tolist(), strict=True):
        assert not image[:, height:].any()
        assert not image[:, :, width:].any()


def levels_between(expected, made):
    return (made.images.pixels.float() - expected.images.pixels.float()).abs()


@pytest.mark.parametrize(
    ("augmentation", "levels", "share"),
    [
        (None, 0, 0.0),
        (Augmentation(Compose(FLIPS)), 0, 0.0),
        (Augmentation(Compose([ScaleJitter(0.4, 1.0)])), 1, 0.2),  # torchvision rounds between its two passes
        (Augmentation(Compose([ScaleJitter(1.0, 2.5)])), 1, 0.2),
        (Augmentation(Compose([ScaleJitter(0.5, 2.0), *FLIPS])), 1, 0.2),
        (Augmentation(Compose([RandomIoUCrop(1.0)])), 1, 0.2),
        (Augmentation(Compose(FLIPS), Mosaic(1.0)), 1, 0.2),
        # a level of the first change, where rounding decides, may become some of the last
        (Augmentation(Compose([ColourJitter(0.3, 0.3, 0.3)])), 4, 0.001),
        (Augmentation(Compose([ColourJitter(0.3, 0.3, 0.3, 0.2)])), 4, 0.001),
    ],
    ids=["none", "flips", "shrunk", "enlarged", "scaled and flipped", "crop", "mosaic", "colours", "hue"],
)
def test_a_step_alone_gives_the_same_pixels_to_a_level(noisy, augmentation, levels, share):
    images = DetectionDataset(noisy, RULE, augmentation=augmentation, cache=True)
    stored = store_images(images, CPU)
    for seed in range(4):
        expected, made = both(images, keys_of(seed), stored=stored)
        assert_same_but_pixels(expected, made)
        assert levels_between(expected, made).max() <= levels
        assert (levels_between(expected, made) > 0).float().mean() <= share
    assert levels or augmentation is None or not torch.equal(expected.images.pixels, store_of(images, made))


def store_of(images, made):
    """The same batch without augmentation."""
    plain = DetectionDataset.__new__(DetectionDataset)
    plain.__dict__.update(images.__dict__, augmentation=None)
    return both(plain, list(made.indices))[0].images.pixels


def test_all_steps_together_show_the_same_places_but_at_the_seams(ramps):
    """Resampled once instead of four times, an image is sharper; ramps are not, but where two images meet."""
    steps = Compose([*EVERYTHING, ColourJitter(0.1, 0.0, 0.0)])
    images = DetectionDataset(ramps, RULE, augmentation=Augmentation(steps, Mosaic(0.5)), cache=True)
    stored = store_images(images, CPU)
    drawn = drawn_of(images)
    compared = 0.0
    for seed in range(8):
        keys = keys_of(seed)
        expected, made = both(images, keys, stored=stored)
        assert_same_but_pixels(expected, made)
        within = torch.zeros_like(expected.images.pixels[:, :1])
        for image, key in enumerate(keys):
            for tile in drawn[key].sample.image.tiles:
                x1, y1, x2, y2 = (round(value) for value in tile.place)
                within[image, :, y1 + 4 : max(y2 - 4, 0), x1 + 4 : max(x2 - 4, 0)] = 1
        difference = levels_between(expected, made) * within
        assert difference.max() <= 3  # of 255 over 64 to 120 pixels: less than one pixel
        assert difference.sum() / (3 * within.sum()) < 0.6
        compared += float(within.float().mean()) / 8
    assert compared > 0.2


def test_of_all_steps_together_noise_is_alike(noisy):
    steps = Compose([*EVERYTHING, ColourJitter(0.3, 0.3, 0.3, 0.1)])
    images = DetectionDataset(noisy, RULE, augmentation=Augmentation(steps, Mosaic(0.5)), cache=True)
    for seed in range(4):
        expected, made = both(images, keys_of(seed))
        assert_same_but_pixels(expected, made)
        assert levels_between(expected, made).mean() < 3  # of noise with a deviation of 50


def test_images_that_are_sent_give_what_stored_ones_do_with_any_number_of_workers(noisy):
    images = DetectionDataset(noisy, RULE, augmentation=Augmentation(Compose(EVERYTHING), Mosaic(0.5)), cache=True)
    stored, objects = store_images(images, CPU), store_objects(images)
    assert stored.num_bytes == images.cached_bytes
    runs = []
    for sent, workers in ((False, 0), (True, 0), (False, 2)):
        sampler = StepSampler(aspects_of(noisy), 4, seed=1, start=2, stop=5, mosaic=lambda _: True)
        collate = DrawnCollate(images, None if sent else stored.starts)
        drawn = load_collated(drawn_of(images, send_images=sent), collate, sampler, workers=workers)
        runs.append([batch.to(CPU, None if sent else stored.pixels, objects) for batch in drawn])
    for others in runs[1:]:
        for one, other in zip(runs[0], others, strict=True):
            assert torch.equal(one.images.pixels, other.images.pixels)
            assert torch.equal(one.targets.boxes, other.targets.boxes)
            assert one.indices == other.indices


def test_masks_and_proposals_come_along(noisy):
    class Proposed:
        """Two proposals for every image."""

        def of(self, path, hw):
            return torch.tensor([[4.0, 5.0, 40.0, 50.0, 0.9], [20.0, 10.0, 60.0, 65.0, 0.3]])

    images = DetectionDataset(
        noisy, RULE, augmentation=Augmentation(Compose(EVERYTHING), Mosaic(0.5)), masks=True, cache=True,
        proposals=Proposed(),
    )  # fmt: skip
    for seed in range(3):
        expected, made = both(images, keys_of(seed))
        assert_same_but_pixels(expected, made)
        assert torch.equal(made.targets.masks.pixels, expected.targets.masks.pixels)
        count = expected.targets.valid.shape[1]
        assert torch.equal(made.targets.masks.frame[:, :count], expected.targets.masks.frame)
        assert torch.equal(made.proposals.boxes, expected.proposals.boxes)
        assert torch.equal(made.proposals.valid, expected.proposals.valid)


class NoReadBack(TorchDispatchMode):
    """Refuses whatever makes the host wait for what a device has computed."""

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        name = function.__name__
        assert not name.startswith(("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")), name
        away = any(isinstance(one, torch.Tensor) and one.device == OTHER for one in args)
        assert not (away and name.startswith("_to_copy") and (kwargs or {}).get("device") == CPU), "copied back"
        return function(*args, **(kwargs or {}))


def test_nothing_is_read_back_from_the_device_nor_left_on_the_host(noisy):
    steps = Compose([*EVERYTHING, ColourJitter(0.3, 0.3, 0.3, 0.1)])
    images = DetectionDataset(noisy, RULE, augmentation=Augmentation(steps, Mosaic(0.5)), cache=True)
    stored, drawn = store_images(images, CPU), drawn_of(images)
    batch = DrawnCollate(images, stored.starts)([drawn[key] for key in keys_of(0)])
    here = batch.to(CPU, stored.pixels, drawn.objects)
    with OtherDevice():
        away, objects = store_images(images, OTHER), drawn.objects.to(OTHER)
        assert away.starts == stored.starts
        with NoReadBack():
            there = batch.to(OTHER, away.pixels, objects)
            with pytest.raises(AssertionError, match="_local_scalar_dense"):
                bool(there.targets.valid.any())
        assert there.images.pixels.device == there.targets.boxes.device == OTHER
        assert torch.equal(there.images.pixels.cpu(), here.images.pixels)
        assert torch.equal(there.targets.boxes.cpu(), here.targets.boxes)
        assert torch.equal(there.targets.valid.cpu(), here.targets.valid)


def test_colours_come_last():
    view = View.whole(0, (8, 8)).coloured([(0, 1.5)])
    with pytest.raises(ValueError, match="colours are changed last"):
        view.placed(Placement((0, 0, 4, 4), (8, 8), (0, 0)))


def test_a_file_that_has_changed_its_size_is_named(noisy, tmp_path):
    path = tmp_path / "0.png"
    Image.new("RGB", (80, 60)).save(path)
    split = noisy.with_records((Record(path, 0, (60, 80), (), "0.png"),))
    drawn = drawn_of(DetectionDataset(split, RULE, cache=False), send_images=True)
    assert drawn[SampleKey(0, 0)].images[0].shape == (3, 64, 85)
    Image.new("RGB", (60, 80)).save(path)
    with pytest.raises(ValueError, match=r"0\.png: has another size than at the start"):
        drawn[SampleKey(0, 0)]
