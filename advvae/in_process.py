"""A run within a caller's process: what it tells and what it sets are as a command has them, and are put back."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from advvae import runs
from advvae.files import disk_errors_told
from advvae.progress import ConsoleHandler
from advvae.random_state import seeded_apart

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # which deterministic=true sets
_one_at_a_time = threading.Lock()  # of what is set below, there is one in a process


@contextmanager
def as_command(folder: Path, output_dir: Path) -> Iterator[None]:
    """In here, a run in `folder` finds what it would find in a process of its own; two of them never overlap.

    Raises:
        UserError: a file of the run cannot be written.
    """
    with (
        _one_at_a_time,
        seeded_apart(seed=0),  # the run seeds them anew
        determinism_put_back(),
        disk_errors_told(f"below output_dir={output_dir}"),
        logged_to(folder / "advvae.log", output_dir),
    ):
        yield


@contextmanager
def determinism_put_back() -> Iterator[None]:
    """Whether torch is deterministic is afterwards as before."""
    is_deterministic, workspace = torch.are_deterministic_algorithms_enabled(), os.environ.get(WORKSPACE)
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        if is_deterministic != torch.are_deterministic_algorithms_enabled():  # to say it imports a compiler
            torch.use_deterministic_algorithms(is_deterministic, warn_only=warn_only)
        os.environ.pop(WORKSPACE, None)
        if workspace is not None:
            os.environ[WORKSPACE] = workspace


@contextmanager
def logged_to(path: Path, output_dir: Path) -> Iterator[None]:
    """What a run tells goes to standard output and to a file, as Hydra arranges it for a command.

    Args:
        output_dir: where the run's folder is removed from again, if nothing but the file has come into it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    log, file = logging.getLogger("advvae"), logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("[%(asctime)s] %(message)s"))
    handlers, level, propagate = [ConsoleHandler(), file], log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False  # a notebook's root logger would tell everything twice
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield
    finally:
        log.setLevel(level)
        log.propagate = propagate
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()
        if path.parent.is_dir() and {entry.name for entry in path.parent.iterdir()} <= {path.name}:
            runs.remove_folder(path.parent, output_dir)
