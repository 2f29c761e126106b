"""Links over the network, on Zenoh: the engine where iceoryx2 does not exist.

Every node is a client of the router in its daemon's process (`zenoh_router`). One output is one key;
what is put under it is the message, byte for byte. Sending is reliable and blocks when the network is
full, so nothing is lost on the way; the only place where messages are dropped is the receiver's own
queue, as with every engine.

Four properties of Zenoh shape this module:

* A message that is put before the subscription has reached the sender is lost. `ZenohEngine.connect`
  therefore *probes*: it puts a few bytes under the very key of the output, again and again, until
  every receiver has confirmed on the board that a probe of this sender has come through. What is
  put after that takes the same way.
* Sending is asynchronous, and `Session.close` does not wait for a large message that is under way in
  fragments. So closing waits until a probe behind the last message has come through. An ``atexit``
  handler covers the programs that end without closing their node. After SIGKILL or ``os._exit`` the
  last messages may be missing.
* Messages may still be on their way when the daemon says that their source has ended: ``in_flight``.
* A thread of Zenoh that waits for the interpreter's lock can make a sender that holds it wait for ever,
  and the Python threads in which it would run callbacks keep the interpreter from ending. So each
  subscriber fills a channel of Zenoh's, and a daemon thread of ours empties it. It does as little
  as possible: the copy into a Python object is made by the thread that receives. It must have ended
  before the interpreter finalizes, which the ``atexit`` handler sees to.

Whether a link is up is known only when something has come through; so this engine itself writes
``STATE`` on the board, and does not count a receiver in before it can be reached: a sender with
back-pressure would wait for ever for credit for messages that never came.
"""

from __future__ import annotations

import atexit
import logging
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import zenoh

from dora.errors import ConnectError, SendError, TransportError
from dora.transport.aligned_memory import AlignedMemory, BadMessages, message_from_bytes
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
from dora.transport.forking import disown_after_fork, do_nothing, leak, refuse
from dora.transport.network.zenoh_router import make_config
from dora.wire.decode import BAD_MESSAGE
from dora.wire.message import HEADER_SIZE, Message
from dora.wire.node_config import InputConfig, LinkConfig, OutputConfig

_CONNECT_TIMEOUT_MS: Final = 5000
_INTERRUPTED_PATIENCE: Final = 0.5  # seconds
_FLUSH_PATIENCE: Final = 2.0  # seconds
_THREAD_PATIENCE: Final = 2.0  # seconds
_CHANNEL_LENGTH: Final = 256  # messages between the network and the thread that queues them
_FIRST_PAUSE: Final = 0.0005  # seconds between probes, doubled up to the longest
_LONGEST_PAUSE: Final = 0.02

# A probe is shorter than any message: the sender's nonce, and how many messages it has sent.
_PROBE: Final = struct.Struct("<QQ")
assert _PROBE.size < HEADER_SIZE

_log = logging.getLogger("dora.transport")


class _Loan:
    __slots__ = ("_memory", "_sender", "address", "size")

    def __init__(self, sender: ZenohSender, size: int) -> None:
        self._sender = sender
        # Kept until the loan dies, not only until it is sent: the user may still look at it.
        self._memory = AlignedMemory(size)
        self.address = self._memory.address
        self.size = size

    def send(self) -> None:
        self._sender.put(self._memory.content())

    def discard(self) -> None:
        """Nothing to do: the memory goes with the last reference."""


class ZenohSender:
    """One key. Safe to use from several threads.

    Not a publisher of Zenoh's: that one discards by itself what nobody seems to subscribe to, and for a
    moment after a first probe has come through, nobody seems to.
    """

    def __init__(self, session: zenoh.Session, output: OutputConfig) -> None:
        self.output = output
        self.sent_word = output.slot * WORDS + SENT
        self._output_id = output.id
        self._session = session
        self._key = session.declare_keyexpr(output.service)

    def send(self, message: bytes) -> None:
        self.put(message)

    def prepare(self) -> None:
        """Nothing to do ahead."""

    def loan(self, size: int) -> _Loan:
        try:
            return _Loan(self, size)
        except MemoryError:
            raise SendError(f"output `{self._output_id}`: no memory for {size} bytes") from None

    def put(self, content: bytes | bytearray) -> None:
        try:
            self._session.put(self._key, content, congestion_control=zenoh.CongestionControl.BLOCK)
        except zenoh.ZError as error:
            raise TransportError(f"output `{self._output_id}`: Zenoh cannot send: {error}") from error

    def close(self) -> None:
        """Nothing to do: the engine flushes."""

    destroy = close


