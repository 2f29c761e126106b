"""A node sends over a bypass and the gateway beside it, in any order of steps, to another gateway.

Node's end, gateway and sockets are real. The other machine takes what comes as a gateway does.
"""

from __future__ import annotations

import os
import select
import socket
import tempfile
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora.gateway.bypasses import Bypasses
from dora.gateway.connection import ConnectionEnded, RoadConnection
from dora.gateway.meeting import NewBypass
from dora.gateway.outgoing import CONNECTIONS, CONTROL, OutgoingMessage
from dora.gateway.ports import Memory, Sending
from dora.gateway.road import WantBypass
from dora.transport.board import BYPASS, BYPASSED, CONNECTED, FORWARDED, SENT, STATE, Board
from dora.transport.bypass import LARGEST, MOST, REQUEST, Bypass, socket_of
from dora.transport.sealing import SealedSocket
from dora.wire.encode import encode
from dora.wire.gateway_frame import ASKS_FOR_ACK
from dora.wire.message import Message, pack_head
from dora.wire.node_config import InputConfig, LinkConfig, StreamConfig
from dora.wire.output_rules import Priority
from dora.wire.untrusted import UntrustedMessage

OUTPUT, LINK, STREAM, LINES = 0, 1, 2, 3
SMALL, LARGE, TOO_LARGE = 8, 64 << 10, LARGEST + 1  # bytes


