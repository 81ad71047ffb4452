"""What the processes that train one model together say to each other. With one process, nothing is said.

Every rank runs the same code on its share of each batch; the gradients of each player are summed over the ranks in one
flat all-reduce, as stylegan3's training loop does: the VAE's while the discriminator has its turn.
DistributedDataParallel gives more overlap of sums and backward passes, but wants each player's forward pass followed by
that player's own backward pass. In this game a fake passes the discriminator once for the turns of both, and each turn
asks for some gradients only.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as processes

Value = TypeVar("Value")

_alone = False


def n_ranks() -> int:
    """How many processes work together here."""
    return 1 if _alone or not processes.is_initialized() else processes.get_world_size()


def rank() -> int:
    """The number of this process, from 0. Rank 0 alone writes and talks."""
    return processes.get_rank() if processes.is_initialized() else 0


def local_rank() -> int:
    """The number of this process on its own machine: that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", rank()))


def n_local_ranks() -> int:
    """How many of these processes are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", n_ranks()))


@contextmanager
def alone() -> Iterator[None]:
    """In here, nothing is said to other ranks."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def own_part(batch: Tensor) -> Tensor:
    """This rank's share of a batch (B, …): every n-th of it."""
    return batch[rank() :: n_ranks()] if n_ranks() > 1 else batch


def own_generator(generator: torch.Generator) -> torch.Generator:
    """What draws for this rank's images alone: one that follows from the seed of all's. One rank keeps that of all."""
    if n_ranks() == 1:
        return generator
    (seed,) = np.random.SeedSequence([generator.initial_seed(), rank()]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(seed))


def begin_average(parameters: Iterable[nn.Parameter], n_images: int) -> Callable[[], None]:
    """Begin to make each gradient, a mean over this rank's n images, the mean over all ranks'; the result ends it."""
    if n_ranks() == 1:
        return lambda: None
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), gradients[0].new_ones(1)])
    flat *= n_images
    summing = processes.all_reduce(flat, async_op=True)
    assert summing is not None

    def end() -> None:
        summing.wait()
        *sums, n_all = flat.split([*(gradient.numel() for gradient in gradients), 1])
        for gradient, summed_gradient in zip(gradients, sums, strict=True):
            torch.div(summed_gradient.view_as(gradient), n_all, out=gradient)

    return end


def begin_alike(networks: nn.Module) -> None:
    """Give every rank the weights and statistics of rank 0."""
    if n_ranks() > 1:
        for tensor in networks.state_dict().values():
            processes.broadcast(tensor, 0)


def average_statistics(networks: nn.Module) -> None:
    """Make running statistics those of all ranks: each has seen its own share of every batch."""
    if n_ranks() == 1:
        return
    for statistics in networks.buffers():
        if statistics.is_floating_point():
            processes.all_reduce(statistics)
            statistics /= n_ranks()


@contextmanager
def averaged_statistics(networks: nn.Module) -> Iterator[None]:
    """In here, running statistics are those of all ranks."""
    if n_ranks() == 1:
        yield
        return
    own = [statistics.clone() for statistics in networks.buffers()]
    average_statistics(networks)
    try:
        yield
    finally:
        for statistics, before in zip(networks.buffers(), own, strict=True):
            statistics.copy_(before)


def with_shared_batch_statistics(networks: nn.Module, device: torch.device) -> None:
    """On GPUs, batch norms see the whole batch. On CPUs there is no such layer: each rank's share is its batch."""
    if n_ranks() > 1 and device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(networks)


def summed(values: Tensor) -> Tensor:
    """The sum over ranks of a tensor on the CPU."""
    if n_ranks() > 1:
        processes.all_reduce(values)
    return values


def wait_for_all() -> None:
    """Go on when every rank has come here: what rank 0 wrote before is on the disk."""
    summed(torch.zeros(1))


@contextmanager
def first_ahead() -> Iterator[None]:
    """In here rank 0 goes first; what it has put on the disk, the others find."""
    if rank() > 0:
        wait_for_all()
    yield
    if rank() == 0:
        wait_for_all()


def by_first(compute: Callable[[], Value]) -> Value:
    """What rank 0 computes; the others wait for it."""
    with alone():
        values = [compute()] if rank() == 0 else []
    return from_first(values)[0]


def from_first(value: Value) -> Value:
    """What rank 0 calls this with."""
    if n_ranks() == 1:
        return value
    values = [value]
    processes.broadcast_object_list(values, 0, device=torch.device("cpu"))
    return values[0]


def number_from_first(number: int) -> int:
    """The whole number that rank 0 calls this with: a shorter word than `from_first`, for every step."""
    if n_ranks() == 1:
        return number
    told = torch.tensor(number)
    processes.broadcast(told, 0)
    return int(told)


def from_all(value: Value) -> list[Value]:
    """What each rank calls this with."""
    if n_ranks() == 1:
        return [value]
    values = [value] * n_ranks()
    processes.all_gather_object(values, value)
    return values


def gathered(values: Mapping[str, Tensor], positions: Tensor, n: int) -> dict[str, Tensor]:
    """Of all n images, in their order, what each rank has computed at its own positions: name -> (n, …) on the CPU."""
    if n_ranks() == 1:
        return dict(values)
    parts: list[tuple[Tensor, dict[str, Tensor]]] = [(positions, {})] * n_ranks()
    processes.all_gather_object(parts, (positions, {name: value.cpu() for name, value in values.items()}))
    order = torch.cat([part for part, _ in parts]).argsort()
    assert len(order) == n
    names = next(own for part, own in parts if len(part))
    return {name: torch.cat([own[name] for part, own in parts if len(part)])[order] for name in names}
