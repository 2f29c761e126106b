"""The engine where there is no shared memory: links over Zenoh.

Every node is a client of the router in the process of its daemon (`dora.transport.zenoh.router`). One
output is one key, and a message is put under it byte for byte; with a mark if a full queue must not drop
it. Sending is reliable and blocks when the network is congested. Messages are dropped only in the queue of
the receiver, like with every engine.

Four properties of Zenoh shape this module:

* A message that is put before the sender knows of the subscription is lost. `ZenohEngine.connect`
  therefore *probes*: it puts a few bytes under the key of the output until every receiver has confirmed
  on the board that a probe of this sender has arrived. Later messages take the same route.
* Sending is asynchronous, and `Session.close` does not wait for the fragments of a large message. Closing
  therefore waits until a probe behind the last message has arrived. An ``atexit`` handler does the same
  for programs that end without closing their node. After SIGKILL or ``os._exit`` the last messages may be
  missing.
* Messages may still be in flight when the daemon reports that their source has ended (``in_flight``).
* A Zenoh thread that waits for the interpreter's lock can block a sender that holds the lock for ever, and
  the Python threads for its callbacks keep the interpreter from exiting. Each subscriber therefore fills
  a Zenoh channel, which a daemon thread empties. The thread does as little as possible: the receiving
  thread copies the message into a Python object. The interpreter waits for its end before it
  finalizes (`_start_thread`).

Whether a link is up is known only when a probe has arrived. This engine therefore writes ``STATE`` on the
board itself, and counts a receiver only when it can be reached: otherwise a sender under back-pressure
would wait for ever for credit for messages that never arrived.
"""

from __future__ import annotations

import atexit
import logging
import os
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

import zenoh

from dora.errors import ConnectError, TransportError
from dora.transport.aligned_memory import MemoryLoan, message_from_bytes
from dora.transport.board import (
    CLOSED,
    CONNECTED,
    DROPPED,
    FIRST,
    PROBED,
    RECEIVED,
    SENT,
    STATE,
    WORDS,
    Board,
)
from dora.transport.forking import RefusingResource, disown_after_fork, leak, refuse
from dora.transport.interface import BadMessages
from dora.transport.queues import DropOldestQueue
from dora.transport.zenoh.router import BLOCK, close_session, connect
from dora.wire.correlation import kept_message, kept_section
from dora.wire.decode import BAD_MESSAGE
from dora.wire.message import HEADER_SIZE, Message
from dora.wire.node_config import InputConfig, LinkConfig, OutputConfig

_INTERRUPTED_TIMEOUT: Final = 0.5  # seconds for receivers to answer, once the daemon has something to say
_FLUSH_TIMEOUT: Final = 2.0  # seconds at the end of a node until its messages have arrived
_CHANNEL_LENGTH: Final = 256  # messages between the network and the thread that queues them
_FIRST_PAUSE: Final = 0.0005  # seconds between probes, doubled up to the longest
_LONGEST_PAUSE: Final = 0.02

_MARK: Final = b"\1"  # attached to a message that some link keeps
# A probe is shorter than any message: the nonce of the sender, and the number of messages it has sent.
_PROBE: Final = struct.Struct("<QQ")
assert _PROBE.size < HEADER_SIZE

_log = logging.getLogger("dora.transport")
_JOIN_TIMEOUT: Final = 2.0  # seconds until a node that closes its links no longer waits for a thread
_EXIT_TIMEOUT: Final = 20.0  # seconds, see `_start_thread`

_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


class ZenohSender:
    """The key of one output. Safe to use from several threads.

    It does not use a Zenoh publisher, which discards messages while it knows of no subscriber; that is the
    case for a moment even after the first probe has arrived.
    """

    def __init__(self, session: zenoh.Session, output: OutputConfig) -> None:
        self.output = output
        self.sent_word = output.slot * WORDS + SENT
        self._output_id = output.id
        self._session = session
        self._key = session.declare_keyexpr(output.service)
        self._links: list[LinkConfig] = []  # for which `_is_kept` was made
        self._is_kept = kept_section(())

    def disown(self) -> None:
        """Refuse to send, in a forked child process."""
        self._session = cast("zenoh.Session", RefusingResource())

    def send(self, message: bytes | bytearray, control: bytes = b"") -> None:
        self.put(message, _MARK if control and self._some_link_keeps(control) else None)

    def _some_link_keeps(self, section: bytes) -> bool:
        if self._links is not self.output.links:  # another list, after each change
            self._links = self.output.links
            self._is_kept = kept_section({key for link in self._links for key in link.keep})
        return self._is_kept(section)

    def prepare(self) -> None:
        """Nothing to prepare."""

    def loan(self, size: int) -> MemoryLoan:
        return MemoryLoan(self._output_id, size, self.send)

    def put(self, content: bytes | bytearray, mark: bytes | None = None) -> None:
        try:
            self._session.put(self._key, content, attachment=mark, congestion_control=BLOCK)
        except zenoh.ZError as error:
            raise TransportError(f"output `{self._output_id}`: Zenoh cannot send: {error}") from error

    def close(self) -> None:
        """Nothing to do: the engine flushes."""

    destroy = close


