"""Our kernels against torch's operators on the card at hand: the same numbers, and in which time.

Each is tried as training uses it, forwards and backwards, on a map of the size that the stride 8 of a large image has,
where a card computes for longer than Python launches; and on a small one of odd sides, whose tiles are cut.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.nn.gpu_kernels import GPU_KERNELS, IN_USE, wanted
from boxwright.nn.group_norm import NormalisedGroups
from boxwright.nn.rectify import Rectified

SMALL = (2, 48, 19, 23)
LARGE = (16, 256, 100, 136)
"""Images, channels, height and width."""
GROUPS, EPS = 16, 1e-5
FASTER = 1.05
"""Times as fast as torch's operators: what is used does not hang on noise."""
MAPS_AT_ONCE = 12
"""Maps in float32 whose memory a trial needs at most."""
ROUNDS = 5
WITHIN = {torch.float32: 1e-3, torch.bfloat16: 2**-8, torch.float16: 2**-8}
"""How far results may be apart, as a part of their size (root of the sum of squares): each number is rounded once, and
one that is as good as 0 may be on either side of ReLU."""

Layer = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From maps (B, C, H, W), weight (C,) and bias (C,) to maps."""


class Way(NamedTuple):
    """A kernel by its name, what torch does in its place, and what is right: the same in float32."""

    kernel: str
    ours: Layer
    torchs: Layer
    right: Layer
    variants: Sequence[tuple[Layer, Layer]] = ()
    """Other uses of it and what is right there: compared on the small map, not timed."""


class Trial(NamedTuple):
    """What a kernel did: how far it is from what is right, and how many times as fast as torch's operators it is."""

    kernel: str
    right: bool
    difference: float
    gain: float

    def __str__(self) -> str:
        if not self.right:
            return f"{self.kernel} differs from torch's operators on this card"
        return f"{self.kernel} {self.gain:.2f} times as fast as torch's operators on this card"


def try_kernels(
    device: torch.device,
    dtype: torch.dtype,
    log: Callable[[str], None] = lambda text: None,
    trials: Callable[[torch.device, torch.dtype], Sequence[Trial]] | None = None,
) -> frozenset[str]:
    """Try the kernels on a GPU with maps of a type, once in a process; from then on `takes_kernels` knows.

    Args:
        device: a GPU; nothing is tried elsewhere, nor unless the environment variable `GPU_KERNELS` asks for it.
        dtype: of the maps: what the network computes in.
        log: is told what was measured and decided.
        trials: makes the comparisons in place of `tried`.

    Returns:
        The kernels in use. None where Triton does not work with this GPU: a warning says why. None, until another
        call, where too little memory is free: the log says so.
    """
    if device.type != "cuda" or wanted() not in ("auto", "1"):
        return frozenset()
    device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    if (device, dtype) in IN_USE:
        return IN_USE[device, dtype]
    found: Sequence[Trial] = ()
    try:
        found = (trials or tried)(device, dtype)
    except torch.OutOfMemoryError:
        log("GPU kernels: too little memory is free to try them: torch's operators are used")
        return frozenset()
    except Exception as error:  # no Triton, a card that is too old, a machine without a C compiler
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        warnings.warn(
            f"{torch.cuda.get_device_name(device)}: our kernels cannot be used ({reason}): torch's operators are; "
            f"without {GPU_KERNELS} they are not asked for",
            stacklevel=2,
        )
    for wrong in (trial for trial in found if not trial.right):
        warnings.warn(
            f"{torch.cuda.get_device_name(device)}: our kernel for {wrong.kernel} differs from torch's operators "
            f"({wrong.difference:.2g} of its size): it is not used; please report this",
            stacklevel=2,
        )
    used = frozenset(trial.kernel for trial in found if trial.right and (trial.gain > FASTER or wanted() == "1"))
    if found:
        log(f"GPU kernels: {'; '.join(f'{trial}, {_use(trial, used)}' for trial in found)}")
    IN_USE[device, dtype] = used
    return used


def _use(trial: Trial, used: frozenset[str]) -> str:
    return "used" if trial.kernel in used else "not used"


