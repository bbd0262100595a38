"""One optimiser step: forward, loss, backward, clipping, optimiser, and the running mean of the weights.

The loop knows a step by the protocol `TrainStep` only, so that another implementation can take the place of the eager
one: batches and settings in, losses out, and the state has moved one step on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from boxwright.data.loader import Batch
from boxwright.nn.kernel_layers import use_tried_kernels
from boxwright.nn.norm import BATCH_NORMS
from boxwright.runtime.precision import DTYPES, autocast
from boxwright.structures import Losses
from boxwright.training.columns import FLOOR
from boxwright.training.gradient_mean import GradientMean
from boxwright.training.optim import apply_lr
from boxwright.training.scales import scale_batch
from boxwright.training.schedule import StepSettings
from boxwright.training.state import TrainState


class StepLosses(NamedTuple):
    """The losses of a step, detached scalars: means over its batches.

    `total` is the sum that was minimised; `floors` are what the losses of these names cannot fall below.
    """

    total: Tensor
    losses: dict[str, Tensor]
    floors: Mapping[str, Tensor]

    def columns(self) -> dict[str, Tensor]:
        """The same by column, the total first, without `train/`."""
        floors = {name + FLOOR: value for name, value in self.floors.items()}
        return {"loss": self.total, **self.losses, **floors}


class TrainStep(Protocol):
    """What takes a training state one step on."""

    def __call__(self, batches: Sequence[Batch], settings: StepSettings) -> StepLosses:
        """Learn from batches on the device, more than one where gradients are accumulated."""


class EagerStep:
    """A training step, operation by operation, on one or many devices.

    Args:
        state: what is trained.
        accelerator: the processes that train together, and their devices.
        precision: of the arithmetic.
        clip_norm: of the gradients, at most.
        meets_once: processes average their gradients after the backward pass and not during it (`gradient_mean.py`):
            such a step can be captured.
        log: is told which of our kernels a GPU uses, and why.
    """

    def __init__(
        self,
        state: TrainState,
        accelerator: Accelerator,
        precision: str,
        clip_norm: float | None = None,
        *,
        meets_once: bool = False,
        log: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.state, self.accelerator, self.clip_norm = state, accelerator, clip_norm
        use_tried_kernels(state.model, accelerator.device, DTYPES.get(precision, torch.float32), log)
        self._arithmetic = autocast(accelerator.device, precision)
        meets_once = meets_once and accelerator.num_processes > 1
        # what accelerate calls evaluation is a network without DistributedDataParallel around it
        self._network = accelerator.prepare_model(state.model, evaluation_mode=meets_once)
        self._optimizer = accelerator.prepare_optimizer(state.optimizer)
        self.gradient_mean = GradientMean(state.model) if meets_once else None
        self._network.train()

    def __call__(self, batches: Sequence[Batch], settings: StepSettings) -> StepLosses:
        """Learn from the batches; see `TrainStep`."""
        apply_lr(self._optimizer, settings.lr)
        torch.manual_seed(settings.seed)
        self.hold_statistics(settings.hold_statistics)
        if self.state.average is not None:
            self.state.average.advance()
        return self.learn([scale_batch(one, settings.scale) if settings.scale != 1.0 else one for one in batches])

    def hold_statistics(self, held: bool) -> None:
        """From now on BatchNorm normalises by its running statistics, if `held`."""
        if held:
            for module in self.state.model.modules():
                if isinstance(module, BATCH_NORMS):
                    module.eval()

    def learn(self, batches: Sequence[Batch]) -> StepLosses:
        """Forward, loss, backward, clipping, optimizer, weight average: all that computes, and nothing that waits."""
        state, accelerator = self.state, self.accelerator
        found: list[StepLosses] = []
        for number, (images, targets, _, proposals) in enumerate(batches):
            last = number == len(batches) - 1
            with nullcontext() if last else accelerator.no_sync(self._network):
                with self._arithmetic:
                    outputs = self._network(images, targets, proposals)
                losses: dict[str, Tensor] = state.model.loss(outputs, targets)
                total = torch.stack(list(losses.values())).sum()
                accelerator.backward(total / len(batches))
            detached = {name: value.detach() for name, value in losses.items()}
            found.append(StepLosses(total.detach(), detached, losses.floors if isinstance(losses, Losses) else {}))
        if self.gradient_mean is not None:
            self.gradient_mean()
        if self.clip_norm is not None:
            accelerator.clip_grad_norm_(state.model.parameters(), self.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if state.average is not None:
            state.average.follow(state.model)
        return _mean(found)


def _mean(parts: Sequence[StepLosses]) -> StepLosses:
    """The mean of the losses of several batches."""

    def mean(values: Iterable[Tensor]) -> Tensor:
        return torch.as_tensor(sum(value / len(parts) for value in values))

    first = parts[0]
    return StepLosses(
        mean(part.total for part in parts),
        {name: mean(part.losses[name] for part in parts) for name in first.losses},
        {name: mean(part.floors[name] for part in parts) for name in first.floors},
    )
