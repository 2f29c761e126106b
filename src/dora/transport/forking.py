"""What a forked child process does with the node of its parent: nothing, and it says so.

A child that `os.fork` made, or `multiprocessing` with its start method ``fork``, has a copy of every
object of the node. But the threads behind them are missing, the shared memory and the board are the
parent's, and a destructor that runs in the child gives back memory that the parent still uses.

So each owner of such things registers itself with `watch`. Right after a fork, `disown` is called in
the child: it leaks what must not be destroyed there, and lets every further use raise `WrongProcess`.
This costs nothing per message, because nothing asks for the process id.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any, Final, NoReturn, Protocol

from dora.errors import WrongProcess

_MESSAGE: Final = (
    "a node belongs to the process that made it, and this process was forked from that one; start worker "
    'processes with `multiprocessing.get_context("spawn")`, or pass data through the process of the node '
    "(a queue or a pipe)"
)


class Owner(Protocol):
    def disown(self) -> None:
        """Leave everything to the parent process; called once, in a forked child."""
        ...


_owners: weakref.WeakSet[Any] = weakref.WeakSet()
_registered = False


def watch(owner: Owner) -> None:
    """Call ``owner.disown`` in each child process that is forked from now on."""
    global _registered
    _owners.add(owner)
    if not _registered:
        _registered = True
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_disown_all)


def _disown_all() -> None:
    inherited = list(_owners)
    _owners.clear()
    for owner in inherited:
        owner.disown()


def leak(*things: object) -> None:
    """Keep objects, and all that they refer to, from ever being destroyed in this process."""
    for thing in things:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def refuse(*arguments: object, **options: object) -> NoReturn:
    """Raise `WrongProcess`; stands in for functions of an object that belongs to the parent."""
    del arguments, options
    raise WrongProcess(_MESSAGE)


def do_nothing(*arguments: object) -> None:
    """Stand in for the end of an object that belongs to the parent."""


class RefusingLock:
    """Stands in for the lock of an object that belongs to the parent."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> NoReturn:  # noqa: ARG002
        refuse()

    def locked(self) -> bool:
        return False

    def release(self) -> None:
        """Do nothing: nobody has it."""

    def __enter__(self) -> NoReturn:
        refuse()

    def __exit__(self, *error: object) -> None:
        """Do nothing: nobody gets here."""


class RefusingState:
    """Stands in for what keeps the state of a node."""

    save = load = staticmethod(refuse)
