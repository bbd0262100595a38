"""Mean gradients of several processes, in one piece between the backward pass and the optimizer.

torch's `DistributedDataParallel` averages parts of them while the backward pass goes on, which hides the time that this
takes, but puts it in the middle of what is captured as a CUDA graph. Here the backward pass is one graph and the
optimizer another, and the processes meet between them, each at its own shape.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from boxwright.nn.norm import BATCH_NORMS
from boxwright.ops.losses import process_mean_

ALIGNED = 4
"""Floats: gradients begin at multiples of so many (16 bytes), where optimizers read four at once."""


class GradientMean:
    """The mean over the processes of a model's gradients, and of what its BatchNorms have seen.

    All processes begin with the weights of the first. A weight that no loss of a process depends on has a gradient of 0
    there. One buffer as large as the gradients is held.
    """

    def __init__(self, model: nn.Module) -> None:
        for value in model.state_dict().values():
            first = value.contiguous()  # channels last or not
            dist.broadcast(first, 0)
            value.copy_(first)
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._norms = [part for part in model.modules() if isinstance(part, BATCH_NORMS) and part.track_running_stats]
        averaged = [*self._weights, *_statistics(self._norms)]
        starts = [0]
        for tensor in averaged:
            starts.append(starts[-1] + -(-tensor.numel() // ALIGNED) * ALIGNED)
        self._buffer = torch.zeros(starts.pop(), device=averaged[0].device)
        # as a gradient lies in memory: like its weight
        places = [
            self._buffer.as_strided(tensor.shape, tensor.stride(), start)
            for tensor, start in zip(averaged, starts, strict=True)
        ]
        self._gradients, self._statistics = places[: len(self._weights)], places[len(self._weights) :]

    @torch.no_grad()
    def __call__(self) -> None:
        """Give every weight the mean of its gradients, and BatchNorms that learn the mean of their statistics."""
        own = [torch.zeros_like(one) if one.grad is None else one.grad for one in self._weights]
        statistics = _statistics(self._norms)
        torch._foreach_copy_(self._gradients + self._statistics, own + statistics)
        process_mean_(self._buffer)
        for weight, gradient in zip(self._weights, self._gradients, strict=True):
            weight.grad = gradient
        if any(norm.training for norm in self._norms):
            torch._foreach_copy_(statistics, self._statistics)


def _statistics(norms: Iterable[nn.Module]) -> list[Tensor]:
    """The running means and variances of BatchNorms, as they are now."""
    return [norm.get_buffer(name) for norm in norms for name in ("running_mean", "running_var")]
