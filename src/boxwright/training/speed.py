"""How a run takes its steps: operation by operation, as CUDA graphs, and with compiled parts where that pays.

A plain way to any of them, for an `EagerStep` of a model on a GPU: the step itself; `GraphStep(step,
CudaCapture(device))`, where processes meet once a step; and the same after `compile_parts(model)`. `training_step`
chooses, as the recipe's `speed` says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from torch import nn

from boxwright.data.dataset import DetectionDataset
from boxwright.data.loader import Batch
from boxwright.nn.norm import speed_up_group_norms
from boxwright.recipes.schema import Recipe
from boxwright.runtime.cuda_graphs import Capture, CudaCapture
from boxwright.runtime.precision import compile_parts, plain_parts
from boxwright.training.graph_step import MOST_GRAPHS, GraphStep
from boxwright.training.schedule import StepSettings
from boxwright.training.state import TrainState
from boxwright.training.static_batch import side_multiple
from boxwright.training.step import EagerStep, StepLosses, TrainStep
from boxwright.training.undo import Undo
from boxwright.wording import counted

EXPECTED_GAIN = 0.2
"""Of a captured step, what compiled parts are expected to save before that is measured."""
COMPILE_SECONDS = 90.0
"""What compiling is expected to take for one shape; a second shape makes torch compile once more, for all others."""
WORTH = 2.0
"""Times the expected cost that must be saved: both are guesses."""
LOOK_EVERY = 50
"""Steps."""


def check_speed(recipe: Recipe, device: torch.device) -> None:
    """ValueError where a recipe asks for graphs on a device that has none."""
    if recipe.speed == "graphs" and device.type != "cuda":
        raise ValueError(
            f"speed=graphs needs a CUDA GPU, and this run is on {device.type}: leave it out, or speed=auto"
        )


def compiles_at_once(recipe: Recipe) -> bool:
    """Whether parts of the network are compiled from the first step on."""
    return recipe.compile or recipe.speed == "compiled"


def may_compile(recipe: Recipe, device: torch.device, processes: int) -> bool:
    """Whether a run of the recipe compiles parts on its way, if that pays.

    Not where several processes train: those that have compiled would wait for the others, and one whose compiler fails
    could not take its step again alone.
    """
    return recipe.speed == "auto" and not recipe.compile and device.type == "cuda" and processes == 1


def graph_capture(device: torch.device) -> Capture | None:
    """What captures steps on this device; None where nothing does."""
    return CudaCapture(device) if device.type == "cuda" else None


def shapes_multiple(images: DetectionDataset, recipe: Recipe) -> int:
    """What sides of batches are padded to a multiple of, so that graphs of all shapes can be kept.

    Of each there may be two: for few objects and for many. It follows from the data and the recipe alone, so that a
    resumed run has the same batches.
    """
    return side_multiple(images.network_sizes(), max(1, len(recipe.data.train_scales)), MOST_GRAPHS // 2)


def training_step(
    state: TrainState,
    accelerator: Accelerator,
    precision: str,
    recipe: Recipe,
    *,
    multiple: int = 1,
    steps_left: Callable[[], int] = lambda: 0,
    log: Callable[[str], None] = lambda text: None,
) -> TrainStep:
    """The step that the recipe's `speed` means on a device.

    Args:
        state: what is trained; with `compiles_at_once` its model has compiled parts.
        accelerator: the processes that train together, and their devices.
        precision: of the arithmetic.
        recipe: of the run.
        multiple: batches are padded to sides of a multiple of so many pixels where they are captured.
        steps_left: how many steps are still to come.
        log: is told what was decided, and why.
    """
    device, processes = accelerator.device, accelerator.num_processes
    speed_up_group_norms(state.model, device, precision)
    capture = None if recipe.speed == "eager" else graph_capture(device)
    if capture is not None and processes > 1 and any(isinstance(p, nn.SyncBatchNorm) for p in state.model.modules()):
        log("CUDA graphs: processes meet in each sync_bn: steps are taken operation by operation")
        capture = None
    eager = EagerStep(state, accelerator, precision, recipe.optim.clip_norm, meets_once=capture is not None, log=log)
    if capture is None:
        return eager
    graphs = GraphStep(eager, capture, log, multiple)
    if not may_compile(recipe, device, processes):
        return graphs
    return CompilingStep(graphs, steps_left, log)


def compile_cost(num_shapes: int) -> float:
    """Seconds that compiling is expected to take for batches of so many shapes."""
    return COMPILE_SECONDS * max(1, min(num_shapes, 2))


def pays(step_seconds: float, steps_left: int, num_shapes: int) -> bool:
    """Whether compiling is expected to save more time than it takes.

    >>> pays(0.1, 90_000, 4), pays(0.01, 9_000, 1)
    (True, False)
    """
    return EXPECTED_GAIN * step_seconds * steps_left > WORTH * compile_cost(num_shapes)


class CompilingStep:
    """A `GraphStep` whose model gets compiled parts once that is expected to pay, and loses them if it does not."""

    def __init__(self, graphs: GraphStep, steps_left: Callable[[], int], log: Callable[[str], None]) -> None:
        self.graphs, self._steps_left, self._log = graphs, steps_left, log
        self._model: nn.Module = graphs.eager.state.model
        self._steps = 0
        self._plain: float | None = None
        """Seconds of a step before the parts were compiled; None while they are not."""
        self._settled = False

    def __call__(self, batches: Sequence[Batch], settings: StepSettings) -> StepLosses:
        """Learn from the batches; see `TrainStep`."""
        self._steps += 1
        if not self._settled and self._steps % LOOK_EVERY == 0 and (seconds := self.graphs.seconds) is not None:
            self._decide(seconds)
        # the compiler works in the first steps after it was asked; captured ones are beyond it
        if self._settled or self._plain is None or self.graphs.num_shapes:
            return self.graphs(batches, settings)
        undo = Undo(self.graphs.eager.state)
        try:
            return self.graphs(batches, settings)
        except Exception as error:  # of the compiler, whatever it is: without it the step may well succeed
            undo()
            self._leave(f"the compiler failed ({str(error).strip().splitlines()[0][:120]})")
            return self.graphs(batches, settings)

    @property
    def num_shapes(self) -> int:
        """How many shapes are captured."""
        return self.graphs.num_shapes

    def _decide(self, seconds: float) -> None:
        """Compile, or judge what was compiled, now that a captured step takes so long."""
        if self._plain is not None:
            if seconds < self._plain:
                self._settled = True
                self._log(f"compile: a step takes {seconds * 1000:.3g} ms now, {self._plain * 1000:.3g} ms before")
            else:
                self._leave(f"a step takes {seconds * 1000:.3g} ms so, {self._plain * 1000:.3g} ms without")
            return
        left, shapes = self._steps_left(), self.graphs.num_shapes
        saved, cost = EXPECTED_GAIN * seconds * left, compile_cost(shapes)
        if not pays(seconds, left, shapes):
            return
        self._log(
            f"compile: {counted(left, 'step')} of {seconds * 1000:.3g} ms are left: parts of the network are compiled, "
            f"which is expected to take {cost:.0f} s and to save {saved:.0f} s"
        )
        self._plain = seconds
        compile_parts(self._model)
        self.graphs.forget()

    def _leave(self, reason: str) -> None:
        """Go on without compiled parts."""
        self._settled = True
        self._log(f"compile: {reason}: the network is compiled no more")
        plain_parts(self._model)
        self.graphs.forget()
