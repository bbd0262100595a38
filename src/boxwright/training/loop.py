"""The training loop: steps, rows of numbers, a validation now and then, and checkpoints from which a run goes on.

Everything random in step n is a function of (seed, n): the images, their augmentation, and the network's own chance
(stochastic depth). So a checkpoint needs no generator states, and a resumed run repeats an uninterrupted one bit for
bit on a CPU with the same number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import mean

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from boxwright.data.loader import Batch
from boxwright.data.sampler import draw_seed
from boxwright.training.budget import keep_time
from boxwright.training.columns import Row
from boxwright.training.schedule import validation_due
from boxwright.training.state import RunSettings, TrainState
from boxwright.training.step import TrainStep
from boxwright.training.timing import Timer, now
from boxwright.training.validate import ValidationResult

LOG_EVERY = 20
"""Steps between log rows; on a GPU numbers are fetched only then."""
SAVE_SECONDS = 120.0
"""At most this much work is lost when the machine dies."""


@dataclass(frozen=True, kw_only=True)
class Listener:
    """What is told of a run while it goes on. By default nobody listens: nothing is logged, saved or stopped."""

    before_step: Callable[[], None] = lambda: None
    """The batches of the next step are there."""
    after_step: Callable[[Mapping[str, Tensor]], None] = lambda losses: None
    """A step is done; its losses, those of all processes together."""
    on_row: Callable[[Row], None] = lambda row: None
    """A row of numbers: of a step, or of a validation."""
    before_validation: Callable[[], None] = lambda: None
    """A validation begins."""
    on_validated: Callable[[ValidationResult, bool], None] = lambda result, best: None
    """The result of a validation, and whether it is the best so far."""
    on_save: Callable[[], None] = lambda: None
    """It is time to write a checkpoint."""
    stop_wanted: Callable[[], bool] = lambda: False
    """Asked after each step, in every process: whether the run is to stop here."""


SILENT = Listener()


def fit(
    state: TrainState,
    run: RunSettings,
    step: TrainStep,
    batches: Iterable[Sequence[Batch]],
    validate: Callable[[nn.Module], ValidationResult],
    accelerator: Accelerator,
    listener: Listener = SILENT,
) -> None:
    """Train until the end of the run, until patience is over or a stop is wanted.

    Args:
        state: what is trained; it may come from a checkpoint.
        run: what was asked for.
        step: takes `state` one optimizer step on.
        batches: those of each step, from where `state` stands, on the device.
        validate: evaluates a model.
        accelerator: the processes that train together, and their devices.
        listener: is told of rows and validations, saves, and says when to stop.
    """
    progress, device = state.progress, accelerator.device
    torch.manual_seed(draw_seed(run.seed, progress.step))
    before = progress.seconds - run.started
    if progress.step == 0:
        listener.on_save()  # there is something to resume from the first step on
    if progress.validation_failed:
        _validate(state, run, validate, listener)
        listener.on_save()
    timer, saved_at = Timer(), now()
    for group in () if progress.over else timer.fetched(batches):
        listener.before_step()
        losses = step(group, run.step(progress, accelerator.process_index)).columns()
        _check_finite(losses, group, run, progress.step, device)
        progress.step += 1
        losses = _of_all_processes(losses, accelerator)
        progress.add(losses)
        listener.after_step(losses)
        lap = timer.lap()
        progress.waited += timer.waits[-1]
        if progress.step % LOG_EVERY == 0:
            rate, waiting = run.scaled.batch / mean(timer.laps), sum(timer.waits) / sum(timer.laps)
            row: Row = {"step": progress.step, "lr": run.lr(progress.step - 1, progress)}
            row |= {f"train/{name}": float(value) for name, value in losses.items()}
            listener.on_row(row | {"images_per_second": rate, "waiting_for_data": waiting})
        progress.seconds = before + now()
        due = progress.fixed and validation_due(progress.step, progress.horizon, run.recipe.validation)
        if due:
            _validate(state, run, validate, listener)
            progress.pace.validation = before + now() - progress.seconds
            progress.seconds = before + now()
        if run.minutes is not None:
            keep_time(run, progress, accelerator, lap, validated=due)
        # processes on GPUs agree now and then only: it makes them wait
        ask = accelerator.num_processes == 1 or device.type == "cpu" or progress.step % LOG_EVERY == 0
        stopping = ask and listener.stop_wanted()
        if due or stopping or now() - saved_at > SAVE_SECONDS:
            listener.on_save()
            saved_at = now()
        if stopping:
            return
        if progress.over:
            break
        timer.restart()  # validating and saving is no step
    progress.finished = True
    listener.on_save()


def _validate(
    state: TrainState, run: RunSettings, validate: Callable[[nn.Module], ValidationResult], listener: Listener
) -> None:
    """Evaluate the weights in use and log it; the last step is this one where patience is over."""
    progress = state.progress
    listener.before_validation()
    try:
        result = validate(state.model_in_use)
    except (ValueError, OSError):  # a damaged image
        progress.validation_failed = True
        with suppress(ValueError, OSError, FloatingPointError):
            listener.on_save()
        raise
    progress.validation_failed = False
    best = (result.ap or 0.0) > progress.best_ap
    if best:
        progress.best_ap, progress.best_step, progress.since_best = result.ap or 0.0, progress.step, 0
    else:
        progress.since_best += 1
    row: Row = {"step": progress.step, "epoch": progress.step * run.scaled.batch / len(run.image_paths)}
    row |= {f"train/{name}": value for name, value in progress.mean_losses().items()} | result.columns()
    listener.on_row(row | {"lr": run.lr(progress.step - 1, progress), "seconds": round(progress.seconds, 2)})
    listener.on_validated(result, best)
    patience = run.recipe.validation.patience
    if patience is not None and progress.since_best >= patience:
        progress.horizon = replace(progress.horizon, steps=progress.step)


def _check_finite(
    losses: dict[str, Tensor], batches: Sequence[Batch], run: RunSettings, step: int, device: torch.device
) -> None:
    """Stop at a loss that is not finite, and name the images; on a GPU it is looked at with the log only."""
    on_gpu = device.type != "cpu"
    if (on_gpu and (step + 1) % LOG_EVERY) or bool(torch.isfinite(losses["loss"])):
        return
    broken = {name: float(value) for name, value in losses.items() if not bool(torch.isfinite(value))}
    names = [str(run.image_paths[index]) for batch in batches for index in batch.indices]
    since = f" or in the {LOG_EVERY - 1} steps before" if on_gpu else ""
    raise FloatingPointError(
        f"the loss is not a number at step {step}{since} ({broken}); images of this step: {', '.join(names)}. "
        "The last checkpoint is from before; a lower optim.lr or optim.clip_norm=10 often helps"
    )


def _of_all_processes(losses: dict[str, Tensor], accelerator: Accelerator) -> dict[str, Tensor]:
    """Losses of the whole batch: the mean over processes, which divide theirs by the positives of the mean process.

    After each step and not for a row only: what is added up for the next row is then the same in every process, and a
    checkpoint, which one of them writes, holds it for all.
    """
    if accelerator.num_processes == 1:
        return losses
    means: Tensor = accelerator.reduce(torch.stack([value.float() for value in losses.values()]), "mean")
    return dict(zip(losses, means.unbind(), strict=True))
