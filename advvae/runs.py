"""Run folders: where a run lives, how it is found again, and what is left of it when it fails."""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from advvae.config import Config
from advvae.errors import UserError
from advvae.files import remove_unfinished, replacing

LOCK = ".lock"
PROVENANCE, REPORT = "provenance.json", "report.html"  # files of every run, see provenance.py and report/
SHARED = 0o666  # of its file: other users may ask whether it is held
PATIENCE = 0.5  # seconds: who only asks whether a folder is held keeps it for less
UNFINISHED = ("running", "failed", "interrupted")

_claimed: dict[Path, FileLock] = {}  # folders that this process has chosen to work in, and does not yet


class Run:
    """An open run folder. `config.yaml`, `.hydra/overrides.yaml` and `metrics.json` are written here alone.

    Nothing of a resumed run is touched before `begin`: a mistake in what was typed leaves it as it was.
    """

    def __init__(self, folder: Path, overrides: list[str], resumed: bool) -> None:
        self.folder = folder
        self.overrides = overrides
        self.resumed = resumed
        self.metrics = read_metrics(folder) if resumed else {}  # what was measured so far
        self._started = time.monotonic() - self.metrics.pop("seconds", 0)
        for bookkeeping in ("status", "error"):
            self.metrics.pop(bookkeeping, None)
        self.begun = False
        self._checksums: Mapping[str, str] = {}
        if not resumed:
            self.add_overrides([])

    def begin(self) -> None:
        """The config is settled: from here on the run is under way."""
        self.begun = True
        remove_unfinished(self.folder)
        self._write_metrics({"status": "running", **self.metrics})

    def write_config(self, config: Config, checksums: Mapping[str, str] | None = None) -> None:
        """Write the resolved config, with all that was decided, and the SHA-256 of the files that were loaded."""
        self._checksums = checksums or self._checksums
        content = {**asdict(config), **self._checksums}
        _write(self.folder / "config.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    def add_overrides(self, taken: list[str]) -> None:
        """Append what was taken to what was typed, so that a replay takes the same. A resumed run keeps its own."""
        if self.resumed:
            return
        keys = tuple(override.partition("=")[0] + "=" for override in taken)
        self.overrides = [*(override for override in self.overrides if not override.startswith(keys)), *taken]
        _write(self.folder / ".hydra" / "overrides.yaml", yaml.safe_dump(self.overrides, allow_unicode=True))

    def finish(self) -> None:
        """Write the metrics of a run that came to its end."""
        self._write_metrics({"status": "finished", "seconds": self._seconds(), **self.metrics})

    def fail(self, status: str, error: str) -> None:
        """Write why a run did not come to its end, and what it had measured."""
        self._write_metrics({"status": status, "error": error, "seconds": self._seconds(), **self.metrics})

    def has_results(self) -> bool:
        """Whether anything stands in the folder that the run was opened for."""
        opened = {"config.yaml", ".hydra", "metrics.json", "advvae.log", PROVENANCE, REPORT, LOCK}
        return any(entry.name not in opened for entry in self.folder.iterdir())

    def _seconds(self) -> float:
        return round(time.monotonic() - self._started, 3)

    def _write_metrics(self, metrics: dict[str, Any]) -> None:
        _write(self.folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")


@contextmanager
def open_run(
    folder: Path, output_dir: Path, overrides: list[str], resumed: bool, keep_failed: bool, again: bool = False
) -> Iterator[Run]:
    """Hold the folder for one run, and leave it in order whatever happens.

    A new folder below `output_dir` that an error leaves without any result is removed, unless `keep_failed` (a
    sweep's job).

    Args:
        resumed: the folder holds a run that goes on.
        again: the folder may hold a run that cannot go on, which is begun anew.

    Raises:
        UserError: another process or another run holds the folder, or it cannot be written.
    """
    if not (resumed or again) and (folder / ".hydra" / "overrides.yaml").is_file():
        raise UserError(f"{folder} holds a run already: resume= goes on with it, or name another folder")
    lock = hold(folder)
    run = None
    try:
        run = Run(folder, overrides, resumed)
        yield run
    except BaseException as error:
        if run is not None and (run.begun or not resumed):
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with suppress(OSError, UserError):  # a full disk must not hide the first error
                run.fail(status, str(error) or type(error).__name__)
            if not (keep_failed or resumed or run.has_results()) and output_dir in folder.parents:
                remove_folder(folder, output_dir)
        raise
    finally:
        release(lock)


def hold(folder: Path) -> FileLock:
    """The lock of a run's, or a sweep's, folder, which is made where it is missing; who has it works there alone.

    Raises:
        UserError: another process has it, or the folder cannot be written.
    """
    if lock := _claimed.pop(folder.absolute(), None):
        return lock
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, mode=SHARED)
        lock.acquire(timeout=PATIENCE, poll_interval=PATIENCE / 10)
    except (Timeout, RuntimeError):  # the second: this process
        raise UserError(f"another process is at work in {folder}") from None
    except OSError as error:
        raise UserError(f"cannot write the folder {folder} (output_dir): {error.strerror}") from None
    return lock


def release(lock: FileLock) -> None:
    """Let others work in its folder."""
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def claim(folder: Path, is_wanted: Callable[[Path], bool]) -> bool:
    """Take a folder for this process, which will `hold` it, unless another works there, or has just finished.

    Two processes that look for something to go on with at the same moment never choose the same.
    """
    if folder.absolute() in _claimed or not is_wanted(folder):
        return is_wanted(folder)
    try:
        lock = hold(folder)
    except UserError:
        return False
    if not is_wanted(folder):
        release(lock)
        return False
    _claimed[folder.absolute()] = lock
    return True


def leave_claimed() -> None:
    """Let others work in the folders that were chosen and came to no use."""
    while _claimed:
        release(_claimed.popitem()[1])


def new_folder(output_dir: str, mode: str, dataset: str) -> Path:
    """A folder that no run has, named by the time."""
    while (folder := Path(output_dir, mode, dataset, datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f"))).exists():
        pass
    return folder


def remove_folder(folder: Path, output_dir: Path) -> None:
    """Remove a run folder, and the folders above it, up to `output_dir`, that it leaves empty."""
    shutil.rmtree(folder, ignore_errors=True)
    for parent in folder.parents:
        inside = output_dir in (parent, *parent.parents) and parent != Path.cwd()
        if not inside or any(parent.iterdir()):
            break
        parent.rmdir()


def read_metrics(folder: Path) -> dict[str, Any]:
    """A run's metrics.json; empty if there is none that can be read."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text())
    except (OSError, ValueError):
        return {}
    return metrics if isinstance(metrics, dict) else {}


def read_config(folder: Path) -> dict[str, Any]:
    """A run's config.yaml; empty if there is none that can be read."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def flat(metrics: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested metrics under dotted names, such as scores.loss.auroc."""
    named: dict[str, Any] = {}
    for name, value in metrics.items():
        named |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return named


def can_go_on(folder: Path) -> bool:
    """Whether a run can: a training from a checkpoint, a matrix from what its sets have left."""
    return any((folder / "checkpoints").glob("*.pt")) or read_config(folder).get("mode") == "matrix"


def is_unfinished(folder: Path) -> bool:
    """Whether a run has something left to do; so has one whose metrics.json a crash has emptied."""
    return read_metrics(folder).get("status", "running") in UNFINISHED


def runs_of(output_dir: str, mode: str, dataset: str) -> list[Path]:
    """The runs of a mode on a dataset, newest first; sweeps stand elsewhere."""
    parent = Path(output_dir, mode, dataset)
    return sorted((p for p in parent.glob("*") if p.is_dir()), key=lambda p: p.name, reverse=True)


def finished_trainings(output_dir: str, dataset: str) -> Iterator[Path]:
    """The train runs on a dataset that came to their end, newest first."""
    return (run for run in runs_of(output_dir, "train", dataset) if read_metrics(run).get("status") == "finished")


def newest_finished(output_dir: str, dataset: str) -> Path | None:
    """The newest of `finished_trainings`."""
    return next(finished_trainings(output_dir, dataset), None)


def is_locked(folder: Path) -> bool:
    """Whether a living process is at work in this run folder."""
    if not (folder / LOCK).exists():
        return False
    lock = FileLock(folder / LOCK, mode=SHARED)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError, RuntimeError):  # another user's, who lets nobody tell; this process itself
        return True
    lock.release()
    return False


def best_job(sweep: Path) -> Path:
    """The finished job of lowest `val_loss` of a sweep.

    Raises:
        UserError: there is none.
    """
    jobs = {file.parent: read_metrics(file.parent) for file in sweep.glob("*/metrics.json")}
    losses = {
        job: metrics["val_loss"]
        for job, metrics in jobs.items()
        if metrics.get("status") == "finished" and math.isfinite(metrics.get("val_loss", math.nan))
    }
    if not losses:
        raise UserError(f"{sweep}: no job of this sweep finished with a val_loss; name the folder of a run instead")
    return min(losses, key=lambda job: losses[job])


def checkpoint_file(key: str, place: str) -> Path:
    """The file that a path means: itself, a run folder's checkpoints/best.pt, or that of a sweep's best job.

    Links stay as they are: what lies beside a file of a Hugging Face snapshot does not lie beside what it links to.

    Raises:
        UserError: nothing is there, or the folder holds no such checkpoint; `key` is what named it.
    """
    path = Path(place).expanduser()
    if path.is_file():
        return path.absolute()
    if not path.exists():
        raise UserError(f"{key}={place}: there is nothing there; name the folder of a training run, or a .pt file")
    if not (path / "checkpoints").is_dir() and any(path.glob("*/metrics.json")):
        path = best_job(path)
    exported = ("model/model.safetensors", "model.safetensors")
    for file in ("checkpoints/best.pt", "best.pt", *exported):
        if (path / file).is_file():
            return (path / file).absolute()
    raise UserError(f"{key}={path} holds no checkpoints/best.pt: name the folder of a training run, or a .pt file")


def _write(path: Path, text: str) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(text)
