"""Captured steps equal eager ones, bit for bit, whatever shapes come; a recording that misses something is noticed."""

from collections.abc import Callable
from typing import Any

import pytest
import tiny_detectors
import torch
from other_device import OTHER, OtherDevice
from recorded_graph import NothingWaits, RecordedGraph
from tiny_steps import batch, changing, run, same, settings, trained
from torch.utils._python_dispatch import _disable_current_modes

from boxwright.data.loader import Batch
from boxwright.data.moved_objects import FEWEST_BOXES
from boxwright.models.box_branch import BoxBranch
from boxwright.ops import roi
from boxwright.ops.outside_graphs import splitting
from boxwright.training import graph_step
from boxwright.training.graph_step import LAPS, SEEN_BEFORE, GraphStep
from boxwright.training.static_batch import padded
from boxwright.training.step import EagerStep


@pytest.mark.parametrize(
    ("name", "kind", "steps"),
    [("improved", "adamw", 50), ("course", "sgd", 16), ("retinanet", "adamw", 16), ("rpn", "sgd", 16)],
)
def test_fifty_steps_of_changing_shapes_equal_eager_ones(name: str, kind: str, steps: int) -> None:
    eager, other, capture = trained(name, kind), trained(name, kind), RecordedGraph()
    batches = changing(steps)
    losses = run(eager, [padded(one, 16) for one in batches])
    assert run(GraphStep(other, capture, multiple=16), batches) == losses
    assert capture.replayed >= steps // 6
    assert same(eager, other)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU computes regions of padding too, and pools every level, as a GPU does, which it would make wait."""
    monkeypatch.setattr(BoxBranch, "cuts_padding", lambda self, device: False)
    monkeypatch.setattr(roi, "counts_regions", lambda device: False)


@pytest.mark.parametrize("name", ["faster_rcnn", "fast_rcnn", "two_stage_course"])
def test_a_two_stage_detector_is_captured_and_equals_its_eager_step(name: str, as_on_a_gpu: None) -> None:
    eager, other, capture = trained(name), trained(name), RecordedGraph()
    batches = [batch(n, (64, 64), 1 + n % 6, proposals=name == "fast_rcnn") for n in range(SEEN_BEFORE + 5)]
    assert run(GraphStep(other, capture), batches) == run(eager, [padded(one) for one in batches])
    assert (capture.recorded, capture.replayed) == (1, 4)
    assert capture.splits == {"fast_rcnn": 0, "faster_rcnn": 1, "two_stage_course": 3}[name]  # NMS, here of each level
    assert same(eager, other)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in tiny_detectors.TINY
        if not any(part in name for part in ("mask", "keypoint", "panoptic", "rotated"))
    ],
)
def test_a_step_on_a_device_never_waits(name: str) -> None:
    """Forward, losses and gradients on a device that is not the CPU: nothing is read back or sent there meanwhile."""
    with OtherDevice():
        model = tiny_detectors.build(name, tiny_detectors.QUICK).train().to(OTHER)
        one = batch(1, (64, 64), 4, proposals=name == "fast_rcnn").to(OTHER)
        outside = splitting(lambda work, *inputs: _unwatched(work, inputs))
        with outside, NothingWaits():
            losses = model.loss(model(one.images, one.targets, one.proposals), one.targets)
            torch.stack(list(losses.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def _unwatched(work: Callable[..., torch.Tensor], inputs: Any) -> torch.Tensor:
    with _disable_current_modes(), OtherDevice():
        return work(*inputs)


def test_what_waits_is_refused() -> None:
    """The stand-in knows the ways in which a GPU waits: each of them raises, and only these do."""
    numbers, chosen = torch.arange(4.0), torch.tensor([True, False, True, False])
    rows = torch.tensor([0, 2])
    for waits in (
        lambda: numbers.sum().item(), lambda: float(numbers[0]), lambda: bool(chosen.all()), lambda: numbers.tolist(),
        lambda: chosen.nonzero(), lambda: numbers[chosen], lambda: numbers.masked_select(chosen), numbers.unique,
        lambda: torch.tensor([1.0, 2.0]), lambda: rows.repeat_interleave(rows), numbers.cpu, numbers.numpy,
        lambda: torch.where(chosen), lambda: numbers.index_put((chosen,), numbers[0]), lambda: numbers.to(OTHER),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=r"waits for the device|between the host"), NothingWaits():
            waits()  # type: ignore[no-untyped-call]
    with NothingWaits():
        assert numbers[rows].shape == torch.where(chosen, numbers, 0.0)[:2].shape
        torch.full((2,), 3.0), torch.rand(3), numbers.topk(2), rows.repeat_interleave(2)


@pytest.fixture(scope="module")
def few() -> tuple[list[Batch], EagerStep]:
    """Batches of one shape, and a detector after eager steps on them."""
    batches = [batch(n, (32, 32), 3) for n in range(SEEN_BEFORE + 3)]
    eager = trained("improved")
    run(eager, [padded(one) for one in batches])
    return batches, eager


def is_right(few: tuple[list[Batch], EagerStep], change: Callable[[GraphStep], None] = lambda step: None) -> bool:
    step = trained("improved")
    graphs = GraphStep(step, RecordedGraph())
    change(graphs)
    run(graphs, few[0])
    return same(few[1], step)


def test_an_input_that_is_not_copied_is_noticed(few: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_right(few)
    every = graph_step.tensors_of

    def all_but(place: int) -> Callable[..., Any]:
        def take(graph: Any, other: Batch) -> None:
            for number, (own, new) in enumerate(zip(every(graph.batch), every(other), strict=True)):
                if number != place:
                    own.copy_(new)

        return take

    for place in (0, 5, 6):  # pixels, boxes, labels
        monkeypatch.setattr(graph_step.Graph, "take", all_but(place))
        assert not is_right(few), place


def test_a_learning_rate_or_share_that_is_a_number_is_noticed(few: Any) -> None:
    def rate(graphs: GraphStep) -> None:
        for group in graphs.eager.state.optimizer.param_groups:
            group["lr"] = 1e-3

    def share(graphs: GraphStep) -> None:
        assert graphs.eager.state.average is not None
        graphs.eager.state.average.share = 0.0

    assert not is_right(few, rate)
    assert not is_right(few, share)


def test_losses_of_a_stale_buffer_and_a_seed_that_stays_are_noticed(few: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = GraphStep(trained("improved"), RecordedGraph())
    kept = [graphs([one], settings(n)).total for n, one in enumerate(few[0])]
    fresh = run(trained("improved"), [padded(one) for one in few[0]])
    assert [float(total) for total in kept] == [losses[0] for losses in fresh]  # the next replay leaves them alone
    monkeypatch.setattr(graph_step, "copied", lambda losses: losses)
    graphs = GraphStep(trained("improved"), RecordedGraph())
    kept = [graphs([one], settings(n)).total for n, one in enumerate(few[0])]
    assert [float(total) for total in kept] != [losses[0] for losses in fresh]


def test_chance_within_the_network_is_that_of_an_eager_step() -> None:
    """The proposal network draws its sample anew in each replay, from the seed of the step."""
    batches = [batch(1, (64, 64), 4)] * (SEEN_BEFORE + 3)  # nothing but the seed differs
    eager, other, stuck = trained("rpn"), trained("rpn"), trained("rpn")
    for step in (eager, other, stuck):
        step.state.model.rpn.settings = step.state.model.rpn.settings.__class__(samples=8, anchor_sizes=((8,),) * 5)
    assert run(GraphStep(other, RecordedGraph()), batches) == run(eager, [padded(one) for one in batches])
    assert same(eager, other)
    graphs = GraphStep(stuck, RecordedGraph())
    graphs._set_numbers = lambda now: GraphStep._set_numbers(graphs, settings(0))  # type: ignore[method-assign]
    run(graphs, batches)
    assert not same(eager, stuck)


def test_more_boxes_of_padding_change_no_loss() -> None:
    one = batch(3, (64, 64), 5)
    wider = padded(one)
    assert wider.targets.boxes.shape[1] == FEWEST_BOXES
    for name in ("improved", "retinanet", "rpn", "faster_rcnn"):
        model = trained(name).state.model
        losses = []
        for part in (one, wider):
            torch.manual_seed(1)
            losses.append(model.loss(model(part.images, part.targets), part.targets))
        for key, value in losses[0].items():
            torch.testing.assert_close(losses[1][key], value, rtol=1e-6, atol=0)


def test_regions_of_padding_change_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU cuts padding off, a GPU does not ask how much of it there is."""
    one, losses = padded(batch(3, (64, 64), 5)), []
    for cuts in (True, False):
        monkeypatch.setattr(BoxBranch, "cuts_padding", lambda self, device, cuts=cuts: cuts)
        model = trained("faster_rcnn").state.model
        torch.manual_seed(1)
        outputs = model(one.images, one.targets)
        losses.append(model.loss(outputs, one.targets))
        assert outputs.sampled.real.all(1).any() == cuts  # rows of padding in every image
    for key, value in losses[0].items():
        torch.testing.assert_close(losses[1][key], value, rtol=1e-6, atol=0)


