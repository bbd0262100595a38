"""Pretrained backbones from files: torchvision's own layout, Detectron2's, and the Caffe2 names of MSRA's and FAIR's.

Whatever a file calls its entries, what is loaded has torchvision's names and expects RGB.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from boxwright.reading.safetensors_files import read_safetensors
from boxwright.weights.pickles import read_pickle
from boxwright.weights.state_dicts import check_finite, foreign_weight, parts_of, state_of
from boxwright.weights.torch_files import read_torch_file

SUFFIXES = (".pt", ".pth", ".safetensors", ".pkl")


def read_tensors(path: Path) -> dict[str, Any]:
    """The content of a weights file, by name, without running anything in it.

    Raises FileNotFoundError, or ValueError where its weights are more than tensors, numbers, text and containers.
    Other objects beside them are left as stand-ins (`pickles.Foreign`).
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return dict(read_safetensors(path))
    if path.suffix == ".pkl":
        data = read_pickle(path, skip_foreign=True)
    else:
        try:
            data = read_torch_file(path)
        except ValueError as error:
            raise ValueError(f"{path}: not a file of plain tensors, or damaged ({error})") from error
    if (name := foreign_weight(data)) is not None:
        kind = "arrays" if path.suffix == ".pkl" else "tensors"
        raise ValueError(
            f"{path}: refused: not a file of plain {kind}, it asks for {name}; only {kind}, numbers, text and "
            f"containers are read: save the weights alone, as torch.save(model.state_dict(), FILE) does"
        )
    if not isinstance(data, Mapping):
        raise ValueError(f"{path}: expected entries by name, got {type(data).__name__}")
    return {str(key): value for key, value in data.items()}


def is_caffe2(state: Mapping[str, Tensor]) -> bool:
    """Whether a backbone's entries have the names of Caffe2 (`res2_0_branch2a_w`)."""
    return any(re.match(r"res\d_\d+_branch", name) for name in state)


def torchvision_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A backbone of Caffe2's or Detectron2's ResNet names with those of torchvision; other names are not changed.

    >>> list(torchvision_names({"res2_0_branch2a_bn_s": torch.ones(1), "res3.1.conv2.norm.bias": torch.ones(1)}))
    ['layer1.0.bn1.weight', 'layer2.1.bn2.bias']
    """
    return {torchvision_name(caffe2_name(name)): value for name, value in state.items()}


_CAFFE2_ENDS = {
    "bn_s": "norm.weight",
    "bn_b": "norm.bias",
    "bn_rm": "norm.running_mean",
    "bn_riv": "norm.running_var",
    "bn_gamma": "norm.weight",
    "bn_beta": "norm.bias",
    "bn_running_mean": "norm.running_mean",
    "bn_running_var": "norm.running_var",
    "w": "weight",
    "b": "bias",
}
_CAFFE2_BRANCHES = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}


def caffe2_name(name: str) -> str:
    """Detectron2's name for an entry of a Caffe2 backbone."""
    if match := re.fullmatch(r"res(\d)_(\d+)_branch(1|2[abc])_(.+)", name):
        stage, block, branch, end = match.groups()
        if end in _CAFFE2_ENDS:
            return f"res{stage}.{block}.{_CAFFE2_BRANCHES[branch]}.{_CAFFE2_ENDS[end]}"
    if (match := re.fullmatch(r"(?:res_)?conv1_(.+)", name)) and match[1] in _CAFFE2_ENDS:
        return f"stem.conv1.{_CAFFE2_ENDS[match[1]]}"
    return name


