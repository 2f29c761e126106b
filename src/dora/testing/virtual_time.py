"""Virtual time for the modules `time` and `asyncio`.

While a virtual dataflow exists, the functions of the module `time` are replaced: a task of the scheduler
gets virtual time, any other thread gets the real functions. Names that modules of dora and of the program
under test have imported (``from time import sleep``) are replaced as well, and restored at the end.
``datetime.now()`` is written in C and stays real.

An asyncio loop of a task waits in the scheduler, so ``asyncio.sleep`` takes no real time either.
"""

from __future__ import annotations

import selectors
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from dora.testing.scheduler import SPIN_NS, START_NS, Flag, Scheduler, current

EPOCH_NS: Final = 1_704_067_200_000_000_000  # virtual wall-clock time at the start: 2024-01-01T00:00Z
_SPINS: Final = 100  # rounds of an asyncio loop without any wait, after which it takes time

_real_sleep = time.sleep
_real_signal = signal.signal
_RealSelector = selectors.DefaultSelector


def _clock(name: str, offset: int, per_unit: int | None) -> Callable[[], float]:
    real: Callable[[], float] = getattr(time, name)

    def read() -> float:
        found = current()
        if found is None:
            return real()
        nanoseconds = found[0].now - START_NS + offset
        return nanoseconds if per_unit is None else nanoseconds / per_unit

    read.__name__ = read.__qualname__ = name
    return read


def _sleep(seconds: float) -> None:
    found = current()
    if found is None:
        _real_sleep(seconds)
        return
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    # Rounded, but not to nothing: a program that sleeps until a moment would sleep for 0.3 ns for ever.
    nanoseconds = round(seconds * 1e9) or (1 if seconds else 0)
    found[0].sleep(nanoseconds, f"time.sleep({seconds:g}) to end")


def _signal(number: int, handler: Any) -> Any:
    """Accept the signal handler of a node and ignore it: a signal reaches the process, not one node."""
    found = current()
    if found is None or found[1] is found[0].driver:
        return _real_signal(number, handler)
    return signal.SIG_DFL


DoorbellsByFd = dict[int, list[Flag]]
"""Readable ends of doorbells, and the flags of the asyncio loops that listen to them."""


class VirtualSelector(_RealSelector):
    """The selector of an asyncio loop that runs in a task."""

    def __init__(self, scheduler: Scheduler, doorbells: DoorbellsByFd) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._doorbells = doorbells
        self._flag = Flag()
        self._spins = 0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = super().register(fileobj, events, data)
        listeners = self._doorbells.get(key.fd)
        if listeners is not None:
            listeners.append(self._flag)
        else:  # the first one is for the loop's own use
            self._scheduler.watch(key.fd, self._flag, external=len(self.get_map()) > 1)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = super().unregister(fileobj)
        listeners = self._doorbells.get(key.fd)
        if listeners is not None and self._flag in listeners:
            listeners.remove(self._flag)
        self._scheduler.unwatch(key.fd)
        return key

    def close(self) -> None:
        for key in list((self.get_map() or {}).values()):
            self._scheduler.unwatch(key.fd)
        super().close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            self._spins = 0
            return ready
        if timeout is not None and timeout <= 0:
            self._spins += 1
            if self._spins > _SPINS:
                self._spins = 0
                self._scheduler.sleep(SPIN_NS, "nothing: its asyncio loop is never idle")
            return super().select(0)
        self._spins = 0
        deadline = None if timeout is None else self._scheduler.now + round(timeout * 1e9)
        self._scheduler.wait(self._flag, deadline, "its asyncio tasks")
        return super().select(0)


@contextmanager
def virtual_time(doorbells: DoorbellsByFd, namespaces: list[dict[str, Any]]) -> Iterator[None]:
    """Give virtual time to all tasks inside the block. ``namespaces``: globals of programs under test.

    ``doorbells``: the readable ends of doorbells, with the flags of the asyncio loops that poll them.
    """

    def make_selector() -> selectors.BaseSelector:
        found = current()
        return _RealSelector() if found is None else VirtualSelector(found[0], doorbells)

    replaced = [(vars(selectors), "DefaultSelector", _RealSelector)]
    vars(selectors)["DefaultSelector"] = make_selector
    for namespace in _namespaces(namespaces):
        for name, value in list(namespace.items()):
            virtual = _VIRTUAL.get(id(value))
            if virtual is not None:
                replaced.append((namespace, name, value))
                namespace[name] = virtual
    try:
        yield
    finally:
        for namespace, name, value in replaced:
            namespace[name] = value


def _namespaces(further: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield vars(time)
    yield vars(signal)
    for name, module in list(sys.modules.items()):
        if name.startswith("dora.") and not name.startswith("dora.testing."):
            yield vars(module)
    yield from further


_CLOCKS: Final = (
    ("time", EPOCH_NS, 1_000_000_000),
    ("time_ns", EPOCH_NS, None),
    ("monotonic", START_NS, 1_000_000_000),
    ("monotonic_ns", START_NS, None),
    ("perf_counter", START_NS, 1_000_000_000),
    ("perf_counter_ns", START_NS, None),
)
# By identity: these objects may have any name in a module.
_VIRTUAL: Final[dict[int, Any]] = {
    id(getattr(time, name)): _clock(name, offset, per_unit) for name, offset, per_unit in _CLOCKS
} | {id(_real_sleep): _sleep, id(_real_signal): _signal}
