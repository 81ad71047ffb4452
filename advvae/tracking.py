"""Where a run is reported to, beside its own folder: Weights & Biases, TensorBoard, or nowhere.

A tracker is a convenience: whatever goes wrong with a server is told once, in one line, and the run goes on.
"""

import contextlib
import logging
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from advvae.errors import UserError

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10  # a W&B server that has not answered by then is taken for unreachable
UPLOAD_SECONDS = 30  # the most that closing a run waits for its last uploads
WANDB_LOCAL = ("offline", "dryrun", "disabled")  # its modes that reach no server


class Tracker:
    """Reports nowhere: what `tracker=none` gives, and the base the others fill in."""

    run_id: str | None = None  # to be kept and given back on resume, so that the same run goes on

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Report numbers. `step`: the epoch they belong to, the axis they are drawn over."""

    def image(self, name: str, path: Path, step: int) -> None:
        """Report the image file at `path`."""

    def close(self, *, failed: bool) -> None:
        """Finish the run; `failed` marks it as such."""


class TensorBoardTracker(Tracker):
    """Event files in `folder`/tensorboard. Nothing leaves the machine, so private images are drawn too."""

    def __init__(self, settings: Mapping[str, Any], *, folder: Path, config: Mapping[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("tracker=tensorboard needs a package more: pip install 'advvae[tensorboard]'") from None
        self._writer = SummaryWriter(str(folder / "tensorboard"))
        self._images = settings.get("images") is not False
        self._writer.add_text("config", "\n".join(f"    {key}: {value}" for key, value in config.items()))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # to be seen after each epoch, not every two minutes

    def image(self, name: str, path: Path, step: int) -> None:
        import numpy as np
        from PIL import Image

        if self._images:
            self._writer.add_image(name, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")

    def close(self, *, failed: bool) -> None:
        self._writer.close()


class WandbTracker(Tracker):
    """A run on the W&B server when logged in and it answers, else a local one that `wandb sync` can upload."""

    def __init__(self, run: Any, *, images: bool) -> None:
        self._run = run
        self._images = images
        self._told = False
        self.run_id = run.id
        # Epochs are the axis of every chart. W&B's own step would hold each row back until the next one.
        self._guard(lambda: run.define_metric("*", step_metric="epoch"))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._guard(lambda: self._run.log({**metrics, "epoch": step}))

    def image(self, name: str, path: Path, step: int) -> None:
        import wandb

        if self._images:
            self._guard(lambda: self._run.log({name: wandb.Image(str(path)), "epoch": step}))

    def close(self, *, failed: bool) -> None:
        self._guard(lambda: self._run.finish(exit_code=int(failed)))

    def _guard(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:
            if not self._told:
                logger.warning("W&B: %s. The run goes on. %s", _one_line(error), _upload_hint(self._run))
            self._told = True


@contextlib.contextmanager
def open_tracker(
    settings: Mapping[str, Any],
    *,
    folder: Path,
    config: Mapping[str, Any],
    run_name: str,
    private: bool = False,
    run_id: str | None = None,
) -> Iterator[Tracker]:
    """Open the tracker that `settings`, the `tracker` node of the config, names; close it however the block ends.

    folder: the run folder, under which a tracker keeps its files.
    config: all settings of the run, as plain values, to be shown beside its numbers; to W&B `without_folders`.
    private: the images may be patients. W&B then gets none, unless `settings` says `images: true`, nor what was typed,
        nor the names of folder, user and machine, among which a patient's may be.
    run_id: the `run_id` of an earlier tracker, to go on with its W&B run.
    Raises UserError for an unknown name or a missing package; a failing W&B is a warning.
    """
    tracker: Tracker
    match settings["name"]:
        case "none":
            tracker = Tracker()
        case "tensorboard":
            tracker = TensorBoardTracker(settings, folder=folder, config=config)
        case "wandb":
            # W&B reports its own errors to its server; one that hangs would hold up our exit for half a minute.
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
            images = not private if settings.get("images") is None else settings["images"]
            shown = without_folders(config)
            try:
                run = _start_wandb(lambda mode: _init_wandb(mode, settings, folder, shown, run_name, run_id, private))
                tracker = WandbTracker(run, images=images)
            except Exception as error:
                logger.warning("W&B: %s. Nothing is recorded there.", _one_line(error))
                tracker = Tracker()
        case name:
            raise UserError(f"tracker.name={name}: choose wandb, tensorboard or none")
    try:
        yield tracker
    except BaseException:
        tracker.close(failed=True)
        raise
    tracker.close(failed=False)


def _start_wandb(init: Callable[[str], Any]) -> Any:
    """A run from init(mode), online if possible, else local; says in one line which it is. Never prompts."""
    import wandb

    mode = wandb.setup(wandb.Settings(silent=True)).settings.mode  # from WANDB_MODE or `wandb offline`
    level, reason = logging.INFO, f"its mode is {mode}"
    if mode not in WANDB_LOCAL:
        try:
            if wandb.login(prompt=False, verify=False):
                run = init(mode)
                logger.info("W&B: %s", run.url)
                return run
            reason = "no login found (`wandb login` makes one)"
        except Exception as error:
            level, reason = logging.WARNING, f"no run could be opened on its server ({_one_line(error)})"
        mode = "offline"
    run = init(mode)
    if mode != "disabled":
        logger.log(level, "W&B: recording offline, %s. %s", reason, _upload_hint(run))
    return run


def _init_wandb(
    mode: Any,
    settings: Mapping[str, Any],
    folder: Path,
    config: Mapping[str, Any],
    run_name: str,
    run_id: str | None,
    private: bool,
) -> Any:
    import wandb

    return wandb.init(
        project=settings.get("project"),
        entity=settings.get("entity"),
        name=run_name,
        dir=str(folder),
        config=dict(config),
        id=run_id,
        resume="allow" if run_id and mode not in WANDB_LOCAL else None,
        mode=mode,
        settings=wandb.Settings(
            silent=True,
            console="off",  # it would record each redraw of the progress bar
            reinit="finish_previous",
            init_timeout=CONNECT_SECONDS,
            finish_timeout=UPLOAD_SECONDS,
            finish_timeout_raises=True,
            x_disable_meta=private,
            disable_git=private,
        ),
    )


def without_folders(value: Any) -> Any:
    """Settings as they may be sent away: a path relative to the current folder, or its last part where it lies outside.

    Folders are often called after people.
    """
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    path, here = Path(value), Path.cwd()
    return str(path.relative_to(here)) if here in (path, *path.parents) else path.name


def _upload_hint(run: Any) -> str:
    return f"Upload later: wandb sync {Path(run.dir).parent}"


def _one_line(error: Exception) -> str:
    return textwrap.shorten(str(error) or type(error).__name__, 200).rstrip(".")
