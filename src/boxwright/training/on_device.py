"""Where the batches of a run are made: on the host, or on the device, of images that lie there or are sent."""

from __future__ import annotations

from collections.abc import Callable

import torch

from boxwright.data.dataset import DetectionDataset
from boxwright.data.stored import store_images
from boxwright.recipes.schema import Data
from boxwright.training.batches import BatchSource, DrawnBatches, LoadedBatches
from boxwright.training.memory import free_bytes
from boxwright.training.prepare import worker_count
from boxwright.training.timing import now
from boxwright.wording import counted

SHARE = 0.25
"""Of the free memory of a GPU: what stored images may take at most. The rest is for the network."""
MIB = 2**20


def batch_source(
    settings: Data, images: DetectionDataset, device: torch.device, log: Callable[[str], None], *, graphs: bool = True
) -> BatchSource:
    """The source of batches that `data.on_device` asks for, or that suits the device; what was decided is logged.

    `graphs`: whether a GPU may make them as CUDA graphs.

    Raises ValueError where a device is to make images that it cannot make, ValueError or OSError for one that cannot
    be read.
    """
    where: str = settings.on_device
    why = ""
    if where == "auto":
        where, why = _suited(images, device)
    elif where != "never":
        _refuse_what_cannot_be(where, images, device)
    started = now()
    stored = store_images(images, device) if where == "images" else None
    workers = worker_count(settings.workers, device, stored is not None or images.cached_bytes > 0)
    loader = f"loader: {counted(workers, 'worker')}"
    if stored is not None:
        source = DrawnBatches(images, workers, device, stored, graphs=graphs, log=log)
        log(f"{loader}, {counted(len(images), 'image')} ({stored.num_bytes / MIB:.0f} MiB) stored on {device}{why}, "
            f"where batches are made ({now() - started:.1f} s)")  # fmt: skip
        return source
    kept = f"{images.cached_bytes / MIB:.0f} MiB of decoded images in memory"
    kept = kept if images.cached_bytes else "images are decoded anew each time"
    if where == "augmentation":
        log(f"{loader}, {kept}, batches are made on {device}{why}")
        return DrawnBatches(images, workers, device)
    log(f"{loader}, {kept}{why}")
    return LoadedBatches(images, workers, device)


def _suited(images: DetectionDataset, device: torch.device) -> tuple[str, str]:
    """What `data.on_device=auto` means for these images and this device, and why, as part of a sentence."""
    if device.type != "cuda" or not len(images):
        return "never", ""
    if images.rule.filter == "plain":
        return "never", ", made on the host since data.resize.filter=plain makes float images"
    limit = int(SHARE * _free_bytes(device))
    share = f"of at most {limit / MIB:.0f} MiB, {SHARE:.0%} of what is free there"
    needed = images.size_in_memory()
    if needed <= limit:
        return "images", f" ({share})"
    return "augmentation", f", which has no room for all {needed / MIB:.0f} MiB of images ({share})"


def _refuse_what_cannot_be(where: str, images: DetectionDataset, device: torch.device) -> None:
    """ValueError where a recipe forces images onto a device that cannot store them, or has no room for them."""
    if images.rule.filter == "plain":
        raise ValueError(
            f"data.on_device={where}: data.resize.filter=plain makes float images, and a device stores whole levels; "
            "take data.on_device=never or another filter"
        )
    needed, free = images.size_in_memory() if len(images) else 0, _free_bytes(device)
    if where == "images" and needed > free:
        raise ValueError(
            f"data.on_device=images: the images take {needed / MIB:.0f} MiB, and {device} has {free / MIB:.0f} MiB "
            "free; data.on_device=augmentation sends them with each batch"
        )


def _free_bytes(device: torch.device) -> int:
    """Bytes of memory that are free on a GPU, or in this machine."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free_bytes()
