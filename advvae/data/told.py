"""What is said once per process, however often what it is about is read: train, val and test may share a source."""

from __future__ import annotations

import logging
from pathlib import Path

told: set[tuple[Path, str]] = set()


def tell_once(log: logging.Logger, about: Path, line: str, level: int = logging.WARNING) -> None:
    """about: the folder or file whose line it is."""
    fact = about.absolute(), line
    if fact not in told:
        told.add(fact)
        log.log(level, "%s", line)