class Rig:
    """The output `a/x` on `left`, with a receiver on `right`."""

    def __init__(
        self,
        folder: Path,
        *,
        queue_size: int = 1000,
        policy: str = "backpressure",
        dialled_here: bool = True,
        priority: Priority | None = None,
        is_encrypted: bool = False,
    ) -> None:
        self.is_encrypted = is_encrypted
        self.board = Board.create(str(folder / "board"), LINES)
        self.bell = str(folder / "bell")
        self.queue: deque[Message] = deque(maxlen=queue_size)
        self.newest = 0
        self.sent: dict[int, bytes] = {}
        item = InputConfig(
            "x to right",
            "link",
            "a/x",
            slot=STREAM,
            output_slot=OUTPUT,
            queue_size=queue_size,
            queue_policy=policy,  # type: ignore[arg-type]
        )
        self.link = link = LinkConfig(
            slot=LINK,
            node_slot=9,
            bell=self.bell,
            consumer="b/x",
            machine="right",
            is_encrypted=is_encrypted,
            queue_policy=policy,  # type: ignore[arg-type]
        )
        receiver = SimpleNamespace(receive=lambda: self.queue.popleft() if self.queue else None)
        self.board.set(LINK, STATE, CONNECTED)
        stream = StreamConfig("a/x", "right", item, [link], priority=priority)
        self.sending = Sending(1, stream, receiver, self.board, str(folder))
        self.outgoing = self.sending.outgoing
        self.handlers: dict[int, Callable[[], None]] = {}
        self.said: list[WantBypass] = []
        self.dialled: list[bytes] = []
        self.road: Any = SimpleNamespace(
            machine="right",
            dialled_here=dialled_here,
            round_trip=0.001,
            streams=[self.sending],
            say=self.said.append,
        )
        self.roads = {"right": self.road}
        meeting: Any = SimpleNamespace(
            remote=SimpleNamespace(tls=None), dial_bypass=lambda _, token: self.dialled.append(token)
        )
        self.bypasses = Bypasses("left", self.bell, meeting, self.roads, self._watch)
        self.now = 1.0
        self.on_road: deque[OutgoingMessage] = deque()
        self.far: RoadConnection | None = None  # the other end of the bypass
        self.received: list[int] = []
        self.is_due = False  # an acknowledgement
        self.bypass = self._new_bypass()
        self.outgoing.resume(0)

    def _new_bypass(self) -> Bypass:
        return Bypass(self.link, OUTPUT, self.board.words)

    def _watch(self, descriptor: int, handler: Callable[[], None] | None) -> None:
        if handler is None:
            del self.handlers[descriptor]
        else:
            self.handlers[descriptor] = handler

    @property
    def arrived(self) -> int:
        return self.received[-1] if self.received else 0

    # ------------------------------------------------------------------ the node

    def send(self, size: int = SMALL, *, on_bypass: bool = True) -> bool:
        """Send a message; return whether it went over the bypass."""
        self.newest += 1
        payload = encode(bytes(size))
        head = pack_head(payload.encoding, payload.schema, b"", size, self.newest, 1)
        data = head + payload.to_bytes()
        self.board.set(OUTPUT, SENT, self.newest)
        self.queue.append(Message(data))
        self.sent[self.newest] = data
        return on_bypass and self.bypass.send(self.newest, data)

    def send_slowly(self) -> None:
        """Send a message that arrives before the word on the board says that it was sent."""
        before = self.board.get(OUTPUT, BYPASSED)
        self.send()
        after = self.board.get(OUTPUT, BYPASSED)
        self.board.set(OUTPUT, BYPASSED, before)
        self.take_from_bypass()
        self.acknowledge()
        self.board.set(OUTPUT, BYPASSED, after)

    def restart_node(self) -> None:
        del self.bypass
        self.bypass = self._new_bypass()

    # ------------------------------------------------------------------ the gateway here

    def look(self) -> None:
        """Do what descriptors ask for, and begin bypasses."""
        for descriptor in select.select(list(self.handlers), [], [], 0)[0]:
            if (handler := self.handlers.get(descriptor)) is not None:
                handler()
        self.now += 2.0
        self.bypasses.tick(self.now, [self.sending])
        wanted = [*self.dialled, *(each.token for each in self.said)]
        self.dialled.clear()
        self.said.clear()
        for token in wanted[-1:]:
            near, far = socket.socketpair()
            key = os.urandom(32) if self.is_encrypted else b""
            if self.bypasses.adopt(NewBypass("right", token, near, key)):
                self.close_far()
                far.setblocking(False)
                there = SealedSocket(far, key) if key else far
                self.far = RoadConnection(there, lambda _, size: Memory(size))
            else:
                near.close()
                far.close()

    def pump(self) -> None:
        self.sending.note_bypassed()
        for connection in range(CONNECTIONS):
            while self.outgoing.next_connection(0) == connection:
                self.on_road.append(self.outgoing.pop(connection, 0))

    def acknowledge(self) -> None:
        """Learn what has arrived there, if something has come since the last time."""
        if not self.is_due:
            return
        self.is_due = False
        self.sending.note_bypassed()
        self.outgoing.acknowledge(self.arrived, 0)
        self.sending.note_arrived()

    def cut(self) -> None:
        """The road ends, with what is on it, and there is another one."""
        self.on_road.clear()
        self.bypasses.end(self.road.streams)
        self.outgoing.stop()
        self.close_far()
        self.sending.resume(self.arrived)

    # ------------------------------------------------------------------ the machine there

    def take_from_road(self) -> None:
        if self.on_road:
            self.is_due = True
            if (sequence := self.on_road.popleft().sequence) > self.arrived:
                self.received.append(sequence)

    def take_from_bypass(self) -> None:
        """Read what has come over the bypass, or close it if that is not the next message."""
        if self.far is None:
            return
        try:
            for _, _, stream, _, body in self.far.read():
                assert stream == self.sending.number
                self.is_due = True
                data = body if isinstance(body, bytes) else bytes(body.memory)
                sequence = UntrustedMessage(data).sequence
                assert data == self.sent[sequence]
                if sequence == self.arrived + 1:
                    self.received.append(sequence)
                elif sequence > self.arrived:
                    self.close_far()
                    return
        except ConnectionEnded:
            self.close_far()

    def close_far(self) -> None:
        if self.far is not None:
            self.far.close()
            self.far = None

    # ------------------------------------------------------------------ together

    def open(self) -> None:
        """Send until the node has a bypass."""
        for _ in range(100):
            if self.send():
                return
            self.settle()
        raise AssertionError("there is no bypass")

    def settle(self) -> None:
        """Do everything that is to be done: a message may wait for each one before it."""
        for _ in range(len(self.sent) - self.arrived + 10):
            self.look()
            self.pump()
            self.take_from_bypass()
            while self.on_road:
                self.take_from_road()
            self.acknowledge()

    def close(self) -> None:
        del self.bypass
        self.look()
        self.close_far()
        self.board.close()


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bypass")


