"""Sections of a detector's config that several detectors have: each is read here once, whatever holds it.

A config is a tree of frozen dataclasses. The same tree is the section `model` of a recipe: pydantic validates these
classes themselves, and the text below a field is what `boxwright recipes --keys` prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from boxwright.nn.backbones import Backbone
from boxwright.nn.box_head import StageHead
from boxwright.nn.norm import Norm
from boxwright.nn.resnet import ResNetVariant
from boxwright.nn.trunk import Trunk
from boxwright.ops.channels import channel_table
from boxwright.weights.bundled import BUNDLED, BUNDLED_BACKBONE, PIXEL_MEAN, PIXEL_STD, fits_bundled


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneSection:
    """The network that makes maps of an image. The defaults are those of the references."""

    name: str = "resnet50"
    """A classification network of torchvision, or `timm/NAME`."""
    weights: str | None = None
    """What a new training run starts from: the name of torchvision's weights (IMAGENET1K_V2, DEFAULT), "pretrained" for
    timm's own, "bundled" for those of timm/tf_efficientnet_lite0 that come with the extra `pretrained` (pixel_mean and
    pixel_std are 0.5 with them), or a file; null for random weights."""
    norm: Norm = "frozen_bn"
    """What its BatchNorm layers become; "bn" leaves them as they are."""
    frozen_stages: int = 2
    """How many stages are not trained, counted from the input: 2 are the stem and C2 (FREEZE_AT 2 of Detectron2 and of
    the authors of FCOS)."""
    widths: tuple[int, int, int, int] | None = None
    """Of a ResNet: channels of the stem, channels of C2, channels a group in the 3x3 of C2, and groups; each later
    stage doubles the middle two. null: those of the name, (64, 256, 64, 1) for resnet50."""
    stride_in_1x1: bool = False
    """A stage of a ResNet halves the map in its first 1x1 convolution (MSRA's: Detectron2's R50 and R101, AdelaiDet,
    the original FCOS) instead of in the 3x3 (torchvision, all ResNeXts)."""
    dilated_c5: bool = False
    """The last stage of a ResNet keeps stride 16 and dilates its 3x3 convolutions by 2 (Detectron2's DC5)."""
    norm_eps: float | None = None
    """Of the BatchNorm layers; null leaves 1e-5. 0 for the original FCOS and torchvision's first COCO weights."""
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from RGB pixels in [0, 1]."""
    pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """What they are divided by then."""

    def __post_init__(self) -> None:
        if not 0 <= self.frozen_stages <= 5:
            raise ValueError(f"frozen_stages: expected 0 to 5, got {self.frozen_stages}")
        _ = self.variant  # which checks its own values
        if self.weights == BUNDLED and not fits_bundled(self.name):
            raise ValueError(f"weights: {BUNDLED} are those of {BUNDLED_BACKBONE}, not of {self.name}")
        if self.weights == BUNDLED and (self.pixel_mean, self.pixel_std) != (PIXEL_MEAN, PIXEL_STD):
            raise ValueError(
                f"weights: {BUNDLED} need pixel_mean and pixel_std {list(PIXEL_MEAN)}, got {list(self.pixel_mean)} "
                f"and {list(self.pixel_std)}"
            )

    @property
    def variant(self) -> ResNetVariant:
        """In what the network differs from torchvision's."""
        return ResNetVariant(
            stride_in_1x1=self.stride_in_1x1, norm_eps=self.norm_eps, dilated_c5=self.dilated_c5, widths=self.widths
        )

    def build(self, levels: Sequence[str]) -> Backbone:
        """The network with random weights, cut at these levels."""
        return Backbone(
            self.name, levels, norm=self.norm, frozen_stages=self.frozen_stages, variant=self.variant
        )  # fmt: skip

    def build_stage_head(self) -> StageHead:
        """Its last stage with random weights, as the head of a detector on C4."""
        return StageHead(self.name, self.variant, self.norm)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrunkSection:
    """The maps of a two-stage detector. The defaults are P2 to P5 of the Feature Pyramid Networks."""

    levels: tuple[str, ...] = ("c2", "c3", "c4", "c5")
    """Maps of the backbone, finest first; a single one where there is no pyramid (["c4"] in the original)."""
    channels: int | None = 256
    """Width of the pyramid; null for none, as with C4 and DC5."""
    norm: Norm = "none"
    """After each convolution of the pyramid ("bn" in torchvision's v2)."""

    def __post_init__(self) -> None:
        if self.channels is None and len(self.levels) != 1:
            raise ValueError(f"levels: expected one without a pyramid (channels: null), got {list(self.levels)}")

    def build(self, backbone: BackboneSection, *, pooled_level: bool) -> Trunk:
        """Backbone and pyramid; with `pooled_level` also P6, every other cell of P5, for proposals."""
        return Trunk(
            backbone.build(self.levels), channels=self.channels, pooled_level=pooled_level, norm=self.norm
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class PaddingCompat:
    """What only the checkpoints of other code bases need."""

    pad_multiple: int = 1
    """Batches are padded to sides of this multiple: 32 in Detectron2 (with a pyramid) and torchvision."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelCompat:
    """What only the checkpoints of other code bases need."""

    class_channels: tuple[int, ...] | None = None
    """The output channel of each class, where a checkpoint has more of them than classes (torchvision's 91)."""
    pad_multiple: int = 1
    """Batches are padded to sides of this multiple: 32 in Detectron2 (with a pyramid) and torchvision."""

    def __post_init__(self) -> None:
        check_channels(self.class_channels)


def check_channels(channels: tuple[int, ...] | None) -> None:
    """Raise ValueError where these cannot be the output channels of classes."""
    if channels is not None:
        channel_table(max(1, len(channels)), channels)
