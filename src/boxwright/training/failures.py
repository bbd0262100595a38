"""What ends a run early, as advice: out of memory, a loader process that was killed, a full disk, a damaged image."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import clear_frames, walk_tb

import torch

from boxwright.recipes.schema import Recipe
from boxwright.training.batches import training_batches


@contextmanager
def advised(recipe: Recipe, folder: Path, save: Callable[[], None]) -> Iterator[None]:
    """Turn what goes wrong in a run into a ValueError of one sentence that says how to go on.

    An image that cannot be read is met between two whole steps: these are saved first.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if any(frame.f_code is training_batches.__code__ for frame, _ in walk_tb(error.__traceback__)):
            with suppress(ValueError, OSError, FloatingPointError):
                save()
            clear_frames(error.__traceback__)  # lets go of the loader, whose processes would hold up the program's end
        raise ValueError(f"{_reason(error)}; then go on with: boxwright train --resume {folder}") from error
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        line = text.partition("\n")[0][:120]
        if "DataLoader worker" in text:  # killed from outside, for want of memory most often
            raise ValueError(
                f"a loader process ended unexpectedly ({line}): give it more shared memory (docker run --shm-size=8g); "
                "data.workers=0 does without such processes"
            ) from error
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "allocate memory" not in text:
            raise
        batch = recipe.data.batch_size
        raise ValueError(
            f"out of memory at batch {batch}: try data.batch_size={max(1, batch // 2)} with "
            f"optim.accumulate={recipe.optim.accumulate * 2} (the same learning), or a smaller data.resize ({line})"
        ) from error


def _reason(error: ValueError | OSError) -> str:
    """What went wrong, without the traceback of a loader process, and what to do about a full disk."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is not None:
        return f"{error.filename}: the disk is full (no space left on device); free some space"
    text = str(error).strip()
    if "in DataLoader worker" in text:  # its last line is what went wrong
        return text.splitlines()[-1].partition(": ")[2]
    return text
