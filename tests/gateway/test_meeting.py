"""Two gateways make a road, whichever of them can dial, and let nobody else in."""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from certificates import certify
from link_ports import HERE, ServedPort
from waiting import TIMEOUT, wait_until

from dora.gateway import meeting
from dora.gateway.connection import ConnectionEnded, RoadConnection
from dora.gateway.meeting import Meeting, NewBypass, NewRoad
from dora.gateway.outgoing import BULK, CONNECTIONS, CONTROL, NORMAL
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
        self.path = str(folder / machine)
        self.links = ServedPort({FLOW: self.path})
        self.remote = RemoteConfig(self.links.endpoint, {}, secret, tls)
        self.meeting = Meeting(dataflow, machine, self.remote, self.path, self._on_made)

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


def stranger_at(listener: Side) -> socket.socket:
    """Dial a side, and return the connection, which is greeted or refused."""
    stranger = socket.create_connection((HERE, listener.links.port), timeout=TIMEOUT)
    stranger.sendall(FLOW.encode())
    wait_until(lambda: select.select([listener.meeting.listener], [], [], 0)[0], "the connection")
    listener.meeting.accept()
    return stranger


def test_the_proof_of_one_side_is_none_of_the_other_one(make: Callable[..., Side]) -> None:
    """Else a stranger could send back what it gets."""
    listener = make("desk")
    with stranger_at(listener) as stranger:
        greeting = meeting.Greeting(FLOW, "robot", b"road", 0, os.urandom(16))
        meeting._send(stranger, msgspec.msgpack.encode(greeting))
        proof = meeting._receive(stranger)[16:]
        meeting._send(stranger, proof)
        with pytest.raises(ValueError, match="closed"):
            meeting._receive(stranger)


def test_a_stranger_holds_a_place_until_it_goes(
    make: Callable[..., Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "_MOST_GREETINGS", 1)
    monkeypatch.setattr(meeting, "_GREETING_TIMEOUT", 10 * TIMEOUT)
    listener = make("desk")
    with stranger_at(listener), stranger_at(listener) as second:
        assert second.recv(1) == b""
    wait_until(lambda: not listener.meeting._greetings, "the end of the greeting")


def test_strangers_that_say_nothing_are_closed_after_a_while(
    make: Callable[..., Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "_GREETING_TIMEOUT", 0.01)
    listener = make("desk")
    with stranger_at(listener) as stranger:
        assert stranger.recv(1) == b""
    with socket.socket(socket.AF_UNIX) as process:
        process.settimeout(TIMEOUT)
        process.connect(listener.path)
        listener.meeting.accept()
        assert process.recv(1) == b""


def test_those_who_have_proved_who_they_are_hold_no_place(
    make: Callable[..., Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "_MOST_GREETINGS", CONNECTIONS)
    listener = make("desk")
    for machine in ("robot", "arm", "base"):
        meet(make(machine), listener)
    assert listener.meeting._greetings == 0


def test_roads_that_were_given_up_keep_few_connections(make: Callable[..., Side]) -> None:
    listener = make("desk")
    ends = []
    for number in range(9):
        near, far = socket.socketpair()
        far.settimeout(TIMEOUT)
        ends.append(far)
        listener.meeting._keep(meeting.Greeting(FLOW, "robot", bytes([number]), 0, b""), near)
    for far in ends[:4]:
        assert far.recv(1) == b""
    for far in ends[4:]:
        far.setblocking(False)
        with pytest.raises(BlockingIOError):
            far.recv(1)
    for connections in listener.meeting._begun.values():
        for connection in connections.values():
            connection.close()
    for far in ends:
        far.close()


def test_a_machine_is_dialled_again_after_a_while_or_at_once_if_it_has_refused(
    make: Callable[..., Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Callable[[], None]] = []
    monkeypatch.setattr(
        meeting, "_in_thread", lambda _, target, *arguments: started.append(partial(target, *arguments))
    )
    now = 100.0
    monkeypatch.setattr(meeting, "time", SimpleNamespace(monotonic=lambda: now))
    robot, desk = make("robot"), make("desk")
    robot.dial(desk)
    robot.dial(desk)
    assert len(started) == 1
    now += meeting.DIAL_EVERY
    robot.dial(desk)
    assert len(started) == 2
    desk.links.call(desk.links.link_port.close)
    started[0]()
    robot.dial(desk)
    assert len(started) == 2, "the later attempt may succeed yet"
    started[1]()
    robot.dial(desk)
    assert len(started) == 3


def test_a_gateway_listens_where_one_was_killed(tmp_path: Path) -> None:
    path = str(tmp_path / "links")
    meeting.listen_at(path).close()
    assert os.path.exists(path)
    with meeting.listen_at(path) as listener:
        assert os.stat(path).st_mode & 0o777 == 0o600
        assert meeting.accept_at(listener) is None, "it does not wait"


@pytest.mark.parametrize("number", [-1, meeting.BYPASS + 1])
def test_a_connection_with_a_number_of_no_road_is_closed(make: Callable[..., Side], number: int) -> None:
    with stranger_at(make("desk")) as stranger:
        greeting = meeting.Greeting(FLOW, "robot", b"road", number, os.urandom(16))
        meeting._send(stranger, msgspec.msgpack.encode(greeting))
        with pytest.raises(ValueError, match="closed"):
            meeting._receive(stranger)


def test_single_messages_are_marked_and_bulk_ones_wait_here(make: Callable[..., Side]) -> None:
    side = make("desk").meeting
    side.remote = msgspec.structs.replace(side.remote, dscp=46)
    options = [side._options(number) for number in (CONTROL, NORMAL, BULK, meeting.BYPASS)]
    assert [each["dscp"] for each in options] == [46, 0, 0, 46]
    assert [each["may_wait"] for each in options] == [False, False, True, False]
    assert [each["patience"] > 0 for each in options] == [False, False, False, True]