class ZenohReceiver:
    """The subscriber of one input, and its queue."""

    def __init__(self, item: InputConfig, arrived: Callable[[], None], board: Board) -> None:
        self.service = item.service
        self._input_id = item.id
        self._keeps = kept_message(item.keep)
        self._bad = BadMessages(item.id)
        self._arrived = arrived
        self._words = board.words
        self._base = item.slot * WORDS
        # Under back-pressure, the credit of the sender is the bound: every message has room.
        self._queue: DropOldestQueue[tuple[bool, zenoh.ZBytes]] = DropOldestQueue(
            None if item.queue_policy == "backpressure" else item.queue_size, self._is_kept
        )  # whether some link keeps it, message
        # Of the words on the board: after `close`, the thread writes to none of them.
        self._lock = threading.Lock()
        self._crosses = bool(item.machine)
        self._reached = False
        self._closed = False
        self._inherited = False  # this process was forked from the owner
        self._subscriber: Any = None
        self._thread: threading.Thread | None = None

    def _is_kept(self, entry: tuple[bool, zenoh.ZBytes]) -> bool:
        """Return whether a message that would be pushed out is kept; this link may not be the one."""
        try:
            return entry[0] and self._keeps(message_from_bytes(entry[1].to_bytes()))
        except BAD_MESSAGE:  # to take it reports that
            return False

    def subscribe(self, session: zenoh.Session) -> None:
        if self._subscriber is None and not self._closed:
            self._subscriber = session.declare_subscriber(
                self.service, zenoh.handlers.FifoChannel(_CHANNEL_LENGTH)
            )
            self._thread = _start_thread(
                f"dora input {self._input_id}", self._run, self._subscriber.handler
            )

    def _run(self, samples: Iterable[zenoh.Sample]) -> None:
        """Queue samples until the subscriber or the session is closed."""
        for sample in samples:
            self._on_sample(sample)

    def _on_sample(self, sample: zenoh.Sample) -> None:
        payload = sample.payload
        if len(payload) < HEADER_SIZE:
            self._on_probe(payload.to_bytes())
            return
        if not self._reached:
            self._set_reached()
        self._queue.put((sample.attachment is not None, payload))
        self._arrived()

    def _on_probe(self, probe: bytes) -> None:
        if len(probe) != _PROBE.size:
            return
        nonce, sent = _PROBE.unpack(probe)
        words, base = self._words, self._base
        known = words[base + FIRST] + words[base + RECEIVED] + words[base + DROPPED]
        # If messages were missed, the next one shows how many. Until then there is no credit to count,
        # and the link is not up.
        # Messages of another machine may not have got to the sender here yet.
        if not self._reached and (sent == known or self._crosses):
            self._set_reached()
        with self._lock:
            if not self._closed:
                words[base + PROBED] = nonce

    def _set_reached(self) -> None:
        with self._lock:
            if not self._closed:
                self._words[self._base + STATE] = CONNECTED
                self._reached = True

    def disown(self) -> None:
        """Refuse to receive, in a forked child process."""
        leak(self._queue)
        self._queue = cast("DropOldestQueue[tuple[bool, zenoh.ZBytes]]", RefusingResource())
        self._inherited = True

    def receive(self) -> Message | None:
        queue = self._queue
        while queue:
            try:
                data = queue.popleft()[1].to_bytes()
            except IndexError:  # another thread was faster
                break
            try:
                message = message_from_bytes(data)
            except BAD_MESSAGE as error:
                self._bad.add(error)
                continue
            return message
        return None

    def has_messages(self) -> bool:
        return len(self._queue) > 0

    def release(self) -> None:
        """Nothing to do: messages that arrive between two processes of the node are lost."""

    def close(self) -> None:
        if self._inherited:
            return
        with self._lock:
            self._closed = True
            self._words[self._base + STATE] = CLOSED
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is not None:
            try:
                subscriber.undeclare()
            except zenoh.ZError:
                pass  # the session is closed or broken
        self.join()
        self._queue.clear()

    def join(self) -> None:
        """Wait for the end of the thread; the subscriber or the session has to be closed."""
        if self._thread is not None:
            self._thread.join(_JOIN_TIMEOUT)


