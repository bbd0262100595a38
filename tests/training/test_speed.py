"""How a run takes its steps: what the key `speed` means on each device, and that compiling is decided by seconds."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from recorded_graph import RecordedGraph
from tiny_steps import batch, run, same, settings, trained

from boxwright.checkpoint import load_checkpoint
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.recipes import load_recipe
from boxwright.recipes.schema import Recipe
from boxwright.runtime.precision import compile_parts, plain_parts
from boxwright.training import speed
from boxwright.training.estimate import Estimate, estimate
from boxwright.training.graph_step import LAPS, SEEN_BEFORE, GraphStep
from boxwright.training.run import train
from boxwright.training.signals import StopSignal
from boxwright.training.speed import LOOK_EVERY, CompilingStep, may_compile, training_step
from boxwright.training.static_batch import padded
from boxwright.training.step import EagerStep

pytestmark = pytest.mark.usefixtures("without_charts")

SMALL = [
    "schedule.steps=9", "validation.times=1", "data.workers=0", "precision=fp32", "data.train_scales=[]",
    "data.batch_size=2", "optim.reference_batch=2", "model.fpn.channels=16", "model.head.stem_channels=[16]",
    "ema_decay=0.9",
]  # fmt: skip
GPU = torch.device("cuda")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", 6, 2, config=ShapesConfig(size=64))


@pytest.mark.parametrize("start", [train, estimate])
def test_a_machine_without_a_gpu_refuses_graphs_before_anything_is_made(start: Any, data: Path, tmp_path: Path) -> None:
    where = {"runs": tmp_path} if start is train else {}
    with pytest.raises(ValueError, match="speed=graphs needs a CUDA GPU, and this run is on cpu"):
        start("fcos-shapes", data, overrides=["speed=graphs"], device="cpu", **where)
    assert not any(tmp_path.iterdir())


def test_a_step_in_bf16_on_a_cpu_has_the_fast_group_norms() -> None:
    def norms(precision: str) -> set[str]:
        some = trained("improved")
        training_step(some.state, some.accelerator, precision, load_recipe("fcos-small"))
        return {type(part).__name__ for part in some.state.model.modules() if isinstance(part, torch.nn.GroupNorm)}

    assert norms("bf16") == {"ContiguousNorm"}
    assert "ContiguousNorm" not in norms("fp32")


def test_the_key_says_how_steps_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    some = trained("improved")
    recipe = {name: load_recipe("fcos-small", [f"speed={name}"]) for name in ("auto", "eager", "graphs", "compiled")}

    def kind(one: Recipe) -> type:
        return type(training_step(some.state, some.accelerator, "fp32", one))

    assert all(kind(one) is EagerStep for one in recipe.values())  # on a CPU
    monkeypatch.setattr(speed, "graph_capture", lambda device: RecordedGraph())
    monkeypatch.setattr(speed, "may_compile", lambda recipe, device, processes: may_compile(recipe, GPU, processes))
    kinds = {name: kind(one) for name, one in recipe.items()}
    assert kinds == {"auto": CompilingStep, "eager": EagerStep, "graphs": GraphStep, "compiled": GraphStep}
    old = load_recipe("fcos-small", ["compile=true"])
    assert speed.compiles_at_once(old)
    assert kind(old) is GraphStep  # it is compiled already
    assert [name for name, one in recipe.items() if speed.compiles_at_once(one)] == ["compiled"]


def weights_of(folder: Path) -> dict[str, Any]:
    training = load_checkpoint(folder / "weights" / "last.pt").training
    assert training is not None
    return {part: training[part] for part in ("model", "average", "optimizer")}


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def test_a_run_takes_its_steps_as_graphs_and_goes_on_where_it_stopped(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the stand-in for the card: weights, optimizer and average are those of the eager run, resumed or not."""
    eager = train("fcos-shapes", data, overrides=SMALL, device="cpu", runs=tmp_path / "eager")
    captures: list[RecordedGraph] = []

    def capture(device: torch.device) -> RecordedGraph:
        captures.append(RecordedGraph())
        return captures[-1]

    monkeypatch.setattr(speed, "graph_capture", capture)
    with monkeypatch.context() as patch:
        patch.setattr(StopSignal, "wanted", lambda self: captures[-1].replayed == 1)
        stopped = train("fcos-shapes", data, overrides=SMALL, device="cpu", runs=tmp_path / "graphs")
    assert not stopped.finished
    done = train(resume=stopped.folder, runs=tmp_path / "graphs")
    assert done.finished
    assert [one.recorded for one in captures] == [1, 1]
    assert equal(weights_of(done.folder), weights_of(eager.folder))
    assert "CUDA graphs: 2 images of 64 x 64 with up to 8 boxes captured" in (done.folder / "log.txt").read_text()


