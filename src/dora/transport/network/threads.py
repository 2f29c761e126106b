"""The threads of a node that call Zenoh, and their end.

This module does not import Zenoh, because every node imports it and few nodes need Zenoh.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final

JOIN_TIMEOUT: Final = 2.0  # seconds until a node that closes its links no longer waits for a thread
_EXIT_TIMEOUT: Final = 20.0  # seconds

_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def start_thread(name: str, target: Callable[..., None], *args: Any) -> threading.Thread:
    """Start a thread that calls Zenoh.

    It ends when its session is closed. The interpreter waits for it at its end, 20 s at most: a thread that
    returns from Zenoh to an interpreter that finalizes aborts the process ("exception not rethrown").
    """
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    thread.start()
    _threads.add(thread)
    return thread


@atexit.register  # at the import, so that it runs after the functions that close sessions
def _join_threads() -> None:
    deadline = time.monotonic() + _EXIT_TIMEOUT
    for thread in list(_threads):
        thread.join(max(0.0, deadline - time.monotonic()))
