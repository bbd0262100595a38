"""Run by `tests/models/test_processes.py` in two processes: losses, gradients and steps where one has no box."""

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from steps_together import taken
from tiny_detectors import BOXES, TINY, build, forward, image, tensors, total
from torch.nn.parallel import DistributedDataParallel

from boxwright.structures import ImageBatch, Targets


def gradients(name: str, rank: int) -> dict[str, object]:
    """Losses of this rank, whether they are numbers, and a fingerprint of the gradients after they were averaged."""
    model = build(name).train()
    wrapped = DistributedDataParallel(model)
    images = ImageBatch.of([image(rank)])
    targets = Targets.of([BOXES["none" if rank else "two"]])
    losses = model.loss(forward(model, images, targets, wrapped), targets)
    total(losses).backward()
    rows = {key: value.grad for key, value in model.named_parameters() if value.requires_grad}
    return {
        "world": dist.get_world_size(),
        "losses": {key: float(value.detach()) for key, value in losses.items()},
        "without": [key for key, value in rows.items() if value is None],
        "finite": all(bool(torch.isfinite(value).all()) for value in tensors(tuple(rows.values()))),
        "gradients": [float(value.double().abs().sum()) for value in tensors(tuple(rows.values()))],
        "buffers": [float(value) for key, value in model.named_buffers() if key == "mean_positives"],
    }


def main(rank: int, folder: Path) -> None:
    """One process: all detectors one after the other, then steps; results to a file."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    found = {}
    for name in TINY:
        try:
            found[name] = gradients(name, rank)
        except RuntimeError as error:  # the other process waits for nothing else: the test shows it
            found[name] = {"error": str(error)}
            break
    else:
        found["steps"] = taken(rank)
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