STEPS = {
    "small": Rig.send,
    "burst": lambda rig: [rig.send() for _ in range(MOST + 2)],
    "large": lambda rig: rig.send(LARGE),
    "too large": lambda rig: rig.send(TOO_LARGE),
    "killed before the bypass": lambda rig: (rig.send(on_bypass=False), rig.restart_node()),
    "slow": Rig.send_slowly,
    "restart": Rig.restart_node,
    "look": Rig.look,
    "pump": Rig.pump,
    "road": Rig.take_from_road,
    "bypass": Rig.take_from_bypass,
    "acknowledge": Rig.acknowledge,
    "cut": Rig.cut,
    "bypass closed there": Rig.close_far,
}
WEIGHTED = st.sampled_from([*STEPS, *["small", "bypass", "acknowledge", "pump", "road"] * 3])


@pytest.mark.slow
@given(st.lists(WEIGHTED, min_size=20, max_size=60), st.booleans(), st.booleans())
def test_nothing_is_lost_or_comes_twice_or_out_of_order(
    steps: list[str], dialled_here: bool, is_encrypted: bool
) -> None:
    with tempfile.TemporaryDirectory(prefix="bypass-") as folder:
        rig = Rig(Path(folder), dialled_here=dialled_here, is_encrypted=is_encrypted)
        rig.open()
        for step in steps:
            STEPS[step](rig)
        rig.settle()
        assert rig.received == list(range(1, rig.newest + 1))
        assert rig.outgoing.is_idle
        rig.close()


@pytest.mark.lengthy
@given(st.lists(WEIGHTED, min_size=20, max_size=60), st.integers(1, 4))
def test_a_short_queue_loses_the_oldest_and_never_the_newest(steps: list[str], queue_size: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bypass-") as folder:
        rig = Rig(Path(folder), queue_size=queue_size, policy="drop_oldest")
        rig.open()
        for step in steps:
            STEPS[step](rig)
        rig.settle()
        assert rig.received == sorted(set(rig.received))
        assert rig.arrived == rig.newest
        rig.close()


def test_messages_one_at_a_time_do_not_pass_the_gateway_here(folder: Path) -> None:
    rig = Rig(folder)
    rig.open()
    rig.settle()
    for _ in range(100):
        assert rig.send()
        rig.take_from_bypass()
        assert rig.arrived == rig.newest
        assert not rig.on_road
        rig.acknowledge()
    rig.pump()
    assert not rig.on_road
    assert rig.outgoing.is_idle
    rig.close()


def test_a_burst_goes_over_the_road_once_the_bypass_is_empty(folder: Path) -> None:
    rig = Rig(folder)
    rig.open()
    rig.settle()
    bypassed = [rig.send() for _ in range(2 * MOST)]
    assert bypassed == [True] * MOST + [False] * MOST
    rig.pump()
    assert not rig.on_road
    rig.take_from_bypass()
    rig.acknowledge()
    rig.pump()
    assert [entry.sequence for entry in rig.on_road] == list(range(rig.newest - MOST + 1, rig.newest + 1))
    rig.close()


def test_a_message_that_was_killed_with_its_node_before_the_bypass_goes_over_the_road(folder: Path) -> None:
    rig = Rig(folder)
    rig.open()
    rig.settle()
    rig.send(on_bypass=False)
    rig.restart_node()
    rig.look()
    rig.pump()
    assert [entry.sequence for entry in rig.on_road] == [rig.newest]
    rig.close()


def test_a_message_may_be_acknowledged_before_the_word_says_that_it_was_sent(folder: Path) -> None:
    rig = Rig(folder)
    rig.open()
    rig.settle()
    rig.send_slowly()
    rig.pump()
    assert rig.outgoing.is_idle
    assert not rig.on_road
    rig.close()


def test_half_a_frame_ends_the_bypass_and_the_message_comes_over_the_road(folder: Path) -> None:
    rig = Rig(folder)
    rig.open()
    rig.settle()
    connection = rig.bypass._connection
    assert connection is not None
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 10)
    former = rig.far
    assert not rig.send(LARGE)
    for _ in range(3):
        rig.send()
        rig.settle()
    assert rig.received == list(range(1, rig.newest + 1))
    assert rig.far is not former, "both sides have found out"
    rig.close()


