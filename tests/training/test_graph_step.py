"""Captured steps equal eager ones, bit for bit, whatever shapes come; a recording that misses something is noticed."""

from pathlib import Path
from typing import Any

import pytest
import tiny_detectors
import torch
from accelerate import Accelerator
from recorded_graph import RecordedGraph

from boxwright.checkpoint import load_checkpoint
from boxwright.data.loader import Batch
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.recipes.schema import Optim
from boxwright.structures import GroundTruth, ImageBatch, Proposals, Targets
from boxwright.training import graph_step
from boxwright.training import run as run_module
from boxwright.training.estimate import estimate
from boxwright.training.graph_step import FEWEST_BOXES, SEEN_BEFORE, GraphStep, padded
from boxwright.training.optim import WeightAverage, build_optimizer
from boxwright.training.run import train
from boxwright.training.schedule import Horizon, StepSettings
from boxwright.training.state import Progress, TrainState
from boxwright.training.step import EagerStep

SIZES = [(64, 64), (64, 96), (50, 70)]


def batch(seed: int, size: tuple[int, int], boxes: int, proposals: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for _ in range(2)]
    ground_truths = []
    for count in (boxes, boxes // 2):
        corners = torch.rand(count, 2, generator=generator) * torch.tensor([size[1] - 30.0, size[0] - 30.0])
        sides = 8 + 20 * torch.rand(count, 2, generator=generator)
        labels = torch.randint(0, 3, (count,), generator=generator)
        ground_truths.append(GroundTruth.of(torch.cat([corners, corners + sides], 1), labels))
    stored = Proposals.of([one.boxes + 2 for one in ground_truths]) if proposals else None
    return Batch(ImageBatch.of(images), Targets.of(ground_truths), (0, 1), stored)


def trained(name: str, kind: str = "adamw", norm: str = "bn") -> EagerStep:
    torch.manual_seed(0)
    model = tiny_detectors.build(name, {**tiny_detectors.QUICK, "backbone.norm": norm})
    optimizer = build_optimizer(model, Optim(kind=kind, lr=1e-3))
    for group in optimizer.param_groups:  # as on a GPU
        group.update(fused=True, foreach=False)
    state = TrainState(model, optimizer, WeightAverage(model, 0.9), None, Progress(Horizon(50, 5), True))
    return EagerStep(state, Accelerator(cpu=True), "fp32", clip_norm=1.0)


def settings(number: int) -> StepSettings:
    return StepSettings(lr=1e-3 * (1 + number % 7), seed=number, hold_statistics=number > 40)


def weights(step: EagerStep) -> list[torch.Tensor]:
    state = step.state
    assert state.average is not None
    slots = [slot for slots in state.optimizer.state.values() for slot in slots.values() if torch.is_tensor(slot)]
    return [*state.model.state_dict().values(), *state.average.model.state_dict().values(), *slots]


def run(step: EagerStep, capture: Any, steps: int) -> list[Any]:
    """Fifty steps of changing shapes; without `capture` each is eager, on the batch as `GraphStep` pads it."""
    graphs = GraphStep(step, capture) if capture is not None else None
    found = []
    for number in range(steps):
        one = batch(number, SIZES[number * number % 3], 1 + number % 12)
        taken = graphs([one], settings(number)) if graphs else step([padded(one)], settings(number))
        found.append([taken.total, *taken.losses.values(), *taken.floors.values()])
    return found


@pytest.mark.parametrize(
    ("name", "kind"),
    [("improved", "adamw"), ("improved", "sgd"), ("course", "sgd"), ("retinanet", "adamw"), ("rpn", "sgd")],
)
def test_fifty_steps_of_changing_shapes_equal_eager_ones(name: str, kind: str) -> None:
    steps = 50 if (name, kind) == ("improved", "adamw") else 20
    eager, other, capture = trained(name, kind), trained(name, kind), RecordedGraph()
    losses = run(eager, None, steps)
    assert run(other, capture, steps) == losses
    assert capture.replayed > steps // 4
    assert all(torch.equal(a, b) for a, b in zip(weights(eager), weights(other), strict=True))


@pytest.mark.parametrize("name", ["faster_rcnn", "fast_rcnn"])
def test_a_detector_that_reads_numbers_back_is_trained_eagerly_and_says_so_once(name: str) -> None:
    # without BatchNorm, whose statistics the stand-in has moved when it refuses; a GPU has done nothing by then
    eager, other, lines = trained(name, norm="none"), trained(name, norm="none"), []
    graphs = GraphStep(other, RecordedGraph(), lines.append)
    for number in range(12):
        one = batch(number, SIZES[number % 2], 1 + number % 12, proposals=name == "fast_rcnn")
        expected = eager([one if lines else padded(one)], settings(number))  # refused ones need no padding
        assert graphs([one], settings(number)) == expected
    assert all(torch.equal(a, b) for a, b in zip(weights(eager), weights(other), strict=True))
    assert other.state.average is not None
    assert other.state.average.updates == 12
    assert [("cannot be captured" in line, "waits for the device" in line) for line in lines] == [
        (True, True), (True, False)
    ]  # fmt: skip


def equal_to_eager(step: EagerStep, capture: Any) -> bool:
    expected = trained("improved")
    run(expected, None, 20)
    run(step, capture, 20)
    return all(torch.equal(a, b) for a, b in zip(weights(expected), weights(step), strict=True))


def test_an_input_that_is_not_copied_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert equal_to_eager(trained("improved"), RecordedGraph())
    every = graph_step.tensors_of
    for place in (0, 1, 5, 6, 8):  # pixels, sizes, boxes, labels, valid
        with monkeypatch.context() as patch:
            patch.setattr(graph_step.Graph, "take", lambda self, batch, place=place: [
                own.copy_(other) for number, (own, other) in enumerate(
                    zip(every(self.batch), every(batch), strict=True)) if number != place])  # fmt: skip
            assert not equal_to_eager(trained("improved"), RecordedGraph()) or place == 1


def test_a_learning_rate_or_share_that_is_a_number_is_noticed() -> None:
    for what in ("lr", "share"):
        step, capture = trained("improved"), RecordedGraph()
        graphs = GraphStep(step, capture)
        if what == "lr":
            for group in step.state.optimizer.param_groups:
                group["lr"] = 1e-3
        else:
            assert step.state.average is not None
            step.state.average.share = 0.0
        expected = trained("improved")
        for number in range(12):
            one = batch(number, (64, 64), 3)
            graphs([one], settings(number))
            expected([padded(one)], settings(number))
        assert capture.replayed > 0
        assert not all(torch.equal(a, b) for a, b in zip(weights(expected), weights(step), strict=True)), what


def test_more_boxes_of_padding_change_no_loss() -> None:
    one = batch(3, (64, 64), 5)
    wider = padded(one)
    assert wider.targets.boxes.shape[1] == FEWEST_BOXES
    for name in ("improved", "retinanet", "rpn"):
        step = trained(name)
        losses = [
            step.state.model.loss(step.state.model(part.images, part.targets), part.targets) for part in (one, wider)
        ]
        for key, value in losses[0].items():
            torch.testing.assert_close(losses[1][key], value, rtol=1e-6, atol=0)


def test_the_shape_that_was_not_used_longest_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_step, "MOST_GRAPHS", 2)
    step, capture = trained("improved"), RecordedGraph()
    graphs = GraphStep(step, capture)
    for size in (
        [(32, 32)] * (SEEN_BEFORE + 2) + [(32, 64)] * (SEEN_BEFORE + 1) + [(32, 32)] + [(64, 32)] * (SEEN_BEFORE + 1)
    ):
        graphs([batch(1, size, 2)], settings(1))
    assert [key[1][0][-2:] for key in graphs._graphs] == [(32, 32), (64, 32)]
    assert (capture.recorded, capture.replayed) == (3, 2)


