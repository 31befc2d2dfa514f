"""A server whose memory stays as large as its work, where the C library is glibc."""

import contextlib
import ctypes

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of glibc's malloc.h
LARGE = 8 * 2**20  # bytes; Pillow keeps pixels in blocks of 16 MB
POOLS = 2  # for all threads; by default up to eight for each core


def keep_memory_flat() -> None:
    """Have glibc hold on to little of what is freed. Call it before other threads start.

    Freed blocks above `LARGE` go back to the system at once. By default glibc soon keeps them, too:
    after a 50-megapixel photo about 350 MB stay in each thread that ever read one, and Gradio has
    forty. Smaller blocks stay in their thread's pool, and pools that are there stay: previews and
    protections in all of Gradio's threads left 170 MB a round, up to 3.2 GB on two cores, where two
    pools stay below 1.7 GB.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)
        libc.mallopt(M_ARENA_MAX, POOLS)
