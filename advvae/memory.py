"""Memory that a step frees is what the next one takes."""

import ctypes
import platform
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard

from advvae.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST = 2**30  # bytes; a block above this goes back to the system when it is freed


def keep_freed_memory() -> None:
    """Let the process keep what it frees, up to its peak. On systems without glibc this does nothing.

    glibc hands large blocks back to the system, and takes them anew as pages of zeros: in a training step on a CPU
    that was 27,000 page faults, and a tenth of the time.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
    libc.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST - 1)


@contextmanager
def shortage_told() -> Iterator[None]:
    """Turn memory that is not there into a UserError that names what takes it."""
    try:
        yield
    except Exception as error:
        if not is_shortage(error):
            raise
        raise UserError(
            f"out of memory: lower batch_size, size (or set crop), hidden_dims or latent_dim ({str(error)[:200]})"
        ) from None


def is_shortage(error: object) -> TypeGuard[Exception]:
    """Whether there is not the memory that was asked for: Python's and NumPy's way to say it, a GPU's, or a CPU's."""
    said = ("OutOfMemoryError" in type(error).__name__, "can't allocate memory" in str(error))
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(said))


class ValuesOfImages:
    """What is computed of n images batch by batch: name -> (n, …), in their order.

    It has its place from the beginning. Small tensors that are kept batch after batch would lie where the large ones
    of a step were freed, and leave no room for those of the next: memory grew by 10 MB a batch of 64 px.
    """

    def __init__(self, n: int) -> None:
        self.by_name: dict[str, Tensor] = {}
        self._n = n
        self._n_added: Counter[str] = Counter()

    def add(self, name: str, batch: "Tensor") -> None:
        """The values (B, …) of the next B images."""
        if name not in self.by_name:
            self.by_name[name] = batch.new_empty((self._n, *batch.shape[1:]))
        start = self._n_added[name]
        self.by_name[name][start : start + len(batch)] = batch
        self._n_added[name] += len(batch)
