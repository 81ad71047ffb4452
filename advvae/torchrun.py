"""What torchrun tells the processes that it starts."""

import os


def n_launched() -> int:
    """How many processes torchrun has started, on all machines; 0 = this one was started by hand."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def launched() -> bool:
    """Whether torchrun has started this process, as one of several or alone."""
    return n_launched() > 0


def is_follower() -> bool:
    """Whether torchrun has started this process to follow rank 0."""
    return launched() and int(os.environ["RANK"]) > 0
