"""Inference rows of `benchmarks.gpu`: FCOS R50-FPN against torchvision's, 91 classes, selection at its worst."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_setting import Figure, Setting
from benchmarks.inference import SCORE, fcos_r50, torchvision_fcos
from benchmarks.turns import in_turn
from boxwright.checkpoint import Checkpoint
from boxwright.data.inputs import image_paths
from boxwright.deploy.benchmark import folder_speed
from boxwright.inference.predictor import Detector, TorchEngine
from boxwright.ops.image import ResizeRule
from boxwright.ops.suppress_pairs import one_look
from boxwright.recipes import load_recipe
from boxwright.runtime.cuda_graphs import CudaCapture
from boxwright.runtime.folding import fold_norms
from boxwright.runtime.graphed_detect import SEEN_BEFORE
from boxwright.runtime.precision import autocast, choose_precision
from boxwright.structures import Classes, DetectSettings, ImageBatch

SETTINGS = DetectSettings(score_threshold=SCORE)
WARM = SEEN_BEFORE + 2
"""Rounds before those that count: the graph of a shape is made in one of them."""


def _engine(setting: Setting, *, compile: bool = False, graphs: bool = True) -> TorchEngine:
    model = fcos_r50()
    fold_norms(model)
    engine = TorchEngine(model, setting.device, compile=compile)
    if not graphs and engine.graphed is not None:
        engine.graphed.capture = None
    return engine


def _pixels(setting: Setting, count: int) -> Tensor:
    """Random images (B, 3, H, W) uint8."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, *setting.size_hw), dtype=torch.uint8, generator=draw)


def _ours(engine: TorchEngine, images: ImageBatch) -> Callable[[], Any]:
    return lambda: engine(images, SETTINGS).restore(images)


def _peers(setting: Setting, pixels: Tensor) -> dict[str, Callable[[], Any]]:
    """Torchvision's detector, as it comes and with autocast and channels last."""
    floats = [one.to(setting.device).float() / 255 for one in pixels]
    plain = torchvision_fcos(*setting.size_hw, setting.device)
    fast = torchvision_fcos(*setting.size_hw, setting.device).to(memory_format=torch.channels_last)
    precision = choose_precision("auto", setting.device)

    @torch.inference_mode()
    def as_it_comes() -> None:
        plain(floats)

    @torch.inference_mode()
    def in_precision() -> None:
        with autocast(setting.device, precision):
            fast(floats)

    return {"torchvision": as_it_comes, "torchvision, autocast": in_precision}


def _parts(
    engine: TorchEngine, images: ImageBatch, rounds: int, *, captured: bool = False
) -> tuple[float, float]:  # fmt: skip
    """Seconds of the network, and of selection by itself; `captured`: each as a CUDA graph, as shapes that repeat."""
    outputs = engine.forward(images)
    works: dict[str, Callable[[], Any]] = {
        "network": lambda: engine.forward(images), "selection": lambda: engine.detect(outputs, SETTINGS)
    }  # fmt: skip
    if captured:
        capture = CudaCapture(engine.device)
        with torch.inference_mode(), one_look():
            works = {name: capture(work).replay for name, work in works.items()}
    times = in_turn(works, rounds)
    return times["network"], times["selection"]


def _graphs_of(engine: TorchEngine) -> str:
    """How many graphs an engine has, or why it has none."""
    graphed = engine.graphed
    if graphed is None:
        return "no graph: not a GPU"
    return f"no graph: {graphed.why_no_graphs}" if graphed.why_no_graphs else f"{len(graphed.graphs)} graph"