def test_no_number_encrypts_two_messages_if_a_signal_interrupts_the_sender(folder: Path) -> None:
    rig = Rig(folder, is_encrypted=True)
    rig.open()
    rig.settle()
    connection, sealer = rig.bypass._connection, rig.bypass._sealer
    assert connection is not None and sealer is not None

    class Interrupted:
        def sendmsg(self, *arguments: Any) -> int:
            connection.sendmsg(*arguments)
            raise KeyboardInterrupt

    used = sealer.number
    rig.bypass._connection = Interrupted()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        rig.send()
    assert sealer.number == used + 1
    rig.bypass._connection = connection
    for _ in range(3):
        rig.send()
        rig.settle()
    assert rig.received == list(range(1, rig.newest + 1))
    rig.close()


def test_large_messages_one_at_a_time_go_over_the_bypass(folder: Path) -> None:
    rig = Rig(folder)
    rig.open()
    rig.settle()
    for _ in range(20):
        assert rig.send(LARGE)
        assert not rig.send(LARGE), "it would wait behind the first one and could not be dropped"
        rig.settle()
        assert rig.arrived == rig.newest
    rig.close()


def test_a_distant_machine_gets_no_bypass(folder: Path) -> None:
    rig = Rig(folder)
    rig.road.round_trip = 0.05
    for _ in range(100):
        assert not rig.send()
        rig.settle()
    assert rig.board.get(OUTPUT, BYPASS) == 0
    rig.close()


def test_an_output_that_goes_after_others_gets_no_bypass(folder: Path) -> None:
    rig = Rig(folder, priority="bulk")
    for _ in range(100):
        assert not rig.send()
        rig.settle()
    rig.close()


def test_messages_on_the_bypass_count_as_arrived_once_they_are_acknowledged(folder: Path) -> None:
    rig = Rig(folder)
    rig.open()
    rig.settle()
    rig.send()
    rig.acknowledge()
    assert rig.board.get(OUTPUT, FORWARDED) == rig.newest - 1
    rig.take_from_bypass()
    rig.acknowledge()
    assert rig.board.get(OUTPUT, FORWARDED) == rig.newest
    rig.close()


def test_programs_that_a_node_starts_do_not_get_its_connection(folder: Path) -> None:
    rig = Rig(folder)
    rig.open()
    assert rig.bypass._connection is not None
    assert not rig.bypass._connection.get_inheritable()
    rig.close()


@pytest.mark.processes
def test_a_bypass_ends_with_its_node_although_a_forked_child_goes_on(folder: Path) -> None:
    rig = Rig(folder)
    rig.open()
    rig.settle()
    far = rig.far
    assert far is not None
    here, there = socket.socketpair()
    child = os.fork()
    if not child:
        here.close()
        there.send(b"is there")
        there.recv(1)  # until the parent has ended
        os._exit(0)
    there.close()
    here.recv(8)
    rig.restart_node()  # its process has ended
    rig.look()
    with pytest.raises(ConnectionEnded):
        list(far.read())
    here.close()
    os.waitpid(child, 0)
    rig.close()


def test_a_machine_without_receivers_has_nothing_to_wait_for(folder: Path) -> None:
    """Else the sending node would wait for it at its end, although nobody there wants a message."""
    rig = Rig(folder)
    rig.board.set(OUTPUT, SENT, 1000)
    late = Sending(2, rig.sending.config, rig.sending.receiver, rig.board, str(folder))
    late.skip()
    assert rig.board.get(OUTPUT, FORWARDED) == 1000
    rig.close()


