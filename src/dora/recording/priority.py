"""Which threads of a recorder go before other programs: those that have little to do and must not be late.

Only where that is allowed, which it is for the system's administrator. A thread inherits from the one
that starts it. All threads share the interpreter's lock, so one that may have to wait for its turn must not
hold it for long.
"""

from __future__ import annotations

import os
import sys
from typing import Final

_AHEAD: Final = -10


def go_before_others() -> None:
    """Let the calling thread, and those that it starts, have a processor as soon as they need one."""
    _set(_AHEAD)


def go_with_others() -> None:
    """Let the calling thread take turns with the rest of the machine."""
    _set(0)


def _set(priority: int) -> None:
    if sys.platform == "linux":  # where it concerns one thread
        try:
            os.setpriority(os.PRIO_PROCESS, 0, priority)
        except OSError:
            pass