def batches(setting: Setting) -> Sequence[Figure]:
    """Images per second in batches of 16, and the share of selection."""
    count, rounds = setting.large(16, 2), setting.large(7, 1)
    pixels = _pixels(setting, count)
    images = ImageBatch.of(list(pixels)).to(setting.device)
    engine, eager = _engine(setting), _engine(setting, graphs=False)
    functions = {"ours": _ours(engine, images), "eager": _ours(eager, images), **_peers(setting, pixels)}
    times = in_turn(functions, rounds, warm=WARM)
    network, selection = _parts(eager, images, rounds)
    ours, peer, cast = (times[name] for name in ("ours", "torchvision", "torchvision, autocast"))
    height, width = setting.size_hw
    title = f"FCOS R50-FPN {height}x{width} batch {count}, {engine.precision}"
    graphs = _graphs_of(engine)
    return [
        Figure(f"{title}, images/s, torchvision's default = 1 ({graphs})", f"{count / ours:.1f}", f"{count / peer:.1f}",
               f"{peer / ours:.2f}", "1.7", ">= 6"),
        Figure(f"{title}, images/s, its autocast = 1", f"{count / ours:.1f}", f"{count / cast:.1f}",
               f"{cast / ours:.2f}", "1.5", ">= 5"),
        Figure(f"{title}, images/s, operation by operation", f"{count / times['eager']:.1f}", f"{count / peer:.1f}",
               f"{peer / times['eager']:.2f}"),
        Figure("selection, part of the eager network's time", f"{selection / network:.1%}",
               before="85% to 121%", to_reach="<= 15%"),
    ]  # fmt: skip


def latency(setting: Setting) -> Sequence[Figure]:
    """Milliseconds from one image to its detections."""
    pixels = _pixels(setting, 1)
    images = ImageBatch.of(list(pixels)).to(setting.device)
    functions = {"ours": _ours(_engine(setting), images), **_peers(setting, pixels)}
    times = in_turn(functions, setting.large(15, 1), warm=WARM)
    ours, peer = times["ours"], times["torchvision"]
    return [Figure("FCOS R50-FPN batch 1 latency, torchvision = 1", f"{ours * 1000:.1f} ms", f"{peer * 1000:.1f} ms",
                   f"{peer / ours:.2f}", "1.0", ">= 3")]  # fmt: skip


def folder(setting: Setting) -> Sequence[Figure]:
    """`Detector.predict` over a folder, and how long the device waited."""
    recipe = load_recipe("fcos-r50-fpn-1x-gn", ["model.backbone.weights=null"])
    model = fcos_r50()
    classes = Classes.named([f"class {number}" for number in range(91)])
    detector = Detector(Checkpoint(recipe, classes, model.state_dict(), SCORE), setting.device)
    data = setting.shapes(setting.large(800, 64), setting.large(256, 8))
    paths = image_paths(data / "images")
    if setting.tiny:
        detector.resize = ResizeRule("none")
    found = folder_speed(detector, paths, setting.large(16, 4))
    return [
        Figure(f"predict over {found.images} files of {setting.large(800, 64)} pixels, images/s",
               f"{found.images_per_second:.1f}"),
        Figure("the same: part of the time in which the device waited", f"{found.waited:.0%}"),
    ]  # fmt: skip


def compiled(setting: Setting) -> Sequence[Figure]:
    """The same with backbone, pyramid and head compiled, in a graph."""
    count, rounds = setting.large(16, 2), setting.large(7, 1)
    pixels = _pixels(setting, count)
    images = ImageBatch.of(list(pixels)).to(setting.device)
    engine = _engine(setting, compile=not setting.tiny)  # a compiler needs minutes on a CPU
    times = in_turn({"ours": _ours(engine, images), **_peers(setting, pixels)}, rounds, warm=WARM)
    network, selection = _parts(engine, images, rounds, captured=setting.device.type == "cuda")
    return [
        Figure(f"FCOS R50-FPN batch {count} compiled, images/s, torchvision's default = 1",
               f"{count / times['ours']:.1f}", f"{count / times['torchvision']:.1f}",
               f"{times['torchvision'] / times['ours']:.2f}"),
        Figure("selection, part of the compiled network's time, each as a graph", f"{selection / network:.1%}",
               before="207% to 296%", to_reach="<= 25%"),
    ]  # fmt: skip