def torchvision_name(name: str) -> str:
    """The name in torchvision of an entry of a Detectron2 ResNet (without any prefix).

    >>> torchvision_name("res2.0.shortcut.norm.weight"), torchvision_name("stem.conv1.weight")
    ('layer1.0.downsample.1.weight', 'conv1.weight')
    """
    if match := re.fullmatch(r"stem\.conv1(\.norm)?\.(\w+)", name):
        return f"{'bn1' if match[1] else 'conv1'}.{match[2]}"
    if match := re.fullmatch(r"res(\d)\.(\d+)\.(shortcut|conv(\d))(\.norm)?\.(\w+)", name):
        stage, block, part, number, norm, end = match.groups()
        names = {"shortcut": "downsample.1" if norm else "downsample.0"}
        part = names.get(part, f"bn{number}" if norm else part)
        return f"layer{int(stage) - 1}.{block}.{part}.{end}"
    return name


def complete_norms(state: dict[str, Tensor], eps: float = 1e-5) -> dict[str, Tensor]:
    """The state with the statistics 0 and 1 for BatchNorm layers that come as a scale and a shift (Caffe2)."""
    full = dict(state)
    for name, scale in state.items():
        if re.search(r"(^|\.)(bn\d|downsample\.1|norm)\.weight$", name):
            prefix = name.removesuffix("weight")
            full.setdefault(f"{prefix}running_mean", torch.zeros_like(scale))
            full.setdefault(f"{prefix}running_var", torch.ones_like(scale))
    return full


def _network_of(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The entries of a classification network, which may begin with words of their trainer ("model.")."""
    own = model.state_dict().keys() - {"fc.weight", "fc.bias"}
    if own & state.keys() or is_caffe2(state) or "stem.conv1.weight" in state:
        return state
    parts = [state]
    for _ in range(4):
        parts = [below for part in parts for _, below in parts_of(part)]
        best = max(parts, key=lambda part: len(own & part.keys()), default=state)
        if own & best.keys():
            return best
    return state


_OF_DETECTORS = re.compile(
    r"(^|\.)(fpn|neck|rpn|rpn_head|roi_heads?|bbox_head|proposal_generator|fpn_lateral\d|classification_head|pred_net)\."
)


def load_backbone_file(model: nn.Module, file: Path, name: str, *, stride_in_1x1: bool | None = None) -> None:
    """Load a classification network's own weights; its classifier may be missing or of another size.

    Files with Caffe2's names (MSRA, FAIR) hold weights for BGR: their first convolution is changed to RGB. MSRA's R-50
    and R-101 have their strides in the 1x1: another network is refused.
    """
    if not file.is_file():
        raise FileNotFoundError(f"backbone weights {file}: no such file")
    try:
        data = read_tensors(file)
    except ValueError as error:
        raise ValueError(f"backbone weights {error}") from error
    whole = state_of(data)
    if any(_OF_DETECTORS.search(name) for name in whole):
        raise ValueError(
            f"backbone weights {file}: it holds a detector; start from it with --weights, which keeps what fits and "
            "knows its colours"
        )
    state = _network_of(whole, model)
    check_finite(state, f"backbone weights {file}")
    if is_caffe2(state):
        wide, grouped = state["res2_0_branch2a_w"], state["res2_0_branch2b_w"]
        groups = wide.shape[0] // grouped.shape[1]
        if stride_in_1x1 is not None and stride_in_1x1 != (groups == 1):
            pixels = "the default pixel_std"
            if groups == 1:
                pixels = "model.backbone.pixel_std=[0.00392157,0.00392157,0.00392157]"
            raise ValueError(
                f"backbone weights {file}: this network needs model.backbone.stride_in_1x1="
                f"{str(groups == 1).lower()} and {pixels}"
            )
    bgr = is_caffe2(state)
    state = complete_norms(torchvision_names(state)) if bgr or "stem.conv1.weight" in state else state
    if bgr:
        state["conv1.weight"] = state["conv1.weight"].flip(1)
    own = model.state_dict()
    usable = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    missing = [key for key in own if key not in usable and not key.startswith(("fc.", "classifier.", "head."))]
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(f"backbone weights {file}: not those of {name}, {len(missing)} entries missing: {missing[:3]}")
    model.load_state_dict(usable, strict=False)