class ZenohReceiver:
    """One subscriber and its queue."""

    def __init__(self, item: InputConfig, arrived: Callable[[], None], board: Board) -> None:
        self.service = item.service
        self._input_id = item.id
        self._bad = BadMessages(item.id)
        self._arrived = arrived
        self._words = board.words
        self._base = item.slot * WORDS
        # With back-pressure, the sender's credit is the bound: whatever comes has room.
        self._queue: deque[zenoh.ZBytes] = deque(
            maxlen=item.queue_size if item.policy == "drop_oldest" else None
        )
        self._lock = threading.Lock()
        self._reached = False
        self._closed = False
        self._subscriber: Any = None
        self._thread: threading.Thread | None = None

    def subscribe(self, session: zenoh.Session) -> None:
        if self._subscriber is None and not self._closed:
            self._subscriber = session.declare_subscriber(
                self.service, zenoh.handlers.FifoChannel(_CHANNEL_LENGTH)
            )
            self._thread = threading.Thread(
                target=self._take_samples,
                args=(self._subscriber.handler,),
                name=f"dora input {self._input_id}",
                daemon=True,
            )
            self._thread.start()

    def _take_samples(self, samples: Iterable[zenoh.Sample]) -> None:
        """Queue what the network brings, until the subscriber or the session is closed."""
        for sample in samples:
            self._on_payload(sample.payload)

    def _on_payload(self, payload: zenoh.ZBytes) -> None:
        if len(payload) < HEADER_SIZE:
            self._on_probe(payload.to_bytes())
            return
        if not self._reached:
            self._set_reached()
        self._queue.append(payload)
        self._arrived()

    def _on_probe(self, probe: bytes) -> None:
        if len(probe) != _PROBE.size:
            return
        nonce, sent = _PROBE.unpack(probe)
        words, base = self._words, self._base
        known = words[base + FIRST] + words[base + RECEIVED] + words[base + DROPPED]
        # If messages were missed, the next one shows how many: until then there is no credit to
        # count, and the link does not count as up.
        if not self._reached and sent == known:
            self._set_reached()
        with self._lock:
            if not self._closed:
                words[base + PROBED] = nonce

    def _set_reached(self) -> None:
        with self._lock:
            if not self._closed:
                self._words[self._base + STATE] = CONNECTED
                self._reached = True

    def receive(self) -> Message | None:
        queue = self._queue
        while queue:
            try:
                data = queue.popleft().to_bytes()
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
        """Nothing to do: what comes between two processes is lost."""

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._words[self._base + STATE] = CLOSED
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is not None:
            try:
                subscriber.undeclare()
            except zenoh.ZError:
                pass  # the session is closed or broken: nothing comes any more
        self.join()
        self._queue.clear()

    def join(self) -> None:
        """Wait for the end of the thread, once the subscriber or the session is closed."""
        if self._thread is not None:
            self._thread.join(_THREAD_PATIENCE)


class ZenohEngine:
    """All ports of one node of a dataflow: a session with the router of its daemon."""

    wakes = True
    in_flight = True  # see the module's docstring

    def __init__(self, endpoint: str, dataflow_id: str, board: Board) -> None:
        """Open the session; raises `ConnectError`."""
        self._board = board
        try:
            self._session = zenoh.open(
                make_config(
                    mode="client",
                    connect__endpoints=[endpoint],
                    connect__timeout_ms=_CONNECT_TIMEOUT_MS,
                )
            )
        except zenoh.ZError as error:
            raise ConnectError(
                f"the Zenoh router of dataflow {dataflow_id} cannot be reached at {endpoint}: {error}"
            ) from error
        # A subscriber that is garbage-collected is silently undeclared.
        self._senders: list[ZenohSender] = []
        self._receivers: list[ZenohReceiver] = []
        self._connected = False
        atexit.register(self.close)
        disown_after_fork(self)

    def disown(self) -> None:
        """Leave everything to the parent, in a forked child process, which has none of the threads."""
        atexit.unregister(self.close)
        leak(self._session, self._senders, self._receivers)
        for sender in self._senders:
            vars(sender)["put"] = refuse
        for receiver in self._receivers:
            vars(receiver).update(receive=refuse, close=do_nothing)
        vars(self).update(sender=refuse, receiver=refuse, close=do_nothing)

    def sender(self, output: OutputConfig) -> ZenohSender:
        try:
            sender = ZenohSender(self._session, output)
        except zenoh.ZError as error:
            raise TransportError(f"output `{output.id}`: Zenoh cannot set it up: {error}") from error
        self._senders.append(sender)
        return sender

    def receiver(self, item: InputConfig, arrived: Callable[[], None]) -> ZenohReceiver:
        """Make a receiver; it begins to receive in `connect`, or at once after that."""
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

        Not waited for are dynamic nodes that are not there, and receivers that have ended. Raises
        `ConnectError` after ``timeout`` seconds, naming who is missing.
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
                # It may also be something harmless, and the receivers just about to answer.
                hurried = True
                deadline = min(deadline, now + _INTERRUPTED_PATIENCE)
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
        """Send a probe to each sender's missing receivers; return their links."""
        words = self._board.words
        missing: list[LinkConfig] = []
        for sender in self._senders:
            absent = [link for link in sender.output.links if self._is_missing(link, nonce)]
            if absent:
                sender.put(_PROBE.pack(nonce, words[sender.sent_word]))
                missing += absent
        return missing

    def _is_missing(self, link: LinkConfig, nonce: int) -> bool:
        if link.machine:  # not a link of this engine's
            return False
        words = self._board.words
        base = link.slot * WORDS
        if words[base + PROBED] == nonce:
            return False
        state = words[base + STATE]
        return state != CLOSED and (state == CONNECTED or not link.dynamic)

    def close(self) -> None:
        """Wait until everything sent has arrived, at most `_FLUSH_PATIENCE`, then end the session."""
        atexit.unregister(self.close)
        if not self._session.is_closed():
            try:
                self._flush()
            except TransportError:
                pass  # the router is gone, and with it everybody who could receive
            try:
                self._session.close()  # type: ignore[no-untyped-call]  # a gap in its stubs
            except zenoh.ZError:
                pass  # the router does not answer: there is nobody to say goodbye to
        for receiver in self._receivers:
            receiver.join()
        self._senders.clear()
        self._receivers.clear()

    def _flush(self) -> None:
        """Send a probe after the last message of each sender, and wait until it has come through."""
        words = self._board.words
        self._senders = [sender for sender in self._senders if words[sender.sent_word]]
        nonce = int.from_bytes(os.urandom(8), "little")
        deadline = time.monotonic() + _FLUSH_PATIENCE
        pause = _FIRST_PAUSE
        while self._probe(nonce) and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
