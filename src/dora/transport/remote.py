"""Links to and from other machines, on Zenoh.

A node that receives listens, one that sends connects (`dora.transport.mailbox`). Everything that concerns a
link goes through the connection between them:

* under ``<dataflow>/to/<node>/<input>`` the messages, each with its lane, its number on it and its sequence
  (`dora.transport.lane`), and *probes*, which say how far the sender has come;
* under ``<dataflow>/from/<source node>/<node>/<input>`` what the receiver tells of its *progress*: which
  number has arrived, which sequence was taken out of the queue, whether it is there at all.

The board is of one machine. So the sender writes what it hears of the receiver to the line of the link on
its own board, and the receiver what it sees of the sender to the line of the output on its own. That way
back-pressure, counting and closing are the same as for links inside a machine.

A link begins with a probe: the receiver notes where it begins, and confirms. Whoever does not hear of the
other for `SILENCE` while something is under way says so in the log, and when it is over.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from struct import Struct
from typing import Any, Final

import zenoh

from dora.errors import ConnectError, TransportError
from dora.transport.board import (
    BEGUN,
    CLOSED,
    CONNECTED,
    CONTROL,
    CREDIT_WAITING,
    DROPPED,
    FIRST,
    FLUSH,
    RECEIVED,
    SENT,
    STATE,
    WORDS,
    Board,
)
from dora.transport.doorbell import Bell
from dora.transport.lane import Entry, Landing, Lane
from dora.transport.mailbox import listen, reach
from dora.transport.memory import message_from_bytes
from dora.wire.control import InputConfig, LinkConfig, NodeConfig, OutputConfig, RemoteConfig
from dora.wire.correlation import FLUSH_MARK, asks_to_flush
from dora.wire.message import HEADER_SIZE, Message, MessageError

SILENCE: Final = 2.0  # seconds without an answer until it is said that a machine does not answer
_LOOK_EVERY: Final = 0.2  # seconds
_FIRST_PAUSE: Final = 0.001  # seconds between probes, doubled up to the longest
_LONGEST_PAUSE: Final = 0.05
_INTERRUPTED_PATIENCE: Final = 0.5  # seconds
_FLUSH_PATIENCE: Final = 3.0
_THREAD_PATIENCE: Final = 2.0
_JOIN_PATIENCE: Final = 1.0
_APART_NS: Final = 100_000  # between messages that go at once, without waiting for others
_CHANNEL_LENGTH: Final = 256  # messages between the network and the thread that takes them

_LABEL: Final = Struct("<QQQB")  # lane, number, sequence, whether it flushes
_PROBE: Final = Struct("<QQQQ")  # lane, its last number, the sequence of that, messages sent on the output
_PROGRESS: Final = Struct("<QQQQQBB")  # count, receiver, lane, arrived, taken, state, missing
_SECTIONS: Final = Struct("<6xHI")  # of a message: length of the schema, of the metadata

_BLOCK: Final = zenoh.CongestionControl.BLOCK
_DROP: Final = zenoh.CongestionControl.DROP

_log = logging.getLogger("dora.transport")


def _nonce() -> int:
    return int.from_bytes(os.urandom(8), "little") or 1


class RemoteSender:
    """The sending end of one link. Safe to use from several threads."""

    def __init__(self, gate: _Gate, output: OutputConfig, link: LinkConfig, board: Board) -> None:
        self.link = link
        self._key = gate.declare(f"{gate.dataflow_id}/to/{link.consumer}")
        self._alone = gate.publisher(self._key, express=True)
        self._among_others = gate.publisher(self._key, express=False)
        self._proven = False  # a message of this lane has come through
        self._name = f"{gate.node_id}/{output.id} -> {link.consumer}"
        self._gate = gate
        self._words = board.words
        self._base = link.slot * WORDS
        self._sent_word = output.slot * WORDS + SENT
        self._waiting_word = output.slot * WORDS + CREDIT_WAITING
        self._credit = Bell(output.credit_bell) if link.policy == "backpressure" else None
        self._lock = threading.Lock()
        self._lane_id = _nonce()
        self._lane = Lane(
            self._launch,
            None if link.policy == "backpressure" else max(link.queue_size, link.room),
            self._words[self._sent_word],
        )
        self._receiver = 0
        self._count = 0  # of the last progress that was heard
        self._heard = time.monotonic()
        self._repeated = 0.0
        self._launched = 0  # monotonic nanoseconds
        self._silent_since = 0.0  # wall clock; 0: it answers

    @property
    def is_missing(self) -> bool:
        """Whether a receiver that should be there has not confirmed this lane."""
        state = self._words[self._base + STATE]
        if self._lane.open or state == CLOSED:
            return False
        return state == CONNECTED or not self.link.dynamic

    @property
    def is_idle(self) -> bool:
        """Whether everything sent has arrived, or there is nobody for whom it could."""
        return self._lane.idle or self._words[self._base + STATE] == CLOSED

    def put(self, payload: zenoh.ZBytes, sequence: int, flush: bool, size: int) -> None:
        """Send a message, or keep it until there is room on its way."""
        state = self._words[self._base + STATE]
        if state == CLOSED or (state != CONNECTED and self.link.dynamic):
            return
        with self._lock:
            self._lane.put(sequence, (payload, flush), size)

    def _launch(self, entry: Entry) -> None:
        number, sequence, (payload, flush), _ = entry
        label = _LABEL.pack(self._lane_id, number, sequence, flush)
        if not self._proven:
            self._gate.put(self._key, payload, label, _BLOCK)
            return
        now = time.monotonic_ns()
        publisher = self._alone if now - self._launched > _APART_NS else self._among_others
        self._launched = now
        try:
            publisher.put(payload, attachment=label)
        except zenoh.ZError as error:
            raise TransportError(f"link {self._name}: Zenoh cannot send: {error}") from error

    def probe(self) -> None:
        """Say how far this side has come; answered by progress."""
        lane = self._lane
        data = _PROBE.pack(self._lane_id, lane.last, lane.last_sequence, self._words[self._sent_word])
        self._gate.put(self._key, data, None, _DROP)

    def on_progress(self, data: bytes) -> None:
        """Take what the receiver tells."""
        count, receiver, lane, arrived, taken, state, missing = _PROGRESS.unpack(data)
        words, base = self._words, self._base
        with self._lock:
            now = time.monotonic()
            if receiver == self._receiver and count <= self._count:
                return
            self._count, self._heard = count, now
            if receiver != self._receiver:
                if self._receiver:
                    self._lane.begin_anew()
                    self._proven = False
                self._receiver = receiver
            if state == CLOSED:
                words[base + STATE] = CLOSED
                self._lane.forget()
            elif lane == self._lane_id:
                words[base + RECEIVED] = taken
                if not self._lane.open:
                    words[base + STATE] = CONNECTED
                    self._lane.open = True
                self._proven = self._proven or arrived > 0
                self._lane.acknowledge(arrived)
                if missing and now - self._repeated > _LOOK_EVERY:
                    self._repeated = now
                    self._lane.repeat()
            else:  # a receiver that does not know this lane yet
                self.probe()
        if self._silent_since:
            self._say_back()
        if self._credit is not None and words[self._waiting_word]:
            self._credit.ring()

    def look(self, now: float) -> None:
        """Do what time demands: ask a receiver of which nothing is heard."""
        if self.is_missing:
            self.probe()
        if self.is_idle and not self._waits_for_credit():
            self._heard = now
        if now - self._heard < _LOOK_EVERY:
            return
        self.probe()
        if now - self._heard > SILENCE and not self._silent_since and self.is_expected():
            self._silent_since = time.time() - (now - self._heard)
            since = time.strftime("%H:%M:%S", time.localtime(self._silent_since))
            _log.error(
                "link %s: machine `%s` does not answer since %s", self._name, self.link.machine, since
            )

    def is_expected(self) -> bool:
        """Tell whether the receiver was there, as far as this side knows."""
        return self._words[self._base + STATE] == CONNECTED

    def _waits_for_credit(self) -> bool:
        """Tell whether credit may have been lost on the way, though all messages have arrived."""
        return self._credit is not None and self._words[self._waiting_word] != 0 and self.is_expected()

    def _say_back(self) -> None:
        seconds = time.time() - self._silent_since
        self._silent_since = 0.0
        _log.warning(
            "link %s: machine `%s` answers again, after %.1f s", self._name, self.link.machine, seconds
        )


class _Gate:
    """The session in which this node reaches nodes of other machines, and the senders that use it."""

    def __init__(self, config: NodeConfig, remote: RemoteConfig) -> None:
        """Open it; raises `ConnectError`."""
        self.dataflow_id = config.dataflow_id
        self.node_id = config.node_id
        self.senders: dict[str, RemoteSender] = {}  # by consumer
        consumers = {
            link.consumer.partition("/")[0]
            for output in config.outputs
            for link in output.links
            if link.machine
        }
        try:
            self._session = reach(consumers, remote)
        except (zenoh.ZError, KeyError) as error:
            raise ConnectError(f"nodes of other machines cannot be reached: {error}") from error
        self._prefix = f"{self.dataflow_id}/from/{self.node_id}/"
        self._subscriber: Any = None
        self._thread: threading.Thread | None = None

    def subscribe(self) -> None:
        self._subscriber = self._session.declare_subscriber(
            f"{self._prefix}**", zenoh.handlers.FifoChannel(_CHANNEL_LENGTH)
        )
        self._thread = _start(f"dora {self.node_id}", self._listen, self._subscriber.handler)

    def _listen(self, samples: Iterable[zenoh.Sample]) -> None:
        for sample in samples:
            sender = self.senders.get(str(sample.key_expr)[len(self._prefix) :])
            data = sample.payload.to_bytes()
            if sender is not None and len(data) == _PROGRESS.size:
                try:
                    sender.on_progress(data)
                except TransportError:
                    pass  # the session is being closed

    def declare(self, key: str) -> zenoh.KeyExpr:
        """Return a key in the form that needs no work for each message; raises `TransportError`."""
        try:
            declared: zenoh.KeyExpr = self._session.declare_keyexpr(key)
        except zenoh.ZError as error:
            raise TransportError(f"Zenoh cannot set up {key}: {error}") from error
        return declared

    def publisher(self, key: zenoh.KeyExpr, *, express: bool) -> zenoh.Publisher:
        """Return what sends under a key with less work than `put`; raises `TransportError`.

        It discards what nobody seems to subscribe to, and for a moment after the first message nobody seems
        to: see `RemoteSender._launch`.
        """
        try:
            made: zenoh.Publisher = self._session.declare_publisher(
                key, congestion_control=_BLOCK, express=express
            )
        except zenoh.ZError as error:
            raise TransportError(f"Zenoh cannot set up {key}: {error}") from error
        return made

    def put(
        self,
        key: zenoh.KeyExpr,
        payload: Any,
        label: bytes | None,
        congestion: zenoh.CongestionControl,
    ) -> None:
        try:
            self._session.put(key, payload, attachment=label, congestion_control=congestion, express=True)
        except zenoh.ZError as error:
            raise TransportError(f"Zenoh cannot send: {error}") from error

    def close(self) -> None:
        _close(self._session)
        if self._thread is not None:
            self._thread.join(_THREAD_PATIENCE)


class RemoteReceiver:
    """The receiving end of one link, with its queue."""

    def __init__(
        self, house: _House, item: InputConfig, arrived: Callable[[], None], board: Board, node_slot: int
    ) -> None:
        self._house = house
        self._input_id = item.id
        source = item.source.partition("/")[0]
        self.key = f"{house.dataflow_id}/to/{house.node_id}/{item.id}"
        self._progress_key = f"{house.dataflow_id}/from/{source}/{house.node_id}/{item.id}"
        self._arrived = arrived
        self._words = board.words
        self._base = item.slot * WORDS
        self._output = item.output_slot * WORDS
        self._control = node_slot * WORDS + CONTROL
        pressed = item.policy == "backpressure"
        self._queue: deque[tuple[int, zenoh.ZBytes]] = deque(maxlen=None if pressed else item.queue_size)
        self._half = max(1, item.queue_size // 2) if pressed else 0
        self._taken = 0  # the sequence of the last message that was taken out of the queue
        self._taken_told = 0
        self._lock = threading.Lock()
        self._landing = Landing()
        self._id = _nonce()
        self._count = 0
        self._closed = False
        self.opened = threading.Event()
        self._next_hello = 0.0
        self._pause = _LOOK_EVERY

    def receive(self) -> Message | None:
        queue = self._queue
        while queue:
            try:
                sequence, payload = queue.popleft()
            except IndexError:  # another thread was faster
                break
            if self._half:
                self._taken = sequence
                if sequence - self._taken_told >= self._half:
                    self._tell()
            data = payload.to_bytes()
            try:
                message = message_from_bytes(data)
                message.validate(len(data))
            except MessageError as error:
                _log.warning("input `%s`: ignored what is not a message: %s", self._input_id, error)
                continue
            return message
        if self._half and self._known() - self._taken_told >= self._half:
            self._tell()  # what will never come was counted as lost
        return None

    def has_messages(self) -> bool:
        return len(self._queue) > 0

    def _known(self) -> int:
        words, base = self._words, self._base
        return words[base + FIRST] + words[base + RECEIVED] + words[base + DROPPED]

    def on_message(self, payload: zenoh.ZBytes, label: bytes) -> None:
        """Queue a message, if it is the next one."""
        if len(label) != _LABEL.size:
            return
        lane, number, sequence, flush = _LABEL.unpack(label)
        landing = self._landing
        with self._lock:
            if self._closed or not landing.takes(lane, number, len(payload)):
                return
            words = self._words
            if sequence > words[self._output + SENT]:
                words[self._output + SENT] = sequence
            if flush:
                words[self._output + FLUSH] = sequence
                words[self._control] = time.monotonic_ns()
            self._queue.append((sequence, payload))
        self._arrived()
        if landing.wants_to_tell():
            self._tell()

    def on_probe(self, data: bytes) -> None:
        """Take in how far the sender has come, and answer."""
        if len(data) != _PROBE.size:
            return
        lane, last, last_sequence, sent = _PROBE.unpack(data)
        words = self._words
        with self._lock:
            if not self._closed and sent > words[self._output + SENT]:
                words[self._output + SENT] = sent
            if not self._closed and self._landing.open(lane, last):
                # What was sent to a former process, or by one, does not come any more.
                words[self._output + BEGUN] = last_sequence
                self._taken = max(self._taken, last_sequence)
                words[self._base + STATE] = CONNECTED
                self.opened.set()
        self._tell()

    def _tell(self) -> None:
        """Tell the sender how far its messages have come."""
        with self._lock:
            self._count += 1
            known = max(self._taken, self._known())
            self._taken_told = known
            landing = self._landing
            landing.told()
            state = CLOSED if self._closed else CONNECTED
            data = _PROGRESS.pack(
                self._count, self._id, landing.lane, landing.arrived, known, state, landing.missing
            )
            self._house.put(self._progress_key, data)

    def look(self, now: float) -> None:
        """Do what time demands: introduce this receiver, acknowledge the last messages."""
        landing = self._landing
        if not landing.lane:
            if now >= self._next_hello:
                self._next_hello = now + self._pause
                self._pause = min(self._pause * 2, 2.0)
                self._tell()
        elif landing.has_news():
            self._tell()

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._words[self._base + STATE] = CLOSED
        self._queue.clear()
        self._tell()


class _House:
    """The session in which this node listens for others, and the receivers that use it."""

    def __init__(self, config: NodeConfig, remote: RemoteConfig) -> None:
        """Open it; raises `ConnectError`."""
        self.dataflow_id = config.dataflow_id
        self.node_id = config.node_id
        self.receivers: dict[str, RemoteReceiver] = {}  # by key
        try:
            self._session = listen(config.node_id, remote)
        except (zenoh.ZError, KeyError) as error:
            raise ConnectError(
                f"node `{config.node_id}` cannot listen for other machines: {error}"
            ) from error
        self._subscriber: Any = None
        self._thread: threading.Thread | None = None

    def subscribe(self) -> None:
        if self._subscriber is not None:
            return
        self._subscriber = self._session.declare_subscriber(
            f"{self.dataflow_id}/to/{self.node_id}/**", zenoh.handlers.FifoChannel(_CHANNEL_LENGTH)
        )
        self._thread = _start(f"dora {self.node_id} inputs", self._listen, self._subscriber.handler)

    def _listen(self, samples: Iterable[zenoh.Sample]) -> None:
        receivers = self.receivers
        only = next(iter(receivers.values())) if len(receivers) == 1 else None
        for sample in samples:
            receiver = only or receivers.get(str(sample.key_expr))
            if receiver is None:
                continue
            label, payload = sample.attachment, sample.payload
            if label is not None and len(payload) >= HEADER_SIZE:
                receiver.on_message(payload, label.to_bytes())
            else:
                receiver.on_probe(payload.to_bytes())

    def put(self, key: str, data: bytes) -> None:
        try:
            self._session.put(
                key, data, congestion_control=_DROP, priority=zenoh.Priority.REAL_TIME, express=True
            )
        except zenoh.ZError:
            pass  # the session is closed, or it is said again

    def close(self) -> None:
        _close(self._session)
        if self._thread is not None:
            self._thread.join(_THREAD_PATIENCE)


class RemoteLinks:
    """All links of one node with other machines."""

    def __init__(self, config: NodeConfig, board: Board) -> None:
        self._config = config
        self._board = board
        assert config.remote is not None
        self._remote = config.remote
        self._gate: _Gate | None = None
        self._house: _House | None = None
        self._senders: list[RemoteSender] = []
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None
        self._pid = os.getpid()
        atexit.register(self.close)

    def senders(self, output: OutputConfig) -> list[RemoteSender]:
        """Return the senders of the links of an output that lead to other machines."""
        made = []
        for link in output.links:
            if not link.machine:
                continue
            if self._gate is None:
                self._gate = _Gate(self._config, self._remote)
            sender = RemoteSender(self._gate, output, link, self._board)
            self._gate.senders[link.consumer] = sender
            made.append(sender)
        self._senders += made
        return made

    def receiver(self, item: InputConfig, arrived: Callable[[], None]) -> RemoteReceiver:
        """Return the receiver of a link from another machine; it begins to receive in `connect`."""
        if self._house is None:
            self._house = _House(self._config, self._remote)
        receiver = RemoteReceiver(self._house, item, arrived, self._board, self._config.node_slot)
        self._house.receivers[receiver.key] = receiver
        if self._config.dynamic:  # where it begins has to be known before it counts what it gets
            self._house.subscribe()
            receiver.look(time.monotonic())
            receiver.opened.wait(_JOIN_PATIENCE)
        return receiver

    def connect(self, timeout: float, interrupted: Callable[[], bool]) -> None:
        """Return once the receiver of each link has confirmed that messages reach it.

        Not waited for are dynamic nodes that are not there, receivers that have ended, and after a restart
        nobody: the link may be cut. Raises `ConnectError` after ``timeout`` seconds, naming who is missing.
        """
        if self._house is not None:
            self._house.subscribe()
        if self._gate is not None:
            self._gate.subscribe()
        self._keeper = _start(f"dora {self._config.node_id} links", self._keep)
        deadline = time.monotonic() + timeout
        pause = _FIRST_PAUSE
        hurried = False
        while missing := [sender for sender in self._senders if sender.is_missing]:
            for sender in missing:
                sender.probe()
            now = time.monotonic()
            if not hurried and interrupted():
                hurried = True
                deadline = min(deadline, now + _INTERRUPTED_PATIENCE)
            if now > deadline or self._config.restart_count:
                if hurried or self._config.restart_count:
                    return
                names = ", ".join(f"`{s.link.consumer}` on machine `{s.link.machine}`" for s in missing)
                raise ConnectError(f"no connection to {names} within {timeout:g} seconds")
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _keep(self) -> None:
        receivers = tuple(self._house.receivers.values()) if self._house is not None else ()
        while not self._closing.wait(_LOOK_EVERY):
            now = time.monotonic()
            for sender in self._senders:
                try:
                    sender.look(now)
                except TransportError:
                    pass  # the session is being closed
            for receiver in receivers:
                receiver.look(now)

    def close(self) -> None:
        """Wait until everything sent has arrived, at most `_FLUSH_PATIENCE`, then end the sessions."""
        atexit.unregister(self.close)
        if os.getpid() != self._pid:
            # A forked child has these objects, but not the threads behind them: it can only forget them.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object((self._gate, self._house)))
            return
        try:
            self._flush()
        except TransportError:
            pass
        self._closing.set()
        if self._gate is not None:
            self._gate.close()
            self._gate = None
        if self._house is not None:
            self._house.close()
            self._house = None
        if self._keeper is not None:
            self._keeper.join(_THREAD_PATIENCE)
            self._keeper = None

    def _flush(self) -> None:
        deadline = time.monotonic() + _FLUSH_PATIENCE
        pause = _FIRST_PAUSE
        while left := [sender for sender in self._senders if not sender.is_idle]:
            if time.monotonic() > deadline:
                return
            for sender in left:
                sender.probe()
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


def flushes(message: bytes | bytearray | memoryview) -> bool:
    """Tell whether a message has the metadata ``flush: true``."""
    schema, metadata = _SECTIONS.unpack_from(message)
    if not metadata:
        return False
    begin = HEADER_SIZE + schema
    section = bytes(message[begin : begin + metadata])
    return FLUSH_MARK in section and asks_to_flush(section)


def sequence_of(message: bytes | bytearray | memoryview) -> int:
    """Return the sequence number of a message."""
    return int.from_bytes(message[24:32], "little")


def _start(name: str, target: Callable[..., None], *args: Any) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    thread.start()
    return thread


def _close(session: zenoh.Session) -> None:
    if session.is_closed():
        return
    try:
        session.close()  # type: ignore[no-untyped-call]  # a gap in its stubs
    except zenoh.ZError:
        pass  # the router does not answer: there is nobody to say goodbye to
