"""Whether the engine `dora.transport.shm.engine` works on this machine."""

from __future__ import annotations

import os
import sys


def fault() -> str:
    """Return why it does not, as the end of a sentence; "" if it does."""
    # A C type closes the semaphores (`dora.transport.shm.semaphores`) as if they had names; the GNU library
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
