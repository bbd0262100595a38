"""The loader: every batch is a function of (seed, step), whatever came before and however many workers there are."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.data import dataset, loader
from boxwright.data.dataset import Augmentation, DetectionDataset, SampleKey
from boxwright.data.loader import Collate, make_loader
from boxwright.data.mosaic import Mosaic
from boxwright.data.records import Annotation, Record, Split
from boxwright.data.sampler import StepSampler, aspects_of, draw_seed
from boxwright.data.transforms import ColourJitter, Compose, HorizontalFlip, ScaleJitter
from boxwright.ops.image import ResizeRule
from boxwright.structures import Classes

RULE = ResizeRule("short_side", size=48, max_size=96)
AUGMENTATION = Augmentation(
    Compose([HorizontalFlip(0.5), ScaleJitter(0.6, 1.4), ColourJitter(0.3, 0.3, 0.3, 0.1)]), Mosaic(0.5)
)
SIZES = [(60, 80), (80, 60), (50, 90), (64, 64), (90, 50), (60, 80)]


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Six noisy images of several shapes; the last has no objects."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    records = []
    for index, (height, width) in enumerate(SIZES):
        path = folder / f"{index}.png"
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        boxes = () if index == 5 else (Annotation((5.0, 6.0, 40.0, 30.0), index % 2, path.name),)
        records.append(Record(path, index, (height, width), boxes, path.name))
    return Split("train", tuple(records), Classes.named(["a", "b"]))


def keys_of(sampler):
    return [list(keys) for keys in sampler]


def same(one, other):
    pixels = torch.equal(one.images.pixels, other.images.pixels)
    ground_truth = torch.equal(one.targets.boxes, other.targets.boxes) and torch.equal(
        one.targets.labels, other.targets.labels
    )
    return pixels and ground_truth and one.indices == other.indices


class TestStepSampler:
    ASPECTS = (1.33, 0.75, 1.8, 1.0, 0.55, 1.33) * 5

    def sampler(self, **changes):
        settings = {"seed": 3, "start": 0, "stop": 20, **changes}
        return StepSampler(self.ASPECTS, settings.pop("batch", 4), **settings)

    def test_a_resumed_run_draws_what_an_uninterrupted_one_does(self):
        whole = keys_of(self.sampler())
        for start in (1, 7, 15):
            assert keys_of(self.sampler(start=start)) == whole[start:]

    @pytest.mark.parametrize("batch", [1, 4, 7])
    def test_every_image_comes_once_an_epoch_and_batches_run_on_over_its_end(self, batch):
        drawn = [key.record for keys in self.sampler(batch=batch, stop=90) for key in keys]
        for start in range(0, len(drawn) - 30, 30):
            assert sorted(drawn[start : start + 30]) == list(range(30))
        assert drawn[:30] != drawn[30:60]

    def test_seeds_differ_from_draw_to_draw_and_from_run_to_run(self):
        seeds = [key.seed for keys in self.sampler() for key in keys]
        assert len(set(seeds)) == len(seeds)
        assert not set(seeds) & {key.seed for keys in self.sampler(seed=4) for key in keys}

    def test_ranks_share_a_step_without_overlap(self):
        alone = keys_of(self.sampler(batch=4))
        ranks = [keys_of(self.sampler(batch=2, rank=rank, world=2)) for rank in (0, 1)]
        assert [first + second for first, second in zip(*ranks, strict=True)] == alone

    def test_images_of_like_shape_stand_together(self):
        aspects = torch.rand(400, generator=torch.Generator().manual_seed(0)) * 2 + 0.3
        sampler = StepSampler(aspects.tolist(), 8, seed=0, start=0, stop=50)
        spread = [aspects[[key.record for key in keys]].std() for keys in sampler]
        assert torch.stack(spread).mean() < aspects.std() / 4

    def test_mosaics_end_where_they_should(self):
        mosaics = [{key.mosaic for key in keys} for keys in self.sampler(mosaic=lambda step: step < 5)]
        assert mosaics == [{True}] * 5 + [{False}] * 15

    def test_length_is_what_is_left(self):
        assert len(self.sampler(start=5)) == 15


def test_draw_seeds_are_mixed_and_fit_into_63_bits():
    seeds = [draw_seed(seed, number) for seed in range(30) for number in range(-30, 30)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert 0.45 < sum(seed & 1 for seed in seeds) / len(seeds) < 0.55


class TestImageSet:
    @pytest.mark.parametrize("augmentation", [None, AUGMENTATION])
    def test_a_cache_changes_nothing(self, split, augmentation):
        sets = [DetectionDataset(split, RULE, augmentation=augmentation, cache=cache) for cache in (False, True)]
        assert sets[0].cached_bytes == 0 < sets[1].cached_bytes
        for index in range(len(split)):
            rows = [images[SampleKey(index, 11, mosaic=True)] for images in sets]
            assert torch.equal(rows[0][0].image, rows[1][0].image)
            assert torch.equal(rows[0][0].ground_truth.boxes, rows[1][0].ground_truth.boxes)
            assert rows[0][1:] == rows[1][1:] == (SIZES[index], index)

    def test_a_cache_is_not_made_where_it_does_not_fit(self, split, monkeypatch):
        monkeypatch.setattr(dataset, "_free_memory", lambda: 1000)
        assert DetectionDataset(split, RULE).cached_bytes == 0
        monkeypatch.setattr(dataset, "_free_memory", lambda: 1 << 40)
        size = DetectionDataset(split, RULE).cached_bytes
        assert size > 0
        monkeypatch.setattr(dataset, "_free_memory", lambda: 8 * size)
        assert DetectionDataset(split, RULE).cached_bytes > 0
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")  # each of eight processes would fill it
        assert DetectionDataset(split, RULE).cached_bytes == 0

    def test_a_key_draws_the_same_sample_again_and_another_key_another(self, split):
        images = DetectionDataset(split, RULE, augmentation=AUGMENTATION, cache=True)
        one, again, other = (images[SampleKey(0, seed)][0] for seed in (5, 5, 6))
        assert torch.equal(one.image, again.image)
        assert not torch.equal(one.image, other.image)

    def test_augmentation_leaves_the_cache_and_the_callers_chance_alone(self, split):
        images = DetectionDataset(split, RULE, augmentation=AUGMENTATION, cache=True)
        before = images.base(0).image.clone()
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        for seed in range(5):
            images[SampleKey(0, seed, mosaic=True)]
        assert torch.equal(torch.rand(3), expected)
        assert torch.equal(images.base(0).image, before)

    def test_a_plain_index_is_not_augmented(self, split):
        images = DetectionDataset(split, RULE, augmentation=AUGMENTATION, cache=True)
        sample, hw, index = images[2]
        assert torch.equal(sample.image, images.base(2).image)
        assert (hw, index) == (SIZES[2], 2)

    def test_ground_truth_in_network_pixels_follows_the_resizing(self, split):
        for cache in (False, True):
            images = DetectionDataset(split, RULE, cache=cache)
            ground_truth = images.network_ground_truth(0, images.original_hw(0))
            torch.testing.assert_close(ground_truth.boxes, torch.tensor([[5.0, 6.0, 40.0, 30.0]]) * 0.8)

    def test_originals_keep_their_size(self, split):
        images = DetectionDataset(split, RULE, cache=False)
        assert [images.original_hw(index) for index in range(6)] == SIZES
        assert images.original(1).shape == (3, 80, 60)

    def test_of_no_images_is_empty(self):
        assert len(DetectionDataset(Split("val", (), Classes.named(["a"])), RULE, cache=True)) == 0


class TestBatches:
    def test_are_padded_and_know_the_way_back(self, split):
        images = DetectionDataset(split, RULE, cache=False)
        batch = Collate(RULE)([images[index] for index in (0, 1, 5)])
        assert batch.images.pixels.shape == (3, 3, 64, 64)
        assert batch.images.sizes_hw.tolist() == [[48, 64], [64, 48], [48, 64]]
        assert batch.images.original_hw.tolist() == [list(SIZES[index]) for index in (0, 1, 5)]
        assert batch.targets.valid.tolist() == [[True], [True], [False]]
        assert batch.indices == (0, 1, 5)
        back = batch.targets.boxes[0, 0] / batch.images.scale_xy[0].repeat(2)
        torch.testing.assert_close(back, torch.tensor([5.0, 6.0, 40.0, 30.0]))

    def test_do_not_depend_on_the_number_of_workers(self, split):
        images = DetectionDataset(split, RULE, augmentation=AUGMENTATION, cache=True)
        runs = []
        for workers in (0, 2):
            sampler = StepSampler(aspects_of(split), 3, seed=1, start=0, stop=4, mosaic=lambda step: step < 3)
            runs.append(list(make_loader(images, sampler, workers=workers)))
        assert len(runs[0]) == len(runs[1]) == 4
        assert all(same(one, other) for one, other in zip(*runs, strict=True))

    def test_of_a_list_of_indices_come_in_its_order(self, split):
        batches = list(make_loader(DetectionDataset(split, RULE, cache=True), [[4, 1], [0]], workers=0))
        assert [batch.indices for batch in batches] == [(4, 1), (0,)]


def test_aspects_are_those_stated_or_one():
    records = (Record("a", 0, (50, 100), (), "a"), Record("b", 1, None, (), "b"), Record("c", 2, (0, 0), (), "c"))
    assert aspects_of(Split("train", records, Classes.named(["a"]))) == [2.0, 1.0, 1.0]


def _waiting_worker(ready):
    loader._leave_signals_to_the_run(0)
    ready.set()
    while True:
        time.sleep(0.01)


@pytest.mark.parametrize(("grace", "patience", "again"), [(0.2, 600.0, True), (600.0, 1.5, False)])
def test_a_worker_outlives_the_signal_to_its_run_but_not_for_ever(monkeypatch, grace, patience, again):
    monkeypatch.setattr(loader, "GRACE", grace)
    monkeypatch.setattr(loader, "PATIENCE", patience)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=_waiting_worker, args=(ready,), daemon=True)
    worker.start()
    assert ready.wait(60)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):  # the whole group gets them
        os.kill(worker.pid, number)
    worker.join(0.3)
    assert worker.is_alive()
    if again:
        worker.terminate()  # what torch does, and Python at exit
    worker.join(60)
    assert worker.exitcode == 0  # anything else would be an error of the run
