"""The other processes of a job: `n_devices=N` starts them, torchrun has started them before.

Rank 0 is the job that Hydra runs. The others wait for what it has settled and then do the same work beside it, unheard,
in a folder that is thrown away; what they compute reaches it through `distributed`.
"""

import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advvae.config import Config
from advvae.errors import UserError
from advvae.settle import Settled
from advvae.torchrun import launched, n_launched

if TYPE_CHECKING:
    from torch.distributed import Store

    from advvae.jobs import Job

PATIENCE = timedelta(days=7)  # one rank may prepare data or draw while others wait; a dead one is noticed at once
GRACE = 3  # seconds that a rank which fails has to say why, and then to leave
FAILURE = "failure"  # the key under which it says so

Modes = Mapping[str, Callable[["Job"], dict[str, Any]]]


@dataclass(frozen=True)
class Work:
    """What rank 0 has settled, for the others to do beside it.

    folder: of the run, which rank 0 alone writes into.
    """

    config: Config
    checkpoint: Path | None
    discriminator: Path | None
    folder: Path


@contextmanager
def followed(settled: Settled, folder: Path, modes: Modes) -> Iterator[None]:
    """Rank 0: in here, the other ranks do the same work.

    Raises:
        UserError: there are not as many devices; another rank has failed.
    """
    config = settled.config
    if not launched() and config.n_devices == 1:
        yield
        return
    work = Work(
        replace(config, tracker={"name": "none"}),
        settled.checkpoint.path if settled.checkpoint else None,
        settled.discriminator.path if settled.discriminator else None,
        folder,
    )
    with _beside_torchrun(config) if launched() else _spawned(config, modes) as group:
        from advvae.distributed import from_first

        try:
            from_first(work)
            yield
        except RuntimeError as error:  # also what a collective raises when its other side has left
            if told := group.failure():
                raise UserError(told) from error
            raise


@dataclass
class _Group:
    store: "Store"
    followers: list[Any]  # processes started here

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


@contextmanager
def _spawned(config: Config, modes: Modes) -> Iterator[_Group]:
    """As many processes as devices, on this machine; they end with the block."""
    import torch
    from torch import distributed as processes

    n, is_cuda = config.n_devices, _is_cuda(config)
    there = torch.cuda.device_count() if is_cuda else n_cores()
    if n > there:
        raise UserError(f"n_devices={n}: there are only {there} {'GPUs' if is_cuda else 'cores'} here")
    store = processes.TCPStore("127.0.0.1", 0, n, is_master=True, wait_for_workers=False)
    n_threads = torch.get_num_threads()
    context = multiprocessing.get_context("spawn")
    arguments = (n, store.port, is_cuda, max(1, n_threads // n), modes)
    followers = [context.Process(target=_follow_spawned, args=(rank, *arguments)) for rank in range(1, n)]
    for process in followers:
        process.start()
    is_done = False
    try:
        torch.set_num_threads(max(1, n_threads // n))
        _join(store, 0, n, is_cuda)
        yield _Group(store, followers)
        _leave()
        is_done = True
    finally:
        if processes.is_initialized():
            processes.destroy_process_group()  # wakes those that wait for this rank
        for process in followers:
            if not is_done:
                process.terminate()
                process.join(GRACE)
                process.kill()
            process.join()
        torch.set_num_threads(n_threads)


def n_cores() -> int:
    """Of this machine, how many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _follow_spawned(rank: int, n: int, port: int, is_cuda: bool, n_threads: int, modes: Modes) -> None:
    import torch
    from torch import distributed as processes

    torch.set_num_threads(n_threads)
    store = processes.TCPStore("127.0.0.1", port, n, is_master=False)
    with _failure_told(store, rank):
        _join(store, rank, n, is_cuda)
        _work_beside(modes)
        _leave()


@contextmanager
def _beside_torchrun(config: Config) -> Iterator[_Group]:
    """The ranks that torchrun has started; they stay for the next job."""
    import torch
    from torch import distributed as processes

    if config.n_devices not in (1, n_launched()):
        raise UserError(f"n_devices={config.n_devices} beside torchrun's {n_launched()} processes: leave it out")
    store = _store_of_torchrun()
    if not processes.is_initialized():
        _join(store, 0, n_launched(), torch.cuda.is_available())
    yield _Group(store, [])


def follow_torchrun(modes: Modes) -> None:
    """Any other rank than 0, from start to end."""
    import torch

    rank, store = int(os.environ["RANK"]), _store_of_torchrun()
    with _failure_told(store, rank):
        _join(store, rank, n_launched(), torch.cuda.is_available())
        while _work_beside(modes):
            pass
        _leave()
    os._exit(0)  # at times, what torch's threads leave behind makes the interpreter abort at its own end


@contextmanager
def led() -> Iterator[None]:
    """Rank 0 of torchrun: when the block has ended well, the others may go; if not, torchrun ends them."""
    try:
        yield
    except SystemExit as end:
        if end.code:
            raise
    _dismiss()


def _dismiss() -> None:
    import torch
    from torch import distributed as processes

    from advvae.distributed import from_first

    if not processes.is_initialized():  # there was no job, only a question such as --help
        _join(_store_of_torchrun(), 0, n_launched(), torch.cuda.is_available())
    from_first(None)
    _leave()


def _leave() -> None:
    """When all have come here: a rank that is gone is an error to those that still wait for its last word."""
    from torch import distributed as processes

    from advvae.distributed import wait_for_all

    wait_for_all()
    processes.destroy_process_group()


def _store_of_torchrun() -> "Store":
    from torch.distributed import PrefixStore, TCPStore

    is_master = os.environ["RANK"] == "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, n_launched(), is_master=is_master, timeout=PATIENCE)
    return PrefixStore(f"advvae/{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)  # --max-restarts keeps the store


def _join(store: "Store", rank: int, n: int, is_cuda: bool) -> None:
    import torch
    from torch import distributed as processes

    from advvae.distributed import local_rank

    backend = "cpu:gloo,cuda:nccl" if is_cuda else "gloo"
    processes.init_process_group(backend, store=store, rank=rank, world_size=n, timeout=PATIENCE)
    if is_cuda:
        torch.cuda.set_device(local_rank())


def _is_cuda(config: Config) -> bool:
    import torch

    return config.device != "cpu" and torch.cuda.is_available()


@contextmanager
def _failure_told(store: "Store", rank: int) -> Iterator[None]:
    """Let rank 0 know why this rank ends, and nobody else. Asked to end, it removes what it has written first."""
    import logging
    import signal

    signal.signal(signal.SIGTERM, signal.default_int_handler)
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


def _work_beside(modes: Modes) -> bool:
    """Do what rank 0 has settled; False = there is nothing more to do."""
    from advvae.checkpoint import read_checkpoint
    from advvae.distributed import from_first
    from advvae.jobs import open_job
    from advvae.running import run_modes
    from advvae.runs import Run

    work: Work | None = from_first(None)
    if work is None:
        return False
    with tempfile.TemporaryDirectory(prefix="advvae-") as scratch, ExitStack() as resources:
        run = Run(Path(scratch), [], resumed=False)
        checkpoint = read_checkpoint(work.checkpoint) if work.checkpoint else None
        discriminator = read_checkpoint(work.discriminator) if work.discriminator else None
        job = open_job(Settled(work.config, checkpoint, discriminator), run, resources)
        job.shared_folder = work.folder
        run_modes(job, modes)
    return True
