"""Taps: one more subscriber on an output, for whoever wants to look at what is sent.

A tap is no link. It has no line on the board, so no sender waits for it or wakes it; its own little
queue drops the oldest message. The sender of an output pays for one more entry in a queue, and nothing
at all once the tap is gone.

In contrast to a node, a tap is destroyed in an orderly way: it comes and goes while the dataflow runs,
and a queue that nobody reads would be filled for the rest of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from dora.errors import ConnectError, TransportError
from dora.wire.control import InputConfig
from dora.wire.inspection import Inspection, OutputView
from dora.wire.message import HEADER_SIZE, Message, MessageError

if TYPE_CHECKING:
    from collections.abc import Callable

_CONNECT_TIMEOUT_MS = 5000


class Tap(Protocol):
    """Looks at one output."""

    def receive(self) -> Message | None:
        """Take the oldest message, or return None; never blocks. Let go of a large one soon."""
        ...


class TapEngine(Protocol):
    """What the taps of one command have in common."""

    def tap(self, output: OutputView, queue_size: int) -> Tap: ...

    def close(self) -> None:
        """End all taps. Messages that are still referenced must not be used any more."""
        ...


def open_taps(inspection: Inspection) -> TapEngine:
    """Return the taps for the engine of a dataflow; raises `ConnectError`, `TransportError`."""
    if inspection.engine == "zenoh":
        return _ZenohTaps(inspection.zenoh_endpoint)
    return _IceoryxTaps(inspection.run_dir, inspection.prefix)


class _IceoryxTaps:
    def __init__(self, run_dir: str, prefix: str) -> None:
        from dora.transport.iceoryx import make_node

        try:
            self._node: Any = make_node(run_dir, prefix)
        except Exception as error:
            raise TransportError(f"iceoryx2 cannot look into this dataflow: {error!r}") from error
        self._taps: list[Any] = []
        self._channels: list[Any] = []

    def tap(self, output: OutputView, queue_size: int) -> Tap:
        from dora.transport.iceoryx import IceoryxReceiver, open_channel

        channel = open_channel(self._node, output.service, output.max_queue_size, output.max_receivers)
        config = InputConfig(output.id, "link", "", queue_size=min(queue_size, output.max_queue_size))
        try:
            tap = IceoryxReceiver(channel, config)
        except Exception as error:
            raise TransportError(f"output `{output.id}` cannot be looked at: {error!r}") from error
        self._channels.append(channel)
        self._taps.append(tap)
        return tap

    def close(self) -> None:
        for tap in self._taps:
            tap.close()
        self._taps.clear()
        self._channels.clear()
        self._node = None


class _ZenohTap:
    def __init__(self, subscriber: Any) -> None:
        self.subscriber = subscriber  # one that is garbage-collected is silently undeclared
        self._next: Callable[[], Any] = subscriber.try_recv

    def receive(self) -> Message | None:
        from dora.transport.memory import message_from_bytes

        while (sample := self._next()) is not None:
            if len(sample.payload) < HEADER_SIZE:
                continue  # a probe of the engine's
            data = sample.payload.to_bytes()
            try:
                message = message_from_bytes(data)
                message.validate(len(data))
            except MessageError:
                continue  # a receiver of the dataflow warns of it
            return message
        return None


class _ZenohTaps:
    def __init__(self, endpoint: str) -> None:
        import zenoh

        from dora.transport.zenoh_router import make_config

        try:
            self._session = zenoh.open(
                make_config(
                    mode="client",
                    connect__endpoints=[endpoint],
                    connect__timeout_ms=_CONNECT_TIMEOUT_MS,
                )
            )
        except zenoh.ZError as error:
            raise ConnectError(f"the Zenoh router cannot be reached at {endpoint}: {error}") from error
        self._taps: list[_ZenohTap] = []

    def tap(self, output: OutputView, queue_size: int) -> Tap:
        import zenoh

        # A ring lets go of the oldest by itself, in native code: the network is never held up.
        ring: Any = zenoh.handlers.RingChannel(queue_size)
        try:
            tap = _ZenohTap(self._session.declare_subscriber(output.service, ring))
        except zenoh.ZError as error:
            raise TransportError(f"output `{output.id}` cannot be looked at: {error}") from error
        self._taps.append(tap)
        return tap

    def close(self) -> None:
        import zenoh

        self._taps.clear()
        try:
            self._session.close()  # type: ignore[no-untyped-call]  # a gap in its stubs
        except zenoh.ZError:
            pass  # the router is gone: the dataflow has ended
