"""CUDA graphs themselves: captured steps on a GPU come to what eager ones do, within the rounding of a precision."""

import copy
from pathlib import Path
from typing import Any

import pytest
import tiny_detectors
import torch
from accelerate.state import AcceleratorState
from tiny_steps import batch, settings

from boxwright.data.loader import Batch
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.recipes.schema import Optim
from boxwright.runtime.cuda_graphs import CudaCapture
from boxwright.runtime.precision import compile_parts
from boxwright.training import graph_step
from boxwright.training.accelerator import choose_accelerator
from boxwright.training.graph_step import GraphStep
from boxwright.training.optim import WeightAverage, build_optimizer
from boxwright.training.run import train
from boxwright.training.schedule import Horizon
from boxwright.training.state import Progress, TrainState
from boxwright.training.static_batch import padded
from boxwright.training.step import EagerStep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
SIZES = [(64, 64), (64, 96), (50, 70)]
ROUNDING = {"fp32": 2e-3, "bf16": 5e-2, "fp16": 2e-2}
"""Relative, of losses after fifty steps: sums come in another order each time, and steps feed on each other."""


@pytest.fixture(autouse=True)
def clean() -> Any:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def trained(name: str, kind: str, precision: str) -> EagerStep:
    torch.manual_seed(0)
    accelerator, chosen = choose_accelerator("cuda", precision)
    model = tiny_detectors.build(name, tiny_detectors.QUICK).to("cuda", memory_format=torch.channels_last)
    state = TrainState(
        model, build_optimizer(model, Optim(kind=kind, lr=1e-3)), WeightAverage(model, 0.9), accelerator.scaler,
        Progress(Horizon(50, 5), True),
    )  # fmt: skip
    return EagerStep(state, accelerator, chosen, clip_norm=1.0)


def batches(count: int, *, proposals: bool = False) -> list[Batch]:
    made = [batch(n, SIZES[n * n % 3], 1 + n % 12, proposals=proposals) for n in range(count)]
    return [one.to(torch.device("cuda")) for one in made]


def losses_of(step: Any, given: list[Batch], first: int = 0) -> list[float]:
    return [float(step([one], settings(first + n)).total) for n, one in enumerate(given)]


@pytest.mark.parametrize(
    ("name", "kind", "precision"),
    [
        ("improved", "adamw", "bf16"), ("improved", "sgd", "fp32"), ("improved", "adamw", "fp16"),
        ("course", "sgd", "bf16"), ("retinanet", "adamw", "bf16"), ("rpn", "sgd", "bf16"),
        ("fast_rcnn", "adamw", "bf16"),
    ],
)  # fmt: skip
def test_fifty_captured_steps_are_fifty_eager_ones(name: str, kind: str, precision: str) -> None:
    given = batches(50, proposals=name == "fast_rcnn")
    eager = trained(name, kind, precision)
    expected = losses_of(eager, [padded(one, 32) for one in given])
    other, lines = trained(name, kind, precision), []  # type: Any, list[str]
    graphs = GraphStep(other, CudaCapture(torch.device("cuda")), lines.append, 32)
    found = losses_of(graphs, given)
    assert graphs.num_shapes >= 3, lines
    assert found == pytest.approx(expected, rel=ROUNDING[precision])
    assert found[:4] == pytest.approx(expected[:4], rel=ROUNDING[precision] / 5)
    own, theirs = (step.state.average.model.state_dict() for step in (other, eager))
    for key, value in theirs.items():
        if value.is_floating_point() and value.numel() > 1:
            apart = (own[key] - value).norm() / value.norm().clamp(min=1e-3)
            assert float(apart) < ROUNDING[precision], key


@pytest.mark.parametrize("name", ["improved", "rpn", "faster_rcnn", "two_stage_course", "fast_rcnn"])
def test_replayed_losses_are_eager_ones_while_nothing_is_learnt(name: str) -> None:
    """Where NMS turns a rounding into other sampled regions, steps that learn soon differ: so the weights stay."""
    given = batches(24, proposals=name == "fast_rcnn")
    eager, step = trained(name, "sgd", "fp32"), trained(name, "sgd", "fp32")
    for group in (*eager.state.optimizer.param_groups, *step.state.optimizer.param_groups):
        group["factor"] = group["weight_decay"] = 0.0
    graphs = GraphStep(step, CudaCapture(torch.device("cuda")), multiple=32)
    found, expected = losses_of(graphs, given), losses_of(eager, [padded(one, 32) for one in given])
    assert graphs.num_shapes >= 2
    assert found == pytest.approx(expected, rel=2e-3)


def test_a_captured_step_is_as_random_as_an_eager_one() -> None:
    """The sample that the proposal network draws differs from step to step, and is that of the step's seed."""
    one = batches(1)[0]
    step = trained("rpn", "sgd", "fp32")
    step.state.model.rpn.settings = step.state.model.rpn.settings.__class__(samples=8, anchor_sizes=((8,),) * 5)
    for group in step.state.optimizer.param_groups:
        group["factor"] = 0.0  # nothing is learnt, so that only chance differs
    graphs = GraphStep(step, CudaCapture(torch.device("cuda")))
    found = losses_of(graphs, [one] * 12)
    assert graphs.num_shapes == 1
    eager = losses_of(step, [padded(one)] * 12)
    assert found == pytest.approx(eager, rel=1e-3)
    assert len({round(loss, 4) for loss in found}) > 6


def test_captured_steps_go_on_exactly_where_they_were_saved() -> None:
    given, step = batches(40), trained("improved", "adamw", "bf16")
    graphs = GraphStep(step, CudaCapture(torch.device("cuda")), multiple=32)
    losses_of(graphs, given[:20])
    saved = copy.deepcopy(step.state.training_dict())
    expected = losses_of(graphs, given[20:], first=20)
    resumed = trained("improved", "adamw", "bf16")
    resumed.state.load(saved, 5)
    graphs = GraphStep(resumed, CudaCapture(torch.device("cuda")), multiple=32)
    assert losses_of(graphs, given[20:], first=20) == pytest.approx(expected, rel=ROUNDING["bf16"])


def test_graphs_share_memory_and_go_with_compiled_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = CudaCapture(torch.device("cuda"))
    step = trained("improved", "adamw", "bf16")
    graphs = GraphStep(step, capture, multiple=32)
    losses_of(graphs, batches(30))
    assert 0 < capture.memory() < 2 << 30
    first = graphs.num_shapes
    monkeypatch.setattr(graph_step, "MOST_GRAPHS", 2)
    graphs.forget()
    compile_parts(step.state.model)
    assert all(map(torch.isfinite, map(torch.tensor, losses_of(graphs, batches(40)))))
    assert graphs.num_shapes == 2 < first


def test_a_run_on_a_gpu_captures_by_itself(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", 6, 2, config=ShapesConfig(size=64))
    given = ["schedule.steps=30", "validation.times=1", "data.workers=0", "data.train_scales=[]", "data.batch_size=2"]
    done = train("fcos-shapes", data, overrides=given, device="cuda", runs=tmp_path / "runs")
    log = (done.folder / "log.txt").read_text()
    assert "captured in" in log
    assert "CUDA graphs: a step takes" in log
