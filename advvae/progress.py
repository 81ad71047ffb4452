"""What long work shows: a bar on a terminal, lines elsewhere. Imports nothing heavy: Hydra's logging loads it."""

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")


class ConsoleHandler(logging.Handler):
    """Prints log lines to whatever standard output is at that moment, so that they stand above a progress bar."""

    def __init__(
        self, stream: None = None
    ) -> None:  # Hydra's default handler has a stream; this one follows sys.stdout
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), flush=True)
        except BrokenPipeError:  # the reader, such as head, has left; the run goes on unheard
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def watched(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """The items, with a bar while they are worked on; without a terminal, just the items."""
    if not sys.stdout.isatty():
        yield from items
        return
    from rich.markup import escape
    from rich.progress import track

    yield from track(items, escape(what), total=total, transient=True)


@contextmanager
def silenced(*libraries: str) -> Iterator[None]:
    """Without what libraries log and warn of at each of their steps; what goes wrong is raised."""
    loggers = [logging.getLogger(name) for name in libraries]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Bar:
    """A progress bar over the images of a training or the bytes of a file; without a terminal it does nothing."""

    def __init__(self, progress: Any = None, task: Any = None) -> None:
        self._progress = progress
        self._task = task

    def advance(self, count: int) -> None:
        """Count images that were trained on, or bytes that have arrived."""
        if self._progress is not None:
            self._progress.advance(self._task, count)

    def go_to(self, epoch: int, n_images: int) -> None:
        """Show that the training stands in this epoch, at this many images of all epochs together."""
        if self._progress is not None:
            self._progress.update(self._task, epoch=epoch)
            if self._progress.tasks[self._task].completed != n_images:  # not by training: this must not count as speed
                self._progress.reset(self._task, completed=n_images)

    def describe(self, epoch: int, losses: str) -> None:
        """Show the epoch and its losses so far."""
        if self._progress is not None:
            self._progress.update(self._task, epoch=epoch, losses=losses)


@contextmanager
def training_bar(n_epochs: int, n_images: int) -> Iterator[Bar]:
    """A bar with epoch, losses, images/s and time left, of `n_epochs` of `n_images`."""
    if not sys.stdout.isatty():
        yield Bar()
        return
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Speed(ProgressColumn):
        """Images per second."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0:,.0f} images/s")

    columns = (
        TextColumn(f"epoch {{task.fields[epoch]}}/{n_epochs}"),
        BarColumn(),
        TextColumn("{task.fields[losses]}"),
        Speed(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("train", total=n_epochs * n_images, epoch=1, losses="")
        yield Bar(progress, task)


@contextmanager
def transfer_bar(what: str, total: int | None, done: int) -> Iterator[Bar]:
    """A bar with bytes, bytes/s and time left of a file on its way; total None = its length is not known."""
    if not sys.stdout.isatty():
        yield Bar()
        return
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, transient=True) as progress:
        yield Bar(progress, progress.add_task(escape(what), total=total, completed=done))


def shown_losses(means: Mapping[str, float]) -> str:
    """What the bar tells of an epoch under way."""
    return f"recon {means['recon']:.4f}  kld {means['kld']:.1f}  D {means['discriminator_loss']:.3f}"


def epoch_line(n_epochs: int, row: Mapping[str, Any]) -> str:
    """What the log tells of an epoch: its row of metrics.csv, in short."""
    discriminator = f"  D {row['discriminator_loss']:.3f}" if "discriminator_loss" in row else ""
    return (
        f"epoch {row['epoch']}/{n_epochs}  recon {row['recon']:.4f}  kld {row['kld']:.1f}{discriminator}  "
        f"val_loss {row['val_loss']:.4f}  {row['images_per_second']:,.0f} images/s  {row['seconds']:.0f} s"
    )