class ZenohEngine:
    """All ports of one node of a dataflow, over a session with the router of its daemon."""

    wakes = True
    in_flight = True  # see the module's docstring

    def __init__(self, endpoint: str, dataflow_id: str, board: Board) -> None:
        """Open the session; raises `ConnectError`."""
        self._board = board
        try:
            self._session = connect(endpoint)
        except zenoh.ZError as error:
            raise ConnectError(
                f"the Zenoh router of dataflow {dataflow_id} cannot be reached at {endpoint}: {error}"
            ) from error
        # A subscriber that is garbage-collected is silently undeclared.
        self._senders: list[ZenohSender] = []
        self._receivers: list[ZenohReceiver] = []
        self._connected = False
        self._inherited = False  # this process was forked from the owner
        atexit.register(self.close)
        disown_after_fork(self)

    def disown(self) -> None:
        """Leave all resources to the parent, in a forked child process, which has none of the threads."""
        atexit.unregister(self.close)
        leak(self._session, self._senders, self._receivers)
        for sender in self._senders:
            sender.disown()
        for receiver in self._receivers:
            receiver.disown()
        self._inherited = True

    def sender(self, output: OutputConfig) -> ZenohSender:
        if self._inherited:
            refuse()
        try:
            sender = ZenohSender(self._session, output)
        except zenoh.ZError as error:
            raise TransportError(f"output `{output.id}`: Zenoh cannot set it up: {error}") from error
        self._senders.append(sender)
        return sender

    def receiver(self, item: InputConfig, arrived: Callable[[], None]) -> ZenohReceiver:
        """Create a receiver; it starts to receive in `connect`, or at once after that."""
        if self._inherited:
            refuse()
        receiver = ZenohReceiver(item, arrived, self._board)
        self._receivers.append(receiver)
        if self._connected:
            self._subscribe(receiver)
        return receiver

    def _subscribe(self, receiver: ZenohReceiver) -> None:
        try:
            receiver.subscribe(self._session)
        except zenoh.ZError as error:
            raise TransportError(f"Zenoh cannot subscribe: {error}") from error

    def connect(self, timeout: float, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Subscribe, then return once a probe of each sender has reached each of its receivers.

        Absent dynamic nodes and receivers that have ended are not waited for. Raises `ConnectError` after
        ``timeout`` seconds, with the missing receivers.
        """
        self._connected = True
        for receiver in self._receivers:
            self._subscribe(receiver)
        nonce = int.from_bytes(os.urandom(8), "little")
        deadline = time.monotonic() + timeout
        pause = _FIRST_PAUSE
        hurried = False
        while missing := self._probe(nonce):
            now = time.monotonic()
            if not hurried and interrupted():
                # The reason may be harmless, and the receivers about to answer.
                hurried = True
                deadline = min(deadline, now + _INTERRUPTED_TIMEOUT)
            if now > deadline:
                if hurried:
                    return
                raise ConnectError(
                    f"no connection to {', '.join(f'`{link.consumer}`' for link in missing)} "
                    f"within {timeout:g} seconds"
                )
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _probe(self, nonce: int) -> list[LinkConfig]:
        """Send a probe to the missing receivers of each sender; return their links."""
        words = self._board.words
        missing: list[LinkConfig] = []
        for sender in self._senders:
            absent = [link for link in sender.output.links if self._is_missing(link, nonce)]
            if absent:
                sender.put(_PROBE.pack(nonce, words[sender.sent_word]))
                missing += absent
        return missing

    def _is_missing(self, link: LinkConfig, nonce: int) -> bool:
        words = self._board.words
        base = (link.stream_slot or link.slot) * WORDS  # to another machine, the gateway receives
        if words[base + PROBED] == nonce:
            return False
        state = words[base + STATE]
        return state != CLOSED and (state == CONNECTED or not link.dynamic)

    def close(self) -> None:
        """Wait until all messages have arrived, at most `_FLUSH_TIMEOUT`, then close the session."""
        atexit.unregister(self.close)
        if not self._session.is_closed():
            try:
                self._flush()
            except TransportError:
                pass  # the router is gone, and with it all receivers
            finally:  # also after Ctrl-C
                close_session(self._session)
        for receiver in self._receivers:
            receiver.join()
        self._senders.clear()
        self._receivers.clear()

    def _flush(self) -> None:
        """Send a probe after the last message of each sender, and wait until it has arrived."""
        words = self._board.words
        self._senders = [sender for sender in self._senders if words[sender.sent_word]]
        nonce = int.from_bytes(os.urandom(8), "little")
        deadline = time.monotonic() + _FLUSH_TIMEOUT
        pause = _FIRST_PAUSE
        while self._probe(nonce) and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


def _start_thread(name: str, target: Callable[..., None], *args: Any) -> threading.Thread:
    """Start a thread that calls Zenoh.

    It ends when its session is closed. The interpreter waits for it at its end, 20 s at most: a thread that
    returns from Zenoh to an interpreter that finalizes aborts the process ("exception not rethrown").
    """
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    thread.start()
    _threads.add(thread)
    return thread


@atexit.register  # at the import, so that it runs after the functions that close sessions
def _join_threads() -> None:
    deadline = time.monotonic() + _EXIT_TIMEOUT
    for thread in list(_threads):
        thread.join(max(0.0, deadline - time.monotonic()))
