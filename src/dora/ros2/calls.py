"""Calls of services that wait."""

from __future__ import annotations

import time
from typing import Final

from dora.errors import CallTimedOut, TransportError
from dora.ros2.engine import Buffer, ServiceClient
from dora.ros2.graph import RosGraph

# A server is in the graph a moment before requests get to it, and no engine tells of that moment.
_RECHECK_PERIOD: Final = 0.02  # seconds


def wait_for_service(client: ServiceClient, graph: RosGraph, timeout: float | None) -> bool:
    """Do what `ServiceClient.wait_for_service` says, with `ServiceClient.is_ready` and the graph."""
    deadline = None if timeout is None else time.monotonic() + timeout

    def left() -> float | None:
        return None if deadline is None else max(deadline - time.monotonic(), 0)

    service, type = client.service, client.type

    def has_server() -> bool:
        if client.closed:
            raise TransportError(f"the client of {service} is closed")
        return graph.has_server(service, type.name, type.hash)

    if not graph.wait_for(has_server, left()):
        if graph.closed:
            raise TransportError(f"the ROS context of the client of {service} is closed")
        return False
    while not client.is_ready():  # raises once the client is closed
        if left() == 0:
            return False
        time.sleep(_RECHECK_PERIOD)
    return True


def call(client: ServiceClient, data: Buffer, timeout: float) -> bytes:
    """Do what `ServiceClient.call` says, with the other methods of a client."""
    deadline = time.monotonic() + timeout
    if not client.wait_for_service(timeout):
        raise CallTimedOut(
            f"no server of {client.service} ({client.type.name}) has come within {timeout:g} s"
        )
    future = client.send_request(data)
    try:
        return future.result(max(deadline - time.monotonic(), 0))
    except TimeoutError as error:
        future.cancel()
        raise CallTimedOut(f"{client.service} has not answered within {timeout:g} s") from error
