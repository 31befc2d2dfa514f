"""Memory of a page that runs for weeks and gets pictures of any size."""

import contextlib
import ctypes

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
LARGE = 8 * 2**20  # bytes; Pillow keeps pixels in blocks of 16 MB


def give_back_large_blocks() -> None:
    """Have freed pixels go back to the system at once, where the C library is glibc.

    By default glibc soon keeps blocks of this size in a pool per thread: after a 50-megapixel photo
    about 350 MB stay in each thread that ever read one, and Gradio has forty.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, LARGE)
