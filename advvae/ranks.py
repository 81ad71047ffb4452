"""The other processes of a job: `n_devices=N` starts them, torchrun has started them before.

Rank 0 is the job that Hydra runs. The others wait for what it has settled and then do the same work beside it, unheard,
in a folder that is thrown away; what they compute reaches it through `distributed`.
"""

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advvae.config import Config
from advvae.errors import UserError
from advvae.group import PATIENCE, Group, failure_told, here, is_of_another, join, leave
from advvae.settle import Settled
from advvae.torchrun import launched, n_launched

if TYPE_CHECKING:
    from torch.distributed import Store

    from advvae.jobs import Job

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
            if not launched():
                leave()
        except RuntimeError as error:
            if is_of_another(error) and (told := group.failure()):
                raise UserError(told) from error
            raise


@contextmanager
def _spawned(config: Config, modes: Modes) -> Iterator[Group]:
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
    scratch = tempfile.TemporaryDirectory(prefix="advvae-")
    arguments = (n, store.port, is_cuda, max(1, n_threads // n), scratch.name, modes)
    group = Group(store, [context.Process(target=_follow_spawned, args=(rank, *arguments)) for rank in range(1, n)])
    is_done = False
    try:
        with _interrupts_ignored():  # by those that start here: Ctrl-C is rank 0's to answer
            for process in group.followers:
                process.start()
        torch.set_num_threads(max(1, n_threads // n))
        group.wait_until_here()
        join(store, 0, n, is_cuda)
        yield group
        is_done = True
    finally:
        if processes.is_initialized():
            processes.destroy_process_group()  # wakes those that wait for this rank
        for process in group.followers:
            if process.pid is not None:
                if not is_done:
                    process.kill()  # what it has written lies in the scratch folder
                process.join()
        scratch.cleanup()
        torch.set_num_threads(n_threads)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # which alone may say so
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def n_cores() -> int:
    """Of this machine, how many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _follow_spawned(rank: int, n: int, port: int, is_cuda: bool, n_threads: int, scratch: str, modes: Modes) -> None:
    import torch
    from torch import distributed as processes

    torch.set_num_threads(n_threads)
    tempfile.tempdir = scratch
    store = processes.TCPStore("127.0.0.1", port, n, is_master=False)
    with failure_told(store, rank):
        store.set(here(rank), "")
        join(store, rank, n, is_cuda)
        _work_beside(modes)
        leave()


@contextmanager
def _beside_torchrun(config: Config) -> Iterator[Group]:
    """The ranks that torchrun has started; they stay for the next job."""
    import torch
    from torch import distributed as processes

    if config.n_devices not in (1, n_launched()):
        raise UserError(f"n_devices={config.n_devices} beside torchrun's {n_launched()} processes: leave it out")
    store = _store_of_torchrun()
    if not processes.is_initialized():
        join(store, 0, n_launched(), torch.cuda.is_available())
    yield Group(store, [])


def follow_torchrun(modes: Modes) -> None:
    """Any other rank than 0, from start to end."""
    import torch

    rank, store = int(os.environ["RANK"]), _store_of_torchrun()
    with failure_told(store, rank):
        join(store, rank, n_launched(), torch.cuda.is_available())
        while _work_beside(modes):
            pass
        leave()
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

    store = _store_of_torchrun()
    if not processes.is_initialized():  # there was no job, only a question such as --help
        join(store, 0, n_launched(), torch.cuda.is_available())
    try:
        from_first(None)
        leave()
    except RuntimeError as error:
        if is_of_another(error) and (told := Group(store, []).failure()):
            sys.exit(told)
        raise


def _store_of_torchrun() -> "Store":
    from torch.distributed import PrefixStore, TCPStore

    is_master = os.environ["RANK"] == "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, n_launched(), is_master=is_master, timeout=PATIENCE)
    return PrefixStore(f"advvae/{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)  # --max-restarts keeps the store


def _is_cuda(config: Config) -> bool:
    import torch

    return config.device != "cpu" and torch.cuda.is_available()


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
    with _scratch_folder() as scratch, ExitStack() as resources:
        run = Run(scratch, [], resumed=False)
        checkpoint = read_checkpoint(work.checkpoint) if work.checkpoint else None
        discriminator = read_checkpoint(work.discriminator) if work.discriminator else None
        job = open_job(Settled(work.config, checkpoint, discriminator), run, resources)
        job.shared_folder = work.folder
        run_modes(job, modes)
    return True


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    """A folder that is gone afterwards, also where torchrun tells this process to end."""
    folder = Path(tempfile.mkdtemp(prefix="advvae-"))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield folder
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second word must not end the removal
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)
