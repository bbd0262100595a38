"""From a checkpoint to a file for another runtime, which is kept only if it finds what the checkpoint finds."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from torch import Tensor

from boxwright.data.formats.folder import find_split, open_folder
from boxwright.data.image_io.decode import read_image
from boxwright.data.inputs import image_paths, prepare, prepare_tiles, refuse_among_images
from boxwright.deploy.export.gate import IMAGES, Agreement, gate_images, prove, synthetic_images
from boxwright.deploy.export.graph import detector_graph, record
from boxwright.deploy.export.onnx import write_onnx
from boxwright.deploy.export.openvino import Inputs, write_openvino
from boxwright.deploy.export.program import write_program
from boxwright.evaluation.summary import evaluate_detections
from boxwright.inference.evaluate import evaluate_checkpoint
from boxwright.inference.loading import open_checkpoint
from boxwright.inference.predictor import Detector
from boxwright.models import MODELS, refuse_of_objects
from boxwright.runtime.description import Description
from boxwright.runtime.exported import SUFFIX_OF, Format, network_pixels
from boxwright.runtime.openvino import computes_bf16
from boxwright.runtime.winograd import direct_convolutions
from boxwright.structures import ImageBatch
from boxwright.wording import counted

Precision = Literal["fp32", "bf16", "int8"]
LARGEST_LOSS = {"fp32": 0.001, "bf16": 0.001, "int8": 0.005}
"""By precision: a figure of the checkpoint minus that of the exported file, at most. In fp32, where both must be the
same detector, a gain counts as a loss does; what bf16 and int8 gain by chance, through rounding, is no fault."""
FIGURES = ("AP", "segm_AP", "keypoint_AP", "rotated_AP", "mIoU", "PQ")
CALIBRATION_IMAGES = 128
_LOG = logging.getLogger("boxwright.export")


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What kind of file `export_checkpoint` writes. What is None is the recipe's.

    Raises ValueError for a combination that no runtime has, such as an ONNX file in int8.
    """

    format: Format = "onnx"
    precision: Precision = "fp32"
    normalise: bool = True
    """Whether the file normalises pixels itself; if not, the caller does, and feeds float32."""
    nms: bool = True
    """Whether NMS is in the file; if not, candidates come out, best first."""
    score: float | None = None
    """Lowest score of what comes out; if not given the recipe's, and at most 0.05."""
    nms_iou: float | None = None
    """IoU above which the weaker of two boxes of a class is dropped."""
    max_detections: int | None = None
    calibration: str | Path | None = None
    """Folder of typical images, from which int8 learns its ranges."""
    winograd: bool = False
    """Whether wide 3x3 convolutions use Winograd's algorithm: faster on a CPU in fp32, and nowhere else."""

    def __post_init__(self) -> None:
        if self.format not in SUFFIX_OF:
            raise ValueError(f"format {self.format!r}: expected {', '.join(SUFFIX_OF)}")
        if self.precision not in LARGEST_LOSS:
            raise ValueError(f"precision {self.precision!r}: expected {', '.join(LARGEST_LOSS)}")
        if self.precision != "fp32" and self.format != "openvino":
            raise ValueError(f"precision {self.precision} is for --format openvino; {self.format} files are fp32")
        if (self.precision == "int8") != (self.calibration is not None):
            wants = "needs" if self.precision == "int8" else "takes no"
            raise ValueError(f"precision {self.precision} {wants} images to calibrate with (--calibration FOLDER)")
        if self.winograd and (self.precision != "fp32" or self.format == "program"):
            raise ValueError("winograd is for onnx and openvino files in fp32: elsewhere it is not the faster way")


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that passed the comparison with its checkpoint."""

    path: Path
    size: int
    """Bytes, with those of the .bin file of an OpenVINO model."""
    agreement: Agreement
    figures: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Of the file and of its checkpoint, in [0, 1], where labelled data was given: see `figures_on`."""