def ask(rig: Rig, slot: int = OUTPUT) -> socket.socket:
    """Ask for a bypass as a node does; return the socket of the node."""
    node = socket.socket(socket.AF_UNIX)
    node.connect(socket_of(rig.bell))
    node.sendall(REQUEST.pack(slot))
    for _ in range(2):  # the gateway accepts it, and reads
        for descriptor in select.select(list(rig.handlers), [], [], 0)[0]:
            rig.handlers[descriptor]()
    return node


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False


def test_the_next_process_of_a_node_gets_the_bypass_although_the_former_one_is_there(folder: Path) -> None:
    rig = Rig(folder)
    rig.open()
    rig.settle()
    former, far = rig.bypass, rig.far
    assert far is not None
    with ask(rig):
        assert is_closed(far.socket)
        assert len(rig.bypasses._requests) == 1
    del former
    rig.close()


def test_as_many_bypasses_lead_to_a_machine_as_it_takes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.gateway.bypasses.MOST_BYPASSES", 1)
    rig = Rig(folder)
    item = msgspec.structs.replace(rig.sending.config.item, output_slot=STREAM)
    config = msgspec.structs.replace(rig.sending.config, item=item)
    other = Sending(2, config, rig.sending.receiver, rig.board, str(folder))
    other.outgoing.resume(0)
    streams = rig.road.streams = [rig.sending, other]
    first, second = ask(rig, OUTPUT), ask(rig, STREAM)
    for now in (1.0, 10.0):
        rig.bypasses.tick(now, streams)
        assert len(rig.dialled) == 1, "the first one has been asked for, and keeps its place"
        rig.dialled.clear()
    first.close()
    (request,) = (each for each in rig.bypasses._requests if each.slot == OUTPUT)
    rig.handlers[request.node.fileno()]()
    rig.bypasses.tick(20.0, streams)
    assert len(rig.dialled) == 1
    second.close()
    rig.close()


def test_a_bypass_is_dialled_at_most_once_a_second(folder: Path) -> None:
    rig = Rig(folder)
    with ask(rig):
        for now, dialled in ((1.0, 1), (1.5, 1), (2.0, 2)):
            rig.bypasses.tick(now, [rig.sending])
            assert len(rig.dialled) == dialled
    rig.close()


def test_an_output_has_no_bypass_while_it_goes_to_two_machines(folder: Path) -> None:
    rig = Rig(folder)
    rig.open()
    rig.settle()
    rig.sending.of_output = [rig.sending, rig.sending]
    rig.look()
    assert rig.board.get(OUTPUT, BYPASS) == 0
    rig.look()
    assert rig.board.get(OUTPUT, BYPASS) == 0
    rig.close()


def test_an_output_has_no_bypass_before_it_is_known_what_has_arrived(folder: Path) -> None:
    rig = Rig(folder)
    with ask(rig):
        rig.outgoing.stop()
        rig.bypasses.tick(1.0, [rig.sending])
        assert not rig.dialled
        rig.outgoing.resume(0)
        rig.bypasses.tick(2.0, [rig.sending])
        assert rig.dialled
    rig.close()


def test_an_output_has_no_bypass_while_another_one_goes_before_it(folder: Path) -> None:
    rig = Rig(folder)
    rig.road.streams = [rig.sending, SimpleNamespace(outgoing=SimpleNamespace(rank=CONTROL))]
    with ask(rig):
        rig.bypasses.tick(1.0, [rig.sending])
        assert not rig.dialled
    rig.close()


def test_a_connection_for_a_node_that_has_ended_is_closed(folder: Path) -> None:
    rig = Rig(folder)
    with ask(rig):
        rig.bypasses.tick(1.0, [rig.sending])
    near, far = socket.socketpair()
    assert rig.bypasses.adopt(NewBypass("right", rig.dialled.pop(), near)), "its end is not known yet"
    assert is_closed(far)
    assert rig.board.get(OUTPUT, BYPASS) == 0
    far.close()
    near, far = socket.socketpair()
    assert rig.bypasses.adopt(NewBypass("right", b"left/known", near))
    assert is_closed(far)
    far.close()
    rig.close()


