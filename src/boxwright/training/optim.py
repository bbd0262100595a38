"""Optimiser, learning rate with the linear scaling rule (Goyal et al. 2017), and the running mean of the weights."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from boxwright.recipes.schema import Optim, Recipe, Schedule
from boxwright.wording import counted


@dataclass(frozen=True, slots=True)
class Plan:
    """The numbers of a run after scaling to its real batch: steps, warm-up and learning rate."""

    steps: int
    warmup_steps: int
    lr: float
    batch: int
    """Pictures a step, over all processes and accumulated batches."""
    sentence: str
    """What the scaling rule did, for the log."""


def scaled(recipe: Recipe, num_pictures: int, world: int) -> Plan:
    """The recipe's learning rate, steps and warm-up for the batch that this run really has.

    k times the reference batch: k times the learning rate, 1/k of the steps. Epochs are counted, not scaled.

    Milestones are parts of the run, so they move along.
    """
    optim, schedule = recipe.optim, recipe.schedule
    batch = recipe.data.batch_size * optim.accumulate * world
    factor = batch / optim.reference_batch
    if schedule.epochs is not None:
        steps = max(1, math.ceil(schedule.epochs * num_pictures / batch))
    else:
        assert schedule.steps is not None
        steps = max(1, round(schedule.steps / factor))
    warmup = min(round(schedule.warmup_steps / factor), max(1, steps // 3))
    lr = optim.lr * factor
    sentence = f"batch {batch}, lr {lr:.4g}, {counted(steps, 'step')}, warm-up {warmup}"
    if factor != 1:
        sentence += (
            f" (linear scaling rule: {factor:.4g} x the reference batch {optim.reference_batch}, lr {optim.lr:.4g})"
        )
    return Plan(steps, warmup, lr, batch, sentence)


def lr_factor(step: int, steps: int, warmup_steps: int, schedule: Schedule) -> float:
    """What the learning rate is multiplied by at `step` of `steps`: linear warm-up, then multistep or cosine."""
    if step < warmup_steps:
        return schedule.warmup_start + (1 - schedule.warmup_start) * step / warmup_steps
    if schedule.kind == "multistep":
        passed = sum(step >= round(part * steps) for part in schedule.milestones)
        return float(schedule.gamma**passed)
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return schedule.final_factor + (1 - schedule.final_factor) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def build_optimizer(model: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """SGD or AdamW over what is trainable; norms, biases and other vectors without weight decay.

    Each group keeps its own share of the learning rate as "factor".
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (parameter.dim() > 1, "backbone" in name.split("."))
            groups.setdefault(key, []).append(parameter)
    settings = [
        {
            "params": parameters,
            "weight_decay": optim.weight_decay if decays else 0.0,
            "factor": optim.backbone_lr_factor if in_backbone else 1.0,
        }
        for (decays, in_backbone), parameters in groups.items()
    ]
    if optim.kind == "sgd":
        # with scaled gradients (fp16) only the fused one decides on the GPU itself whether to skip a step
        on_gpu = any(parameter.is_cuda for parameter in model.parameters())
        return torch.optim.SGD(settings, lr=optim.lr, momentum=optim.momentum, foreach=not on_gpu, fused=on_gpu)
    return torch.optim.AdamW(settings, lr=optim.lr, fused=True)


def apply_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to its share of `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


class WeightAverage:
    """A copy of a model whose weights follow it: w = d w + (1 - d) model, with d ramping up to `decay`.

    d = min(decay, (1 + n) / (10 + n)) at update n, so that the random start is soon forgotten. Buffers (BatchNorm
    statistics, the loss normaliser) are averaged too where they are floats, else copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._own = list(self.model.state_dict(keep_vars=True).values())

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards the model, in a handful of fused operations."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        theirs = list(model.state_dict(keep_vars=True).values())
        pairs = list(zip(self._own, theirs, strict=True))
        floats = [(a, b) for a, b in pairs if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floats], [b for _, b in floats], 1 - decay)
        for own, other in pairs:
            if not own.is_floating_point():
                own.copy_(other)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights."""
        return self.model.state_dict()