def export_checkpoint(
    checkpoint: str | Path,
    out: str | Path | None = None,
    options: ExportOptions | None = None,
    *,
    images: str | Path | None = None,
    data: str | Path | None = None,
    split: str = "val",
    log: Callable[[str], object] = _LOG.info,
) -> Exported:
    """Write a detector for another runtime; the file appears at `out` only if it finds what the checkpoint finds.

    Args:
        checkpoint: a checkpoint, a run folder, a checkpoint of another library, or a name of the zoo.
        out: the file, with the suffix of the format; if not given, beside the checkpoint by its name.
        options: format, precision and what is fixed in the file; if not given, the format that the suffix of `out`
            says (.onnx, .xml, .pt2), in fp32.
        images: a folder of images to compare on; if not given, those of `data`, or else synthetic ones.
        data: a labelled folder; the figures of both on its `split` are compared too.
        log: is called with a line of text for each step; the logger "boxwright.export" if not given.

    Raises ValueError where the file does not pass the comparison, or where `out` and the options do not fit.
    """
    if options is None:
        suffix = ".onnx" if out is None else Path(out).suffix
        options = ExportOptions(format=next((name for name, end in SUFFIX_OF.items() if end == suffix), "onnx"))
    out = beside(Path(checkpoint), options) if out is None else Path(out)
    images, data = (None if folder is None else Path(folder) for folder in (images, data))
    if out.suffix != SUFFIX_OF[options.format]:
        raise ValueError(f"{out}: a file of the format {options.format} ends in {SUFFIX_OF[options.format]}")
    given = [Path(folder) for folder in (images, data, options.calibration) if folder is not None]
    refuse_among_images(out, given, [])
    source = open_checkpoint(checkpoint)
    _check_given(source.recipe.model.name, options, data)
    compared, called = compared_images(images, data, split)
    out.parent.mkdir(parents=True, exist_ok=True)
    with direct_convolutions():  # what is compared with has no approximation of its own
        reference = Detector(source, "cpu", precision="fp32")
    graph, description = detector_graph(
        source,
        normalise=options.normalise,
        nms=options.nms,
        score=options.score,
        nms_iou=options.nms_iou,
        max_detections=options.max_detections,
        winograd=options.winograd,
    )
    description = replace(description, precision=options.precision)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        log(f"recording {source.recipe.model.name} ...")
        partial = Path(folder) / out.name
        program = record(graph, description)
        if options.format == "program":
            write_program(program, partial, description)
        else:
            onnx_file = partial.with_suffix(".onnx")
            write_onnx(program, onnx_file, description)
            if options.format == "openvino":
                calibration = options.calibration
                inputs = None if calibration is None else calibration_inputs(reference, description, calibration)
                write_openvino(onnx_file, partial, description, inputs)
                onnx_file.unlink()
        if options.precision == "bf16" and not computes_bf16():
            log("this processor does not support bf16: the file runs in fp32 here, and is compared so")
        exported = Detector.load(partial, "cpu")
        log(f"comparing on {called} ...")
        found = prove(reference, exported, compared, options.precision)
        if found.labels is not None:
            log(f"{found.labels:.2%} of an image's pixels or more have the same label")
        if MODELS[source.recipe.model.name].detects:
            log(
                f"{found.found} of {counted(found.asked, 'detection')} found again, in mixed batches; "
                f"boxes within {found.box_pixels:.2g} pixels, scores within {found.score:.2g}"
                if found.asked
                else f"nothing was found on {called}, so nothing was compared: give typical images with --images FOLDER"
            )
        if found.keypoints:
            log(f"{found.same_keypoints} of {counted(found.keypoints, 'keypoint')} at the same place")
        figures: dict[str, tuple[float, float]] = {}
        if data is not None:
            reference.settings = exported.settings  # a higher score that was chosen for the file is no loss
            of_checkpoint, of_file = (figures_on(one, data, split) for one in (reference, exported))
            figures = {name: (of_file[name], figure) for name, figure in of_checkpoint.items()}
            told = "; ".join(f"{name} {own:.4f}, of the checkpoint {was:.4f}" for name, (own, was) in figures.items())
            log(f"{told} ({data}, {split})")
            _check_figures(out, figures, options.precision)
        files = sorted(Path(folder).iterdir())
        for file in files:
            shutil.move(file, out.parent / file.name)
    size = sum((out.parent / file.name).stat().st_size for file in files)
    return Exported(out, size, found, figures)


