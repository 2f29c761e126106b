"""Taps: further subscribers of an output, for observers and recorders.

A tap is not a link. It has no line on the board, so no sender waits for it or wakes it; its own small
queue drops the oldest message. It costs the sender one more queue entry per message, and nothing once it
is closed.

Unlike the ports of a node, a tap is destroyed when it is closed: taps come and go while the dataflow runs,
and a queue without a reader would be filled until the end of the run.
"""

from __future__ import annotations

from typing import Any, Protocol

from dora._ownership import UnsafeFile
from dora.errors import TransportError
from dora.transport.forking import disown_after_fork, leak, refuse
from dora.wire.daemon_protocol import Inspection, OutputView
from dora.wire.message import Message
from dora.wire.node_config import InputConfig


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

    def close_tap(self, tap: Tap) -> None:
        """Close one tap. Its messages must not be used any more."""
        ...

    def close(self) -> None:
        """Close all taps. Messages that are still referenced must not be used any more."""
        ...


def open_taps(inspection: Inspection) -> TapEngine:
    """Return the tap engine for a dataflow; raises `TransportError`."""
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

    def close_tap(self, tap: Tap) -> None:
        self._taps.remove(tap)
        tap.close()

    def close(self) -> None:
        for tap in self._taps:
            tap.close()
        self._taps.clear()
        self._presence.leave()