def test_the_scale_of_the_loss_is_read_by_a_recording() -> None:
    """With float16's scaler, whose scale grows and shrinks while recordings are replayed."""
    steps = [trained("improved"), trained("improved")]
    AcceleratorState._shared_state["_mixed_precision"] = "fp16"
    for step in steps:
        accelerator = step.accelerator
        accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu", 2.0**125, growth_interval=2)
        accelerator._optimizers.clear()
        step._optimizer = accelerator.prepare(step.state.optimizer)
        step.state.scaler = accelerator.scaler
    batches = [batch(n, (32, 32), 3) for n in range(SEEN_BEFORE + 6)]
    capture = RecordedGraph()
    graphs, scales = GraphStep(steps[1], capture), []
    for number, one in enumerate(batches):
        losses = run(steps[0], [padded(one)], number)
        assert run(graphs, [one], number) == losses
        both = [step.state.scaler.get_scale() for step in steps if step.state.scaler is not None]
        assert both[0] == both[1]
        scales.append(both[0])
    assert capture.replayed == 5
    assert same(*steps)
    replayed = scales[-6:]  # from the step before the first replay on
    assert any(now > before for before, now in pairwise(replayed))
    assert any(now < before for before, now in pairwise(replayed))
    AcceleratorState._reset_state(reset_partial_state=True)


class Steps:
    """A `GraphStep` of which only the seconds are real."""

    def __init__(self) -> None:
        self.eager, self.seconds, self.num_shapes = trained("improved"), 0.1, 2
        self.taken = self.forgotten = 0
        self.error: Exception | None = None

    def __call__(self, batches: Any, settings: Any) -> int:
        if self.error is not None and is_compiled(self.eager.state.model):
            self.eager.state.model.get_parameter("head.scales").data.zero_()
            raise self.error
        self.taken += 1
        return self.taken

    def forget(self) -> None:
        self.forgotten += 1
        self.num_shapes = 0


def is_compiled(model: torch.nn.Module) -> bool:
    return any(part._compiled_call_impl is not None for part in model.modules())


def compiling(steps: Any, left: int) -> tuple[CompilingStep, list[str]]:
    lines: list[str] = []
    return CompilingStep(steps, lambda: left, lines.append), lines


def take(step: CompilingStep, count: int) -> None:
    for _ in range(count):
        step([], settings(0))


def test_a_long_run_compiles_and_keeps_what_is_faster() -> None:
    steps: Any = Steps()
    step, lines = compiling(steps, 90_000)
    take(step, LOOK_EVERY - 1)
    assert not is_compiled(steps.eager.state.model)
    take(step, 1)
    assert is_compiled(steps.eager.state.model)
    assert steps.forgotten == 1  # what was captured is the network as it was
    assert lines == [
        "compile: 90000 steps of 100 ms are left: parts of the network are compiled, which is expected to take 180 s "
        "and to save 1800 s"
    ]
    steps.seconds = 0.07
    take(step, 3 * LOOK_EVERY)
    assert is_compiled(steps.eager.state.model)
    assert lines[1:] == ["compile: a step takes 70 ms now, 100 ms before"]
    assert steps.taken == 4 * LOOK_EVERY


def test_a_short_run_does_not_and_what_is_slower_or_fails_is_undone() -> None:
    steps: Any = Steps()
    step, lines = compiling(steps, 500)
    take(step, 3 * LOOK_EVERY)
    assert not lines
    step, lines = compiling(steps, 90_000)
    take(step, LOOK_EVERY)
    steps.seconds = 0.11
    take(step, 2 * LOOK_EVERY)
    assert lines[1:] == ["compile: a step takes 110 ms so, 100 ms without: the network is compiled no more"]
    assert not is_compiled(steps.eager.state.model)
    steps = Steps()
    steps.error = RuntimeError("no C compiler\nwas found")
    before = steps.eager.state.model.get_parameter("head.scales").clone()
    step, lines = compiling(steps, 90_000)
    take(step, 2 * LOOK_EVERY)
    assert lines[1:] == ["compile: the compiler failed (no C compiler): the network is compiled no more"]
    assert steps.taken == 2 * LOOK_EVERY  # the step that failed was taken again, from where it began
    assert torch.equal(steps.eager.state.model.get_parameter("head.scales"), before)


def test_seconds_of_a_step_are_those_of_its_replays() -> None:
    capture = RecordedGraph()
    graphs = GraphStep(trained("improved"), capture)
    one = [batch(1, (32, 32), 3)]
    run(graphs, one * (SEEN_BEFORE + 1))
    assert graphs.seconds is None
    run(graphs, one * LAPS)
    assert graphs.seconds == capture.replay_seconds
    graphs.forget()
    assert graphs.seconds is None
    assert (graphs.num_shapes, capture.forgotten) == (0, 1)


def test_compiled_parts_can_be_plain_again() -> None:
    model = trained("improved").state.model
    compile_parts(model)
    assert is_compiled(model)
    plain_parts(model)
    assert not is_compiled(model)


def test_an_estimate_counts_what_would_be_compiled() -> None:
    one = Estimate(
        steps=9000, batch=4, step_seconds=0.5, waiting=0.0, validations=1, validation_seconds=10.0, memory=1,
        compiling=90.0,
    )  # fmt: skip
    assert one.seconds == 90 + 9000 * 0.4 + 10
    assert one.sentence().endswith(
        "; it would compile parts of the network, expected to take 1.5 minutes and to save 20% of each step"
    )


def test_an_estimate_times_captured_steps(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = RecordedGraph()
    monkeypatch.setattr(speed, "graph_capture", lambda device: capture)
    found = estimate("fcos-shapes", data, overrides=SMALL, device="cpu")
    assert found.step_seconds > 0
    assert (capture.recorded, capture.replayed > 10) == (1, True)
