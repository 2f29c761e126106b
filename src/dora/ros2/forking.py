"""Leave a context to the parent process, in a child that was forked from it.

The child has no thread of the engine. So a call into the engine may wait for ever there, and the parent
would lose what the child closes. See `dora.transport.forking`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from dora.transport.forking import leak, refuse


class _OfTheParent:
    """Every use raises `WrongProcess`; to close it does nothing."""

    def __getattr__(self, name: str) -> NoReturn:
        refuse()

    def __enter__(self) -> NoReturn:
        refuse()

    def __exit__(self, *error: object) -> None:
        """Do nothing: the context goes on in the parent."""

    def close(self) -> None:
        """Do nothing: the parent closes it."""


def leave_to_parent(context: Any, nodes: Iterable[Any]) -> None:
    """Turn a context, its graph, its nodes and their endpoints into objects that refuse, and keep them."""
    things = [context, context.graph]
    for node in nodes:
        things += [node, *node._endpoints]
    leak(*things)
    for thing in things:
        thing.__class__ = _OfTheParent  # its methods take locks that a thread of the parent may hold
