"""Batch inference on a Ray cluster: detections of any number of images as tables, one row per image, resumable.

The images are divided into chunks, which Ray Data distributes to the workers; the results of a chunk are one parquet
file, named after its keys. A chunk whose worker dies is processed again by another, which replaces the file. Images
that have a row are skipped when the same job is started again.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from boxwright.data.inputs import refuse_among_images
from boxwright.deploy.batch.listing import Entry, list_images
from boxwright.deploy.batch.worker import Chunk, Job, Worker, further_columns, write_whole
from boxwright.inference.predictor import Detector
from boxwright.runtime.devices import parse_device
from boxwright.runtime.missing import required
from boxwright.weights.download import fetched_file, is_remote
from boxwright.wording import counted

MOST_A_CHUNK = 128
INIT_DEATHS = 3
"""Workers in a row that may die during their start before the job fails."""

QUIET = {"RAY_DATA_LOG_LEVEL": "ERROR", "RAY_BACKEND_LOG_LEVEL": "fatal"}
"""Environment variables that keep Ray from logging its progress."""


class BatchReport(NamedTuple):
    """The result of a job: images listed, those done before, failures among all, objects detected now."""

    folder: Path
    images: int
    done_before: int
    failures: int
    objects: int
    score: float


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of all rows in a folder; a job with other settings is refused there."""

    checkpoint: str
    classes: tuple[str, ...]
    score: float
    nms_iou: float | None
    max_detections: int | None
    resized: bool
    precision: str


def predict_batch(
    checkpoint: str | Path,
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    workers: int | None = None,
    score: float | None = None,
    nms_iou: float | None = None,
    max_detections: int | None = None,
    resized: bool = True,
    batch: int = 8,
    device: str = "auto",
    precision: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> BatchReport:
    """Detect in all images of folders, patterns and listings; writes tables `results` and `failures` into `out`.

    Args:
        checkpoint: a checkpoint or an exported file.
        sources: what `list_images` takes.
        out: the folder; if it holds rows of an earlier run of the same job, that run is resumed.
        workers: processes; if not given one per GPU, or one per CPU core if the cluster has no GPU.
        score, nms_iou, max_detections, batch: as for `Detector.predict`.
        resized: whether images are resized as the recipe says.
        device: "auto", "cpu", "cuda" or "mps"; Ray assigns the GPUs to the workers.
        precision: as for `Detector.load`.
        progress: is called with the number of images done and the number to do.

    Raises ValueError or OSError with one sentence for errors of the user and of the cluster.
    """
    for name, number in (("workers", workers), ("batch", batch)):
        if number is not None and number < 1:
            raise ValueError(f"{name}: expected at least 1, got {number}")
    chosen = parse_device(device)
    if chosen is not None and chosen.index is not None:
        raise ValueError(f"device {device}: Ray gives each worker its GPU; use {chosen.type} or auto")
    for variable, level in QUIET.items():
        os.environ.setdefault(variable, level)
    required("ray.data", "ray")
    file = _detector_file(checkpoint)
    detector = Detector.load(file, "cpu", precision="auto" if precision == "fp16" else precision)
    if detector.needs_proposals:
        raise ValueError(f"{checkpoint} needs a proposal file, which --engine ray does not support; use --engine local")
    least = detector.score_threshold if score is None else score
    settings = Settings(_digest(file), detector.classes.names, least, nms_iou, max_detections, resized, precision)
    folder = Path(out).absolute()
    entries = list_images(sources)
    files = [Path(entry.file) for entry in entries if entry.kind == "file"]
    refuse_among_images(folder, [Path(source) for source in sources], files)
    with _alone(folder):
        done = _opened(folder, settings)
        todo = [entry for entry in entries if entry.key not in done]
        job = Job(
            str(file),
            str(folder),
            device,
            precision,
            batch,
            least,
            nms_iou,
            max_detections,
            resized,
            further_columns(detector.recipe),
        )
        del detector
        objects = 0
        if todo:
            with ray_cluster(workers):
                for finished, found in _run(job, todo, workers):
                    objects += found
                    if progress is not None:
                        progress(finished, len(todo))
        failures = _verified(folder, entries)
    return BatchReport(Path(out), len(entries), len(entries) - len(todo), failures, objects, least)


@contextmanager
def ray_cluster(workers: int | None = None) -> Iterator[None]:
    """A connection to Ray: the open one, the cluster of RAY_ADDRESS, or a local one for this context."""
    ray = required("ray", "ray")
    if ray.is_initialized():
        yield
        return
    place = None
    try:
        place = _connected(ray, workers)
        yield
    finally:
        ray.shutdown()
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)


def _connected(ray: Any, workers: int | None) -> str | None:
    """Connect to a cluster, or start a local one; returns the temporary folder of the latter."""
    quiet = {"log_to_driver": False, "logging_level": "error"}
    address = os.environ.get("RAY_ADDRESS")
    if not address and "RAY_AUTH_TOKEN_PATH" not in os.environ:  # else Ray writes a token into the home folder
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    place = None if address else tempfile.mkdtemp(prefix="ray", dir=_short_folder())
    try:
        if address:
            ray.init(**quiet)
        else:
            ray.init("local", num_cpus=workers, include_dashboard=False, _temp_dir=place, **quiet)
    except Exception as error:  # Ray raises Exception itself where a machine is too busy for it to start
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise OSError(f"Ray cannot be {f'reached at {address}' if address else 'started here'} ({text})") from error
    return place


