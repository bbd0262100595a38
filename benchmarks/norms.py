"""Group norm of the towers of dense heads, forward and backward: ours and torch's own, on the same maps in turn.

The maps are channels last in the precision that training takes on the device. `python -m benchmarks.norms`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

if not __package__:  # as a file: python benchmarks/norms.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.turns import in_turn, print_command, print_table
from boxwright.nn.norm import group_count, make_norm, speed_up_group_norms
from boxwright.runtime.devices import device_called
from boxwright.runtime.precision import autocast, choose_precision

MAPS = ((64, 30, 40), (64, 15, 20), (64, 8, 10), (256, 30, 40))
"""Channels, height and width: the levels of fcos-small for 240 x 320 pixels, and one of the width of the paper."""


def both_ways(norm: nn.Module, maps: Tensor, precision: str) -> Callable[[], None]:
    """A call of the norm and its gradients."""
    up = torch.rand_like(maps)

    def run() -> None:
        with autocast(maps.device, precision):
            found = norm(maps)
        torch.autograd.grad(found, [maps, *norm.parameters()], up.to(found.dtype))

    return run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.norms", description=__doc__)
    parser.add_argument("--batch", type=int, default=8, help="images")
    parser.add_argument("--rounds", type=int, default=25, help="rounds in which both take turns; medians count")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    given = parser.parse_args()
    device = device_called(given.device)
    precision = choose_precision("auto", device)
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    print_command()
    rows = []
    for channels, height, width in MAPS:
        maps = torch.rand(given.batch, channels, height, width, device=device, dtype=kind)
        maps = maps.contiguous(memory_format=torch.channels_last).requires_grad_()
        norms: dict[str, nn.Module] = {
            "ours": make_norm("gn", channels).to(device),
            "torch": nn.GroupNorm(group_count(channels), channels).to(device),
        }
        speed_up_group_norms(norms["ours"], device, precision)
        times = in_turn({name: both_ways(norm, maps, precision) for name, norm in norms.items()}, given.rounds)
        ours, theirs = (seconds * 1000 for seconds in times.values())
        rows.append([f"{channels} x {height} x {width}", f"{ours:.2f} ms", f"{theirs:.2f} ms", f"{ours / theirs:.2f}"])
    print_table(f"batch {given.batch}, {precision}, {device}", ("maps", "ours", "torch", "ours / torch"), rows)


if __name__ == "__main__":
    main()
