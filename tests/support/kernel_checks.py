"""What our GPU kernels compute, by Triton's interpreter on a CPU: `python kernel_checks.py` prints a JSON object.

It has each check's name and what went wrong, or null. In a process of its own, since Triton is told at its import
whether it interprets; `tests/nn/test_gpu_kernels.py` reads it.
"""

import json
import os
import sys
import traceback

os.environ["TRITON_INTERPRET"] = "1"

import torch
import torch.nn.functional as F

from boxwright.nn import kernel_trial
from boxwright.nn.group_norm import NormalisedGroups
from boxwright.nn.group_norm_kernels import gradients, normalised, statistics
from boxwright.nn.rectify import Rectified
from boxwright.nn.rectify_kernels import rectify_, rectify_backward

LAST = torch.channels_last
SHAPES = ((2, 6, 5, 7, 3), (1, 48, 3, 2, 24), (2, 4, 1, 1, 1), (1, 320, 4, 9, 32))
"""Images, channels, height, width, groups: none a power of two throughout, one of a single pixel, one wider than a
program."""


def maps_of(shape, dtype=torch.float32, offset=0.0):
    draw = torch.Generator().manual_seed(sum(shape))
    maps = torch.randn(shape, generator=draw, dtype=torch.float64) * 2 + offset
    return maps.to(dtype).to(memory_format=LAST)


