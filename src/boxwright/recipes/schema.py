"""What a recipe may say: every setting of a run, its type and its default, checked before anything starts.

Lengths are pixels, learning rates are for `optim.reference_batch` images a step (`training.optim.scaled` applies the
linear scaling rule), and steps are optimiser steps.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, PositiveInt, model_validator
from pydantic_core import CoreSchema

from boxwright.models import MODELS, DetectionModel, ModelConfig
from boxwright.models.class_weights import weigh_classes
from boxwright.models.keypoint_rcnn import KeypointRCNNConfig
from boxwright.ops.image import Filter, ResizeRule, Rounding
from boxwright.ops.tiling import MOST_OVERLAP, SMALLEST, Tiling
from boxwright.recipes.compat import Switch, differing, reason
from boxwright.structures import DetectSettings

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, values cannot be changed later."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )  # fmt: skip


class Resize(Section):
    """How an image gets to network size: the same in training and at test, but for centre_crop."""

    mode: Literal["short_side", "letterbox", "fixed", "none", "centre_crop"] = "short_side"
    """centre_crop: training images are cut to a centred square after their short side has become `size`, as in the
    course; validation and detection see the whole image, as with short_side."""
    size: int = Field(800, ge=16)
    """Short side (short_side, centre_crop)."""
    max_size: int = Field(1333, ge=16)
    """Long side at most (short_side; centre_crop outside of training)."""
    height: int = Field(0, ge=0)
    """Network height (letterbox, fixed)."""
    width: int = Field(0, ge=0)
    """Network width (letterbox, fixed)."""
    filter: Filter = "antialias"
    """How pixels are made: "plain" (no antialiasing) for torchvision's checkpoints, "pillow" for Detectron2's."""
    rounding: Rounding = "nearest"
    """How sides become whole: "down" for torchvision's checkpoints, "original" for those of the FCOS authors."""

    @model_validator(mode="after")
    def _sides_given(self) -> Resize:
        if self.mode in ("letterbox", "fixed") and (self.height < 16 or self.width < 16):
            raise ValueError(f"mode {self.mode} needs height and width of at least 16")
        return self

    def rule(self) -> ResizeRule:
        """What validation and detection do, for `ops.image.resize_plan`."""
        sides: dict[str, int] = {}
        mode = "short_side" if self.mode == "centre_crop" else self.mode
        if mode == "short_side":
            sides = {"size": self.size, "max_size": self.max_size}
        elif mode != "none":
            sides = {"height": self.height, "width": self.width}
        return ResizeRule(mode, **sides, filter=self.filter, rounding=self.rounding)

    def training_rule(self) -> ResizeRule:
        """What training does: the same, but for centre_crop."""
        if self.mode != "centre_crop":
            return self.rule()
        return ResizeRule("centre_crop", size=self.size, filter=self.filter, rounding=self.rounding)


class Tiles(Section):
    """Large images are cut into overlapping square tiles, in training, validation and detection."""

    size: int | None = Field(None, ge=SMALLEST)
    """Side of a tile in pixels of the image; `resize` is applied to each tile. null: images are not cut."""
    overlap: Annotated[float, Field(ge=0.0, le=MOST_OVERLAP)] = 0.2
    """Share of its side that a tile has in common with its neighbour, at least: larger than the objects, at best."""
    min_visible: Fraction = 0.3
    """Share of its box (its rotated box, where those are learnt) that a tile must show of an object for it to be learnt
    there; an object of which less is seen is to be ignored in that tile."""
    empty: float = Field(0.25, ge=0.0)
    """Tiles without an object that are trained on, as a share of those with one (evenly from all of them)."""


class Augment(Section):
    """Random changes to training images; probabilities in [0, 1], 0 or null is off."""

    horizontal_flip: Fraction = 0.5
    vertical_flip: Fraction = 0.0
    scale_jitter: tuple[Positive, Positive] | None = None
    """Enlarge or shrink by a factor in this range, then crop or pad back."""
    iou_crop: Fraction = 0.0
    """Crop as SSD does, keeping an overlap with some object."""
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    mosaic: Fraction = 0.0
    """Four images in one."""
    mosaic_until: Fraction = 0.8
    """No mosaics in the last part of training."""


