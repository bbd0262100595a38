"""A step that cannot fit is refused with the batch that does, before any memory is taken for it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from boxwright.data.loader import Batch
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.recipes import load_recipe
from boxwright.structures import GroundTruth, ImageBatch, Targets
from boxwright.training import memory
from boxwright.training.estimate import estimate
from boxwright.training.run import train

SMALL = ("model.fpn.channels=16", "model.head.stem_channels=[16]", "data.workers=0", "precision=fp32")


def batch_of(count: int, side: int) -> Batch:
    images = [torch.randint(0, 256, (3, side, side), dtype=torch.uint8) for _ in range(count)]
    ground_truths = [GroundTruth.of([[4.0, 4.0, 30.0, 30.0]], [1])] * count
    return Batch(ImageBatch.of(images), Targets.of(ground_truths), tuple(range(count)))


@pytest.mark.parametrize("name", ["fcos-small", "faster-rcnn-small", "mask-rcnn-small"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_needs_what_is_counted_and_the_model_stays(name: str, precision: str) -> None:
    """Counted for real at the full size: never more than that, and most of it."""
    recipe = load_recipe(name, ["model.fpn.channels=32"])
    model = recipe.build_model(3)
    before = copy.deepcopy(model.state_dict())
    batch = batch_of(2, 320)
    if recipe.needs_masks:
        from boxwright.structures import CroppedMask

        mask = CroppedMask(4, 4, torch.ones(26, 26, dtype=torch.bool))
        ground_truth = GroundTruth.of([[4.0, 4.0, 30.0, 30.0]], [1], masks=[mask])
        batch = batch._replace(targets=Targets.of([ground_truth] * 2))
    really = memory.kept_bytes(model, batch.images, batch.targets, None, precision)
    weights = sum(one.numel() * one.element_size() for one in model.parameters() if one.requires_grad)
    counted = memory.step_bytes(model, batch, precision, adam=True) - 3 * weights
    assert 0.5 * really < counted < 1.1 * really
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_it_grows_with_batch_size_and_scale() -> None:
    recipe = load_recipe("fcos-small", SMALL[:2])
    model = recipe.build_model(3)
    weights = memory.step_bytes(model, batch_of(1, 64), "fp32", adam=False)
    one, four = (memory.step_bytes(model, batch_of(count, 256), "fp32", adam=False) for count in (1, 4))
    twice = memory.step_bytes(model, batch_of(1, 256), "fp32", adam=False, scale=2.0)
    assert one > weights
    assert four == pytest.approx(twice)
    assert 2 < (four - weights) / (one - weights) < 5


def test_the_sentence_names_a_batch_that_fits() -> None:
    gib = 2**30
    memory.refuse_too_large(4 * gib, 4 * gib, 16, 1)
    with pytest.raises(ValueError, match=r"16 images needs about 22.0 GiB, 10.0 GiB are free: try "
                                         r"data.batch_size=4 with optim.accumulate=4"):  # fmt: skip
        memory.refuse_too_large(22 * gib, 10 * gib, 16, 1)
    with pytest.raises(ValueError, match="not even one image fits"):
        memory.refuse_too_large(22 * gib, 1 * gib, 16, 1)


@pytest.mark.e2e
def test_neither_a_run_nor_its_estimate_takes_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shapes(tmp_path / "data", 4, 2, "voc", ShapesConfig(size=256), 0)
    monkeypatch.setattr(memory, "free_bytes", lambda: 30 << 20)
    for call in (train, estimate):
        with pytest.raises(ValueError, match=r"a step of 16 images needs about .* GiB"):
            call("fcos-small", tmp_path / "data", overrides=[*SMALL, "data.batch_size=16"], device="cpu")
    assert not (tmp_path / "runs").exists()


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    everything = memory.free_bytes()
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes() == pytest.approx(everything, rel=0.2)
    (tmp_path / "memory.max").write_text(str(3 << 20))
    (tmp_path / "memory.current").write_text(str(1 << 20))
    assert memory.free_bytes() == 2 << 20