def parameters(channels, dtype=torch.float32):
    draw = torch.Generator().manual_seed(channels)
    return [torch.randn(channels, generator=draw, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(2)]


def gradients_of(function, maps, *rest):
    """Output and gradients, for a gradient of the output that differs from number to number."""
    leaves = [one.detach().clone().requires_grad_() for one in (maps, *rest)]
    # what comes before makes the maps a result and not a leaf, as a convolution does
    out = function(leaves[0] * 1, *leaves[1:])
    given = maps_of(out.shape, torch.bfloat16).to(out.dtype)  # the same numbers in every type
    return [out.detach(), *torch.autograd.grad(out, leaves, given)]


def ours(groups, rectifies):
    return lambda maps, weight, bias: NormalisedGroups.apply(maps, weight, bias, groups, 1e-5, rectifies)


def torchs(groups, rectifies):
    def norm(maps, weight, bias):
        out = torch.group_norm(maps, groups, weight.to(maps.dtype), bias.to(maps.dtype), 1e-5)
        return F.relu(out) if rectifies else out

    return norm


def near(found, wanted, tolerance):
    """Every number within `tolerance` of the largest of its tensor."""
    for one, other in zip(found, wanted, strict=True):
        apart = (one.detach().double() - other.detach().double()).abs().max()
        assert apart <= tolerance * other.detach().double().abs().max().clamp(min=1), (tuple(one.shape), float(apart))


def group_norm_is_torchs_to_float64():
    for *shape, groups in SHAPES:
        maps, rest = maps_of(shape, torch.float64), parameters(shape[1], torch.float64)
        for rectifies in (False, True):
            found = gradients_of(ours(groups, rectifies), maps, *rest)
            near(found, gradients_of(torchs(groups, rectifies), maps, *rest), 1e-7)  # eps is a float32 for a kernel


def group_norm_has_the_gradients_of_its_differences():
    maps, rest = maps_of((1, 4, 2, 1), torch.float64).requires_grad_(), parameters(4, torch.float64)
    assert torch.autograd.gradcheck(ours(2, False), (maps, *rest))
    assert torch.autograd.gradcheck(ours(2, True), (maps, *rest))


def group_norm_in_float32_is_that_in_float64():
    for *shape, groups in SHAPES:
        maps, rest = maps_of(shape), parameters(shape[1])
        wanted = gradients_of(torchs(groups, True), maps.double(), *(one.double() for one in rest))
        near(gradients_of(ours(groups, True), maps, *rest), wanted, 5e-6)


def group_norm_in_bf16_is_that_in_float32_rounded_once():
    for *shape, groups in SHAPES:
        maps, rest = maps_of(shape, torch.bfloat16), parameters(shape[1])
        found = gradients_of(ours(groups, True), maps, *rest)
        wanted = gradients_of(torchs(groups, True), maps.float(), *rest)
        assert [one.dtype for one in found] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
        for one, other in zip(found[:2], wanted[:2], strict=True):  # the interpreter cuts where a GPU rounds
            apart = (one.float() - other).abs()
            assert (apart <= other.abs() * 2**-7 + 2e-5).all(), float(apart.max())
        near(found[2:], wanted[2:], 5e-6)


def group_norm_of_numbers_far_from_0_loses_nothing():
    maps, rest = maps_of((2, 8, 40, 40), offset=3000.0), parameters(8)
    wanted = torchs(2, False)(maps.double(), *(one.double() for one in rest))
    near([ours(2, False)(maps, *rest)], [wanted], 1e-4)  # the mean itself is a float32


def group_norm_of_many_tiles_sums_all_of_them():
    maps, rest = maps_of((2, 64, 33, 35)), parameters(64)  # 19 tiles of 64 pixels, the last one cut
    wanted = gradients_of(torchs(32, True), maps.double(), *(one.double() for one in rest))
    near(gradients_of(ours(32, True), maps, *rest), wanted, 5e-6)


def group_norm_keeps_channels_last_and_takes_any_gradient():
    maps, rest = maps_of((2, 6, 4, 3)).requires_grad_(), parameters(6)
    out = ours(3, False)(maps, *rest)
    assert out.is_contiguous(memory_format=LAST)
    (given,) = torch.autograd.grad(out, maps, torch.ones(1, 1, 1, 1).expand_as(out), retain_graph=True)
    (other,) = torch.autograd.grad(out, maps, torch.ones(2, 6, 4, 3))
    assert torch.equal(given, other)
    assert given.is_contiguous(memory_format=LAST)


def what_is_not_a_number_stays_so():
    maps, rest = maps_of((1, 4, 2, 2)), parameters(4)
    maps[0, 0, 0, 0] = torch.nan
    out = ours(2, True)(maps, *rest)
    assert out[0, :2].isnan().all()
    assert not out[0, 2:].isnan().any()
    assert Rectified.apply(maps.clone(memory_format=LAST), None, None)[0, 0].isnan().any()


def rectified_is_the_plain_way_bit_for_bit():
    for shape in ((2, 6, 5, 7), (1, 320, 4, 9), (1, 2, 60, 45)):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            maps, shortcut, bias = maps_of(shape, dtype), maps_of(shape, dtype, 0.5), maps_of((shape[1], 1, 1, 1))
            bias = bias.flatten().to(torch.float64 if dtype == torch.float64 else torch.float32)
            found = gradients_of(Rectified.apply, maps, bias, shortcut)
            kind = bias.dtype
            wanted = gradients_of(
                lambda a, b, c, kind=kind, dtype=dtype: F.relu(a.to(kind) + b[:, None, None] + c.to(kind)).to(dtype),
                maps, bias, shortcut,
            )  # fmt: skip
            if dtype == torch.bfloat16:  # the interpreter cuts where a GPU rounds
                assert ((found[0].float() - wanted[0].float()).abs() <= wanted[0].float().abs() * 2**-7).all()
            else:
                assert torch.equal(found[0], wanted[0])
            assert torch.equal(found[1], wanted[1])
            assert torch.equal(found[3], wanted[3])
            near(found[2:3], wanted[2:3], 1e-6 if kind == torch.float32 else 1e-12)


def rectified_without_a_shortcut_or_a_bias():
    maps, bias = maps_of((2, 6, 5, 7)), maps_of((6, 1, 1, 1)).flatten()
    near(
        gradients_of(lambda a, b: Rectified.apply(a, b, None), maps, bias),
        gradients_of(lambda a, b: F.relu(a + b[:, None, None]), maps, bias), 1e-6,
    )  # fmt: skip
    near(
        gradients_of(lambda a, b: Rectified.apply(a, None, b), maps, maps_of(maps.shape, offset=1.0)),
        gradients_of(lambda a, b: F.relu(a + b), maps, maps_of(maps.shape, offset=1.0)), 0.0,
    )  # fmt: skip


def rectified_is_written_over_its_maps():
    maps = maps_of((2, 6, 5, 7))
    assert Rectified.apply(maps, None, None).data_ptr() == maps.data_ptr()
    assert (maps >= 0).all()


def surrounded(tensor, number):
    """The same tensor in the middle of memory that is full of a number, and that memory."""
    beside = 1000
    memory = torch.full((tensor.numel() + 2 * beside,), number, dtype=tensor.dtype)
    inside = memory[beside:-beside].as_strided(tensor.shape, tensor.stride(), beside)
    return inside.copy_(tensor), memory


def what_lies_around_maps_is_neither_read_nor_written():
    for *shape, groups in SHAPES:
        maps, (weight, bias) = maps_of(shape), (one.detach() for one in parameters(shape[1]))
        given, shortcut = maps_of(shape, offset=1.0), maps_of(shape, offset=-1.0)
        found = []
        for number in (0.0, torch.nan):
            (one, two, three, four, five), memories = zip(
                *(surrounded(tensor, number) for tensor in (maps, weight, bias, given, shortcut)), strict=True
            )
            mean, inverse = statistics(one, groups, 1e-5)
            found.append([
                mean, inverse, normalised(one, mean, inverse, two, three, True),
                *gradients(four, one, mean, inverse, two, three, True), rectify_(one, three, five),
                *rectify_backward(four, one, True),
            ])  # fmt: skip
            assert all(
                (memory[side].isnan().all() if number != 0.0 else (memory[side] == 0).all())
                for memory in memories for side in (slice(1000), slice(-1000, None))
            )  # fmt: skip
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def what_kernels_compute_passes_their_trial():
    large, kernel_trial.ROUNDS = (1, 48, 20, 11), 1
    for dtype in (torch.float32, torch.bfloat16):
        for trial in kernel_trial.tried(torch.device("cpu"), dtype, large=large):
            near_enough = trial.difference <= kernel_trial.WITHIN[dtype] * (2 if dtype == torch.bfloat16 else 1)
            assert near_enough, trial  # the interpreter cuts where a GPU rounds


CHECKS = {
    name: check for name, check in list(globals().items())
    if name.startswith(("group_norm", "rectified", "what_")) and callable(check)
}  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    chosen = sys.argv[1:] or list(CHECKS)
    found = {}
    for name in chosen:
        try:
            CHECKS[name]()
            found[name] = None
        except Exception:
            found[name] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
