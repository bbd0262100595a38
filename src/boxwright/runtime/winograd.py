"""3x3 convolutions by Winograd's algorithm, F(4x4, 3x3): for inference in float32 on a CPU, where they are wide.

`speed_up` decides whether a network gets it, and BOXWRIGHT_WINOGRAD=0 switches it off; nothing else in the library has
an option for it but `export`, whose files may be meant for a GPU.

A tile of 6x6 inputs d and a filter g of 3x3 give 4x4 outputs as A' [(G g G') * (B' d B)] A, with A, B, G the constants
below (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015, section 4.3): 36 products a channel in
the place of 144. Over all tiles and channels they are 36 matrix products.

Shape legend: N = images, C and O = channels in and out, H W = map, T = tiles of a block.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from boxwright.nn.norm import speed_up_group_norms

FEWEST_CHANNELS = (128, 64)
"""In and out. Below, moving tiles costs more than the products that are saved."""
FEWEST_TILES = 12
"""Of a batch of maps. Below, reading the transformed filters, four times the weights, costs more than is saved."""
FEWEST_RECORDED_TILES = 3
"""The same where a graph is recorded, once for all sizes, with a small image (224 x 288): P6 and P7 have fewer."""
BLOCK_TILES = 160
"""Tiles at a time, about: what they need stays in the cache."""
SWITCH = "BOXWRIGHT_WINOGRAD"
"""Environment variable: 0 leaves all convolutions to torch, 1 (or nothing) is the default."""
_direct = ContextVar("direct", default=False)

_B = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=torch.float64,
)
_G = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
)
_A = torch.tensor(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ],
    dtype=torch.float64,
)
INPUT = torch.kron(_B, _B).float()  # (36, 36): of a tile, row by row
FILTER = torch.kron(_G, _G).float()  # (36, 9)
OUTPUT = torch.kron(_A, _A).float()  # (16, 36)


class WinogradConv2d(nn.Module):
    """What a 3x3 convolution of stride 1 and padding 1 gives, to about 1e-5 of its largest value.

    It holds the convolution's own weights and, four times as large, their transform. Where Winograd's way is not the
    faster one (small maps, another precision, a GPU), it convolves directly. For inference only.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.register_buffer("filters", transform_filters(self.weight.detach()), persistent=False)
        self.filters: Tensor
        self.register_load_state_dict_post_hook(_transform_again)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, O, H, W)
        if torch.compiler.is_exporting():
            height, width = (_size_of_sample(side) for side in x.shape[2:])
            if -(-height // 4) * -(-width // 4) < FEWEST_RECORDED_TILES:
                return F.conv2d(x, self.weight, self.bias, padding=1)
            recorded: Tensor = winograd(x, self.weight, self.bias)
            return recorded
        tiles = x.shape[0] * -(-x.shape[2] // 4) * -(-x.shape[3] // 4)
        learning = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        other = learning or x.dtype != torch.float32 or x.device.type != "cpu" or torch.is_autocast_enabled("cpu")
        if other or tiles < FEWEST_TILES:
            return F.conv2d(x, self.weight, self.bias, padding=1)
        return by_blocks(x, self.filters, self.bias)


def _size_of_sample(size: int | torch.SymInt) -> int:
    """A side of the map that a graph is recorded with, which may stand for any."""
    hint = size if isinstance(size, int) else size.node.hint
    assert isinstance(hint, int)
    return hint


def _transform_again(module: nn.Module, _: object) -> None:
    assert isinstance(module, WinogradConv2d)
    module.filters = transform_filters(module.weight.detach())


@torch.library.custom_op("boxwright::winograd", mutates_args=())
def winograd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(N, C, H, W) to (N, O, H, W), an operator of its own, which `deploy/export/onnx.py` writes in ONNX's.

    Its steps would give an exported graph sizes of sizes, which torch.export thinks about for minutes.
    """
    return by_blocks(x, transform_filters(weight), bias)


@winograd.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[2], x.shape[3], weight.shape[0]).permute(0, 3, 1, 2)


def transform_filters(weight: Tensor) -> Tensor:
    """G g G' of every filter (O, C, 3, 3): (36, C, O)."""
    transformed = FILTER.to(weight) @ weight.flatten(2).flatten(0, 1).T  # (36, O * C)
    return transformed.view(36, *weight.shape[:2]).transpose(1, 2).contiguous()


def by_blocks(x: Tensor, filters: Tensor, bias: Tensor | None) -> Tensor:
    """(N, C, H, W) to (N, O, H, W) with transformed filters: some images, or some rows of tiles, at a time."""
    (count, channels, height, width), channels_out = x.shape, filters.shape[2]
    rows, columns = -(-height // 4), -(-width // 4)
    margins = (0, 0, 1, 4 * columns + 1 - width, 1, 4 * rows + 1 - height)
    padded = F.pad(x.permute(0, 2, 3, 1), margins).contiguous()  # (N, 4 * rows + 2, 4 * columns + 2, C)
    found = x.new_empty(count, 4 * rows, 4 * columns, channels_out)
    places = found.view(count, rows, 4, columns, 4, channels_out)
    images, steps = max(1, BLOCK_TILES // (rows * columns)), min(rows, max(1, BLOCK_TILES // columns))
    along, down, right, _ = padded.stride()
    for image, row in itertools.product(range(0, count, images), range(0, rows, steps)):
        block = places[image : image + images, row : row + steps]
        some = (*block.shape[:2], columns)  # T of them
        strides = (down, right, along, 4 * down, 4 * right, 1)
        tiles = padded.as_strided((6, 6, *some, channels), strides, image * along + 4 * row * down)
        inputs = INPUT @ tiles.reshape(36, -1)  # (36, T * C)
        products = torch.bmm(inputs.view(36, -1, channels), filters)  # (36, T, O)
        outputs = (OUTPUT @ products.view(36, -1)).view(4, 4, *some, channels_out)
        torch.add(outputs.permute(2, 3, 0, 4, 1, 5), 0 if bias is None else bias, out=block)
    return found[:, :height, :width].contiguous().permute(0, 3, 1, 2)


def wide_convolutions(model: nn.Module) -> list[str]:
    """Names of the convolutions below `model` for which Winograd's algorithm is the faster one."""
    return [name for name, module in model.named_modules() if _suits(module)]


def speed_up(model: nn.Module, device: torch.device, precision: str) -> None:
    """Use Winograd's algorithm below `model`, in place, where it is the faster one: in fp32 on a CPU.

    In bf16, fast group norms. Neither where `direct_convolutions` says so; `SWITCH` is for Winograd's.
    """
    if not _direct.get():
        speed_up_group_norms(model, device, precision)
    setting = os.environ.get(SWITCH, "")
    if setting not in ("", "0", "1"):
        raise ValueError(f"{SWITCH}: expected 0 or 1, got {setting!r}")
    if setting != "0" and not _direct.get() and (device.type, precision) == ("cpu", "fp32"):
        use_winograd(model)


@contextmanager
def direct_convolutions() -> Iterator[None]:
    """Networks that `speed_up` sees within keep torch's own layers: for references to compare with."""
    before = _direct.set(True)
    try:
        yield
    finally:
        _direct.reset(before)


def require_winograd(model: nn.Module) -> None:
    """`use_winograd`, or ValueError where that would change nothing."""
    if not use_winograd(model):
        least = "at least {} channels in and {} out".format(*FEWEST_CHANNELS)
        raise ValueError(f"winograd: no 3x3 convolution of this network has {least}: the file would be no faster")


def use_winograd(model: nn.Module) -> int:
    """Let Winograd's algorithm do the wide convolutions below `model`, in place; gives how many there are."""
    wide = wide_convolutions(model)
    for name in wide:
        model.set_submodule(name, WinogradConv2d(model.get_submodule(name)))  # type: ignore[arg-type]
    return len(wide)


def _suits(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and type(module) is nn.Conv2d
        and (module.kernel_size, module.stride, module.dilation, module.groups) == ((3, 3), (1, 1), (1, 1), 1)
        and module.padding in (1, (1, 1), "same")
        and module.padding_mode == "zeros"
        and module.in_channels >= FEWEST_CHANNELS[0]
        and module.out_channels >= FEWEST_CHANNELS[1]
        and module.weight.dtype == torch.float32
    )