def test_the_least_used_shape_gives_way_to_one_that_comes_more_than_twice_as_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(graph_step, "MOST_GRAPHS", 2)
    capture = RecordedGraph()
    graphs = GraphStep(trained("improved"), capture)

    def take(size: tuple[int, int], times: int) -> None:
        for _ in range(times):
            graphs([batch(1, size, 2)], settings(1))

    def kept() -> list[Any]:
        return [key[1][0][-2:] for key in graphs._graphs]  # type: ignore[index]

    take((32, 32), SEEN_BEFORE + 2)  # five times
    take((32, 64), SEEN_BEFORE + 1)  # four times
    take((64, 32), 8)  # twice four
    assert kept() == [(32, 32), (32, 64)]
    take((64, 32), 1)
    assert kept() == [(32, 32), (64, 32)]
    assert (capture.recorded, capture.replayed) == (3, 1)
    monkeypatch.setattr(graph_step, "FORGOTTEN_AFTER", 1)  # what came before counts nothing any more
    take((32, 64), 3)
    assert (32, 64) in kept()


def test_graphs_give_way_to_a_step_that_needs_their_memory() -> None:
    eager, other, capture = trained("improved"), trained("improved"), RecordedGraph()  # type: Any, Any, Any
    lines: list[str] = []
    graphs = GraphStep(other, capture, lines.append)
    batches = [batch(n, (32, 32), 3) for n in range(SEEN_BEFORE + 2)] + [batch(9, (64, 64), 3)]
    learn = other.learn

    def short(given: Any) -> Any:
        losses = learn(given)
        if given[0].images.pixels.shape[-1] == 64 and graphs.num_shapes:
            raise torch.OutOfMemoryError("not a byte is left")
        return losses

    other.learn = short
    assert run(graphs, batches) == run(eager, [padded(one) for one in batches])
    assert same(eager, other)
    assert (graphs.num_shapes, capture.forgotten) == (0, 1)
    assert lines[1:] == ["CUDA graphs: a step needed the memory of all graphs: they are captured anew"]


