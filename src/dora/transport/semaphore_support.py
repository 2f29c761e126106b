"""Whether semaphores in shared memory work on this machine, and with them the engine shm."""

from __future__ import annotations

import os
import sys


def fault() -> str:
    """Return why they do not, as the end of a sentence; "" if they do."""
    # A C type closes the semaphores (`dora.transport.semaphores`) as if they had names; the GNU library
    # ignores that.
    try:
        is_gnu = bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (OSError, ValueError):
        is_gnu = False
    if sys.platform != "linux" or sys.maxsize < 1 << 32 or not is_gnu:
        return "needs Linux with the GNU C library on a 64-bit processor"
    try:
        import _multiprocessing  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        return "needs a Python with the module _multiprocessing"
    return ""
