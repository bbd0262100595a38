"""The contract of a detector, and what the config of every detector has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from boxwright.models.sections import BackboneSection
from boxwright.structures import Detections, DetectSettings, ImageBatch, PaddedDetections, Targets


class Compat(Protocol):
    """What only the checkpoints of other code bases need; each detector has more of it."""

    @property
    def pad_multiple(self) -> int:
        """Batches are padded to sides of this multiple."""


class ModelConfig(Protocol):
    """The config of any detector: a frozen dataclass of sections, which is a recipe's `model`."""

    @property
    def name(self) -> str:
        """The detector's name in `MODELS`."""

    @property
    def backbone(self) -> BackboneSection:
        """The network that makes maps of an image."""

    @property
    def compat(self) -> Compat:
        """What only foreign checkpoints need."""


class DetectionModel(Protocol):
    """A detector, which is an `nn.Module`, built as `build(config, num_classes)`.

    Return types do not depend on training mode, and nothing but `loss` reads ground truth.
    """

    training: bool
    num_classes: int

    @property
    def config(self) -> Any:
        """What it was built from."""

    def __call__(self, images: ImageBatch, targets: Targets | None = None, proposals: Any = None) -> Any:
        """Raw predictions for a batch."""

    def loss(self, outputs: Any, targets: Targets) -> dict[str, Tensor]:
        """Named scalars that are all trained on, safe with zero boxes on any rank.

        `structures.Losses`, where there is a floor of one of them to tell as well.
        """

    def detect_padded(self, outputs: Any, settings: DetectSettings) -> PaddedDetections:
        """Detections at fixed ranks in network pixels, which can be exported."""

    def detect(self, outputs: Any, images: ImageBatch, settings: DetectSettings) -> list[Detections]:
        """Detections of each image in the pixels of the original."""

    # of every nn.Module

    def train(self, mode: bool = True) -> Self: ...

    def eval(self) -> Self: ...

    def to(self, *args: Any, **kwargs: Any) -> Self: ...

    def modules(self) -> Iterator[nn.Module]: ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


def empty_state(build: Callable[[Any, int], DetectionModel], config: Any, num_classes: int) -> dict[str, Tensor]:
    """The state dict of a detector that is never filled: names, shapes and types, mostly without memory."""
    try:
        with torch.device("meta"):
            return build(config, num_classes).state_dict()
    except NotImplementedError:  # torchvision's RegNets compute their widths with tensors
        return build(config, num_classes).state_dict()