class Data(Section):
    """Images on their way to the network."""

    resize: Resize = Resize()
    tiles: Tiles = Tiles()
    train_scales: tuple[Positive, ...] = ()
    """Multi-scale training: each batch is resized by one of these factors of `resize`."""
    scale_order: Literal["random", "rising"] = "random"
    """Draw the factor anew for each batch, or go through them in order over the run (small images first: cheap steps
    while there is most to learn)."""
    augment: Augment = Augment()
    batch_size: int = Field(16, ge=1)
    """Images per process and step."""
    repeat_threshold: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Draw images of rare classes more often: of a class that a part f of the training images shows, sqrt(this / f)
    times, but never less than once (Gupta et al. 2019, LVIS; 0.001 there); null: each image once an epoch."""
    workers: int | None = Field(None, ge=0, le=63)
    """Loader processes; null: as many as the machine has cores to spare."""
    value_range: Literal["auto", "type", "image"] | tuple[float, float] = "auto"
    """What becomes 0 and 255 of pixels of more than 8 bits: the range of their type (0 to 65535), of each image, or
    these two numbers. auto: training takes what its images hold where that is a narrow part of the type's range, and
    keeps the two numbers; a model trained on other images takes each image's own range where that is narrow."""
    cache: bool | None = None
    """Keep decoded, resized images in memory; null: when they fit."""
    on_device: Literal["auto", "never", "images", "augmentation"] = "auto"
    """What the device does besides training. images: all decoded, resized images are stored in its memory, and batches
    are made there. augmentation: images are sent with each batch, and augmented there. never: batches are made on the
    host. auto: on a CUDA GPU images, where they take a quarter of its free memory at most, else augmentation; on a CPU
    never. Boxes are made there too, but not masks. What is drawn is the same everywhere."""

    def tiling(self) -> Tiling | None:
        """How images are cut; None for whole images."""
        return None if self.tiles.size is None else Tiling(self.tiles.size, self.tiles.overlap)

    @model_validator(mode="after")
    def _range_rises(self) -> Data:
        if isinstance(self.value_range, tuple) and self.value_range[0] >= self.value_range[1]:
            raise ValueError(f"value_range: expected two numbers of which the second is larger, got {self.value_range}")
        return self


class Optim(Section):
    """The optimiser. Norms and biases have no weight decay."""

    kind: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.01
    momentum: Fraction = 0.9
    weight_decay: float = Field(1e-4, ge=0.0)
    backbone_lr_factor: float = Field(1.0, ge=0.0)
    clip_norm: float | None = Field(None, gt=0.0)
    """Largest gradient norm; null: not clipped."""
    reference_batch: int = Field(16, ge=1)
    """The images per step that lr and schedule are meant for."""
    accumulate: int = Field(1, ge=1)
    """Batches per step."""


class Schedule(Section):
    """How long, and how the learning rate moves."""

    steps: int | None = Field(None, ge=1)
    epochs: Positive | None = None
    """Instead of steps: passes over the training images."""
    step_bounds: tuple[PositiveInt, PositiveInt] | None = None
    """With epochs: the least and the most steps, of reference_batch images, however many images there are."""
    warmup_steps: int = Field(1000, ge=0)
    warmup_start: Fraction = 0.001
    """Factor of lr at step 0; linear from there."""
    kind: Literal["multistep", "cosine"] = "multistep"
    milestones: tuple[Fraction, ...] = (2 / 3, 8 / 9)
    """Parts of the run after which lr is multiplied by gamma (multistep)."""
    gamma: Fraction = 0.1
    final_factor: Fraction = 0.01
    """Factor of lr at the end (cosine)."""
    hold_statistics_from: Fraction = 1.0
    """Part of the run after which BatchNorm keeps its running statistics and normalises by them. In small batches they
    differ from the batch's own by which it trained until then, and weights need time to get used to those."""

    @model_validator(mode="after")
    def _one_length(self) -> Schedule:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs (set the other to null)")
        if self.step_bounds is not None and (self.epochs is None or self.step_bounds[0] > self.step_bounds[1]):
            raise ValueError(
                f"step_bounds: expected the least and the most steps of a run in epochs, got {list(self.step_bounds)}"
                + (" for a run in steps (set it to null)" if self.epochs is None else "")
            )
        return self


