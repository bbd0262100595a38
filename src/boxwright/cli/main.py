"""The command `boxwright`: its verbs, and one place where a user's mistake becomes one clear sentence.

Nothing here imports torch: a verb's file imports what it needs inside the verb.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import os
import signal
import sys
import warnings

import typer

VERBS = (
    "train", "evaluate", "predict", "export", "benchmark", "proposals", "explain", "inspect", "shapes", "recipes",
    "demo", "convert", "zoo", "serve",
)  # fmt: skip

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
for _verb in VERBS:
    if importlib.util.find_spec(f"boxwright.cli.{_verb}"):
        app.command(name=_verb)(getattr(importlib.import_module(f"boxwright.cli.{_verb}"), _verb))


def _version(show: bool) -> None:
    if show:
        from boxwright import __version__

        typer.echo(f"boxwright {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Object detection: train, measure, draw and ship. `boxwright VERB --help` explains a verb."""


def run() -> None:
    """Run the command line; a mistake of the user's ends with one sentence and exit code 2.

    Set BOXWRIGHT_TRACEBACK=1 to see where it came from.
    """
    _fill_in_resume(sys.argv)
    warnings.filterwarnings("ignore", r"Glyph \d+")  # a class name in a script that the charts' font does not have
    before = signal.signal(signal.SIGTERM, _end)
    try:
        app()
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        if os.environ.get("BOXWRIGHT_TRACEBACK"):
            raise
        text = _os_sentence(error) if isinstance(error, OSError) else str(error)
        print(f"boxwright: {text}", file=sys.stderr)
        sys.exit(2)
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, _frame: object) -> None:
    """End as an error would, so that nothing half-written stays behind."""
    sys.exit(128 + number)


def _fill_in_resume(arguments: list[str]) -> None:
    """Let `--resume` stand without a value: it means the newest run."""
    if "--resume" in arguments:
        place = arguments.index("--resume") + 1
        if place == len(arguments) or arguments[place].startswith("-") or "=" in arguments[place]:
            arguments.insert(place, "latest")


def _os_sentence(error: OSError) -> str:
    if error.filename is not None:
        return f"{error.filename}: {error.strerror or error}"
    if error.errno == errno.ENOSPC:  # writing to an open file does not say which
        return "the disk is full (no space left on device); free some space and start again"
    return str(error)


if __name__ == "__main__":
    run()
