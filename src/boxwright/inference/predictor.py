"""`Detector`: a trained model with its classes and its preprocessing, ready for images of any kind and size.

An engine runs the network: torch (below), or an exported file (`runtime/exported.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from boxwright.checkpoint import Checkpoint
from boxwright.data.image_io.any_image import ImageLike
from boxwright.data.image_io.decode import Unreadable
from boxwright.data.image_io.memory_need import MEMORY
from boxwright.data.image_io.value_range import ValueRange
from boxwright.data.inputs import WINDOW, PreparedImage, TiledImage, batches_of_one_shape, images_of, prepared_ahead
from boxwright.data.proposals import StoredProposals
from boxwright.evaluation.loss_sums import LossSums
from boxwright.inference.loading import open_checkpoint
from boxwright.inference.options import PredictOptions
from boxwright.inference.overlap import DeviceUse, overlapped
from boxwright.inference.tiles import merged, of_each_tile, tiling_of
from boxwright.inference.tracking import track_video
from boxwright.inference.video_stream import detect_video
from boxwright.models import MODELS, DetectionModel
from boxwright.nn.kernel_layers import ready_for_gpu
from boxwright.ops.image import ResizeRule
from boxwright.ops.mask_paste import Paste
from boxwright.ops.tiling import Tiling
from boxwright.runtime.cuda_graphs import Capture
from boxwright.runtime.devices import device_called
from boxwright.runtime.engine import Engine
from boxwright.runtime.exported import SUFFIXES as EXPORTED_SUFFIXES
from boxwright.runtime.exported import open_engine
from boxwright.runtime.folding import fold_norms
from boxwright.runtime.graphed_detect import GraphedDetect, Launched
from boxwright.runtime.precision import DTYPES, choose_precision, compile_parts
from boxwright.runtime.winograd import speed_up
from boxwright.structures import Classes, Detections, DetectSettings, ImageBatch, PaddedDetections, Proposals, Targets

BUCKET = 64
"""With `compile`, image sides are padded to multiples of this many pixels: few shapes, each compiled once."""


class TorchEngine:
    """A model of the library run by torch: channels last, in inference mode, in bf16 where the device supports it.

    On a GPU whole detections are CUDA graphs where shapes repeat (`graphed`); a `capture` in place of the GPU's is for
    tests. A model that is not compiled may use the convolutions of `runtime/winograd.py`.
    """

    def __init__(
        self, model: DetectionModel, device: torch.device, *, precision: str = "auto", compile: bool = False,
        capture: Capture | None = None,
    ) -> None:  # fmt: skip
        if precision not in ("auto", "fp32", "bf16", "fp16"):
            raise ValueError(f"precision: expected auto, fp32, bf16 or fp16, got {precision!r}")
        self.device = device
        self.model: DetectionModel = model.to(device, memory_format=torch.channels_last)
        assert isinstance(self.model, nn.Module)
        self.precision = choose_precision(precision, device)
        self.bucket, self.fixed_batch = (BUCKET, True) if compile else (1, False)
        if compile:
            compile_parts(self.model, dynamic=False)
        else:
            speed_up(self.model, device, self.precision)
            if device.type == "cuda":
                ready_for_gpu(self.model, device, DTYPES.get(self.precision, torch.float32))
        graphed = capture is not None or device.type == "cuda"
        self.graphed = GraphedDetect(self._detected, device, capture) if graphed else None

    @torch.inference_mode()
    def __call__(
        self, images: ImageBatch, settings: DetectSettings, proposals: Proposals | None = None
    ) -> PaddedDetections:
        if self.graphed is not None:
            return self.graphed.launch(images, settings, proposals).result()
        return self._detected(images, settings, proposals)

    def _detected(self, images: ImageBatch, settings: DetectSettings, proposals: Proposals | None) -> PaddedDetections:
        return self.detect(self.forward(images, None, proposals), settings)

    @torch.inference_mode()
    def forward(self, images: ImageBatch, targets: Targets | None = None, proposals: Proposals | None = None) -> Any:
        """Raw predictions of a batch; with targets also what the loss needs. The detections are the same."""
        with self.autocast():
            return self.model(images, targets, proposals)

    @torch.inference_mode()
    def detect(self, outputs: Any, settings: DetectSettings) -> PaddedDetections:
        """Detections in network pixels from raw predictions."""
        with self.autocast():
            return self.model.detect_padded(outputs, settings)

    def autocast(self) -> torch.autocast:
        """The precision of the network, for what is computed with its parts."""
        return torch.autocast(self.device.type, DTYPES.get(self.precision), enabled=self.precision != "fp32")

    @torch.inference_mode()
    def losses(self, outputs: Any, targets: Targets) -> dict[str, Tensor]:
        """The losses of raw predictions that were made with these targets, by name."""
        return self.model.loss(outputs, targets)


class Detector:
    """A trained detector, ready to use.

    >>> detector = Detector.load("runs/fcos-small/weights/best.pt")  # doctest: +SKIP
    >>> detector.predict("street.jpg")[0].names  # doctest: +SKIP
    ['car', 'car', 'person']
    """

    def __init__(
        self, checkpoint: Checkpoint, device: str | torch.device = "auto", *, precision: str = "auto",
        compile: bool = False, engine: Engine | None = None,
    ) -> None:  # fmt: skip
        """Args:

        checkpoint: weights, recipe and classes.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        precision: "fp32", "bf16", "fp16" (GPU) or "auto": the recipe's, else bf16 where a device supports it natively.
        compile: use torch.compile; the first batch of each shape then takes minutes.
        engine: what runs instead of the checkpoint's own network, such as that of an exported file.

        Raises ValueError where this machine has no such device, or the device no such precision.
        """
        self.recipe = checkpoint.recipe
        self.classes: Classes = checkpoint.classes
        self.score_threshold = 0.3 if checkpoint.score_threshold is None else checkpoint.score_threshold
        """The lowest score that `predict` reports by default: that of the best F1 in validation."""
        self.resize: ResizeRule = self.recipe.data.resize.rule()
        self.tiling: Tiling | None = self.recipe.data.tiling()
        """The tiles that it was trained on, into which `predict` cuts images too; None for whole images."""
        self.value_range: ValueRange = self.recipe.data.value_range
        self.settings: DetectSettings = self.recipe.detect.settings()
        self.paste: Paste = getattr(getattr(self.recipe.model, "mask", None), "paste", "exact")
        self._checkpoint = checkpoint
        self.needs_proposals = MODELS[self.recipe.model.name].needs_proposals
        """Whether `predict` needs a proposal file (Fast R-CNN)."""
        if engine is None:
            network, where = checkpoint.build(), device_called(device)
            assert isinstance(network, nn.Module)
            fold_norms(network)
            if precision == "auto" and (self.recipe.precision, where.type) != ("fp16", "cpu"):  # which has none
                precision = self.recipe.precision
            engine = TorchEngine(network, where, precision=precision, compile=compile)
        self.engine: Engine = engine
        self.device = engine.device

    @property
    def has_network(self) -> bool:
        """Whether a torch network runs it, whose parts can be looked at; not in an exported file."""
        return isinstance(self.engine, TorchEngine)

    @property
    def evaluation_batch(self) -> int:
        """Images per forward pass in evaluation, as the recipe says."""
        return self.recipe.validation.batch_size or self.recipe.data.batch_size

    @cached_property
    def model(self) -> DetectionModel:
        """The network as it was trained (the engine's has its norms folded). Raises ValueError for an exported file."""
        if not self._checkpoint.weights:
            raise ValueError("an exported file contains no torch network: use the checkpoint that it was made from")
        return self._checkpoint.build().to(self.device, memory_format=torch.channels_last)

    @classmethod
    def load(
        cls, path: str | Path, device: str | torch.device = "auto", *, precision: str = "auto", compile: bool = False,
        num_threads: int | None = None, **options: Any,
    ) -> Detector:  # fmt: skip
        """The detector of a checkpoint (ours or another library's) or of an exported file (.onnx, .xml, .pt2).

        Also of a run folder (its best.pt) and of a name: "torchvision/fcos_resnet50_fpn", "detectron2://...",
        "https://...". `options` are those of `open_checkpoint`. Precision and compilation are fixed in an exported
        file; `num_threads` is for exported files only (torch has its own setting). Raises FileNotFoundError, or
        ValueError where the file is not a detector.
        """
        if Path(path).suffix in EXPORTED_SUFFIXES:
            if precision != "auto" or compile:
                raise ValueError(f"{path}: precision and compilation are for checkpoints; an exported file has its own")
            engine = open_engine(Path(path), device, num_threads)
            detector = cls(engine.description.checkpoint(), engine=engine)
            detector.settings = engine.description.settings
            # the file gives nothing below its own threshold
            detector.score_threshold = max(detector.score_threshold, detector.settings.score_threshold)
            return detector
        source = open_checkpoint(path, **options)
        return cls(source, device, precision=precision, compile=compile)

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        **options: Unpack[PredictOptions],
    ) -> list[Detections]:
        """The detections in each image, best first, in the pixels of the image as given.

        >>> detector.predict(["a.jpg", "b.jpg"], score=0.5, batch=2)  # doctest: +SKIP

        Args:
            images: one or several of: a path, a glob, a folder, a PIL image, a numpy array (H, W, 3) or (H, W) RGB
                uint8, a tensor (3, H, W) uint8 or float in [0, 1], a batch of them (B, 3, H, W).
            options: see `PredictOptions`.

        Raises FileNotFoundError or ValueError for an image that cannot be read or an option that does not fit.
        """
        found = self.stream(images, **options)
        return [one if one.masks is None else replace(one, masks=one.whole_masks()) for one in found]

    def stream(
        self, images: ImageLike | Sequence[ImageLike] | Iterable[ImageLike], **options: Unpack[PredictOptions]
    ) -> Iterator[Detections]:
        """`predict` for any number of images, in their order; masks stay cropped to their objects.

        Two windows of images are in memory at a time: the one being processed, sorted into batches of one size, and
        the next, which is being decoded. They take `memory` GiB at most: windows of large images are shorter.
        """
        for one in self.try_stream(images, **options):
            if isinstance(one, Exception):
                raise one
            yield one[1]

    def try_stream(
        self, images: ImageLike | Sequence[ImageLike] | Iterable[ImageLike], *, score: float | None = None,
        resize: ResizeRule | Literal["recipe"] | None = "recipe",
        tiles: Tiling | int | Literal["recipe"] | None = "recipe", overlap: float | None = None, batch: int = 8,
        nms_iou: float | None = None, max_detections: int | None = None, proposals: StoredProposals | None = None,
        window: int = WINDOW, memory: float = MEMORY, keep: bool = False, listed: bool = False,
        use: DeviceUse | None = None,
    ) -> Generator[tuple[PreparedImage | TiledImage, Detections] | Unreadable, None, None]:  # fmt: skip
        """`stream` that continues after an image that cannot be read, and yields the error in its place.

        The other images yield the image as the network saw it, with `keep` also in its own pixels, and its detections.
        With `listed`, `images` are paths of files that were listed before: each yields one result, whatever is there
        now. `use` is told when the device has work. Wrong arguments are refused at the call, not with the first image.
        """
        if batch < 1:
            raise ValueError(f"batch: expected at least 1, got {batch}")
        if not memory > 0:
            raise ValueError(f"memory: expected more than 0 GiB, got {memory:g}")
        rule = self.resize if resize == "recipe" else resize or ResizeRule("none")
        self.check_proposals(proposals)
        own = tiles == "recipe" and overlap is None
        tiling = self.tiling if own else tiling_of(tiles, overlap, self.tiling)
        self.check_tiles(tiling)
        limit = max_detections if tiling is None else of_each_tile(max_detections, self.settings)
        settings = self.settings_with(score=score, nms_iou=nms_iou, max_detections=limit)

        def detected() -> Generator[tuple[PreparedImage | TiledImage, Detections] | Unreadable, None, None]:
            source: Iterator[Any] = iter(images) if listed and isinstance(images, Iterable) else images_of(images)
            with prepared_ahead(source, window, rule, proposals, keep, self.value_range, memory, tiling) as ahead:

                def taken() -> _Window | None:
                    given = ahead.take()
                    if given is None:
                        return None
                    return _Window(self, given[1], settings, batch, most=max_detections, release=ahead.release)

                yield from self._through(iter(taken, None), lambda: ahead.ready, use)

        return detected()

    video = detect_video
    track = track_video

    def check_proposals(self, proposals: StoredProposals | None) -> None:
        """Raise ValueError where proposals are needed and not given, or given and not needed."""
        if self.needs_proposals != (proposals is not None):
            wants = "needs a proposal file: --proposals FILE" if self.needs_proposals else "takes no proposal file"
            raise ValueError(f"{self.recipe.model.name} {wants}")

    def check_tiles(self, tiling: Tiling | None) -> None:
        """Raise ValueError where images are to be cut for a model that needs whole ones."""
        if tiling is not None and (why := self.recipe.of_whole_images):
            raise ValueError(f"{self.recipe.model.name} {why} whole images: it cannot detect in tiles")

    def settings_with(
        self, *, score: float | None = None, nms_iou: float | None = None, max_detections: int | None = None
    ) -> DetectSettings:
        """The recipe's settings with the checkpoint's score threshold, except for what is given."""
        settings = replace(self.settings, score_threshold=self.score_threshold if score is None else score)
        if nms_iou is not None:
            settings = replace(settings, nms_iou=nms_iou)
        if max_detections is not None:
            settings = replace(settings, max_detections=max_detections)
        return settings

    def detect_prepared(
        self, held: Sequence[PreparedImage | TiledImage], settings: DetectSettings, batch: int,
        losses: LossSums | None = None, most: int | None = None,
    ) -> list[Detections]:  # fmt: skip
        """Detections in resized or cut images, in their order; `losses` collects the losses against its ground truths.

        Those are of images and of tiles of images; `most` limits all detections of an image that is cut.
        """
        window = _Window(self, list(held), settings, batch, losses, most=most)
        return [one[1] for one in self._through(iter([window]), lambda: True, None) if not isinstance(one, Exception)]

    def _through(
        self, windows: Iterator[_Window], ready: Callable[[], bool], use: DeviceUse | None
    ) -> Iterator[tuple[PreparedImage | TiledImage, Detections] | Unreadable]:
        """The results of windows, in order. A GPU has several batches at a time, of two windows where one ends."""
        if self.device.type != "cpu":
            yield from overlapped(windows, ready, self.engine.device, use)
            return
        for window in windows:  # one batch after the other: threads would only compete with the network's
            window.detect(use)
            yield from window.results()
            window.close()


