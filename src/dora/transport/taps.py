"""Taps: further subscribers of an output, for observers and recorders.

A tap is not a link. It has no line on the board, so no sender waits for it or wakes it; its own small
queue drops the oldest message. It costs the sender one more queue entry per message, and nothing once it
is closed.

Unlike the ports of a node, a tap is destroyed when it is closed: taps come and go while the dataflow runs,
and a queue without a reader would be filled until the end of the run.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from dora._ownership import UnsafeFile
from dora.errors import ConnectError, TransportError
from dora.transport.forking import disown_after_fork, leak, refuse
from dora.wire.daemon_protocol import Inspection, OutputView
from dora.wire.decode import BAD_MESSAGE
from dora.wire.message import HEADER_SIZE, Message
from dora.wire.node_config import InputConfig

if TYPE_CHECKING:
    from collections.abc import Callable


class Tap(Protocol):
    """A subscriber of one output."""

    def receive(self) -> Message | None:
        """Take the oldest message, or return None; never blocks. Release a large one soon."""
        ...

    def close(self) -> None:
        """Unsubscribe; called by the engine."""
        ...


class TapEngine(Protocol):
    """The taps of one command on one dataflow."""

    def tap(self, output: OutputView, queue_size: int) -> Tap:
        """Subscribe to an output; the queue has ``queue_size`` places, or what the channel has room for."""
        ...

    def buffered_tap(self, output: OutputView, room: int) -> Tap:
        """Subscribe with the longest possible queue, of at most ``room`` bytes in this process."""
        ...

    def close_tap(self, tap: Tap) -> None:
        """Close one tap. Its messages must not be used any more."""
        ...

    def close(self) -> None:
        """Close all taps. Messages that are still referenced must not be used any more."""
        ...


def open_taps(inspection: Inspection) -> TapEngine:
    """Return the tap engine for a dataflow; raises `ConnectError`, `TransportError`."""
    if inspection.engine == "zenoh":
        return _ZenohTaps(inspection.zenoh_endpoint)
    if inspection.engine == "shm":
        return _ShmTaps(inspection.prefix)
    return _IceoryxTaps(inspection.run_dir, inspection.prefix)


class _IceoryxTaps:
    def __init__(self, run_dir: str, prefix: str) -> None:
        from dora.transport.shm.iceoryx2 import make_node

        try:
            self._node: Any = make_node(run_dir, prefix)
        except UnsafeFile:
            raise
        except Exception as error:
            raise TransportError(f"iceoryx2 cannot open a tap on this dataflow: {error!r}") from error
        self._taps: list[Tap] = []
        self._channels: dict[str, Any] = {}
        self._inherited = False  # this process was forked from the owner
        disown_after_fork(self)

    def disown(self) -> None:
        """Leave all taps to the parent, in a forked child process."""
        leak(self._node, self._channels, self._taps)
        self._inherited = True

    def tap(self, output: OutputView, queue_size: int) -> Tap:
        if self._inherited:
            refuse()
        from dora.transport.shm.iceoryx2 import IceoryxReceiver, open_channel

        channel = self._channels.get(output.service)
        if channel is None:
            channel = open_channel(self._node, output.service, output.max_queue_size, output.max_receivers)
            self._channels[output.service] = channel
        config = InputConfig(output.id, "link", "", queue_size=min(queue_size, output.max_queue_size))
        try:
            tap = IceoryxReceiver(channel, config)
        except Exception as error:
            raise TransportError(f"output `{output.id}` cannot be tapped: {error!r}") from error
        self._taps.append(tap)
        return tap

    def buffered_tap(self, output: OutputView, room: int) -> Tap:  # noqa: ARG002 - the channel has the queue
        return self.tap(output, output.max_queue_size)

    def close_tap(self, tap: Tap) -> None:
        if self._inherited:
            return
        self._taps.remove(tap)
        tap.close()

    def close(self) -> None:
        if self._inherited:
            return
        for tap in self._taps:
            tap.close()
        self._taps.clear()
        self._channels.clear()
        self._node = None


class _ShmTaps:
    def __init__(self, prefix: str) -> None:
        from dora.transport.shm.channel import links_folder
        from dora.transport.shm.engine import join

        self._folder = links_folder(prefix)
        self._presence = join(self._folder, "a tap on this dataflow")
        self._taps: list[Tap] = []

    def tap(self, output: OutputView, queue_size: int) -> Tap:
        from dora.transport.shm.engine import open_port

        config = InputConfig(
            output.id,
            "link",
            "",
            queue_size=min(queue_size, output.max_queue_size),
            output_slot=output.slot,
        )
        tap = open_port(self._presence, self._folder, config, tap=True)
        self._taps.append(tap)
        return tap

    def buffered_tap(self, output: OutputView, room: int) -> Tap:  # noqa: ARG002 - the ring has the queue
        return self.tap(output, output.max_queue_size)

    def close_tap(self, tap: Tap) -> None:
        self._taps.remove(tap)
        tap.close()

    def close(self) -> None:
        for tap in self._taps:
            tap.close()
        self._taps.clear()
        self._presence.leave()


class _ZenohTap:
    def __init__(self, subscriber: Any, take: Callable[[], Any] | None = None) -> None:
        self.subscriber = subscriber  # one that is garbage-collected is silently undeclared
        self._next: Callable[[], Any] = take or subscriber.try_recv

    def receive(self) -> Message | None:
        from dora.transport.aligned_memory import message_from_bytes

        while (sample := self._next()) is not None:
            if len(sample.payload) < HEADER_SIZE:
                continue  # a probe of the engine
            data = sample.payload.to_bytes()
            try:
                message = message_from_bytes(data)
            except BAD_MESSAGE:
                continue  # a receiver of the dataflow logs it
            return message
        return None

    def close(self) -> None:
        import zenoh

        try:
            self.subscriber.undeclare()
        except zenoh.ZError:
            pass  # the router is gone: the dataflow has ended


class _ByteBoundedQueue:
    """Samples in this process, up to ``room`` bytes: a burst arrives faster than it is read."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._samples: deque[tuple[Any, int]] = deque()
        self._bytes = 0
        # `put` runs in a Zenoh thread. The number of bytes has to fit the samples.
        self._lock = threading.Lock()

    def put(self, sample: Any) -> None:
        """Append a sample and drop the oldest that exceed the room; called in a Zenoh thread."""
        size = len(sample.payload)
        with self._lock:
            self._samples.append((sample, size))
            self._bytes += size
            while self._bytes > self._room and len(self._samples) > 1:  # the newest stays, however large
                self._bytes -= self._samples.popleft()[1]

    def take(self) -> Any:
        with self._lock:
            if not self._samples:
                return None
            sample, size = self._samples.popleft()
            self._bytes -= size
            return sample


