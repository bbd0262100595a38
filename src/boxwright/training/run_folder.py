"""The run folder: a new one for each run, and the rows of results in it."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from boxwright.training.columns import Row
from boxwright.writing import free_folder, replacing, writing

RESULTS = "results.jsonl"
"""Every row of a run."""


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

    Where all are finished it is the last of those, so that an error can name it.
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
    """The rows of a run: all of them in `results.jsonl`, those of validations in `results.csv` too."""

    def __init__(self, folder: Path, *, keep_until: int | None = None) -> None:
        self.folder = folder
        self.rows: list[Row] = []
        path = folder / RESULTS
        if keep_until is not None and path.exists():  # resuming: what came after the checkpoint will come again
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
            self.rows = [row for row in rows if row["step"] <= keep_until]
            with replacing(path) as partial:
                partial.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")
        else:
            with writing(path):
                path.write_text("", encoding="utf-8")
        self._write_csv()

    def add(self, row: Row) -> Row:
        """Append one row, and give it as it is written; rows of a validation (`val/AP`) also make up the CSV."""
        # JSON has no word for NaN and infinity
        clean = {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in row.items()}
        self.rows.append(clean)
        path = self.folder / RESULTS
        with writing(path, whole=False), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(clean) + "\n")
        if "val/AP" in clean:
            self._write_csv()
        return clean

    def validations(self) -> list[Row]:
        """The rows of validations."""
        return [row for row in self.rows if "val/AP" in row]

    def _write_csv(self) -> None:
        rows = self.validations()
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