def beside(checkpoint: Path, options: ExportOptions) -> Path:
    """Where an exported file lies by default: beside its checkpoint, which of a run folder is its best.pt.

    Without a file, as with a name of the zoo, it lies in the working folder.
    """
    best = checkpoint / "weights" / "best.pt"
    file = best if best.is_file() else checkpoint
    stem = checkpoint.resolve().name if checkpoint.is_dir() else checkpoint.stem
    folder = file.parent if file.is_file() else Path()
    precision = "" if options.precision == "fp32" else f"-{options.precision}"
    return folder / f"{stem or 'detector'}{precision}{SUFFIX_OF[options.format]}"


def _check_given(name: str, options: ExportOptions, data: Path | None) -> None:
    """Raise ValueError for what would have no effect, or would otherwise fail after minutes of work."""
    refuse_of_objects(name, score=options.score, nms_iou=options.nms_iou, max_detections=options.max_detections)
    if MODELS[name].needs_proposals and data is not None:
        raise ValueError(f"{name} needs proposals, which export does not read: leave --data out")
    if MODELS[name].needs_proposals and options.precision == "int8":
        raise ValueError("int8 is not available for detectors that need proposals")
    if options.calibration is not None:
        image_paths(options.calibration)


def compared_images(images: Path | None, data: Path | None, split: str) -> tuple[list[Tensor], str]:
    """What both are compared on: a few images (3, H, W) of a folder, of a labelled split, or synthetic; and in words.

    Of a split, those that cannot be read are passed over, as in its evaluation.
    """
    records = () if data is None else find_split(open_folder(data), split).records
    if images is not None:
        whole = [read_image(path) for path in image_paths(images)[:IMAGES]]
        called = f"the first {counted(len(whole), 'image')} of {images}"
    elif data is not None:
        whole = []
        for record in records:
            with suppress(ValueError, OSError):
                whole.append(read_image(record.path))
            if len(whole) == IMAGES:
                break
        if not whole:
            raise ValueError(f"{data}: split {split} has no usable image")
        called = f"the first {counted(len(whole), 'image')} of {data} ({split})"
    else:
        whole = synthetic_images()
        called = f"{len(whole)} synthetic images"
    return gate_images(whole), f"{called}, whole and cut"


def _check_figures(out: Path, figures: Mapping[str, tuple[float, float]], precision: Precision) -> None:
    most = LARGEST_LOSS[precision]
    for name, (own, was) in figures.items():
        loss = round(was - own, 6)
        if loss > most or (precision == "fp32" and -loss > most):
            raise ValueError(
                f"{out} was not written: its {name} is {own:.4f}, that of the checkpoint {was:.4f}; "
                f"{most:g} {'more or less' if precision == 'fp32' else 'less'} is allowed for {precision}"
            )


def figures_on(detector: Detector, data: Path, split: str) -> dict[str, float]:
    """The figures of a detector on a split of a labelled folder, by the names that `evaluate` gives them.

    COCO AP of boxes and of what else it finds (masks, keypoints, rotated boxes), mIoU and PQ of its maps.
    """
    found = evaluate_checkpoint(detector, data, split, score_threshold=detector.settings.score_threshold)
    every = evaluate_detections(
        found.detections, found.ground_truths, found.classes, max_detections=found.most_detections, areas=found.areas,
        federation=found.federation, pixels=found.pixels, objects=found.objects,
    ).figures  # fmt: skip
    names = FIGURES if found.objects else FIGURES[-2:]
    return {name: every[name] or 0.0 for name in names if name in every}


def calibration_inputs(detector: Detector, description: Description, folder: str | Path) -> Iterator[Inputs]:
    """Images of a folder, or their tiles, one by one, as the network sees them."""
    for pixels in islice(_seen_by(detector, image_paths(folder)), CALIBRATION_IMAGES):
        images = ImageBatch.of([pixels])
        yield {"images": network_pixels(images, description).numpy(), "sizes": images.sizes_hw.numpy()}


def _seen_by(detector: Detector, paths: Sequence[Path]) -> Iterator[Tensor]:
    """The images (3, h, w) that the network sees of files: each resized, or its tiles."""
    for path in paths:
        if detector.tiling is None:
            yield prepare(path, detector.resize, None, detector.value_range).pixels
        else:
            cut = prepare_tiles(path, detector.resize, detector.tiling, detector.value_range)
            yield from (tile.pixels for tile in cut.tiles)
