"""Calls of services that wait."""

from __future__ import annotations

import time

from dora.errors import CallTimedOut
from dora.ros2.engine import Buffer, ServiceClient


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
