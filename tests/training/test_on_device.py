"""Runs whose batches are made on the device, forced on a CPU: they train, resume bit for bit, and log the decision."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import tiny_steps
import torch

from boxwright.checkpoint import load_checkpoint
from boxwright.cli.main import run as command
from boxwright.data.class_selection import as_one_class
from boxwright.data.dataset import Augmentation, DetectionDataset
from boxwright.data.formats.folder import open_folder
from boxwright.data.mosaic import Mosaic
from boxwright.data.sampler import StepSampler, aspects_of
from boxwright.data.stored import store_images
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.data.transforms import Compose, HorizontalFlip, ScaleJitter
from boxwright.ops.image import ResizeRule
from boxwright.recipes import load_recipe
from boxwright.training import on_device, report
from boxwright.training.batches import DrawnBatches, LoadedBatches
from boxwright.training.on_device import batch_source
from boxwright.training.run import train
from boxwright.training.schedule import StepSettings
from boxwright.training.signals import StopSignal

SETTINGS = [
    "schedule.steps=6", "schedule.warmup_steps=2", "validation.times=1", "data.batch_size=4", "optim.reference_batch=4",
    "data.workers=0", "precision=fp32", "ema_decay=0.9", "model.fpn.channels=16", "model.head.stem_channels=[16]",
    "data.augment.mosaic=0.5", "data.augment.scale_jitter=[0.7,1.4]", "data.augment.iou_crop=0.2",
    "data.augment.brightness=0.2", "data.train_scales=[0.75,1.0]", "detect.max_detections=20",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", 12, 4, "coco", ShapesConfig(size=64), 0)


@pytest.fixture
def quick(monkeypatch):
    """Without charts and reports, which take longer than the steps."""
    monkeypatch.setattr(report, "draw_first_batches", lambda *_: None)
    monkeypatch.setattr(report, "write_report", lambda *_: {})


def weights_of(folder):
    return load_checkpoint(folder / "weights" / "last.pt").weights


def losses_of(folder):
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return {name: value for name, value in rows[-1].items() if name.startswith(("train/", "val/"))}


@pytest.mark.e2e
def test_a_run_that_was_stopped_and_resumed_equals_one_that_was_not(data, tmp_path, monkeypatch, quick):
    whole = train(
        "fcos-shapes", data, overrides=[*SETTINGS, "data.on_device=images"], runs=tmp_path / "a", device="cpu"
    )
    asked = iter(range(100))
    monkeypatch.setattr(StopSignal, "wanted", lambda _: next(asked) == 2)
    sent = [*SETTINGS, "data.on_device=augmentation"]
    stopped = train("fcos-shapes", data, overrides=sent, runs=tmp_path / "b", device="cpu")
    assert not stopped.finished
    resumed = train(resume=stopped.folder)
    assert resumed.finished
    expected, weights = weights_of(whole.folder), weights_of(resumed.folder)
    for name, value in expected.items():
        assert torch.equal(value, weights[name]), name
    assert losses_of(whole.folder) == losses_of(resumed.folder)


@pytest.mark.e2e
def test_from_the_command_line_a_run_learns_as_one_whose_loader_makes_the_batches(data, tmp_path, monkeypatch, quick):
    found = {}
    for where in ("never", "images"):
        words = ["train", "fcos-shapes", *SETTINGS, f"data.on_device={where}", "--data", str(data), "--device", "cpu"]
        monkeypatch.setattr("sys.argv", ["boxwright", *words, "--runs", str(tmp_path), "--name", where])
        with pytest.raises(SystemExit) as ended:
            command()
        assert not ended.value.code
        found[where] = losses_of(tmp_path / where)
        stored = "12 images (0 MiB) stored on cpu, where batches are made" in (tmp_path / where / "log.txt").read_text()
        assert stored == (where == "images")
    for name, value in found["never"].items():
        if "loss" in name and value is not None:
            assert found["images"][name] == pytest.approx(value, rel=0.1), name


def images_of(data, filter_="antialias"):
    rule = ResizeRule("short_side", size=48, filter=filter_)
    return DetectionDataset(open_folder(data).splits["train"], rule, cache=True)


@pytest.mark.parametrize("name", ["improved", "faster_rcnn"])
def test_a_step_has_the_losses_that_it_has_with_boxes_of_the_loader_at_every_scale(data, name):
    split, cpu = as_one_class(open_folder(data).splits["train"]), torch.device("cpu")
    augmentation = Augmentation(Compose([ScaleJitter(0.6, 1.6), HorizontalFlip()]), Mosaic(0.5))
    images = DetectionDataset(split, ResizeRule("short_side", size=64), augmentation=augmentation, cache=True)
    batches = StepSampler(aspects_of(split), 2, seed=0, start=0, stop=2, mosaic=lambda _: True)
    loaded = [*LoadedBatches(images, 0, cpu)(batches)]
    made = [*DrawnBatches(images, 0, cpu, store_images(images, cpu))(batches)]
    one, other = tiny_steps.trained(name), tiny_steps.trained(name)
    for ours, theirs, scale in zip(made, loaded, (1.0, 0.75), strict=True):
        now = StepSettings(lr=1e-3, seed=1, scale=scale)
        expected, found = one([theirs], now), other([ours._replace(images=theirs.images)], now)
        assert len(expected.losses) > 1
        for part, value in expected.losses.items():
            torch.testing.assert_close(found.losses[part], value, rtol=1e-5, atol=0)


def settings(*overrides):
    return load_recipe("fcos-small", [*overrides, "data.workers=0"]).data


class TestTheSource:
    CPU, GPU = torch.device("cpu"), torch.device("cuda")

    def decided(self, data, device, *overrides, filter_="antialias"):
        lines = []
        source = batch_source(settings(*overrides), images_of(data, filter_), device, lines.append)
        (line,) = lines
        return source, line

    @pytest.fixture
    def gpu(self, monkeypatch):
        """A GPU that has a tensor's place on the CPU, and as much memory free as is set."""
        free = SimpleNamespace(bytes=0)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free.bytes, 1 << 40))
        real = on_device.store_images
        monkeypatch.setattr(on_device, "store_images", lambda images, _: real(images, self.CPU))
        return free

    def test_is_the_loader_on_a_cpu_unless_it_is_forced(self, data):
        source, line = self.decided(data, self.CPU)
        assert isinstance(source, LoadedBatches)
        assert line == "loader: 0 workers, 0 MiB of decoded images in memory"
        source, _ = self.decided(data, self.CPU, "data.on_device=augmentation")
        assert isinstance(source, DrawnBatches)
        assert source.stored is None

    def test_stores_images_on_a_gpu_where_they_take_a_quarter_of_what_is_free(self, data, gpu):
        needed = images_of(data).size_in_memory()
        assert needed == 12 * 3 * 48 * 48
        gpu.bytes = 4 * needed
        source, line = self.decided(data, self.GPU)
        assert isinstance(source, DrawnBatches)
        assert source.stored is not None
        assert source.stored.num_bytes == needed
        assert "12 images (0 MiB) stored on cuda (of at most 0 MiB, 25% of what is free there)" in line
        gpu.bytes -= 4
        source, line = self.decided(data, self.GPU)
        assert isinstance(source, DrawnBatches)
        assert source.stored is None
        assert "batches are made on cuda, which has no room for all 0 MiB of images" in line
        source, _ = self.decided(data, self.GPU, "data.on_device=never")
        assert isinstance(source, LoadedBatches)

    def test_leaves_float_images_to_the_loader(self, data, gpu):
        source, line = self.decided(data, self.GPU, filter_="plain")
        assert isinstance(source, LoadedBatches)
        assert "data.resize.filter=plain makes float images" in line
        with pytest.raises(ValueError, match="a device stores whole levels"):
            self.decided(data, self.CPU, "data.on_device=images", filter_="plain")

    def test_refuses_images_for_which_the_device_has_no_room(self, data, gpu):
        gpu.bytes = images_of(data).size_in_memory()
        source, _ = self.decided(data, self.GPU, "data.on_device=images")
        assert source.stored is not None
        gpu.bytes -= 1
        with pytest.raises(ValueError, match=r"cuda has 0 MiB free; data\.on_device=augmentation sends them"):
            self.decided(data, self.GPU, "data.on_device=images")
