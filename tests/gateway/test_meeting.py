"""Two gateways make a road, whichever of them can dial, and let nobody else in."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from certificates import certify
from link_ports import HERE, ServedPort
from waiting import wait_until

from dora.gateway import meeting
from dora.gateway.connection import ConnectionEnded, RoadConnection
from dora.gateway.meeting import Meeting, NewBypass, NewRoad
from dora.gateway.outgoing import CONNECTIONS
from dora.gateway.ports import Memory
from dora.wire.gateway_frame import TEXT
from dora.wire.node_config import RemoteConfig, TlsFiles

FLOW, OTHER_FLOW = f"{1:036}", f"{2:036}"


class Side:
    """One gateway, as far as it meets others."""

    def __init__(
        self, machine: str, secret: str, tls: TlsFiles | None, dataflow: str, folder: Path
    ) -> None:
        self.roads: list[NewRoad] = []
        self.bypasses: list[NewBypass] = []
        path = str(folder / machine)
        self.links = ServedPort({FLOW: path})
        self.remote = RemoteConfig(self.links.endpoint, {}, secret, tls)
        self.meeting = Meeting(dataflow, machine, self.remote, path, self._on_made)

    def _on_made(self, made: NewRoad | NewBypass) -> None:
        if isinstance(made, NewRoad):
            self.roads.append(made)
        else:
            self.bypasses.append(made)

    def dial(self, other: Side, name: str = "other") -> None:
        """Dial a side, by the name that it is supposed to have."""
        self.reach(other, name)
        self.meeting.dial(name)

    def reach(self, other: Side, name: str = "other") -> None:
        self.meeting.remote = RemoteConfig(
            self.remote.listen, {name: other.remote.listen}, self.remote.secret
        )


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Side]]:
    sides: list[Side] = []

    def make(
        machine: str, secret: str = "secret", tls: TlsFiles | None = None, dataflow: str = FLOW
    ) -> Side:
        sides.append(Side(machine, secret, tls, dataflow, tmp_path))
        return sides[-1]

    yield make
    for side in sides:
        side.links.close()
        side.meeting.close()
        for road in side.roads:
            for connection in road.sockets:
                connection.close()
        for bypass in side.bypasses:
            bypass.socket.close()


def meet(dialler: Side, listener: Side, name: str = "other") -> tuple[NewRoad, NewRoad]:
    """Make a road; return it as both sides have it."""
    dialler.dial(listener, name)

    def both_have_it() -> bool:
        listener.meeting.accept()
        return bool(dialler.roads and listener.roads)

    wait_until(both_have_it, lambda: f"a road: {dialler.meeting.last_fault}")
    return dialler.roads[0], listener.roads[0]


def bypass(dialler: Side, listener: Side, name: str = "other") -> tuple[NewBypass, NewBypass]:
    """Make a bypass; return it as both sides have it."""
    dialler.reach(listener, name)
    dialler.meeting.dial_bypass(name, b"left/1")

    def both_have_it() -> bool:
        listener.meeting.accept()
        return bool(dialler.bypasses and listener.bypasses)

    wait_until(both_have_it, "a bypass")
    (near,), (far,) = dialler.bypasses, listener.bypasses
    near.socket.sendall(b"frame")
    assert far.socket.recv(5) == b"frame"
    return near, far


def test_a_bypass_is_one_more_connection_with_the_token_of_the_side_that_wants_it(
    make: Callable[..., Side],
) -> None:
    near, far = bypass(make("left"), make("right"))
    assert (near.machine, near.token, near.key) == ("other", b"left/1", b"")
    assert (far.machine, far.token, far.key) == ("left", b"left/1", b"")


def fault_of(dialler: Side, listener: Side, name: str = "other") -> str:
    """Dial, and return why that fails."""
    dialler.dial(listener, name)

    def has_failed() -> bool:
        listener.meeting.accept()
        return bool(dialler.meeting.last_fault)

    wait_until(has_failed, "the end of the attempt")
    assert not (dialler.roads or listener.roads)
    return dialler.meeting.last_fault[name]


def pairs(near: NewRoad, far: NewRoad) -> None:
    """Each connection of one side is the same connection of the other one."""
    for connection in range(CONNECTIONS):
        near.sockets[connection].sendall(bytes([connection]))
        assert far.sockets[connection].recv(1) == bytes([connection])


def test_one_side_dials_and_both_have_the_road(make: Callable[..., Side]) -> None:
    near, far = meet(make("robot"), make("desk"))
    assert (near.machine, near.dialled_here) == ("other", True)
    assert (far.machine, far.dialled_here) == ("robot", False)
    pairs(near, far)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, TlsFiles]:
    """Return the files of two machines. Their certificates contain another address than the one in use."""
    for machine in ("robot", "desk"):
        certify(tmp_path, machine, "10.1.2.3")
    return {
        machine: TlsFiles(
            str(tmp_path / "ca.pem"), str(tmp_path / f"{machine}.pem"), str(tmp_path / f"{machine}.key")
        )
        for machine in ("robot", "desk")
    }


@pytest.mark.processes
def test_certificates_encrypt_all_connections_at_any_address(
    make: Callable[..., Side], files: dict[str, TlsFiles]
) -> None:
    near, far = meet(make("robot", tls=files["robot"]), make("desk", tls=files["desk"]), "desk")
    assert all(isinstance(connection, ssl.SSLSocket) for connection in (*near.sockets, *far.sockets))
    pairs(near, far)


@pytest.mark.processes
def test_a_connection_that_is_reset_leaves_the_others_of_its_thread_alone(
    make: Callable[..., Side], files: dict[str, TlsFiles]
) -> None:
    near, far = meet(make("robot", tls=files["robot"]), make("desk", tls=files["desk"]), "desk")
    far_reset, other = (RoadConnection(each, lambda _, size: Memory(size)) for each in far.sockets[:2])
    for connection in far.sockets:
        connection.setblocking(False)
    # So its close sends a reset.
    near.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    near.sockets[0].close()

    def has_ended() -> bool:
        far_reset.put(TEXT, body=b"x" * 1000)
        try:
            far_reset.flush()
        except ConnectionEnded:
            return True
        return False

    wait_until(has_ended, "the end of the connection")
    assert list(other.read()) == []


@pytest.mark.processes
def test_both_sides_of_a_bypass_have_a_key_instead_of_tls(
    make: Callable[..., Side], files: dict[str, TlsFiles]
) -> None:
    near, far = bypass(make("robot", tls=files["robot"]), make("desk", tls=files["desk"]), "desk")
    assert not any(isinstance(made.socket, ssl.SSLSocket) for made in (near, far))
    assert (len(near.key), near.key) == (32, far.key)


@pytest.mark.processes
def test_a_side_that_sends_no_key_gets_no_bypass(
    make: Callable[..., Side], files: dict[str, TlsFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    random = os.urandom
    monkeypatch.setattr(os, "urandom", lambda size: b"" if size == 32 else random(size))
    dialler, listener = make("robot", tls=files["robot"]), make("desk", tls=files["desk"])
    dialler.reach(listener, "desk")
    dialler.meeting.dial_bypass("desk", b"left/1")

    def have_both_ended() -> bool:
        listener.meeting.accept()
        return not {"dora dialling", "dora greeting"} & {thread.name for thread in threading.enumerate()}

    wait_until(have_both_ended, "the end of the attempt")
    assert not listener.bypasses


@pytest.mark.processes
def test_a_machine_with_the_certificate_of_another_one_gets_no_road(
    make: Callable[..., Side], files: dict[str, TlsFiles]
) -> None:
    fault = fault_of(make("robot", tls=files["robot"]), make("desk", tls=files["robot"]), "desk")
    assert fault == "its certificate is not for machine `desk`"
    listener = make("desk", tls=files["desk"])
    # The one that dials gets no answer to its greeting.
    assert fault_of(make("robot", tls=files["desk"]), listener, "desk") == "the connection was closed"


@pytest.mark.processes
def test_a_plain_side_and_an_encrypted_one_get_no_road(
    make: Callable[..., Side], files: dict[str, TlsFiles]
) -> None:
    assert fault_of(make("robot"), make("desk", tls=files["desk"]), "desk")
    assert fault_of(make("robot", tls=files["robot"]), make("desk"), "desk")


def test_a_side_with_another_secret_is_not_let_in(make: Callable[..., Side]) -> None:
    assert "secret" in fault_of(make("robot", secret="wrong"), make("desk"))


def test_a_machine_without_the_dataflow_closes_the_connection(make: Callable[..., Side]) -> None:
    assert fault_of(make("robot", dataflow=OTHER_FLOW), make("desk"))


def test_a_gateway_is_for_one_dataflow_whatever_the_connection_begins_with(
    make: Callable[..., Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    robot, desk = make("robot", dataflow=OTHER_FLOW), make("desk")
    sendall = socket.socket.sendall

    def send(connection: socket.socket, data: Any) -> None:
        sendall(connection, FLOW.encode() if data == OTHER_FLOW.encode() else data)

    monkeypatch.setattr(socket.socket, "sendall", send)
    assert fault_of(robot, desk) == "the connection was closed"


def test_the_secret_does_not_cross_the_network(
    make: Callable[..., Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    crossed = bytearray()
    sendall = socket.socket.sendall

    def listen_in(connection: socket.socket, data: Any) -> None:
        crossed.extend(data)
        sendall(connection, data)

    monkeypatch.setattr(socket.socket, "sendall", listen_in)
    meet(make("robot"), make("desk"))
    assert b"robot" in crossed
    assert b"secret" not in crossed


def test_who_says_nothing_gets_nothing(make: Callable[..., Side]) -> None:
    listener = make("desk")
    with socket.create_connection((HERE, listener.links.port)) as stranger:
        stranger.sendall(FLOW.encode() + b"\xff\xff")
        stranger.settimeout(0.01)

        def is_closed() -> bool:
            listener.meeting.accept()
            try:
                return stranger.recv(1) == b""
            except TimeoutError:
                return False

        wait_until(is_closed, "the end of the connection")
    assert listener.roads == []


def test_a_stranger_that_sends_byte_by_byte_has_no_more_time_than_others(monkeypatch: Any) -> None:
    now = 100.0
    monkeypatch.setattr(meeting, "time", SimpleNamespace(monotonic=lambda: now))
    timeouts: list[float] = []

    def receive(_: int) -> bytes:
        nonlocal now
        now += 2.0
        if timeouts[-1] < 2.0:
            raise TimeoutError
        return b"x"

    stranger: Any = SimpleNamespace(gettimeout=lambda: 3.0, settimeout=timeouts.append, recv=receive)
    with pytest.raises(TimeoutError):
        meeting._receive_exactly(stranger, 100)
    assert timeouts == [3.0, 1.0]
