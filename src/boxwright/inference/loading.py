"""Everything that can be loaded, as a checkpoint of ours: our own files, those of other libraries, names of the zoo."""

from __future__ import annotations

import logging
from pathlib import Path

from boxwright.checkpoint import Checkpoint, NotOursError, load_checkpoint
from boxwright.convert.files import convert_file
from boxwright.runtime.exported import SUFFIXES
from boxwright.structures import Classes
from boxwright.weights.download import address_of, fetched_file, is_remote, source_name
from boxwright.weights.licences import licence_of
from boxwright.writing import printable

_LOG = logging.getLogger("boxwright.convert")


def open_checkpoint(
    source: str | Path,
    *,
    variant: str | None = None,
    stride_in_1x1: bool | None = None,
    norm_eps: float | None = None,
    classes: Classes | None = None,
) -> Checkpoint:
    """The checkpoint of a path, a run folder, a name of the zoo or a URL; those of other libraries are converted.

    The options are for what a file of another library does not contain; see `convert.files.convert_file`. Raises
    FileNotFoundError, or ValueError where the file is not a checkpoint.
    """
    given = any(option is not None for option in (variant, stride_in_1x1, norm_eps, classes))
    name = source_name(source)
    path = fetched_file(name) if is_remote(name) else Path(source)
    problem = None
    if path.suffix in SUFFIXES and path.is_file():
        raise ValueError(
            f"{path}: an exported file contains no torch network: give the checkpoint that it was made from"
        )
    if path.suffix not in (".pkl", ".safetensors"):
        try:
            own = load_checkpoint(path)
        except NotOursError as error:
            problem = error
        else:
            if given:
                raise ValueError(
                    f"{path} is a boxwright checkpoint, which contains all that is needed: variant, stride_in_1x1, "
                    "norm_eps and classes are for files of other libraries"
                )
            return own
    try:
        found = convert_file(path, variant=variant, stride_in_1x1=stride_in_1x1, norm_eps=norm_eps, classes=classes)
    except ValueError as error:
        if problem is None:
            raise
        raise ValueError(f"{path} is not a boxwright checkpoint, nor one of another library ({error})") from error
    if found.skipped:
        _LOG.warning(
            "%s: ignored, because no part of the network needs it: %s", path, printable("; ".join(found.skipped))
        )
    licence = licence_of(found.origin["family"], address_of(name) if is_remote(name) else path.name)
    origin = {**found.origin, "notes": list(found.notes), "licence": licence}
    return Checkpoint(found.recipe, found.classes, found.weights, found.score_threshold, origin=origin)
