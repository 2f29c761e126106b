"""Locks that a signal handler must not wait for: it has interrupted the thread that would release them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


def lock_of_threads() -> tuple[Any, Callable[[], bool]]:
    """Return a lock, and a function that tells whether this thread holds it already.

    The function is exact, because the lock itself remembers its thread. To note the thread for each message
    would cost more, and a signal may come between lock and note.
    """
    lock: Any = threading.RLock()  # between threads; its own thread asks `_is_owned` and leaves it alone
    return lock, lock._is_owned  # `threading.Condition` uses it, too
