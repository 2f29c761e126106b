"""The daemon of a machine passes connections to gateways, and no stranger takes the way from them."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from link_ports import HERE, link_port
from ports import free_port
from waiting import TIMEOUT, wait_until

from dora._paths import DEFAULT_LINK_PORT
from dora.cluster.agent import link_port as module
from dora.cluster.agent.link_port import MOST_UNNAMED, LinkPort
from dora.errors import DoraError
from dora.gateway.meeting import listen_at

FLOW, OTHER = f"{1:036}", f"{2:036}"


def dial(port: int, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection((HERE, port), timeout=TIMEOUT)
    connection.sendall(data)
    return connection


def passed_to(gateway: socket.socket) -> socket.socket:
    """Return the next connection that a gateway gets."""
    gateway.settimeout(TIMEOUT)
    passage, _ = gateway.accept()
    with passage:
        _, (descriptor,), _, _ = socket.recv_fds(passage, 1, 1)
    return socket.socket(fileno=descriptor)


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, str]:
    """Return where the gateways of two dataflows have their sockets."""
    return {FLOW: f"{tmp_path}/1", OTHER: f"{tmp_path}/2"}


@pytest.fixture
def gateways(paths: dict[str, str]) -> Iterator[dict[str, socket.socket]]:
    found = {name: listen_at(path) for name, path in paths.items()}
    yield found
    for each in found.values():
        each.close()


def test_a_connection_goes_to_the_gateway_of_the_dataflow_that_it_names(
    gateways: dict[str, socket.socket], paths: dict[str, str]
) -> None:
    with link_port(paths) as served:
        for name in (FLOW, OTHER, FLOW):
            with (
                dial(served.port, name.encode() + b"for the gateway") as near,
                passed_to(gateways[name]) as far,
            ):
                assert far.recv(100) == b"for the gateway", "nothing more was read"
                far.sendall(b"and back")
                assert near.recv(100) == b"and back"


def test_a_name_may_come_in_pieces(gateways: dict[str, socket.socket], paths: dict[str, str]) -> None:
    with link_port(paths) as served, dial(served.port) as near:
        for character in FLOW:
            near.sendall(character.encode())
        passed_to(gateways[FLOW]).close()


def test_connections_without_a_gateway_are_closed(paths: dict[str, str]) -> None:
    """Whether it is unknown, about to start, or has been killed."""
    with link_port(paths) as served:
        for name in (f"{3:036}", FLOW, "\xff" * 18):
            with dial(served.port, name.encode()) as connection:
                assert is_closed(connection)
        dead = listen_at(paths[FLOW])
        dead.close()
        with dial(served.port, FLOW.encode()) as connection:
            assert is_closed(connection)


@pytest.mark.lengthy
def test_a_stranger_that_says_nothing_is_closed_after_a_while(
    paths: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    with link_port(paths) as served:
        for said in (b"", FLOW.encode()[:-1], b"GET / HTTP/1.1"):
            with dial(served.port, said) as stranger:
                assert is_closed(stranger)


@pytest.mark.slow
def test_silent_strangers_in_a_crowd_do_not_keep_a_gateway_out(
    gateways: dict[str, socket.socket], paths: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 10 * TIMEOUT)
    with link_port(paths) as served, ExitStack() as stack:
        crowd = [stack.enter_context(dial(served.port)) for _ in range(600)]
        with dial(served.port, FLOW.encode()) as near, passed_to(gateways[FLOW]) as far:
            far.sendall(b"let in")
            assert near.recv(100) == b"let in"
        for stranger in crowd:
            stranger.settimeout(0)

        def left() -> int:
            return sum(not hangs_up(stranger) for stranger in crowd)

        wait_until(lambda: left() <= MOST_UNNAMED, lambda: f"{left()} strangers")


def hangs_up(connection: socket.socket) -> bool:
    try:
        return is_closed(connection)
    except BlockingIOError:
        return False


def test_strangers_are_counted_in_few_lines(
    paths: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dora.daemon")
    with link_port(paths) as served:
        for _ in range(50):
            with dial(served.port, b"x" * 40) as connection:
                assert is_closed(connection)
    assert [line for line in caplog.messages if "named no dataflow" in line] == [
        "20 connections at the link port named no dataflow of this machine"
    ]


def test_a_wanted_port_is_the_one_or_an_error_with_a_remedy() -> None:
    port = free_port()
    with link_port({}, port) as served:
        assert served.port == port
        with pytest.raises(
            DoraError,
            match=f"^port {port} for links is taken; give another .* --link-port or DORA_LINK_PORT$",
        ):
            link_port({}, port).__enter__()


def test_a_default_port_that_is_taken_is_replaced_by_a_free_one(caplog: pytest.LogCaptureFixture) -> None:
    with link_port({}), link_port({}) as second:
        assert second.port != DEFAULT_LINK_PORT
        dial(second.port).close()
    assert f"port {DEFAULT_LINK_PORT} is taken, so links have another one (--link-port)" in caplog.messages


def test_an_address_that_this_machine_does_not_have_is_an_error() -> None:
    async def listen() -> None:
        with pytest.raises(DoraError, match=r"cannot listen for links at 192\.0\.2\.1:6014: Cannot assign"):
            LinkPort(None, lambda _: "").open("192.0.2.1")

    asyncio.run(listen())


def test_a_machine_with_another_address_listens_there_at_the_same_port(
    gateways: dict[str, socket.socket], paths: dict[str, str]
) -> None:
    port = free_port()
    with (
        link_port(paths, port) as served,
        dial(port, FLOW.encode()) as near,
        passed_to(gateways[FLOW]) as far,
    ):
        assert served.call(lambda: served.link_port.open("127.0.0.2")) == port
        with pytest.raises(ConnectionRefusedError):
            dial(port)
        with socket.create_connection(("127.0.0.2", port)) as other:
            other.sendall(FLOW.encode())
            passed_to(gateways[FLOW]).close()
        far.sendall(b"goes on")
        assert near.recv(100) == b"goes on", "what a gateway has is its own"


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_an_address_may_be_one_of_ipv6(gateways: dict[str, socket.socket], paths: dict[str, str]) -> None:
    with link_port(paths) as served:
        port = served.call(lambda: served.link_port.open("::1"))
        with socket.create_connection(("::1", port)) as near:
            near.sendall(FLOW.encode())
            passed_to(gateways[FLOW]).close()


def test_a_port_that_is_closed_keeps_no_stranger(
    paths: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 10 * TIMEOUT)
    with link_port(paths) as served, dial(served.port) as stranger:
        wait_until(lambda: served.call(lambda: len(served.link_port._unnamed)) == 1, "the stranger")
        served.call(served.link_port.close)
        assert is_closed(stranger)


def test_connections_are_accepted_again_once_a_descriptor_is_free(
    gateways: dict[str, socket.socket], paths: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with link_port(paths) as served:
        accept, faults = served._loop.sock_accept, [OSError(errno.EMFILE, "too many open files")]

        async def accept_later(listener: socket.socket) -> object:
            if faults:
                raise faults.pop()
            return await accept(listener)

        monkeypatch.setattr(served._loop, "sock_accept", accept_later)
        for _ in range(2):  # the port waits for the first one already
            with dial(served.port, FLOW.encode()):
                passed_to(gateways[FLOW]).close()
        assert not faults


def test_a_machine_may_have_no_port() -> None:
    with link_port({}, 0) as served:
        assert served.port == 0
        assert served.call(lambda: served.link_port.open("127.0.0.2")) == 0
