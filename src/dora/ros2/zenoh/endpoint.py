"""The common part of publishers, subscriptions, clients and servers over Zenoh: a token in the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import zenoh

from dora.ros2.engine import RosType
from dora.ros2.graph import RosGraph
from dora.ros2.qos import Qos


class EndpointValues(NamedTuple):
    """The values that an endpoint is made of."""

    session: zenoh.Session
    key: str  # of its messages
    token: str  # of the endpoint in the graph
    name: str  # the full one of its topic or service
    type: RosType
    qos: Qos
    gid: bytes
    graph: RosGraph
    on_close: Callable[[], None]


class ZenohEndpoint:
    """An endpoint, which is in the graph from `_announce` to `_leave`."""

    def __init__(self, values: EndpointValues) -> None:
        self.type, self.qos, self.gid = values.type, values.qos, values.gid
        self._values = values

    def _announce(self) -> None:
        """Show the endpoint to the others, once it works."""
        values = self._values
        self._token = values.session.liveliness().declare_token(values.token)

    def _leave(self, *things: Any) -> None:
        """Undeclare the endpoint, and what it has declared."""
        undeclare(self._token, *things)
        self._values.on_close()


def undeclare(*things: Any) -> None:
    """Undeclare what a session has declared; a session that is closed has done that itself."""
    for thing in things:
        try:
            thing.undeclare()
        except zenoh.ZError:
            pass