class _ZenohTaps:
    def __init__(self, endpoint: str) -> None:
        import zenoh

        from dora.transport.zenoh.router import connect

        try:
            self._session = connect(endpoint)
        except zenoh.ZError as error:
            raise ConnectError(f"the Zenoh router cannot be reached at {endpoint}: {error}") from error
        self._taps: list[Tap] = []
        self._inherited = False  # this process was forked from the owner
        disown_after_fork(self)

    def disown(self) -> None:
        """Leave all taps to the parent, in a forked child process."""
        leak(self._session, self._taps)
        self._inherited = True

    def tap(self, output: OutputView, queue_size: int) -> Tap:
        import zenoh

        # A ring drops the oldest sample in native code, so the network never waits.
        ring: Any = zenoh.handlers.RingChannel(queue_size)
        return self._declare(output, ring, None)

    def buffered_tap(self, output: OutputView, room: int) -> Tap:
        queue = _ByteBoundedQueue(room)
        return self._declare(output, queue.put, queue.take)

    def _declare(self, output: OutputView, handler: Any, take: Callable[[], Any] | None) -> Tap:
        import zenoh

        if self._inherited:
            refuse()
        try:
            tap = _ZenohTap(self._session.declare_subscriber(output.service, handler), take)
        except zenoh.ZError as error:
            raise TransportError(f"output `{output.id}` cannot be tapped: {error}") from error
        self._taps.append(tap)
        return tap

    def close_tap(self, tap: Tap) -> None:
        if self._inherited:
            return
        self._taps.remove(tap)
        tap.close()

    def close(self) -> None:
        from dora.transport.zenoh.router import close_session

        if self._inherited:
            return
        self._taps.clear()
        close_session(self._session)
