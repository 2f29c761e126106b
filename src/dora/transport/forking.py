"""Keep a forked child process from using or destroying the node of its parent.

A child of `os.fork`, or of `multiprocessing` with the start method ``fork``, has a copy of every object of
the node. The threads behind these objects are missing, shared memory and board belong to the parent, and
a destructor that runs in the child would free memory that the parent still uses.

Each owner of such resources therefore registers with `disown_after_fork`. Right after a fork, `disown` is
called in the child: it leaks what must not be destroyed there, and makes every further use raise
`WrongProcess`. No message pays for it, because nothing checks the process id.
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
        """Leave all resources to the parent process; called once, in a forked child."""
        ...


_owners: weakref.WeakSet[Any] = weakref.WeakSet()
_registered = False


def disown_after_fork(owner: Owner) -> None:
    """Call ``owner.disown`` in every child process that is forked from now on."""
    global _registered
    _owners.add(owner)
    if not _registered:
        _registered = True
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_disown_all)


def _disown_all() -> None:
    inherited = list(_owners)
    _owners.clear()  # a child that this one forks has nothing of theirs to give up
    for owner in inherited:
        owner.disown()


def leak(*things: object) -> None:
    """Keep objects, and everything they refer to, from ever being destroyed in this process."""
    for thing in things:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def refuse(*arguments: object, **options: object) -> NoReturn:
    """Raise `WrongProcess`; replaces functions of an object that belongs to the parent."""
    del arguments, options
    raise WrongProcess(_MESSAGE)


class RefusingResource:
    """Stands in for a resource of the parent, such as a session: every use raises `WrongProcess`."""

    def __getattr__(self, name: str) -> NoReturn:
        refuse()

    def __bool__(self) -> NoReturn:
        refuse()

    def __len__(self) -> NoReturn:
        refuse()


class RefusingLock:
    """Replaces the lock of an object that belongs to the parent."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> NoReturn:  # noqa: ARG002
        refuse()

    def locked(self) -> bool:
        return False

    def release(self) -> None:
        """Do nothing: it cannot be acquired."""

    def __enter__(self) -> NoReturn:
        refuse()

    def __exit__(self, *error: object) -> None:
        """Do nothing: it cannot be entered."""


class RefusingState:
    """Replaces the state store of a node."""

    save = load = staticmethod(refuse)