def _short_folder() -> str:
    """The folder for temporary files, or /tmp if its path is too long for Ray's sockets."""
    own = tempfile.gettempdir()
    return own if len(own) < 30 or not Path("/tmp").is_dir() else "/tmp"


def _run(job: Job, todo: list[Entry], workers: int | None) -> Iterator[tuple[int, int]]:
    """Run the job; yields the images done so far and the objects of the last chunk, chunk by chunk."""
    ray, data = required("ray", "ray"), required("ray.data", "ray")
    there = ray.cluster_resources()
    on_gpu = job.device in ("auto", "cuda") and there.get("GPU", 0) >= 1
    if job.device == "cuda" and not on_gpu:
        raise ValueError("device cuda: this Ray cluster has no GPU; use cpu or auto")
    count = workers or max(1, int(there.get("GPU" if on_gpu else "CPU", 1)))
    size = min(MOST_A_CHUNK, max(job.batch, -(-len(todo) // (8 * count))))
    chunks = [Chunk.of(todo[start : start + size]) for start in range(0, len(todo), size)]
    context = data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1  # a chunk may take long
    context.max_consecutive_actor_init_deaths = INIT_DEATHS
    with data.DataContext.current(context):
        # one block per chunk, so that after the death of a worker only one chunk is repeated
        listed = data.from_items([chunk._asdict() for chunk in chunks], override_num_blocks=len(chunks))
        # dead workers are restarted and their chunks repeated, without limit: Ray Data's default
        rows = listed.map(
            Worker,
            fn_constructor_args=(job,),
            compute=data.ActorPoolStrategy(size=min(count, len(chunks))),
            num_cpus=1,
            num_gpus=1 if on_gpu else 0,
        )
        finished = 0
        try:
            for row in rows.iter_rows():
                if row["problem"]:
                    raise ValueError(row["problem"])
                finished += row["images"]
                yield finished, row["objects"]
        except ray.exceptions.RayError as error:
            text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise OSError(f"a worker ended the job ({text[:300]}); start it again to resume") from error


def _detector_file(checkpoint: str | Path) -> Path:
    """The file that every worker loads, downloaded first if it is remote."""
    file = (fetched_file(str(checkpoint)) if is_remote(str(checkpoint)) else Path(checkpoint)).absolute()
    best = file / "weights" / "best.pt"
    return best if best.is_file() else file


def _digest(file: Path) -> str:
    """SHA-256 of a checkpoint or an exported file, including the .bin of an OpenVINO model."""
    digest = hashlib.sha256()
    for part in (file, file.with_suffix(".bin") if file.suffix == ".xml" else None):
        if part is not None:
            with part.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder against a second job while this one runs."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as handle:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows
            pass
        except BlockingIOError as error:
            raise ValueError(f"{folder}: another job is writing here; wait for it, or choose another --out") from error
        yield


def _opened(folder: Path, settings: Settings) -> Counter[str]:
    """The keys that have rows already; refuses a folder of another job, and removes partial files of a crash."""
    path, own = folder / "job.json", json.loads(json.dumps(asdict(settings)))
    for name in ("results", "failures"):
        if not path.exists() and (folder / name).exists():
            raise ValueError(f"{folder}: has {name} of something else (no job.json); choose another --out")
        (folder / name).mkdir(exist_ok=True)
        for left in (folder / name).glob(".*.partial"):
            left.unlink()
    shutil.rmtree(folder / "attempts", ignore_errors=True)
    (folder / "attempts").mkdir()
    if path.exists():
        stored = _stored(path)
        if different := [
            f"{key} {stored.get(key)} there, {own[key]} now" for key in own if stored.get(key) != own[key]
        ]:
            raise ValueError(f"{folder} holds the rows of another job ({'; '.join(different)}); choose another --out")
    else:
        write_whole(path, lambda place: Path(place).write_text(json.dumps(own, indent=1) + "\n", encoding="utf-8"))
    return rows_of(folder / "results") + rows_of(folder / "failures")


def _stored(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        stored = None
    if not isinstance(stored, dict):
        raise ValueError(f"{path}: not the description of a job; choose another --out")
    return stored


def rows_of(folder: Path) -> Counter[str]:
    """How many rows each image has in the tables of a folder."""
    parquet = required("pyarrow.parquet", "ray")
    rows: Counter[str] = Counter()
    for file in sorted(folder.glob("*.parquet")):
        try:
            rows.update(parquet.read_table(file, columns=["image"])["image"].to_pylist())
        except (ValueError, OSError, KeyError) as error:
            raise ValueError(f"{file}: damaged; delete it and start the job again") from error
    return rows


def _verified(folder: Path, entries: list[Entry]) -> int:
    """The number of failed images, after a check that each image has exactly one row in one of the tables."""
    shutil.rmtree(folder / "attempts", ignore_errors=True)
    failures = rows_of(folder / "failures")
    rows = rows_of(folder / "results") + failures
    for entry in entries:
        if rows[entry.key] != 1:
            raise ValueError(
                f"{folder}: {entry.key} has {counted(rows[entry.key], 'row')}, expected 1; something else changed the "
                "tables"
            )
    return sum(entry.key in failures for entry in entries)
