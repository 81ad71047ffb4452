"""Memory that a step frees is what the next one takes."""

import ctypes
import platform

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
