"""The command `boxwright`: its verbs, and the one place where an error becomes a one-sentence message.

Nothing here imports torch: the file of a verb imports what it needs inside its function.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import io
import os
import signal
import sys
import warnings
from typing import Any

import typer

from boxwright.cli.other_words import meant
from boxwright.writing import printable

VERBS = (
    "train", "evaluate", "predict", "compare", "report", "export", "benchmark", "proposals", "explain", "inspect",
    "shapes", "recipes", "demo", "convert", "zoo", "serve", "track",
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
    """Object detection: train, evaluate, predict, export. `boxwright VERB --help` explains a verb."""


def run() -> None:
    """Run the command line; a user error ends with a one-sentence message and exit code 2.

    Set BOXWRIGHT_TRACEBACK=1 to see the traceback.
    """
    _print_every_name()
    _fill_in_resume(sys.argv)
    warnings.filterwarnings("ignore", r"Glyph \d+")  # a class name in a script that is missing in the charts' font
    before = signal.signal(signal.SIGTERM, _end)
    try:
        if sentence := meant(sys.argv[1:], _options()):
            raise ValueError(sentence)
        app()
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        if os.environ.get("BOXWRIGHT_TRACEBACK"):
            raise
        text = _os_sentence(error) if isinstance(error, OSError) else str(error)
        if isinstance(error, UnicodeEncodeError) and not sys.flags.utf8_mode:
            text += f"; the locale knows {error.encoding} only: set PYTHONUTF8=1 or a locale of UTF-8"
        text = "\n".join(map(printable, text.split("\n")))
        print(f"boxwright: {text}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2))  # that of a process of the run which was killed
    except (MemoryError, RuntimeError) as error:
        if os.environ.get("BOXWRIGHT_TRACEBACK") or not _out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        advice = "try a smaller --batch (train: data.batch_size), or close other programs"
        print(f"boxwright: out of memory ({reason}); {advice}", file=sys.stderr)
        sys.exit(2)
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_every_name() -> None:
    """Write a character that the output has no code for as an escape: a name of a class or file ends no command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _options() -> dict[str, set[str]]:
    """The options of each verb."""
    command: Any = typer.main.get_command(app)
    return {
        verb: {word for option in one.params for word in (*option.opts, *option.secondary_opts)}
        for verb, one in command.commands.items()
    }


def _end(number: int, _frame: object) -> None:
    """Exit as on an error, so that no partial file is left behind."""
    sys.exit(128 + number)


def _fill_in_resume(arguments: list[str]) -> None:
    """Allow `--resume` without a value, which means the newest run."""
    if "--resume" in arguments:
        place = arguments.index("--resume") + 1
        if place == len(arguments) or arguments[place].startswith("-") or "=" in arguments[place]:
            arguments.insert(place, "latest")


def _os_sentence(error: OSError) -> str:
    text = str(error) if error.filename is None else error.strerror or str(error)
    if error.errno == errno.ENOSPC:
        text = "the disk is full (no space left on device); free some space and start again"
    return text if error.filename is None else f"{error.filename}: {text}"


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: Python's own error, a GPU's (torch is not imported here), or torch's on a CPU."""
    text = str(error).lower()
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "allocate memory" in text or "out of memory" in text


if __name__ == "__main__":
    run()
