"""SIGTERM as an interrupt, so that what was started is ended before the command leaves."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM raise ``KeyboardInterrupt`` in this block. Only for the main thread.

    While a dataflow runs, the daemon handles the signal instead.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
