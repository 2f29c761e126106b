"""The socket at which a coordinator accepts connections."""

from __future__ import annotations

import asyncio
import socket

import pytest

from dora.cluster.coordinator.server import _listen


@pytest.mark.parametrize("interface", ["127.0.0.1", "::1"])
def test_no_part_of_an_answer_waits_for_the_acknowledgement_of_another(interface: str) -> None:
    async def find() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted = writer.get_extra_info("socket")
            found.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(accept, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            writer.close()
            return await found

    if ":" in interface and not socket.has_ipv6:
        pytest.skip("this system has no IPv6")
    listener = _listen(interface, 0)
    assert asyncio.run(find()) != 0