def test_what_is_not_captured_is_eager_and_logged_once() -> None:
    for name, group, reason in (
        ("improved", [batch(1, (32, 32), 2)] * 2, "gradients are accumulated"),
        ("faster_rcnn", [batch(1, (64, 64), 2)], "a norm of the box head needs to know how many regions there are"),
        ("fcos_mask", [batch(1, (64, 64), 2, masks=True)], "masks have another number of pixels in each batch"),
    ):
        capture, lines = RecordedGraph(), []  # type: RecordedGraph, list[str]
        eager, other = trained(name), trained(name)
        graphs = GraphStep(other, capture, lines.append)
        for number in range(SEEN_BEFORE + 2):
            assert graphs(group, settings(number)) == eager(group, settings(number))
        assert lines == [f"CUDA graphs: {reason}: these steps are taken operation by operation"]
        assert capture.recorded == 0
        assert same(eager, other)


def test_a_detector_that_waits_goes_on_eagerly_as_if_nothing_had_been_tried() -> None:
    eager, other, lines = trained("improved"), trained("improved"), []  # type: Any, Any, list[str]
    for step in (eager, other):
        learn = step.learn

        def waits(batches: Any, learn: Any = learn) -> Any:
            losses = learn(batches)  # weights, statistics and average have moved by then
            assert losses.total.item() > 0
            return losses

        step.learn = waits
    batches = [batch(n, (32, 32), 3) for n in range(SEEN_BEFORE + 3)]
    graphs = GraphStep(other, RecordedGraph(), lines.append)
    assert run(graphs, batches) == run(
        eager, [padded(one) if n <= SEEN_BEFORE else one for n, one in enumerate(batches)]
    )
    assert same(eager, other)
    assert len(lines) == 1
    assert "this detector cannot be captured (item waits for the device" in lines[0]


def test_replays_that_are_not_faster_and_a_lack_of_memory_keep_a_shape_eager() -> None:
    slow, lines = RecordedGraph(), []  # type: RecordedGraph, list[str]
    slow.replay_seconds = 3.0
    graphs = GraphStep(trained("improved"), slow, lines.append)
    run(graphs, [batch(1, (32, 32), 3)] * (SEEN_BEFORE + LAPS + 4))
    assert (slow.recorded, slow.replayed) == (1, LAPS)
    assert lines[1] == (
        "CUDA graphs: a step of one shape takes 3e+03 ms, operation by operation 2e+03 ms: such shapes are taken so"
    )
    full = RecordedGraph(room=False)
    graphs = GraphStep(trained("improved"), full, lines.append)
    run(graphs, [batch(1, (32, 32), 3)] * (SEEN_BEFORE + 3))
    assert full.recorded == 0
    assert lines[2:] == [
        "CUDA graphs: the memory of the device does not suffice for graphs beside other steps: new shapes are taken "
        "operation by operation"
    ]
