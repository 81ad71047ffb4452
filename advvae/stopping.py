"""Signals that ask a training to end: Ctrl-C, a cluster's stop, and its warnings before it."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from advvae.distributed import rank

USERS = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
SIGNALS = (signal.SIGINT, signal.SIGTERM, *USERS)
PLAIN = (signal.SIG_DFL, signal.default_int_handler)  # what a signal does that nobody else has a use for


class Interrupted(KeyboardInterrupt):
    """A training has ended early, and everything it needs to go on is on the disk."""


@dataclass
class Stop:
    """signal: the name of the one that asked for an end; None = none has."""

    signal: str | None = None


@contextmanager
def stops_noted() -> Iterator[Stop]:
    """In here, the first of the signals is noted in the result; a SIGINT after it ends the block at once.

    Further ones are the same request again: schedulers and torchrun send several. A SIGUSR1 or SIGUSR2 that
    is somebody's already stays theirs: submitit brings its job back into the queue by one of them.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # which alone may ask for signals
        yield stop
        return

    def note(number: int, frame: FrameType | None) -> None:
        if stop.signal is None:
            stop.signal = signal.Signals(number).name
            if rank() == 0:  # not by logging, which this may have interrupted
                os.write(2, f"{stop.signal}: a checkpoint is written and the training ends; Ctrl-C: at once\n".encode())
        elif number == signal.SIGINT:
            signal.default_int_handler(number, frame)

    taken = [number for number in SIGNALS if _is_free(number)]
    before = {number: signal.signal(number, note) for number in taken}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_free(number: int) -> bool:
    return number not in USERS or signal.getsignal(number) in PLAIN
