"""The gateway as a process of the daemon: when it uses a configuration, and a machine that is lost."""

from __future__ import annotations

import gc
import os
import resource
import shutil
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from ports import free_port
from waiting import TIMEOUT

from dora._paths import links_socket_of
from dora.daemon.event_loop import Loop
from dora.daemon.gateway_process import GatewayProcess
from dora.dataflow.layout import Placement, Plan, RunContext
from dora.dataflow.model import Dataflow, InputSpec, NodeOutput, NodeSpec
from dora.dataflow.plan import plan
from dora.errors import SharedMemoryFull
from dora.gateway.gateway import Gateway
from dora.gateway.meeting import NewBypass, NewRoad
from dora.gateway.outgoing import CONNECTIONS
from dora.gateway.road import Road
from dora.transport.board import BEGUN, CLOSED, CONNECTED, FORWARDED, SENT, STATE, Board
from dora.transport.bypass import socket_of
from dora.transport.doorbell import Doorbell
from dora.wire.gateway_frame import ACK, DATA, HEADER
from dora.wire.node_config import GatewayConfig, NodeConfig, RemoteConfig

pytestmark = pytest.mark.processes

FLOW = Dataflow(
    (
        NodeSpec("a", path="a.py", outputs=("x",)),
        NodeSpec("b", path="b.py", inputs=(InputSpec("x", NodeOutput("a", "x")),)),
    ),
    "/",
)


class Rig:
    """The daemon's side of a gateway on `left` or `right`, whose dataflow sends from there to here."""

    def __init__(self, folder: Path, machine: str = "left") -> None:
        here = f"127.0.0.1:{free_port()}"
        other = "right" if machine == "left" else "left"
        remote = RemoteConfig(here, {other: f"127.0.0.1:{free_port()}"}, "secret")
        placement = Placement(machine, {"a": "left", "b": "right"}, {}, remote)
        path = str(folder / "board")
        self.prefix = f"dora_{uuid.uuid4().hex[:12]}_"
        os.mkdir(f"/dev/shm/{self.prefix}links", 0o700)
        self.plan: Plan = plan(
            FLOW, RunContext("id", str(folder), self.prefix, path, "shm", placement=placement)
        )
        self.board = Board.create(path, self.plan.lines)
        for bell in self.plan.bells:
            Doorbell.make(bell)
        self.loop = Loop()
        self.ended = 0
        self.said: list[tuple[str, str]] = []
        self.process = GatewayProcess(
            self.loop, "id", lambda level, _, text: self.said.append((level, text)), self._on_ended
        )

    def close(self) -> None:
        self.process.close()
        shutil.rmtree(f"/dev/shm/{self.prefix}links")
        self.board.close()
        self.loop.close()

    def _on_ended(self) -> None:
        self.ended += 1

    @property
    def config(self) -> GatewayConfig:
        assert self.plan.gateway is not None
        return self.plan.gateway

    @property
    def without_right(self) -> GatewayConfig:
        """The configuration without the endpoint of the other machine."""
        remote = msgspec.structs.replace(self.config.remote, reach={})
        return msgspec.structs.replace(self.config, remote=remote)

    def run_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline
            self.loop.run_once(time.monotonic() + 0.05)


@pytest.fixture
def rig(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Rig]:
    rig = Rig(tmp_path, getattr(request, "param", "left"))
    yield rig
    rig.close()


def test_it_says_when_it_uses_a_configuration(rig: Rig) -> None:
    done: list[str] = []
    rig.process.call_when_applied(lambda: done.append("without a process"))
    assert done == ["without a process"]
    rig.process.apply(rig.config)
    rig.process.call_when_applied(lambda: done.append("first"))
    assert len(done) == 1
    rig.run_until(lambda: done[1:] == ["first"])
    rig.process.call_when_applied(lambda: done.append("nothing new"))
    assert done[2:] == ["nothing new"]
    pid = rig.process.pid
    assert pid is not None, rig.said
    os.kill(pid, signal.SIGSTOP)
    rig.process.apply(rig.without_right)
    rig.process.call_when_applied(lambda: done.append("second"))
    rig.loop.run_once(time.monotonic() + 0.05)
    assert done[3:] == []
    os.kill(pid, signal.SIGCONT)
    rig.run_until(lambda: done[3:] == ["second"])


