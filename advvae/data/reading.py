"""The images of each batch, at hand before the step asks for them."""

from __future__ import annotations

import ctypes
import mmap
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch

from advvae.data.entries import IN_MEMORY

READERS = 4  # threads: each waits for the disk most of the time
AHEAD = 8  # batches that are read before they are asked for
SHARE = 0.25  # of a GPU's free memory that a set may take there

copies: dict[tuple[int, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}  # images, and their copy on a GPU


def gathered(
    images: torch.Tensor, rows: Sequence[torch.Tensor], device: torch.device, readers: int = 0
) -> Iterator[torch.Tensor]:
    """`images[batch]` for each batch of rows, in order: on the device where that holds a copy, else pinned for it.

    images: (N, C, H, W) uint8 or uint16. Large ones are mapped: threads read these ahead, as many as `readers`, or
        READERS for 0.
    """
    is_cuda = device.type == "cuda"
    if images.nbytes <= IN_MEMORY and not is_cuda:
        return (images[batch] for batch in rows)
    if images.nbytes <= IN_MEMORY and (copy := copy_on(device, images)) is not None:
        moved = torch.cat(list(rows)).to(device)  # all at once, as the host waits for it
        return (copy[batch] for batch in moved.split([len(batch) for batch in rows]))
    return read_ahead(partial(taken, images, pinned=is_cuda), rows, readers or READERS)


def read_ahead(read: partial[torch.Tensor], rows: Iterable[torch.Tensor], readers: int) -> Iterator[torch.Tensor]:
    """`read(batch)` for each batch of rows, in order, AHEAD of them by other threads. Their errors are raised here."""
    waiting: deque[Future[torch.Tensor]] = deque()
    with ThreadPoolExecutor(readers, thread_name_prefix="reader") as pool:
        try:
            for batch in rows:
                waiting.append(pool.submit(read, batch))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # also where the loop over the batches ends early
            pool.shutdown(cancel_futures=True)


def taken(images: torch.Tensor, rows: torch.Tensor, *, pinned: bool) -> torch.Tensor:
    """`images[rows]`, by one thread: NumPy starts no others for it, and holds no lock while it waits for the disk."""
    ask_for(images, rows)
    batch = torch.empty((len(rows), *images.shape[1:]), dtype=images.dtype, pin_memory=pinned)
    images.numpy().take(rows.numpy(), axis=0, out=batch.numpy(), mode="clip")  # "raise" would take a copy first
    return batch


def ask_for(images: torch.Tensor, rows: torch.Tensor) -> None:
    """Tell the system which pages of a mapped file are wanted: the disk is asked for all at once, and for no others.

    Found missing one by one, each is read with up to megabytes around it: 6,000 images of 12 kB a second, not 18,000.
    """
    if not hasattr(mmap, "MADV_WILLNEED"):  # no such system
        return
    madvise, n_bytes = ctypes.CDLL(None).madvise, images[0].nbytes
    for start in (images.data_ptr() + rows * n_bytes).tolist():
        into_page = start % mmap.PAGESIZE
        madvise(ctypes.c_void_p(start - into_page), ctypes.c_size_t(into_page + n_bytes), mmap.MADV_WILLNEED)


def copy_on(device: torch.device, images: torch.Tensor) -> torch.Tensor | None:
    """These images on a GPU, copied once for all splits and jobs of this process; None = there is no room.

    uint16, which kernels do not know, is carried as int16.
    """
    key = id(images), device
    if key not in copies:
        if not fits(images, device):
            copies.clear()
            torch.cuda.empty_cache()
            if not fits(images, device):
                return None
        plain = images.view(torch.int16) if images.dtype == torch.uint16 else images
        copies[key] = images, plain.to(device)
    return copies[key][1]


def fits(images: torch.Tensor, device: torch.device) -> bool:
    return images.nbytes <= SHARE * torch.cuda.mem_get_info(device)[0]
