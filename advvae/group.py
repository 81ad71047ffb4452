"""How the processes of a job find each other, and hear why one of them has ended."""

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from advvae.errors import UserError

if TYPE_CHECKING:
    from torch.distributed import Store

PATIENCE = timedelta(days=7)  # one rank may prepare data or draw while others wait; a dead one is noticed at once
GRACE = 3  # seconds that a rank which fails has to say why, and then to leave
FAILURE = "failure"  # the key under which it says so


def is_of_another(error: RuntimeError) -> bool:
    """Whether this is what a collective raises when another rank has left."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo" in str(error).lower()


@dataclass
class Group:
    """The other ranks, as rank 0 sees them."""

    store: "Store"
    followers: list[Any]  # processes started here

    def wait_until_here(self) -> None:
        """Go on when all are about to join: joining waits for ever for one that is gone, and hears no interrupt.

        Raises:
            UserError: one of them has ended.
        """
        for rank, process in enumerate(self.followers, 1):
            while not self.store.check([here(rank)]):
                if process.exitcode is not None:
                    raise UserError(self.failure() or f"rank {rank} ended as it began")
                time.sleep(0.02)

    def failure(self) -> str | None:
        """Why another rank has failed, if one has."""
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline:
            if self.store.check([FAILURE]):
                return self.store.get(FAILURE).decode()
            if dead := [i for i, process in enumerate(self.followers, 1) if process.exitcode]:
                time.sleep(0.1)  # it may have said why a moment ago
                if not self.store.check([FAILURE]):
                    code = self.followers[dead[0] - 1].exitcode
                    return f"rank {dead[0]} ended with status {code}" + " (killed)" * (code == -9)
            time.sleep(0.1)
        return None


def here(rank: int) -> str:
    """The key under which a follower says that it is about to join."""
    return f"here/{rank}"


def join(store: "Store", rank: int, n: int, is_cuda: bool) -> None:
    """Become one of n ranks, when the others have come too."""
    import torch
    from torch import distributed as processes

    from advvae.distributed import local_rank

    backend = "cpu:gloo,cuda:nccl" if is_cuda else "gloo"
    processes.init_process_group(backend, store=store, rank=rank, world_size=n, timeout=PATIENCE)
    if is_cuda:
        torch.cuda.set_device(local_rank())


def leave() -> None:
    """When all have come here: a rank that is gone is an error to those that still wait for its last word."""
    from torch import distributed as processes

    from advvae.distributed import wait_for_all

    wait_for_all()
    processes.destroy_process_group()


@contextmanager
def failure_told(store: "Store", rank: int) -> Iterator[None]:
    """Let rank 0 know why this rank ends, and nobody else."""
    import logging

    logging.disable(logging.CRITICAL)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(1)
    except Exception as error:
        told = str(error) if isinstance(error, UserError) else f"rank {rank}: {traceback.format_exc()}"
        store.set(FAILURE, told)
        sys.exit(1)