def test_a_gateway_that_was_killed_uses_no_former_configuration(rig: Rig) -> None:
    done: list[str] = []
    rig.process.apply(rig.config)
    pid = rig.process.pid
    assert pid is not None, rig.said
    os.kill(pid, signal.SIGSTOP)
    rig.process.call_when_applied(lambda: done.append("ended"))
    os.kill(pid, signal.SIGKILL)
    rig.run_until(lambda: done == ["ended"])
    assert rig.ended == 1


def test_a_line_that_is_cut_off_or_no_report_ends_nothing(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "gateway"
    program.write_text(f"""#!/bin/sh
        if mkdir {tmp_path}/ran; then printf '["info","cut o'; exit; fi
        echo 'a library says hello'; echo '["info","whole"]'; read x; read x
    """)
    program.chmod(0o755)
    monkeypatch.setattr("dora.daemon.gateway_process.sys", SimpleNamespace(executable=str(program)))
    rig.process.apply(rig.config)
    rig.run_until(lambda: len(rig.said) == 3)
    assert [text for _, text in rig.said] == [
        "the gateway to other machines has ended, and is started again",
        "the gateway to other machines printed b'a library says hello'",
        "whole",
    ]


@pytest.mark.parametrize("rig", ["right"], indirect=True)
def test_what_a_killed_gateway_may_have_lost_is_counted_by_its_receivers(rig: Rig) -> None:
    """It writes the number of a message before it sends it, so the last one may be lost."""
    (output,) = rig.config.node.outputs
    rig.board.set(output.slot, FORWARDED, 7)  # by a former process
    done: list[bool] = []
    rig.process.apply(rig.config)
    rig.process.call_when_applied(lambda: done.append(True))
    rig.run_until(lambda: done == [True])
    assert rig.board.get(output.slot, BEGUN) == 7, "receivers count what is missing up to this one"


def test_links_to_a_machine_without_an_endpoint_are_closed(rig: Rig) -> None:
    (link,) = rig.config.streams[0].links
    rig.process.apply(rig.config)
    rig.board.set(link.slot, STATE, CONNECTED)
    done: list[bool] = []
    rig.process.apply(rig.without_right)
    rig.process.call_when_applied(lambda: done.append(True))
    rig.run_until(lambda: done == [True])
    assert rig.board.get(link.slot, STATE) == CLOSED


@pytest.fixture
def gateway(rig: Rig) -> Iterator[Gateway]:
    """Return a gateway in the process of the test."""
    commands, end = os.pipe()
    yield Gateway(rig.config, commands, lambda level, text: rig.said.append((level, text)))
    for descriptor in (commands, end):
        os.close(descriptor)


@pytest.mark.parametrize("rig", ["left", "right"], indirect=True)
def test_a_link_without_room_in_shared_memory_is_made_when_there_is_some(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise SharedMemoryFull("there is no room")

    commands, end = os.pipe()
    node = msgspec.structs.replace(rig.config.node, outputs=[])
    without_links = msgspec.structs.replace(rig.config, node=node, streams=[])
    gateway = Gateway(without_links, commands, lambda level, text: rig.said.append((level, text)))
    with monkeypatch.context() as full:
        for port in ("receiver", "sender"):
            full.setattr(gateway._engine, port, refuse)
        os.write(end, msgspec.json.encode(rig.config) + b"\n")
        gateway._wait(TIMEOUT)
        gateway._tick(time.monotonic() + 1.5)
        assert not (gateway._sending or gateway._incoming)
    fault = "a link with another machine cannot be made, and is tried again: there is no room"
    assert rig.said == [("error", fault), ("applied", "")]
    gateway._tick(time.monotonic() + 1.5)
    assert gateway._streams or gateway._incoming
    assert len(rig.said) == 2
    for descriptor in (commands, end):
        os.close(descriptor)


@contextmanager
def no_free_file() -> Iterator[None]:
    """Allow this process no more files than it has open."""
    gc.collect()  # or files that earlier tests have left would be closed meanwhile
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "path_of",
    [lambda node: links_socket_of(node.run_dir), lambda node: socket_of(node.bell)],
    ids=["of a machine", "of a node"],
)
def test_a_gateway_without_a_free_file_accepts_connections_later(
    rig: Rig, gateway: Gateway, path_of: Callable[[NodeConfig], str]
) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(path_of(rig.config.node))
        with no_free_file():
            gateway._wait(TIMEOUT)
            assert gateway._sleep(0.0) == [], "it does not spin"
            gateway._tick(time.monotonic())
            gateway._wait(TIMEOUT)
        ((level, text),) = rig.said
        assert level == "warn" and "may open too few files" in text
        gateway._tick(time.monotonic())
        assert len(gateway._sleep(0.0)) == 1
        gateway._wait(TIMEOUT)
        assert gateway._sleep(0.0) == [], "it has accepted"


def road_of(gateway: Gateway) -> tuple[Road, list[socket.socket]]:
    """Return a road of a gateway to `right`, and its other ends."""
    pairs = [socket.socketpair() for _ in range(CONNECTIONS)]
    gateway._adopt(NewRoad("right", False, [near for near, _ in pairs]))
    return gateway._roads["right"], [far for _, far in pairs]


def test_as_much_waits_as_the_queue_holds_while_the_daemon_has_closed_the_link(
    rig: Rig, gateway: Gateway
) -> None:
    road, far = road_of(gateway)
    (sending,) = road.streams
    (link,) = sending.config.links
    pressed = msgspec.structs.replace(link, queue_policy="backpressure")
    sending.change(msgspec.structs.replace(sending.config, links=[pressed]))
    size = sending.config.item.queue_size
    for state, waiting in ((CONNECTED, 1000), (CLOSED, size), (CONNECTED, 1000)):
        rig.board.set(link.slot, STATE, state)
        gateway._tick(time.monotonic())
        assert sending.outgoing.waiting(1000) == waiting
        assert sending.is_wanted, "the other machine says who is there"
    for each in far:
        each.close()


def test_the_bypass_of_an_output_ends_with_its_last_link(rig: Rig, gateway: Gateway) -> None:
    """There may be another link later, and the node must not go on with the former connection."""
    road, far = road_of(gateway)
    (sending,) = road.streams
    ended: list[object] = []
    gateway._bypasses.end = ended.extend  # type: ignore[method-assign, assignment]
    gateway._apply(msgspec.structs.replace(rig.config, streams=[]))
    assert ended == [sending]
    for each in far:
        each.close()


def test_a_machine_acknowledges_its_own_streams_up_to_what_was_sent(rig: Rig, gateway: Gateway) -> None:
    road, far = road_of(gateway)
    (sending,) = road.streams
    rig.board.set(sending.config.item.output_slot, SENT, 5)
    sending.resume(0)
    for machine, number, arrived in (("other", 3, 0), ("right", 6, 0), ("right", 4, 4), ("right", 5, 5)):
        road.machine = machine
        gateway._handle(road, (ACK, 0, sending.number, number, b""))
        assert sending.outgoing.arrived == arrived
    for each in far:
        each.close()


def test_a_message_without_room_on_a_bypass_ends_the_bypass_only(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(_: int) -> None:
        raise MemoryError

    monkeypatch.setattr("dora.gateway.road.Memory", no_memory)
    road, far = road_of(gateway)
    near, node = socket.socketpair()
    gateway._add_bypass(NewBypass("right", b"token", near, b""))
    (bypass,) = road.bypasses
    node.sendall(HEADER.pack(DATA, 0, 1, 1 << 40))
    gateway._read(road, bypass)
    assert node.recv(1) == b""
    assert road.is_open and not road.bypasses
    for each in (node, *far):
        each.close()


def test_a_connection_whose_ring_was_removed_is_found_before_the_next_sleep(gateway: Gateway) -> None:
    """Before each sleep the gateway removes rings, perhaps one that came after it looked."""
    pairs = [socket.socketpair() for _ in range(CONNECTIONS)]
    gateway._on_made(NewRoad("stranger", False, [near for near, _ in pairs]))
    gateway._doorbell.rung = True  # it has just looked
    began = time.monotonic()
    gateway._wait(TIMEOUT)
    assert time.monotonic() - began < TIMEOUT
    for _, far in pairs:
        assert far.recv(1) == b""  # it is no machine of the dataflow
        far.close()
