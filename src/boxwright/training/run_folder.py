"""The run folder: a new one for each run, and the rows of results in it."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml

from boxwright.writing import replacing, writing


def free_folder(wanted: Path) -> Path:
    """Create `wanted`, or `wanted-2`, `-3`, ... where that is taken."""
    number = 1
    while True:
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
            continue
        return folder


def new_run_folder(parent: Path, name: str) -> Path:
    """A new run folder below `parent`: a run never overwrites an older one.

    Raises ValueError where its name is no UTF-8, which TensorBoard cannot write to.
    """
    try:
        str(parent / name).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{parent / name}: the name of a run's folder must be UTF-8; take another --name or --runs, or set "
            "PYTHONUTF8=1 where the terminal does write UTF-8"
        ) from error
    folder = free_folder(parent / name)
    (folder / "weights").mkdir()
    return folder


def newest_run(parent: Path, name: str | None) -> Path:
    """The unfinished run below `parent` (called `name` or `name-N` if given) that was written to last.

    Where all are finished it is the last of those, so that what is wrong can be said of it.
    """
    lasts = [path for path in parent.glob("*/weights/last.pt")]
    if name is not None:
        lasts = [path for path in lasts if re.fullmatch(re.escape(name) + r"(-\d+)?", path.parent.parent.name)]
    if not lasts:
        called = f" called {name}" if name else ""
        raise FileNotFoundError(f"nothing to resume: no run{called} with weights/last.pt below {parent}/")
    unfinished = [path for path in lasts if not (path.parent.parent / "metrics.json").exists()]
    return max(unfinished or lasts, key=lambda path: path.stat().st_mtime).parent.parent


def write_yaml(path: Path, data: Mapping[str, Any]) -> None:
    """Plain data as YAML, keys in the given order."""
    with writing(path):
        path.write_text(yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True), encoding="utf-8")


class Results:
    """The rows of a run: every log line in `results.jsonl`, every measurement as a line of `results.csv`.

    With TensorBoard installed (`boxwright[tensorboard]`) the same numbers go there; leaving the context writes out the
    last of them.
    """

    def __init__(self, folder: Path, *, keep_until: int | None = None) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        path = folder / "results.jsonl"
        if keep_until is not None and path.exists():  # resuming: what came after the checkpoint will come again
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
            self.rows = [row for row in rows if row["step"] <= keep_until]
            with replacing(path) as partial:
                partial.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")
        else:
            with writing(path):
                path.write_text("", encoding="utf-8")
        self._write_csv()
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            with self._writing_board():
                self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=(keep_until or 0) + 1)
        except ImportError:
            pass

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row; rows with a measurement (`val/AP`) also make up the CSV."""
        # JSON has no word for NaN and infinity
        clean = {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in row.items()}
        self.rows.append(clean)
        path = self.folder / "results.jsonl"
        with writing(path, whole=False), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(clean) + "\n")
        if "val/AP" in clean:
            self._write_csv()
        if self._board is not None:
            with self._writing_board():
                for key, value in clean.items():
                    if isinstance(value, (int, float)) and key != "step":
                        self._board.add_scalar(key, value, clean["step"])

    def __enter__(self) -> Results:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._board is None:
            return
        try:
            with self._writing_board():
                self._board.close()
        except OSError:
            if kind is None:  # else what ended the run is the one to be said
                raise

    def _writing_board(self) -> AbstractContextManager[Path]:
        return writing(self.folder / "tensorboard", whole=False)

    def measured(self) -> list[dict[str, Any]]:
        """The rows that hold a measurement."""
        return [row for row in self.rows if "val/AP" in row]

    def _write_csv(self) -> None:
        rows = self.measured()
        if not rows:
            return
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with (
            replacing(self.folder / "results.csv") as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