def test_a_bypass_that_the_gateway_ends_is_closed_although_the_node_holds_it(folder: Path) -> None:
    """What the node sends before it looks at the board again must not arrive after later messages."""
    rig = Rig(folder)
    rig.open()
    rig.settle()
    far, bypass = rig.far, rig.bypasses._requests[0].bypass
    assert far is not None and bypass is not None
    rig.bypasses.end([rig.sending])
    assert is_closed(far.socket)
    assert bypass.fileno() < 0
    assert not rig.send()
    rig.settle()
    assert rig.received == list(range(1, rig.newest + 1))
    rig.close()


def test_a_new_bypass_takes_no_message_behind_one_that_goes_over_the_road(folder: Path) -> None:
    rig = Rig(folder)
    rig.open()
    rig.settle()
    assert rig.send()
    rig.cut()
    rig.look()
    rig.pump()
    assert [entry.sequence for entry in rig.on_road] == [rig.newest]
    assert rig.board.get(OUTPUT, BYPASS), "there is another bypass"
    assert not rig.send()
    rig.settle()
    assert rig.send()
    rig.close()


def test_the_gateway_gets_many_messages_after_a_burst(folder: Path) -> None:
    """It sends many at once, so it is faster while they come at such a rate."""
    rig = Rig(folder)
    rig.open()
    rig.settle()
    while rig.send():
        pass
    last = rig.newest
    rig.settle()
    while not rig.send():
        rig.settle()
    assert rig.newest - last >= 100
    rig.close()


def test_messages_ask_for_an_acknowledgement_before_the_bypass_is_full(folder: Path) -> None:
    rig = Rig(folder)
    rig.open()
    rig.settle()
    for _ in range(MOST):
        assert rig.send()
    assert rig.far is not None
    flags = [flag for _, flag, *_ in rig.far.read()]
    assert flags == [0] * (MOST // 2) + [ASKS_FOR_ACK] * (MOST // 2)
    rig.close()


def test_a_large_message_asks_for_an_acknowledgement(folder: Path) -> None:
    rig = Rig(folder)
    rig.open()
    rig.settle()
    assert rig.send(LARGE)
    assert rig.far is not None
    assert [flag for _, flag, *_ in rig.far.read()] == [ASKS_FOR_ACK]
    rig.close()


def test_a_message_that_the_system_does_not_take_uses_up_no_number_of_an_encrypted_bypass(
    folder: Path,
) -> None:
    rig = Rig(folder, is_encrypted=True)
    rig.open()
    rig.settle()
    connection = rig.bypass._connection

    def refuse(*_: Any) -> None:
        raise BlockingIOError

    rig.bypass._connection = SimpleNamespace(sendmsg=refuse)  # type: ignore[assignment]
    assert not rig.send()
    rig.bypass._connection = connection
    rig.settle()
    assert rig.send()
    rig.take_from_bypass()
    assert rig.arrived == rig.newest
    rig.close()


def test_a_node_without_a_bypass_asks_more_and_more_seldom(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(folder)
    asked: list[int] = []

    def refuse(*_: Any) -> None:
        asked.append(sequence)
        raise ConnectionRefusedError

    monkeypatch.setattr("dora.transport.bypass.connect_own", refuse)
    for sequence in range(1, 40_000):
        assert not rig.bypass.send(sequence, b"")
    pauses = [after - before for before, after in pairwise(asked)]
    assert pauses == [64, 128, 256, 512, 1024, 2048, 4096, *[8192] * 3]
    rig.close()


def test_what_arrived_over_a_bypass_counts_although_it_has_ended(folder: Path) -> None:
    rig = Rig(folder)
    rig.open()
    rig.settle()
    before = rig.outgoing.arrived_bytes
    assert rig.send()
    rig.take_from_bypass()
    rig.bypasses.end([rig.sending])
    rig.acknowledge()
    assert rig.outgoing.arrived_bytes - before == len(rig.sent[rig.newest])
    rig.close()
