"""Training rows of `benchmarks.gpu`: whole runs by `boxwright.train`, their loop with data, and torchvision's step.

The peer's step has its images and boxes on the device and loads nothing; ours is the whole loop with its data.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch

from benchmarks.depthwise import steps as depthwise_steps
from benchmarks.gpu_setting import Figure, Setting
from benchmarks.steps import ground_truths, peer_step
from benchmarks.turns import in_turn
from boxwright import evaluate, train
from boxwright.runtime.precision import choose_precision

CLASSES = 6
"""Of the synthetic images, and of the peers that are compared with a run on them."""
QUIET = ("validation.times=1", "model.backbone.weights=null")


def images_per_second(setting: Setting, recipe: str, data: Path, name: str, overrides: Sequence[str]) -> float:
    """Of the second half of a run, by what it logs itself."""
    own = [*QUIET, *overrides, *(["data.workers=0"] if setting.tiny else [])]
    result = train(recipe, data, overrides=own, name=name, runs=setting.folder / "runs", device=str(setting.device))
    rows = [json.loads(line) for line in (result.folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    rates = [row["images_per_second"] for row in rows if "images_per_second" in row]
    if not rates:
        raise ValueError(f"{name}: a run of fewer than 20 steps logs no speed")
    return float(median(rates[len(rates) // 2 :]))


def _fixed(height: int, width: int) -> list[str]:
    return ["data.resize.mode=fixed", f"data.resize.height={height}", f"data.resize.width={width}"]


def small(setting: Setting) -> Sequence[Figure]:
    """`fcos-small` at 240 x 320, the whole loop with data, in batches of 8 and of 32."""
    data = setting.shapes(setting.large(320, 64), setting.large(512, 8))
    size = (64, 64) if setting.tiny else (240, 320)
    found = []
    for batch, before, to_reach in ((8, "210", ">= 1500"), (32, "790", ">= 4000")):
        own = setting.large(batch, batch // 8 + 1)
        overrides = [f"data.batch_size={own}", f"optim.reference_batch={own}", *_fixed(*size)]
        overrides.append(f"schedule.steps={setting.large(400, 20)}")
        rate = images_per_second(setting, "fcos-small", data, f"small-{batch}", overrides)
        title = f"fcos-small, batch {own}, {size[0]}x{size[1]}, whole loop with data, images/s"
        found.append(Figure(title, f"{rate:.0f}", before=before, to_reach=to_reach))
    return found


def course(setting: Setting) -> Sequence[Figure]:
    """The 9000 iterations of the course's recipe, from the speed of some hundred of them."""
    data = setting.shapes(setting.large(320, 64), setting.large(512, 8))
    batch, steps = setting.large(16, 2), setting.large(300, 20)
    overrides = [f"data.batch_size={batch}", f"schedule.steps={steps}", "optim.lr=0.0005"]
    overrides += ["data.resize.size=64"] if setting.tiny else []
    rate = images_per_second(setting, "fcos-regnetx400mf-224", data, "course", overrides)
    return [Figure(f"the course's 9000 iterations of {batch}, RegNetX-400MF (from {steps} of them)",
                   f"{9000 * batch / rate:.0f} s", before="7 min", to_reach="<= 90 s")]  # fmt: skip


def bccd(setting: Setting) -> Sequence[Figure]:
    """Blood cells from random weights: AP on the test split half a minute after the command was given."""
    if not setting.tiny and not setting.bccd.is_dir():
        raise FileNotFoundError(f"{setting.bccd}: no such folder; --bccd names another")
    data = setting.shapes(64, 8) if setting.tiny else setting.bccd
    runs = setting.folder / "runs"
    words = ["fcos-small", "--data", str(data), "--runs", str(runs), "--name", "cells", "--device", str(setting.device)]
    words += ["--minutes", "0.42", "--train-split", "trainval", "--val-split", "val", "--"]
    start = time.time()
    if setting.tiny:
        own = [*QUIET, "schedule.steps=20", "data.batch_size=2", "data.workers=0", *_fixed(64, 64)]
        train("fcos-small", data, overrides=own, runs=runs, name="cells", device=str(setting.device))
    else:
        words += ["validation.times=1", "data.augment.vertical_flip=0.5"]  # a microscope knows no up
        subprocess.run([sys.executable, "-m", "boxwright", "train", *words], check=True, stdout=subprocess.DEVNULL)
    seconds = (runs / "cells" / "weights" / "last.pt").stat().st_mtime - start  # a report follows
    result = evaluate(runs / "cells", data, split="val" if setting.tiny else "test", device=str(setting.device))
    ap = result.figures["AP"]
    return [Figure("bccd from random weights, AP on its test split; from the command to the weights",
                   f"{ap or 0.0:.3f} in {seconds:.0f} s", before="0.60 in 2 min",
                   to_reach="0.60 in <= 30 s")]  # fmt: skip


