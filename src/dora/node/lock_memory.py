"""Keep the memory of this process in RAM, for a node with ``lock_memory: true`` (Linux)."""

from __future__ import annotations

import ctypes
import os
from typing import Final

from dora.errors import StartFailed

_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4


def lock_memory() -> None:
    """Lock what is mapped, and what will be; raises `StartFailed`.

    Pages that are mapped now are read into RAM at once. Later ones are locked one by one, when they are
    first used: a channel of shared memory reserves far more addresses than it ever uses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (_MCL_CURRENT, _MCL_FUTURE | _MCL_ONFAULT):
        if libc.mlockall(flags):
            reason = os.strerror(ctypes.get_errno())
            raise StartFailed(f"`lock_memory`: the memory of this process cannot be locked: {reason}")
