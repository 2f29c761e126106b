"""The inbox of a node: which event comes next.

Events of one input keep their order; the closing of an input comes after its data. Between inputs the inbox
takes turns, and starts after the one that it served last. Events of the daemon (a node failed, a manual
stop) come first. After a manual stop, the loss of the daemon, or the closing of the last input, what is
buffered is still delivered; then the stream ends.

`dora.node.receive.wait` has the waiting, `dora.node.interceptors` what watches the events.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from dora.errors import ReceiveClosed
from dora.node.daemon_client import DaemonChannel
from dora.node.events import (
    Error,
    Event,
    Input,
    NodeFailed,
    NodeRestarted,
    ParamDeleted,
    ParamUpdate,
    Reload,
    SafeStateEntered,
    SafeStateLeft,
    Stop,
    Synced,
)
from dora.node.receive.input_port import InputPort
from dora.node.receive.wait import DEFAULT_SPIN_US, Waiter
from dora.transport.board import CONTROL, WORDS, Board
from dora.transport.doorbell import Doorbell
from dora.wire import node_protocol
from dora.wire.message import ONE_TRAIL_BYTE, ORIGIN

if TYPE_CHECKING:
    from dora.node.current_event import CurrentEvent
    from dora.node.interceptor import ReceiveInterceptor
    from dora.node.receive.path_meter import PathMeter
    from dora.node.receive.sync_port import SyncPort
    from dora.wire.node_protocol import SessionFrame


class EventSink(Protocol):
    """Writes down which events the inbox gives out, see `dora.node.interceptors.event_log`."""

    def take(self, event: Event) -> None:
        """Note an event, before the program gets it."""

    def timed_out(self) -> None:
        """Note that a wait has ended without an event."""

    def found_nothing(self) -> None:
        """Note that a poll has found no event."""


MakeGroups = Callable[[Mapping[str, InputPort], Callable[[InputPort], None]], "Sequence[SyncPort]"]
"""Makes the ports of groups; gets the ports of all inputs, and what to call with the port of an input of a
group whose closing the program has just got."""

_monotonic = time.monotonic_ns
# Between reads of the control socket by a program that never waits. They are for the end of the daemon
# alone: for a frame, the daemon changes ``CONTROL``, which each poll reads without a system call.
_DAEMON_CHECK_NS: Final = 50_000_000


class Inbox(Waiter):
    """All inputs of a node. Its methods may be called from any thread, one receives at a time."""

    def __init__(
        self,
        ports: list[InputPort],
        channel: DaemonChannel,
        board: Board,
        node_slot: int,
        doorbell: Doorbell,
        *,
        current: CurrentEvent,
        paths: PathMeter,
        groups: MakeGroups = lambda _ports, _on_closed: (),
        parameters: dict[str, Any] | None = None,
        epoch_ns: int = 0,
        on_frame: Callable[[SessionFrame], None] = lambda _: None,
        on_detached: Callable[[str], None] = lambda _: None,
        spin_us: float = DEFAULT_SPIN_US,
        clock_is_work: bool = True,
    ) -> None:
        """``current``: the current event, which the outputs know. ``paths`` counts what the ports sample.
        ``parameters``: of the node, kept up to date here. ``epoch_ns``: when all nodes were ready, on
        CLOCK_MONOTONIC. ``on_frame`` gets frames of the daemon that concern more than the inputs;
        ``on_detached`` is called when a disconnected input has given out its last event.
        ``clock_is_work``: a node with timers goes on when all its data inputs are closed.
        """
        super().__init__(board, node_slot, doorbell, channel.fileno(), spin_us)
        self.ports = {port.id: port for port in ports}  # by input
        self.parameters: dict[str, Any] = {} if parameters is None else parameters
        self.current = current
        self.paths = paths
        self.epoch_ns = epoch_ns
        self._on_frame = on_frame
        self._on_detached = on_detached
        self._interceptors: tuple[ReceiveInterceptor, ...] = ()  # replaced, never changed
        self.event_log: EventSink | None = None  # while it is written; polls without an event cost nothing
        self._groups = tuple(groups(self.ports, self._closed_in_group))
        self._group_of = {name: group for group in self._groups for name in group.config.inputs}
        alone = [port for port in ports if port.id not in self._group_of]
        self._open_ports: list[InputPort] = [*alone, *self._groups]
        self._merged: list[InputPort] = []  # of sources outside the dataflow
        self._next_port = 0
        # A timer of a group ends with its other inputs.
        self._clocks = [port for port in alone if not port.is_data]
        self._clock_is_work = clock_is_work
        self._channel = channel
        self._control_word = node_slot * WORDS + CONTROL
        self._control_seen = 0
        self._pending: deque[Event] = deque()
        self._stopping = False
        self._ending = False  # no further events but the pending ones
        self._check_daemon_at = 0  # for programs that poll and never wait
        self._served_data = False  # the last event came from another process

    # ------------------------------------------------------------------ taking events

    def next(self, timeout: float | None) -> Event | None:
        """Return the next event, None at the end of the stream, an `Error` event on expiry."""
        if not self._lock.acquire(False):
            start = _monotonic()
            if not self._acquire(-1 if timeout is None else timeout):
                return timed_out(timeout)
            if timeout is not None:
                timeout = max(timeout - (_monotonic() - start) * 1e-9, 0.0)
        try:
            self.current.header = None  # the program has finished the former event
            watched = self._interceptors or self.event_log is not None
            event = self._poll() if watched else self._next_event()
            if event is not None:
                return event
            return self._wait(timeout)
        finally:
            self._lock.release()

    def try_next(self) -> Event | None:
        """Return an event that has arrived, else None; never blocks."""
        event = self._take()
        if event is None:
            self._report_nothing()
        return event

    def _take(self) -> Event | None:
        if not self._lock.acquire(blocking=False) and not self._contend():
            return None  # another thread is waiting for the next event: it gets it
        try:
            self.current.header = None
            watched = self._interceptors or self.event_log is not None
            event = self._poll() if watched else self._next_event()
            if event is None and self._daemon_may_be_gone():
                event = self._poll()
            return event
        finally:
            self._lock.release()

    def _daemon_may_be_gone(self) -> bool:
        """Read the control socket now and then, for programs that poll and never wait."""
        now = _monotonic()
        if now < self._check_daemon_at or self._ending:
            return False
        self._check_daemon_at = now + _DAEMON_CHECK_NS
        self._read_control()
        return True

    def drain(self) -> list[Event]:
        """Return all events that have arrived; raises `ReceiveClosed` after the end of the stream."""
        events: list[Event] = []
        while (event := self.try_next()) is not None:
            events.append(event)
        if not events and self.ended:
            raise ReceiveClosed("Could not drain events. Channel is closed")
        return events

    def is_empty(self) -> bool:
        """Return whether no event has arrived."""
        if self._lock.acquire(blocking=False):
            try:
                if self._words[self._control_word] != self._control_seen:
                    self._read_control()
                else:
                    self._daemon_may_be_gone()
                for port in self._open_ports:
                    port.look_ahead()
            finally:
                self._lock.release()
        empty = not (self._pending or any(port.ready() for port in list(self._open_ports)))
        if empty:
            self._report_nothing()
        return empty

    async def next_async(self, timeout: float | None) -> Event | None:
        """Return the next event like `next`, in an asyncio loop: other tasks run meanwhile."""
        event = self._take()
        return event if event is not None else await self._wait_async(timeout)

    def _report_nothing(self) -> None:
        for interceptor in self._interceptors:
            interceptor.found_nothing()
        if self.event_log is not None:
            self.event_log.found_nothing()

    @property
    def is_closing(self) -> bool:
        """True from a stop, or the end of the stream, on: messages sent from now on are not received."""
        return self._stopping or self._ending

    @property
    def ended(self) -> bool:
        """True once the stream is over and every event has been taken."""
        return self._ending and not self._pending

    # ------------------------------------------------------------------ interceptors

    def intercept(self, interceptor: ReceiveInterceptor) -> None:
        """Add an interceptor, after those that are there."""
        self._interceptors = (*self._interceptors, interceptor)

    def release(self, interceptor: ReceiveInterceptor) -> None:
        """Remove an interceptor."""
        self._interceptors = tuple(other for other in self._interceptors if other is not interceptor)

    def _poll(self) -> Event | None:
        """Return the next event, through the interceptors and the event log; never blocks."""
        interceptors = self._interceptors
        if interceptors:
            for interceptor in interceptors:
                interceptor.before_poll()
            event = self._next_event()
            for interceptor in interceptors:
                interceptor.after_poll(event)
        else:
            event = self._next_event()
        if event is not None and self.event_log is not None:
            self.event_log.take(event)
        return event

    def _timed_out(self, timeout: float | None) -> Error:
        for interceptor in self._interceptors:
            interceptor.timed_out()
        if self.event_log is not None:
            self.event_log.timed_out()
        return timed_out(timeout)

    def _wake_at(self, deadline: int | None) -> int | None:
        earliest = deadline
        for port in self._open_ports:
            at = port.wake_at()
            if at is not None and (earliest is None or at < earliest):
                earliest = at
        return earliest

    # ------------------------------------------------------------------ polling the inputs

    def _next_event(self) -> Event | None:
        if self._words[self._control_word] != self._control_seen:
            self._read_control()
        if self._pending:
            self._served_data = False
            return self._pending.popleft()
        turn = self._open_ports
        count = len(turn)
        position = self._next_port
        for _ in range(count):
            if position >= count:
                position = 0
            port = turn[position]
            position += 1
            event = port.poll()
            if event is not None:
                self._next_port = position
                self._served_data = port.is_data
                current = self.current
                if current.is_needed:
                    if event.__class__ is Input:
                        content = event._content
                        header = current.header = content.header
                        if header is not None and header[ORIGIN] >= ONE_TRAIL_BYTE:
                            current.trail = content.trail
                    elif event.__class__ is Synced:
                        current.follow_set(event)
                if not port.open:
                    self._remove_closed(port)
                return event
        if self._stopping and not any(port.awaits_rest() for port in self.ports.values()):
            self._finish()
        return None

    def _finish(self) -> None:
        """End the stream and close the ports, so no sender waits for this node to read."""
        self._ending = True
        turn, self._open_ports = self._open_ports, []
        for port in turn:
            port.close()

    def _remove_closed(self, port: InputPort) -> None:
        """Remove a closed port from the open ones; after the last one the node is asked to stop."""
        left = [other for other in self._open_ports if other.id != port.id]
        if len(left) == len(self._open_ports):  # another thread has closed the node
            return
        self._open_ports = left
        self._next_port = 0
        if port.detached:
            self._drop(port)
        if not any(other.is_data for other in self.ports.values()):
            return  # the node waits for another input to be connected
        if any(other.is_data for other in self._open_ports):
            return
        if self._clocks and self._clock_is_work:
            return
        if not self._stopping:
            self._pending.append(Stop("ALL_INPUTS_CLOSED"))
        self._finish()

    def _drop(self, port: InputPort) -> None:
        port.close()
        del self.ports[port.id]
        self._clocks = [other for other in self._clocks if other.id != port.id]
        self._on_detached(port.id)

    def add(self, port: InputPort) -> None:
        """Receive on one more input from now on."""
        self.ports[port.id] = port
        if (group := self._group_of.get(port.id)) is not None:
            group.replace(port)
            self._open(group)
            return
        if not port.is_data:
            self._clocks.append(port)
        self._open_ports = [*self._open_ports, port]

    def merge(self, make: Callable[[str, Callable[[], None]], InputPort]) -> None:
        """Poll a port of a source outside the dataflow, too; ``make`` gets its id and what wakes this node.

        The port does not keep the stream of events open.
        """
        port = make(f"external:{len(self._merged)}", self.wake)  # no input has such an id
        self._merged.append(port)
        self._open_ports = [*self._open_ports, port]
        self.wake()

    def group_statistics(self) -> dict[str, dict[str, int]]:
        """Return the counts of the groups, by the input that leads."""
        return {group.config.inputs[0]: group.statistics() for group in self._groups}

    def _closed_in_group(self, port: InputPort) -> None:
        if port.detached and self.ports.get(port.id) is port:
            self._drop(port)

    def _open(self, port: InputPort) -> None:
        """Poll a port, once more if it had closed; for an input of a group, poll the group."""
        if (group := self._group_of.get(port.id)) is not None:
            group.reopen(port.id)
            port = group
        if port not in self._open_ports:
            self._open_ports = [*self._open_ports, port]

    def detach(self, input_id: str) -> None:
        """Close an input, and drop it, after the messages that were sent until now."""
        port = self.ports.get(input_id)
        if port is None or not port.open:  # it has no events left
            if port is not None:
                self._drop(port)
            else:
                self._on_detached(input_id)
        else:
            port.detach()

    def _holding_ports(self) -> list[InputPort]:
        return [port for port in list(self.ports.values()) if port.holds]

    def tick_statistics(self) -> dict[str, dict[str, Any]]:
        """Return how punctual the ticks of each timer were."""
        return {port.id: found for port in self.ports.values() if (found := port.tick_statistics())}

    def catch_up(self) -> None:
        """Act on what the daemon has reported, if there is anything, as `read_control` does."""
        if self._control_changed():
            self.read_control()

    def read_control(self) -> None:
        """Act on the daemon's frames, unless another thread is doing so; takes no event."""
        if self._lock.acquire(blocking=False):
            try:
                self._read_control()
            finally:
                self._lock.release()

    def replace(self, port: InputPort) -> None:
        """Replace the port of the same id by one with more layers."""
        self.ports[port.id] = port
        if (group := self._group_of.get(port.id)) is not None:
            group.replace(port)
        for index, other in enumerate(self._open_ports):
            if other.id == port.id:
                self._open_ports[index] = port

    # ------------------------------------------------------------------ the frames of the daemon

    def _control_changed(self) -> bool:
        return self._words[self._control_word] != self._control_seen

    def _read_control(self) -> None:
        if self._words[self._control_word] != self._control_seen:
            # Before the reads: a change during them is seen at the next poll.
            self._control_seen = self._words[self._control_word]
            for port in self.ports.values():
                port.check_flush()
        for frame in self._channel.read():
            self.handle(frame)
        if self._channel.lost:  # no error after a stop: the daemon may end before a slow node does
            self._stop(Error("the daemon is gone; the dataflow has ended"))

    def handle(self, frame: node_protocol.ToNode) -> None:
        """Act on a frame of the daemon."""
        if self._ending:
            return
        match frame:
            case node_protocol.InputsClosed(inputs=inputs):
                for input_id in inputs:
                    if input_id in self.ports:
                        self.ports[input_id].source_closed()
            case node_protocol.TextInput(inputs=inputs, text=text):
                for input_id in inputs:
                    if input_id in self.ports:
                        self.ports[input_id].put_text(text)
            case node_protocol.StopFrame():
                self._stop(Stop("MANUAL"))
            case node_protocol.ParamUpdateFrame(key=key, value=value):
                self.parameters[key] = value
                self._pending.append(ParamUpdate(key, value))
            case node_protocol.ParamDeletedFrame(key=key):
                self.parameters.pop(key, None)
                self._pending.append(ParamDeleted(key))
            case node_protocol.ReloadFrame(operators=operators, modules=modules):
                self._pending.append(Reload(operators=operators, modules=modules))
                if not operators:  # most likely, another process of this node follows
                    for port in self.ports.values():
                        port.release()
            case node_protocol.NodeFailedFrame():
                self._pending.append(NodeFailed(frame.node_id, frame.error, list(frame.affected_input_ids)))
                self._fail(frame.affected_input_ids)
            case node_protocol.SourceFailed(inputs=inputs):
                self._fail(inputs)
            case node_protocol.SafeStateFrame():
                self._pending.append(
                    SafeStateEntered(frame.output, frame.reason, receiver=frame.receiver)
                    if frame.entered
                    else SafeStateLeft(frame.output, frame.seconds, receiver=frame.receiver)
                )
            case node_protocol.NodeRestartedFrame():
                self._pending.append(NodeRestarted(frame.node_id))
                for port in list(self.ports.values()):
                    if port.source_back(frame.node_id):
                        self._open(port)
            case (
                node_protocol.Registered()
                | node_protocol.RegistrationRefused()
                | node_protocol.Started()
                | node_protocol.StartRefused()
            ):
                pass  # the handshake comes before there is an inbox
            case _:
                self._on_frame(frame)

    def _fail(self, inputs: list[str]) -> None:
        """Report to inputs that their source has failed."""
        for input_id in inputs:
            if input_id in self.ports:
                self.ports[input_id].source_failed()

    def _stop(self, reason: Event) -> None:
        """Deliver only what is buffered until now, after the reason."""
        if self._stopping or self._ending:
            return
        self._stopping = True
        self._pending.append(reason)
        for port in self._open_ports:
            port.stop()

    def close_inputs(self, input_ids: list[str]) -> None:
        """Stop receiving on some inputs, without an event."""
        for input_id in input_ids:
            # A thread that sends may just have read that it was disconnected.
            if (port := self.ports.get(input_id)) is not None:
                port.close()
        for group in self._groups:
            group.end_if_closed()
        self._open_ports = [port for port in self._open_ports if port.id not in input_ids and port.open]
        self._next_port = 0
        if not self._open_ports:
            self._ending = True

    def close(self) -> None:
        """End the stream at once, without the events that were not taken, and wake a thread that waits."""
        # Without the lock: a waiting thread holds it, perhaps this one, in a signal handler.
        self._pending.clear()
        self._ending = True
        self._open_ports = []
        for port in (*self.ports.values(), *self._merged):
            port.close()
        self._doorbell.ring()  # after the marks: the thread that wakes finds the end
        self.paths.close()
        interceptors, self._interceptors = self._interceptors, ()
        for interceptor in interceptors:
            interceptor.close()


def timed_out(timeout: float | None) -> Error:
    return Error(f"Timeout event stream error: Receiver timed out after {timeout} s", is_timeout=True)
