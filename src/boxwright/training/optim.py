"""The optimiser with its learning rate, and the running mean of the weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from boxwright.recipes.schema import Optim


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


def plain_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's `state_dict`, whose learning rates are numbers also where a captured step reads tensors."""
    state = optimizer.state_dict()
    return {**state, "param_groups": [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]}


def apply_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to its share of `lr`."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # which a captured step reads
            group["lr"].fill_(lr * group["factor"])
        else:
            group["lr"] = lr * group["factor"]


class WeightAverage:
    """A copy of a model whose weights follow it: w = d w + (1 - d) model, with d ramping up to `decay`.

    d = min(decay, (1 + n) / (10 + n)) at update n, so that the random start is soon forgotten. Buffers (BatchNorm
    statistics, the loss normaliser) are averaged too where they are floats, else copied. Not torch's `AveragedModel`:
    it copies at its first update and makes a GPU wait at each, to see whether it is the first.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._own = list(self.model.state_dict(keep_vars=True).values())
        self.share: float | Tensor = 0.0
        """1 - d of the next step; a tensor where a captured step reads it."""

    def advance(self) -> None:
        """Count an update, and set how far it will go."""
        self.updates += 1
        share = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        if isinstance(self.share, Tensor):
            self.share.fill_(share)
        else:
            self.share = share

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        """Take one step towards the model, as far as `advance` has set."""
        theirs = list(model.state_dict(keep_vars=True).values())
        pairs = list(zip(self._own, theirs, strict=True))
        floats = [(a, b) for a, b in pairs if a.is_floating_point()]
        own, goals = [a for a, _ in floats], [b for _, b in floats]
        if isinstance(self.share, Tensor) and self.share.is_cuda:  # with a tensor, lerp is one kernel for each weight
            torch._foreach_add_(own, torch._foreach_mul(torch._foreach_sub(goals, own), self.share))
        elif isinstance(self.share, Tensor):
            torch._foreach_lerp_(own, goals, [self.share] * len(floats))
        else:
            torch._foreach_lerp_(own, goals, self.share)
        counts = [(a, b) for a, b in pairs if not a.is_floating_point()]
        if counts:
            torch._foreach_copy_([a for a, _ in counts], [b for _, b in counts])

    def update(self, model: nn.Module) -> None:
        """Both at once: one more step towards the model."""
        self.advance()
        self.follow(model)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights."""
        return self.model.state_dict()
