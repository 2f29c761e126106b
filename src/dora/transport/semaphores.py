"""POSIX semaphores in shared memory: how processes pass memory to each other.

Python has no memory fences, and the order in which one process sees the plain writes of another is not the
order of the program on arm64. POSIX (Base Definitions, 4.12) names functions that *synchronize memory*;
``sem_post`` and ``sem_trywait`` are among them. A process that takes what another one has posted also
sees all that the other one wrote before, on every processor.

The C type behind `multiprocessing` calls these functions at once (post 40 ns, take 50 ns; through ctypes
four times as much). It is used here for semaphores at an address, which ``sem_init`` has made once.
"""

from __future__ import annotations

from _multiprocessing import SemLock  # type: ignore[import-not-found]
from collections.abc import Callable
from typing import Final

from dora.transport.mapping import libc

SIZE: Final = 32  # bytes of a semaphore, with the GNU C library on 64-bit systems
_SEMAPHORE: Final = 1  # the kind: not a mutex
_MOST: Final = (1 << 31) - 1  # the system's own limit: nothing here comes near it, so `post` never refuses

Take = Callable[[bool], bool]
Post = Callable[[], None]


def initialise(address: int) -> None:
    """Make a semaphore with the value 0 at an address, once, before other processes may see it."""
    if libc().sem_init(address, 1, 0):
        raise OSError("sem_init failed")


class Semaphore:
    """A semaphore at an address, which must stay mapped.

    ``take(False)`` takes one if there is one and tells whether it did, ``post()`` adds one, ``is_zero()``
    tells whether there is none just now.
    """

    __slots__ = ("is_zero", "post", "take")

    def __init__(self, address: int) -> None:
        semaphore = SemLock._rebuild(address, _SEMAPHORE, _MOST, None)
        self.take: Take = semaphore.acquire
        self.post: Post = semaphore.release
        self.is_zero: Callable[[], bool] = semaphore._is_zero