def test_masks_and_accumulation_are_eager_and_said() -> None:
    step, lines = trained("improved"), []
    graphs = GraphStep(step, RecordedGraph(), lines.append)
    for _ in range(3):
        graphs([batch(1, (32, 32), 2), batch(2, (32, 32), 2)], settings(1))
    assert lines == ["CUDA graphs: gradients are accumulated: these steps are taken operation by operation"]


@pytest.mark.parametrize("start", [train, estimate])
def test_a_machine_without_a_gpu_refuses_them_before_anything_is_made(start: Any, tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", 2, 1, config=ShapesConfig(size=64))
    with pytest.raises(ValueError, match="cuda_graphs=true needs a CUDA GPU, and this run is on cpu"):
        start("fcos-shapes", data, overrides=["cuda_graphs=true"], device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_run_takes_its_steps_as_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the stand-in for the card: weights are those of the eager run on batches that need no padding."""
    data = write_shapes(tmp_path / "data", 6, 2, config=ShapesConfig(size=64))
    settings = ["schedule.steps=9", "validation.times=1", "data.workers=0", "precision=fp32", "data.train_scales=[]",
                "data.batch_size=2", "model.fpn.channels=16", "model.head.stem_channels=[16]"]  # fmt: skip
    capture, weights = RecordedGraph(), []
    for graphs in (False, True):
        if graphs:
            monkeypatch.setattr(run_module, "training_step", lambda eager, _, log: GraphStep(eager, capture, log))
        done = train("fcos-shapes", data, overrides=settings, device="cpu", runs=tmp_path / f"runs{graphs}")
        weights.append(load_checkpoint(done.last).weights)
    assert capture.replayed > 0
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