class _Window:
    """Images that are detected together, in batches of one shape (`parts`), and the detections that there are."""

    def __init__(
        self, detector: Detector, held: list[Any], settings: DetectSettings, batch: int,
        losses: LossSums | None = None, *, most: int | None = None, release: Callable[[], object] | None = None,
    ) -> None:  # fmt: skip
        """Of prepared images, or errors in their place; `release` is called when they are let go.

        An image that is cut has its tiles detected as images, and `most` detections at most, or any number.
        """
        self._detector, self._settings, self._batch, self._losses = detector, settings, batch, losses
        self._held, self._release, self._most = held, release, most
        self._good: list[PreparedImage] = [
            part for one in held if not isinstance(one, Exception)
            for part in (one.tiles if isinstance(one, TiledImage) else (one,))
        ]  # fmt: skip
        self._found: dict[int, Detections] = {}
        self.parts = batches_of_one_shape([one.pixels for one in self._good], batch, detector.engine.bucket)

    def assemble(self, rows: list[int]) -> ImageBatch:
        """A batch of images."""
        good, engine = [self._good[row] for row in rows], self._detector.engine
        if engine.fixed_batch:
            good += [good[0]] * (self._batch - len(good))  # detections in the repeated images are dropped
        return ImageBatch.of(
            [one.pixels for one in good],
            [one.original_hw for one in good],
            [one.plan.scale_xy for one in good],
            [one.plan.offset_xy for one in good],
            multiple_of=engine.bucket,
        )

    def run(self, rows: list[int], images: ImageBatch) -> PaddedDetections:
        """The detections of a batch on the device."""
        engine, regions = self._detector.engine, self._regions(rows)
        if self._losses is None:
            return engine(images, self._settings, regions)
        if not isinstance(engine, TorchEngine):
            raise ValueError("losses are for a checkpoint: an exported file gives detections only")
        targets = Targets.of([self._losses.ground_truths[row] for row in rows]).to(engine.device)
        outputs = engine.forward(images, targets, regions)
        self._losses.add(engine.losses(outputs, targets), len(rows))
        return engine.detect(outputs, self._settings)

    def launch(self, rows: list[int], images: ImageBatch) -> Launched:
        """The same, without waiting for it where the engine can."""
        engine = self._detector.engine
        if self._losses is None and isinstance(engine, TorchEngine) and engine.graphed is not None:
            return engine.graphed.launch(images, self._settings, self._regions(rows))
        return Launched.done(self.run(rows, images))

    def restore(self, rows: list[int], images: ImageBatch, padded: PaddedDetections) -> None:
        """Take the detections of a batch, mapped back to the original images."""
        merging = getattr(self._detector.recipe.model, "panoptic", None)  # of a model with segments
        for row, found in zip(rows, padded.restore(images, self._detector.paste, merging), strict=False):
            self._found[row] = replace(found, classes=self._detector.classes, path=self._good[row].path)

    def detect(self, use: DeviceUse | None) -> None:
        """All of it, batch by batch; `use` is told when the device has work."""
        for rows in self.parts:
            images = self.assemble(rows)
            with nullcontext() if use is None else use.busy():
                padded = self.run(rows, images)
            self.restore(rows, images, padded)

    def results(self) -> Iterator[tuple[PreparedImage | TiledImage, Detections] | Unreadable]:
        """Images with their detections, and errors, in the order of the images, once all batches are restored."""
        found = iter(self._found[row] for row in range(len(self._good)))
        for one in self._held:
            if isinstance(one, TiledImage):
                parts = [next(found) for _ in one.tiles]
                yield one, merged(parts, one.windows, one.original_hw, self._settings.nms_iou, self._most)
            else:
                yield (one, next(found)) if isinstance(one, PreparedImage) else one

    def close(self) -> None:
        """Let go of the images, before others are prepared, of which one may be large."""
        self._held.clear()
        self._good.clear()
        self._found.clear()
        if self._release is not None:
            self._release()

    def _regions(self, rows: list[int]) -> Proposals | None:
        """The stored proposals of images as a batch on the device, if they have any."""
        given = [found for row in rows if (found := self._good[row].proposals) is not None]
        if not given:
            return None
        boxes, scores = [found[:, :4] for found in given], [found[:, 4] for found in given]
        return Proposals.of(boxes, scores).to(self._detector.device)