def _against_torchvision(
    setting: Setting, name: str, recipe: str, before: str, to_reach: str, *, compiled: bool = False
) -> Sequence[Figure]:
    """Images per second of training: our whole loop by default, and torchvision's step in the same precision.

    With `compiled` the loop is that of a run of the recipe's own length, which compiles parts on its way.
    """
    batch, (height, width) = setting.large(16, 2), setting.size_hw
    if setting.tiny:  # a small network takes its place; the peer stays
        recipe = f"{name.replace('_', '-')}-small"
    data = setting.shapes(setting.large(800, 64), setting.large(64, 8))
    own = [f"data.batch_size={batch}", f"schedule.steps={setting.large(80, 20)}", "optim.lr=0.0001"]
    own += ["data.train_scales=[]", *(["speed=compiled"] if compiled and not setting.tiny else [])]
    what = "training as long runs do (compiled)" if compiled else "training"
    rate = images_per_second(setting, recipe, data, f"{name}-{compiled}", [*own, *_fixed(height, width)])
    precision = choose_precision("auto", setting.device)
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=draw)
    objects = ground_truths(batch, height, width, 5, CLASSES)
    step = peer_step(name, pixels, objects, setting.device, precision, classes=CLASSES)
    peer = batch / in_turn({"peer": step}, setting.large(7, 1))["peer"]
    return [Figure(f"{recipe} {height}x{width} batch {batch} {precision}, {what}, images/s, torchvision "
                   "(same precision) = 1", f"{rate:.1f}", f"{peer:.1f}", f"{rate / peer:.2f}", before, to_reach)
            ]  # fmt: skip


def fcos(setting: Setting) -> Sequence[Figure]:
    """FCOS R50-FPN."""
    return _against_torchvision(setting, "fcos", "fcos-r50-fpn-1x-gn", "1.4, 2.5 compiled", ">= 2.5")


def faster_rcnn(setting: Setting) -> Sequence[Figure]:
    """Faster R-CNN R50-FPN."""
    return _against_torchvision(setting, "faster_rcnn", "faster-rcnn-r50-fpn-1x", "1.08", ">= 1.6")


def mask_rcnn(setting: Setting) -> Sequence[Figure]:
    """Mask R-CNN R50-FPN."""
    return _against_torchvision(setting, "mask_rcnn", "mask-rcnn-r50-fpn-1x", "1.38", ">= 1.8")


def fcos_compiled(setting: Setting) -> Sequence[Figure]:
    """FCOS R50-FPN in a long run."""
    return _against_torchvision(setting, "fcos", "fcos-r50-fpn-1x-gn", "2.5 compiled", ">= 2.5", compiled=True)


def faster_rcnn_compiled(setting: Setting) -> Sequence[Figure]:
    """Faster R-CNN R50-FPN in a long run."""
    return _against_torchvision(setting, "faster_rcnn", "faster-rcnn-r50-fpn-1x", "1.08", ">= 1.6", compiled=True)


def mask_rcnn_compiled(setting: Setting) -> Sequence[Figure]:
    """Mask R-CNN R50-FPN in a long run."""
    return _against_torchvision(setting, "mask_rcnn", "mask-rcnn-r50-fpn-1x", "1.38", ">= 1.8", compiled=True)


def depthwise(setting: Setting) -> Sequence[Figure]:
    """A step of EfficientNet-Lite0 in our backbone and in timm's own loop."""
    side, batch = setting.large(240, 64), setting.large(8, 2)
    pixels = torch.rand(batch, 3, side, side, device=setting.device)
    ours, *peers = in_turn(depthwise_steps("tf_efficientnet_lite0", pixels), setting.large(7, 1)).values()
    return [Figure(f"timm/tf_efficientnet_lite0, {side}x{side} batch {batch}, training step, the fastest of timm's = 1",
                   f"{ours * 1000:.0f} ms", f"{min(peers) * 1000:.0f} ms", f"{min(peers) / ours:.2f}", "7 s a step of "
                   "fcos-small on it", ">= 0.77")]  # fmt: skip


def kinds(setting: Setting) -> Sequence[Figure]:
    """`fcos-small` with each of the switches of the training step that this version's recipes have."""
    data = setting.shapes(setting.large(320, 64), setting.large(512, 8))
    size, batch = ((64, 64), 2) if setting.tiny else ((240, 320), 8)
    switches = {"as the recipe has it": [], "eager": ["speed=eager"]}
    if not setting.tiny:  # a CPU has no graphs, and needs minutes to compile
        switches |= {"graphs": ["speed=graphs"], "compiled": ["speed=compiled"]}
    found = []
    for kind, own in switches.items():
        overrides = [f"data.batch_size={batch}", f"schedule.steps={setting.large(200, 20)}", *_fixed(*size), *own]
        title = f"fcos-small, batch {batch}, a training step with its data: {kind}"
        try:
            rate = images_per_second(setting, "fcos-small", data, f"kind-{kind.split()[0]}", overrides)
            found.append(Figure(title, f"{1000 * batch / rate:.1f} ms"))
        except (ValueError, RuntimeError) as error:
            found.append(Figure(title, f"failed: {(str(error).splitlines() or [''])[0][:120]}"))
    return found
