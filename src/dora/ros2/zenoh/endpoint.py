"""The common part of publishers, subscriptions, clients and servers over Zenoh: a token in the graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import zenoh

from dora.ros2.engine import EndpointSpec, RosEndpoint
from dora.ros2.zenoh.keys import gid_of


class Declaration(NamedTuple):
    """Values that an endpoint over Zenoh needs beside its `EndpointSpec`."""

    session: zenoh.Session
    key: str  # of its messages
    token: str  # of the endpoint in the graph


class ZenohEndpoint(RosEndpoint):
    """An endpoint, which is in the graph from `_announce` to `_leave`."""

    def __init__(self, spec: EndpointSpec, declaration: Declaration) -> None:
        super().__init__(spec)
        self._declaration = declaration
        self._gid = gid_of(declaration.token)

    def _announce(self) -> None:
        """Show the endpoint to the others, once it works."""
        session, _, token = self._declaration
        self._token = session.liveliness().declare_token(token)

    def _leave(self, *things: Any) -> None:
        """Undeclare the endpoint, and what it has declared."""
        undeclare(self._token, *things)


def undeclare(*things: Any) -> None:
    """Undeclare what a session has declared; a session that is closed has done that itself."""
    for thing in things:
        try:
            thing.undeclare()
        except zenoh.ZError:
            pass
