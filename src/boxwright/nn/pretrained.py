"""Pretrained weights for the backbone of a built detector: the only place where they are read or fetched.

Detectors are always built with random weights. A new training run then loads what its recipe names; a checkpoint has
all its own.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from boxwright.nn.backbones import Backbone
from boxwright.nn.box_head import StageHead
from boxwright.nn.resnet import ResNet
from boxwright.weights.backbone_files import SUFFIXES, load_backbone_file
from boxwright.weights.bundled import BUNDLED, bundled_state


def load_pretrained(model: Any, weights: str | None) -> None:
    """Load weights of a classification network into the backbone below `model`, and into a C4 detector's stage head.

    Args:
        model: a detector, or a `Backbone`; its weights change in place, wherever they lie.
        weights: torchvision's weight name ("IMAGENET1K_V2", "DEFAULT"), "pretrained" for timm's own, "bundled" for
            those of the extra `pretrained`, or the path of a file with the classification network's state dict (also
            Detectron2's `.pkl`). None leaves all as it is.

    Random numbers are drawn apart, so that what is drawn after it does not depend on it. Raises ValueError, OSError or
    ImportError with one sentence where there are no such weights, or where they do not fit.
    """
    if weights is None:
        return
    backbone = next(module for module in model.modules() if isinstance(module, Backbone))
    with torch.random.fork_rng(devices=[]):
        if weights == BUNDLED:
            state = bundled_state()
        else:
            state = _timm_state(backbone, weights) if backbone.name.startswith("timm/") else _state(backbone, weights)
    _copy(backbone, backbone.body, state, "")
    for head in model.modules():
        if isinstance(head, StageHead):
            _copy(backbone, head.stage, state, "layer4.")


def _copy(backbone: Backbone, part: nn.Module, state: Mapping[str, Tensor], prefix: str) -> None:
    """Weights of a part, whose names in the whole network begin with `prefix`; norms that it has not are left out."""
    try:
        part.load_state_dict({key: state[prefix + key] for key in part.state_dict()})
    except (KeyError, RuntimeError) as error:
        problem = f"backbone {backbone.name}: the pretrained weights do not fit"
        raise ValueError(problem + (_own_widths(backbone) or f" ({error})")) from error


def _own_widths(backbone: Backbone) -> str:
    """What to do where a network of other widths cannot take the weights of its name; else nothing."""
    if backbone.variant.widths is None:
        return ""
    name = backbone.name
    return (
        f". Here {name} has widths of its own (model.backbone.widths): name the backbone too, "
        f"model.backbone={name}, to have it as its weights do"
    )


def _state(backbone: Backbone, weights: str) -> dict[str, Tensor]:
    """The state dict of the whole network, of torchvision's classification network or our variant of it."""
    name, file, variant = backbone.name, Path(weights), backbone.variant
    if file.suffix not in SUFFIXES and not file.exists():
        return _torchvision_network(name, weights).state_dict()
    network: nn.Module = (
        ResNet(name, ("c5",), variant)
        if variant.needs_own_network
        else torchvision.models.get_model(name, weights=None)
    )
    strided = variant.stride_in_1x1 if hasattr(network, "layer4") else None
    try:
        load_backbone_file(network, file, name, stride_in_1x1=strided)
    except ValueError as error:
        raise ValueError(f"{error}{_own_widths(backbone)}") from error
    return network.state_dict()


def _torchvision_network(name: str, weights: str) -> nn.Module:
    """A classification network with torchvision's weights of that name, which are fetched where they are not cached."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torch says there that it downloads
            network: nn.Module = torchvision.models.get_model(name, weights=weights)
    except (URLError, OSError) as error:
        url = torchvision.models.get_weight(f"{type_of_weights(name)}.{weights}").url
        raise OSError(
            f"no network for the pretrained weights of {name}: fetch {url} elsewhere and give the file as "
            f"model.backbone.weights=FILE, or put it into {torch.hub.get_dir()}/checkpoints ({error})"
        ) from error
    except (KeyError, ValueError) as error:
        known = [weight.name for weight in torchvision.models.get_model_weights(name)]
        raise ValueError(f"backbone {name}: no weights {weights!r}; torchvision has {known}") from error
    return network


def type_of_weights(name: str) -> str:
    """The name of torchvision's weight enum of a model, such as `ResNet50_Weights`."""
    return str(torchvision.models.get_model_weights(name).__name__)


def _timm_state(backbone: Backbone, weights: str) -> dict[str, Tensor]:
    """The state dict of timm's network as it is cut into features."""
    import timm

    name = backbone.name.removeprefix("timm/")
    settings: dict[str, Any] = {}
    if weights != "pretrained":  # read by ourselves, as for torchvision: what does not fit is told by name
        network = timm.create_model(name)
        load_backbone_file(network, Path(weights), backbone.name)
        settings = {"pretrained_cfg_overlay": {"state_dict": network.state_dict()}}
    try:
        body: Any = timm.create_model(name, features_only=True, pretrained=True, **settings)
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"no weights for {backbone.name}: {error}; without network give a local file as model.backbone.weights=FILE"
        ) from error
    state: dict[str, Tensor] = body.state_dict()
    return state