class Validation(Section):
    """When a run is evaluated, and when it stops."""

    times: int = Field(10, ge=1)
    """Evaluations over the whole run, evenly spaced, the last at its end."""
    every: int | None = Field(None, ge=1)
    """Evaluate after every so many steps, and at the end, whatever `times` says; null: `times` decides."""
    patience: int | None = Field(None, ge=1)
    """Stop after this many evaluations without a better AP; null: never."""
    max_images: int | None = Field(None, ge=1)
    """Evaluate on the first so many images only; null: all."""
    batch_size: int | None = Field(None, ge=1)
    """Images per forward pass; null: as in training."""

    def count(self, steps: int) -> int:
        """Evaluations of a run of so many steps."""
        return min(self.times, steps) if self.every is None else -(-steps // self.every)

    def steps_within(self, seconds: float, step: float, measurement: float) -> float:
        """How many steps fit into a time, from the seconds of a step and of an evaluation."""
        if self.every is not None:
            return seconds / (step + measurement / self.every)
        return (seconds - self.times * measurement) / step


class Detect(Section):
    """How raw predictions become detections."""

    score_threshold: Fraction = 0.05
    nms_iou: Fraction = 0.6
    candidates_per_level: int = Field(1000, ge=1)
    max_detections: int = Field(100, ge=1)

    def settings(self) -> DetectSettings:
        """The same for a detector's `detect`."""
        return DetectSettings(**self.model_dump())


class AnyDetector:
    """Tells pydantic that a `ModelConfig` is one of the config dataclasses of `MODELS`, by its `name`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        union = reduce(or_, (entry.config for entry in MODELS.values()))
        return handler.generate_schema(Annotated[union, Field(discriminator="name")])


class Recipe(Section):
    """A complete run: what is built, fed, trained and evaluated."""

    version: Literal[2] = 2
    name: str = ""
    description: str = ""
    reference: str = ""
    """The AP published for this recipe and where; empty where there is none."""
    model: Annotated[ModelConfig, AnyDetector()]
    compat: Switch | None = None
    """Build a detector that this library's own code can run: sets what differs there (a factor per level, the grid of
    anchors, padding, resizing, when boxes are clipped), so that `convert --to` can write it; null: ours."""
    data: Data = Data()
    optim: Optim = Optim()
    schedule: Schedule
    class_weights: Literal["balanced"] | tuple[Positive, ...] | dict[str, Positive] | None = None
    """What a location, anchor or region that learns an object of a class weighs in the classification loss, by class
    name ({rare: 3}, the others 1) or in the order of classes; "balanced": one over the square root of the number of its
    objects, 1 in the mean; null: all the same. Training replaces names and "balanced" by numbers."""
    ema_decay: Fraction = 0.0
    """Decay of the running mean of the weights, 0 for none; it ramps up over the first steps."""
    validation: Validation = Validation()
    detect: Detect = Detect()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the device computes it natively, else fp32."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ("tensorboard",)
    """Where the numbers of a run go besides its folder; TensorBoard where it is installed."""
    report: bool = True
    """Write `report.html`, one page with everything about the run, at its end."""
    compile: bool = False
    """Let torch.compile fuse backbone, pyramid and head; the first steps of each image size then take minutes."""
    speed: Literal["auto", "eager", "graphs", "compiled"] = "auto"
    """How steps are taken. auto: on a CUDA GPU a step is captured as a CUDA graph once its shape repeats, and parts of
    the network are compiled once the rest of the run is long enough to pay for it; elsewhere as eager. eager: operation
    by operation. graphs: captured, never compiled. compiled: parts are compiled from the first step on, and steps
    captured on a GPU."""

    @model_validator(mode="after")
    def _runs_there(self) -> Recipe:
        if self.compat is not None:
            model = self.model_dump(include={"model"})["model"]
            found = differing(self.compat, model)
            if found:
                raise ValueError(f"compat: {reason(self.compat, model, found)}: leave these as they are")
        return self

    @property
    def needs_masks(self) -> bool:
        """Whether the recipe's model learns masks."""
        return MODELS[self.model.name].needs_masks

    @property
    def needs_semantic(self) -> bool:
        """Whether the recipe's model learns the label of every pixel."""
        return MODELS[self.model.name].needs_semantic

    @property
    def needs_rotated(self) -> bool:
        """Whether the recipe's model learns rotated boxes."""
        return MODELS[self.model.name].needs_rotated

    @property
    def of_whole_images(self) -> str:
        """What the recipe's model does with whole images, which tiles would cut; empty where it can detect in tiles."""
        entry = MODELS[self.model.name]
        kinds = (entry.needs_proposals, "takes proposals of"), (entry.needs_semantic, "labels")
        return next((what for is_so, what in kinds if is_so), "")

    @property
    def num_keypoints(self) -> int:
        """How many keypoints of an object the recipe's model learns; 0 for a model without."""
        return self.model.keypoint.num_keypoints if isinstance(self.model, KeypointRCNNConfig) else 0

    def build_model(self, num_classes: int) -> DetectionModel:
        """The recipe's detector for so many classes, with random weights.

        Raises ValueError where `class_weights` are not numbers yet, not one for each class, or of no use.
        """
        model = MODELS[self.model.name].build(self.model, num_classes)
        if self.class_weights is not None:
            weigh_classes(model, self.class_weights)
        return model