def tried(
    device: torch.device,
    dtype: torch.dtype,
    ways: Callable[[torch.dtype], Sequence[Way]] | None = None,
    large: Sequence[int] = LARGE,
) -> list[Trial]:
    """Each kernel against torch's operators on maps of a type.

    Chance that others draw from the device is left as it was. Whatever Triton raises comes through, ImportError where
    it is not installed, and torch.OutOfMemoryError where the memory does not suffice.
    """
    images, *rest = large
    images = min(images, _room(device) // (MAPS_AT_ONCE * 4 * torch.Size(rest).numel()))
    if images == 0:
        raise torch.OutOfMemoryError("too little memory is free to try kernels")
    with torch.autocast(device.type, enabled=False), torch.inference_mode(False), torch.enable_grad():
        own = (ways or ways_of)(dtype)
        return [_trial(way, _tensors(SMALL, device, dtype), _tensors((images, *rest), device, dtype)) for way in own]


def ways_of(dtype: torch.dtype) -> list[Way]:
    """Our kernels for maps of a type. Torch's group norm is that of autocast: in float32, between two copies."""

    def norm(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        found: Tensor = NormalisedGroups.apply(maps, weight, bias, GROUPS, EPS, True)
        return found

    def norm_of_torch(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.relu(F.group_norm(maps.float(), GROUPS, weight, bias, EPS)).to(dtype)

    def rectified(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        found: Tensor = Rectified.apply(maps, bias, None)
        return found

    def rectified_by_torch(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.relu(maps.add_(bias.to(dtype)[:, None, None]), inplace=True)

    def rectified_in_float32(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.relu(maps.float() + bias[:, None, None]).to(dtype)

    def norm_alone(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        found: Tensor = NormalisedGroups.apply(maps, weight, bias, maps.shape[1], EPS, False)
        return found

    def norm_alone_of_torch(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.group_norm(maps.float(), maps.shape[1], weight, bias, EPS).to(dtype)

    def with_shortcut(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        found: Tensor = Rectified.apply(maps * 1, bias.detach(), maps)
        return found

    def with_shortcut_in_float32(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.relu((maps * 1).float() + bias.detach()[:, None, None] + maps.float()).to(dtype)

    return [
        Way("group norm", norm, norm_of_torch, norm_of_torch, [(norm_alone, norm_alone_of_torch)]),
        Way("bias and ReLU", rectified, rectified_by_torch, rectified_in_float32,
            [(with_shortcut, with_shortcut_in_float32)]),
    ]  # fmt: skip


class _Tensors(NamedTuple):
    """Maps, weight, bias, and the gradient of what a layer makes of them."""

    maps: Tensor
    weight: Tensor
    bias: Tensor
    gradient: Tensor


def _tensors(shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> _Tensors:
    draw = torch.Generator(device).manual_seed(0)
    maps, gradient = (
        torch.randn(tuple(shape), generator=draw, device=device).to(dtype).to(memory_format=torch.channels_last)
        for _ in range(2)
    )
    weight, bias = (torch.randn(shape[1], generator=draw, device=device).requires_grad_() for _ in range(2))
    return _Tensors(maps.requires_grad_(), weight, bias, gradient)


def _learnt(layer: Layer, given: _Tensors) -> Iterator[Tensor]:
    """A layer's output, and the gradients of its maps, weight and bias; the maps may be overwritten, as a network's."""
    leaves = (given.maps, given.weight, given.bias)
    out = layer(given.maps.clone(memory_format=torch.preserve_format), given.weight, given.bias)
    yield out.detach()
    for gradient in torch.autograd.grad(out, leaves, given.gradient, allow_unused=True):
        if gradient is not None:
            yield gradient


def _trial(way: Way, small: _Tensors, large: _Tensors) -> Trial:
    compared = [(way.ours, way.right, small), (way.ours, way.right, large)]
    compared += [(ours, wanted, small) for ours, wanted in way.variants]
    apart = max(_apart(*one) for one in compared)
    right = apart <= WITHIN[large.maps.dtype]  # not where it is not a number
    seconds: dict[str, list[float]] = {"ours": [], "torchs": []}
    for round_number in range(ROUNDS + 1 if right else 0):
        for name, layer in (("ours", way.ours), ("torchs", way.torchs)):
            lap = _seconds(lambda layer=layer: list(_learnt(layer, large)), large.maps.device)  # type: ignore[misc]
            if round_number > 0:  # the first one chooses and loads what the others use
                seconds[name].append(lap)
    gain = median(seconds["torchs"]) / max(median(seconds["ours"]), 1e-9) if right else 0.0
    return Trial(way.kernel, right, apart, gain)


def _apart(ours: Layer, right: Layer, given: _Tensors) -> float:
    """The largest difference of outputs and gradients; infinite where one has more of them."""
    found, wanted = list(_learnt(ours, given)), list(_learnt(right, given))
    if len(found) != len(wanted):
        return torch.inf
    return max(_difference(one, other) for one, other in zip(found, wanted, strict=True))


def _difference(found: Tensor, wanted: Tensor) -> float:
    """Of two results, as a part of the size of what is right; infinite where one is not a number or of another type."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return torch.inf
    apart = (found.float() - wanted.float()).norm() / wanted.float().norm().clamp(min=1e-6)
    return float(apart.nan_to_num(torch.inf, posinf=torch.inf))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """What a device needs for some work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _room(device: torch.device) -> int:
    """Bytes that a trial may need: a quarter of what is free, which leaves graphs of steps their room."""
    return torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else 2**34
