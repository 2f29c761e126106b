"""Requests that meet a restart, a timeout or a cancellation: each of them has its answer."""

from __future__ import annotations

import asyncio

import pyarrow as pa
import pytest
from fake_daemon import FakeDaemon, StartFlow
from flows import node
from waiting import TIMEOUT

from dora import CallRefused, Input, Node
from dora.wire.node_protocol import NodeRestartedFrame


def pair(start_flow: StartFlow) -> tuple[FakeDaemon, Node, Node]:
    daemon = start_flow(
        node("client", inputs={"response": "server/response"}, outputs="request"),
        node("server", inputs={"request": "client/request"}, outputs="response"),
    )
    return daemon, daemon.node("client"), daemon.node("server")


def test_a_call_is_not_lost_by_a_restart_of_its_server_that_came_before(start_flow: StartFlow) -> None:
    daemon, client, server = pair(start_flow)
    server.serve("request", "response")(lambda request: request["value"])
    daemon.send("client", NodeRestartedFrame("server"))
    call = client.call("request", pa.array([1]), timeout=TIMEOUT)
    restarted = client.try_recv()
    assert restarted is not None
    assert restarted["type"] == "NODE_RESTARTED"
    assert server.try_recv() is None
    assert call.wait()["value"].to_pylist() == [1]


def cancel_a_handler(server: Node, *, close: bool = False) -> None:
    """Receive a request, and cancel that while its handler works; with ``close``, close the node before."""

    async def main() -> None:
        begun = asyncio.Event()

        @server.serve("request", "response")
        async def slow(_: Input) -> None:
            begun.set()
            await asyncio.Event().wait()

        receiving = asyncio.create_task(server.recv_async())
        await asyncio.wait_for(begun.wait(), TIMEOUT)
        if close:
            server.close()
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving

    asyncio.run(main())


def test_a_request_whose_handler_is_canceled_is_refused(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    call = client.call("request", b"", timeout=TIMEOUT)
    cancel_a_handler(server)
    assert client.try_recv() is None
    assert call.done
    with pytest.raises(CallRefused, match="`slow` was ended by CancelledError"):
        call.wait()


def test_a_handler_may_be_canceled_after_its_node_was_closed(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    client.call("request", b"")
    cancel_a_handler(server, close=True)
