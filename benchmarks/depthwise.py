"""Depthwise backbones: a training step of ours and of timm's in timm's own loop, on the same images in turn.

The step is forward, the mean of all maps as loss, backward and one step of fused AdamW. Ours is `Backbone` as training
runs it (channels last, precision auto); timm's network runs as it comes from `create_model`, in float32 and in bf16
(autocast), contiguous and channels last. `--layers` times single convolutions. `python -m benchmarks.depthwise`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

if not __package__:  # as a file: python benchmarks/depthwise.py
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.turns import in_turn, print_command, print_table
from boxwright.nn.backbones import Backbone
from boxwright.nn.depthwise import DepthwiseConv2d
from boxwright.runtime.devices import device_called
from boxwright.runtime.precision import autocast, choose_precision

LAYERS = ((96, 121, 3, 2), (144, 30, 5, 1), (672, 19, 5, 2), (672, 15, 5, 1), (1152, 8, 5, 1))
"""Channels, side, kernel and stride of some of EfficientNet-Lite0's depthwise convolutions at 240 pixels."""


def step_of(network: Any, pixels: Tensor, precision: str, layout: torch.memory_format) -> Callable[[], None]:
    """A training step of a network that gives a list of maps."""
    network = network.to(pixels.device, memory_format=layout).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)
    given = pixels.contiguous(memory_format=layout)

    def step() -> None:
        with autocast(pixels.device, precision):
            maps = network(given)
        torch.stack([map_.float().mean() for map_ in maps]).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def steps(name: str, pixels: Tensor) -> dict[str, Callable[[], None]]:
    """Ours, and timm's in each precision and layout."""
    import timm

    chosen = choose_precision("auto", pixels.device)
    last, plain = torch.channels_last, torch.contiguous_format
    found = {f"boxwright, {chosen}": step_of(Backbone(f"timm/{name}"), pixels, chosen, last)}
    for precision in dict.fromkeys(("fp32", chosen)):
        for layout, title in ((plain, "contiguous"), (last, "channels last")):
            network = timm.create_model(name, features_only=True, out_indices=(2, 3, 4))
            found[f"timm, {precision}, {title}"] = step_of(network, pixels, precision, layout)
    return found


def our_layer(
    batch: int, channels: int, side: int, kernel: int, stride: int, device: torch.device
) -> Callable[[], Any]:
    """Forward and backward of the convolution as training runs it."""
    plain = torch.nn.Conv2d(channels, channels, kernel, stride, groups=channels, bias=False).to(device)
    layer, precision = DepthwiseConv2d(plain, same=False), choose_precision("auto", device)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    maps = torch.rand(batch, channels, side, side, device=device, dtype=kind)
    maps = maps.contiguous(memory_format=torch.channels_last).requires_grad_()

    def both() -> None:
        with autocast(device, precision):
            found = layer(maps)
        torch.autograd.grad(found.sum(), [maps, layer.weight])

    return both


def layer_rows(batch: int, rounds: int, device: torch.device) -> list[list[str]]:
    """Milliseconds of forward and backward of single depthwise convolutions."""
    rows = []
    for channels, side, kernel, stride in LAYERS:
        functions: dict[str, Callable[[], Any]] = {}
        for dtype in (torch.float32, torch.bfloat16):
            for layout in (torch.contiguous_format, torch.channels_last):
                maps = torch.rand(batch, channels, side, side, device=device, dtype=dtype)
                maps = maps.contiguous(memory_format=layout).requires_grad_()
                filters = torch.rand(channels, 1, kernel, kernel, device=device, dtype=dtype)
                filters = filters.contiguous(memory_format=layout).requires_grad_()

                def both(maps: Tensor = maps, filters: Tensor = filters) -> None:
                    found = F.conv2d(maps, filters, None, stride, 0, 1, channels)  # noqa: B023
                    torch.autograd.grad(found.sum(), [maps, filters])

                functions[f"{dtype} {layout}"] = both
        functions["ours"] = our_layer(batch, channels, side, kernel, stride, device)
        times = in_turn(functions, rounds, warm=1)
        rows.append([f"{channels} x {side} x {side}, {kernel} x {kernel}, stride {stride}",
                     *(f"{seconds * 1000:.1f} ms" for seconds in times.values())])  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.depthwise", description=__doc__)
    parser.add_argument("--name", default="tf_efficientnet_lite0", help="timm's name of the network")
    parser.add_argument("--size", type=int, default=240, help="side of the images")
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in which all take turns; medians count")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--layers", action="store_true", help="single convolutions instead of the network")
    given = parser.parse_args()
    device = device_called(given.device)
    print_command()
    if given.layers:
        columns = (
            "convolution",
            "fp32, contiguous",
            "fp32, channels last",
            "bf16, contiguous",
            "bf16, channels last",
            "boxwright",
        )
        print_table(f"batch {given.batch}, {device}", columns, layer_rows(given.batch, given.rounds, device))
        return
    torch.manual_seed(0)
    times = in_turn(steps(given.name, torch.rand(given.batch, 3, given.size, given.size, device=device)), given.rounds)
    ours, *peers = times.values()
    rows = [[title, f"{seconds:.3f} s", f"{ours / seconds:.2f}"] for title, seconds in times.items()]
    title = f"{given.name}, {given.size} x {given.size}, batch {given.batch}, {device}"
    print_table(title, ("training step", "time", "ours / this"), rows)
    print(f"\nours / the fastest of timm's: {ours / min(peers):.2f}")


if __name__ == "__main__":
    main()
