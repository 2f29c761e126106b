"""The inbox: which event comes next, and how to sleep until there is one.

Order. Events of one input keep their order, its closing comes after its data. Between inputs the
inbox takes turns, starting after the one served last. What the daemon says (a node failed, a manual
stop) comes at once. After a manual stop what is buffered is still delivered, then the stream ends;
so it does after the last input closed.

Sleeping. A node waits on its doorbell, see `dora.transport.doorbell`. Waking a sleeping process
costs 20 to 70 µs, more than a whole message; so while messages have lately been coming within the
*spin budget*, the node looks for the next one that long before it goes to sleep; and when they come
in a steady rhythm, it is awake shortly before the next one is due (`dora.node.receive.arrival_predictor`).
An idle node never spins: each fruitless look makes the next less likely.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from dora.errors import ReceiveClosed
from dora.node.events import (
    Error,
    Event,
    Input,
    NodeFailed,
    NodeRestarted,
    ParamDeleted,
    ParamUpdate,
    Reload,
    Stop,
)
from dora.node.receive.arrival_predictor import ArrivalPredictor
from dora.node.receive.input_port import InputPort
from dora.node.receive.link_input import LinkInput
from dora.node.receive.local_input import LocalInput
from dora.node.receive.prewake import Prewake
from dora.node.receive.wait import (
    _END_PAUSE,
    _TRUST,
    _WAKE_COST_NS,
    BUSY_PAUSE,
    DEFAULT_SPIN_US,
    ConditionWaiter,
    _sooner,
)
from dora.node.session.daemon_client import DaemonChannel
from dora.transport.board import ASLEEP, CONTROL, PREWAKE, WORDS, Board
from dora.transport.doorbell import Doorbell, memory_fence, yield_cpu
from dora.wire import node_protocol as control
from dora.wire.decode import prepare
from dora.wire.node_config import WriteEventLog

if TYPE_CHECKING:
    from dora.node.interceptors.base import ReceiveInterceptor
    from dora.wire.node_protocol import TopologyChange

_monotonic = time.monotonic_ns
_pause = time.sleep
_LOOK_EVERY_NS: Final = 50_000_000


class Inbox(ConditionWaiter):
    """All inputs of a node. Its methods may be called from any thread, one receives at a time."""

    def __init__(
        self,
        ports: list[InputPort],
        channel: DaemonChannel,
        board: Board,
        node_slot: int,
        doorbell: Doorbell,
        *,
        spin_us: float = DEFAULT_SPIN_US,
        clock_is_work: bool = True,
    ) -> None:
        """``clock_is_work``: a node with timers goes on when all its data inputs are closed."""
        super().__init__()
        self.ports = {port.id: port for port in ports}
        self.parameters: dict[str, Any] = {}  # as of the daemon's last word
        self.on_send_for: Callable[[control.PublishRequest], None] = lambda _: None
        self.on_rewire: Callable[[TopologyChange], None] = lambda _: None
        self.on_control: Callable[[], None] = lambda: None  # called when there is something to look at
        self.on_detached: Callable[[str], None] = lambda _: None  # an input is gone
        self.on_write_event_log: Callable[[WriteEventLog], None] = lambda _: None
        self.epoch_ns = 0  # when all nodes were ready, on CLOCK_MONOTONIC
        self._interceptors: tuple[ReceiveInterceptor, ...] = ()  # replaced, never changed
        self._turn: list[InputPort] = list(ports)  # open ports
        self._next_turn = 0
        self._clocks = [port for port in ports if not port.is_data]
        self._links = [port for port in ports if isinstance(port, LinkInput)]
        self._clock_is_work = clock_is_work
        self._channel = channel
        self._words = board.words
        self._asleep = node_slot * WORDS + ASLEEP
        self._control = node_slot * WORDS + CONTROL
        self._control_seen = 0
        self._heads_up = node_slot * WORDS + PREWAKE
        self._doorbell = doorbell
        self._pending: deque[Event] = deque()
        self._stopping = False
        self._ending = False  # no further events but the pending ones
        self._ended_calls = 0
        self._look_at = 0  # when those who never wait look whether the daemon is still there
        self._fds = (doorbell.fd, channel.fileno())
        self._tasks: dict[Any, set[Any]] = {}  # asyncio loop → events of the tasks that wait
        self._spin_ns = int(spin_us * 1000)
        self._trust = 0
        self._rhythm = ArrivalPredictor()
        self._heads_ups = Prewake()
        self._arrival: tuple[int, int] | None = None  # of the last message: awaited since, come at
        self._served_data = False  # the last event came from another process
        self._latest: Event | None = None  # given out after a wait
        self._former: Event | None = None  # the one before

    # ------------------------------------------------------------------ taking events

    def next(self, timeout: float | None) -> Event | None:
        """Return the next event, None at the end of the stream, an `Error` event on expiry."""
        if not self._lock.acquire(False):
            start = _monotonic()
            if not self._take_turn(-1 if timeout is None else timeout):
                return timed_out(timeout)
            if timeout is not None:
                timeout = max(timeout - (_monotonic() - start) * 1e-9, 0.0)
        try:
            event = self._poll()
            if event is not None:
                return event
            return self._wait(timeout)
        finally:
            self._lock.release()

    def try_next(self) -> Event | None:
        """Return an event that is there, else None; never blocks."""
        event = self._take()
        if event is None:
            self._report_nothing()
        return event

    def _take(self) -> Event | None:
        if not self._lock.acquire(blocking=False) and not self._gets_way():
            return None  # another thread is waiting for the next event: it gets it
        try:
            event = self._poll()
            if event is None and self._daemon_may_be_gone():
                event = self._poll()
            return event
        finally:
            self._lock.release()

    def _daemon_may_be_gone(self) -> bool:
        """Look at the control socket now and then, for programs that poll and never wait."""
        now = _monotonic()
        if now < self._look_at or self._ending:
            return False
        self._look_at = now + _LOOK_EVERY_NS
        self._read_control()
        return True

    def drain(self) -> list[Event]:
        """Return all events that are there; raises `ReceiveClosed` if there are and will be none."""
        events: list[Event] = []
        while (event := self.try_next()) is not None:
            events.append(event)
        if not events and self.ended:
            raise ReceiveClosed("Could not drain events. Channel is closed")
        return events

    def is_empty(self) -> bool:
        """Tell whether nothing is there to be taken."""
        if self._lock.acquire(blocking=False):
            try:
                if self._words[self._control] != self._control_seen:
                    self._read_control()
                else:
                    self._daemon_may_be_gone()
            finally:
                self._lock.release()
        empty = not self._pending and not any(port.ready() for port in list(self._turn))
        if empty:
            self._report_nothing()
        return empty

    def _report_nothing(self) -> None:
        for interceptor in self._interceptors:
            interceptor.found_nothing()

    @property
    def is_closing(self) -> bool:
        """True from a stop, or the end of the stream, on: what is sent now is not received any more."""
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
        """Return the next event, through the interceptors; never blocks."""
        interceptors = self._interceptors
        if not interceptors:
            return self._next_event()
        for interceptor in interceptors:
            interceptor.before_poll()
        event = self._next_event()
        for interceptor in interceptors:
            interceptor.after_poll(event)
        return event

    # ------------------------------------------------------------------ polling the inputs

    def _next_event(self) -> Event | None:
        if self._words[self._control] != self._control_seen:
            self._read_control()
        if self._pending:
            self._served_data = False
            return self._pending.popleft()
        turn = self._turn
        count = len(turn)
        position = self._next_turn
        for _ in range(count):
            if position >= count:
                position = 0
            port = turn[position]
            position += 1
            event = port.poll()
            if event is not None:
                self._next_turn = position
                self._served_data = port.is_data
                if not port.open:
                    self._retire(port)
                return event
        if self._stopping or self._ending:
            self._finish()
        return None

    def _finish(self) -> None:
        """The stream is over: whoever waits for this node to read need not wait any longer."""
        self._ending = True
        turn, self._turn = self._turn, []
        for port in turn:
            port.close()

    def _retire(self, port: InputPort) -> None:
        """Take a closed input out of the turn; after the last one the node is asked to stop."""
        left = [other for other in self._turn if other.id != port.id]
        if len(left) == len(self._turn):  # another thread has closed the node
            return
        self._turn = left
        self._next_turn = 0
        if port.detached:
            self._forget(port)
            if not any(other.is_data for other in self.ports.values()):
                return  # it waits for another one to be connected
        if any(other.is_data for other in self._turn):
            return
        if self._clocks and self._clock_is_work:
            return
        self._end(*(() if self._stopping else (Stop("ALL_INPUTS_CLOSED"),)))

    def _forget(self, port: InputPort) -> None:
        port.close()
        del self.ports[port.id]
        self._clocks = [other for other in self._clocks if other is not port]
        self._links = [other for other in self._links if other.id != port.id]
        self.on_detached(port.id)

    def add(self, port: InputPort) -> None:
        """Take events of one more input from now on."""
        self.ports[port.id] = port
        if not port.is_data:
            self._clocks.append(port)
        if isinstance(port, LinkInput):
            self._links.append(port)
        self._turn = [*self._turn, port]

    def detach(self, input_id: str) -> None:
        """Let an input close after what was sent by now; it is forgotten then."""
        port = self.ports.get(input_id)
        if port is None or not port.open:  # nothing is left to be taken
            if port is not None:
                self._forget(port)
            else:
                self.on_detached(input_id)
        else:
            port.detach()

    def look(self) -> None:
        """Read what the daemon says, unless another thread is just doing so; takes no event."""
        if self._lock.acquire(blocking=False):
            try:
                self._read_control()
            finally:
                self._lock.release()

    def _end(self, *last: Event) -> None:
        self._pending.extend(last)
        for clock in self._clocks:
            clock.stop()
        self._turn = [port for port in self._turn if port.is_data and port.open]
        self._ending = True

    # ------------------------------------------------------------------ waiting

    def _wait(self, timeout: float | None) -> Event | None:
        if self._ending:
            self._pause_after_end()
            return None
        prepare()
        self._former = None  # taken apart now, when nobody waits for it
        start = _monotonic()
        deadline = None if timeout is None else start + int(timeout * 1e9)
        if self._spin_ns and timeout != 0:
            event = self._wait_awake(start, deadline)
        else:
            event = self._wait_asleep(deadline)
        if event is None:
            return None if self._ending else self._timed_out(timeout)
        # The program lets go of the event before this one when it takes this one. Taking it apart waits
        # until there is time; except for large messages, which occupy shared memory.
        self._former = self._latest
        small = event.__class__ is Input and getattr(event._content, "owner", event) is None
        self._latest = event if small else None
        return event

    def _timed_out(self, timeout: float | None) -> Error:
        for interceptor in self._interceptors:
            interceptor.timed_out()
        return timed_out(timeout)

    def _wait_asleep(self, deadline: int | None) -> Event | None:
        """Sleep until there is an event, the stream has ended, or the deadline has passed."""
        while True:
            event = self._sleep(deadline)
            if event is not None or self._ending:
                return event
            if deadline is not None and _monotonic() >= deadline:
                return None

    def _wait_awake(self, start: int, deadline: int | None) -> Event | None:
        """As `_wait_asleep`, but awake for a short while around when a message is likely."""
        rhythm = self._rhythm
        if self._arrival is not None:
            self._learn(*self._arrival)
        event: Event | None = None
        if self._trust:
            until = start + self._spin_ns
            event = self._watch(_sooner(until, deadline))
            self._trust = self._trust - 1 if event is None else _TRUST
        while event is None and not self._ending:
            self._words[self._heads_up] = self._heads_ups.wanted
            window = None if self._heads_ups.useful else rhythm.window(_monotonic())
            event = self._sleep(deadline if window is None else _sooner(window[0], deadline))
            if event is not None or self._ending:
                break
            if window is not None and _monotonic() >= window[0]:
                event = self._watch(_sooner(window[1], deadline))
                if event is None:
                    rhythm.missed()
            elif self._doorbell.rung:
                event = self._after_heads_up(deadline)
            if event is None and deadline is not None and _monotonic() >= deadline:
                return None
        if event is not None and self._served_data:
            self._arrival = (start, _monotonic())
        return event

    def _after_heads_up(self, deadline: int | None) -> Event | None:
        """Rung without a message: stay awake, if it may be on its way."""
        if not self._heads_ups.wanted:
            return None
        until = _monotonic() + self._spin_ns
        event = self._watch(_sooner(until, deadline))
        self._heads_ups.came(event is not None)
        return event

    def _learn(self, awaited: int, arrived: int) -> None:
        """Draw the conclusions from an arrival: not at once, when the message has to get on its way."""
        self._arrival = None
        self._rhythm.observe(arrived)
        self._heads_ups.arrived()
        if not self._trust and arrived - awaited < self._spin_ns + _WAKE_COST_NS:
            self._trust = 1

    def _sleep(self, wake_at: int | None) -> Event | None:
        """Sleep until rung, or until then, or until a port has something to do; once."""
        words = self._words
        self._doorbell.rearm()
        words[self._asleep] = 1
        memory_fence()
        try:
            event = self._poll()
            if event is not None or self._ending:
                return event
            wake_at = self._wake_at(wake_at)
            if wake_at is None:
                readable = self._doorbell.wait(None)
            else:
                readable = self._doorbell.wait(max(wake_at - _monotonic(), 0) * 1e-9)
        finally:
            words[self._asleep] = 0
            if self._tasks:
                self._wake_tasks()
        if readable:
            self._read_control()
        return self._poll()

    def _watch(self, until: int) -> Event | None:
        """Look for an event until then, giving way to whoever else wants the processor."""
        while True:
            event = self._poll()
            if event is not None or self._ending or _monotonic() >= until:
                return event
            yield_cpu()

    def _wake_at(self, deadline: int | None) -> int | None:
        earliest = deadline
        for port in self._turn:
            at = port.wake_at()
            if at is not None and (earliest is None or at < earliest):
                earliest = at
        return earliest

    def _pause_after_end(self) -> None:
        """Slow down a program that does not notice the end and would otherwise burn a processor."""
        self._ended_calls += 1
        if self._ended_calls > 1:
            _pause(_END_PAUSE)

    async def next_async(self, timeout: float | None) -> Event | None:
        """As `next`, in an asyncio loop: other tasks run while this one waits."""
        import asyncio  # 40 ms, for those who use it

        event = self._take()
        if event is not None:
            return event
        if self._ending:
            if self._ended_calls:
                await asyncio.sleep(_END_PAUSE)
            self._ended_calls += 1
            return None
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else _monotonic() + int(timeout * 1e9)
        rung = asyncio.Event()
        self._enter(loop, rung)
        try:
            while True:
                rung.clear()
                looked, event = self._look()
                if event is not None or (looked and self._ending):
                    return event
                now = _monotonic()
                if deadline is not None and now >= deadline:
                    return self._timed_out(timeout)
                if not looked:  # a thread is waiting for events too
                    await asyncio.sleep(BUSY_PAUSE)
                    continue
                wake_at = self._wake_at(deadline)
                try:
                    await asyncio.wait_for(
                        rung.wait(), None if wake_at is None else max(wake_at - now, 0) * 1e-9
                    )
                except TimeoutError:
                    pass
        finally:
            self._leave(loop, rung)

    def _enter(self, loop: Any, rung: Any) -> None:
        """Let the doorbell wake a task; all tasks of a loop share one pair of readers."""
        waiting = self._tasks.setdefault(loop, set())
        waiting.add(rung)
        if len(waiting) > 1:
            return

        def ring() -> None:
            for each in waiting:
                each.set()

        for fd in self._fds:
            loop.add_reader(fd, ring)

    def _leave(self, loop: Any, rung: Any) -> None:
        waiting = self._tasks[loop]
        waiting.discard(rung)
        if waiting:
            return
        del self._tasks[loop]
        for fd in self._fds:
            loop.remove_reader(fd)
        if not self._tasks and not self._lock.locked():
            self._words[self._asleep] = 0

    def _look(self) -> tuple[bool, Event | None]:
        """Say that somebody sleeps, then look for an event; (False, None) if a thread is at it."""
        if not self._lock.acquire(blocking=False) and not self._gets_way():
            return False, None
        try:
            self._doorbell.clear()
            self._words[self._heads_up] = 0  # a task cannot stay awake
            self._words[self._asleep] = 1
            memory_fence()
            self._read_control()
            return True, self._poll()
        finally:
            self._lock.release()

    def _wake_tasks(self) -> None:
        """A thread that waited took the ring, and perhaps not all events: pass it on."""
        self._words[self._asleep] = 1
        self._doorbell.ring()

    def replace(self, port: InputPort) -> None:
        """Put a port in the place of the one with its id, whose events it passes on."""
        self.ports[port.id] = port
        for index, other in enumerate(self._turn):
            if other.id == port.id:
                self._turn[index] = port

    # ------------------------------------------------------------------ the daemon's word

    def _read_control(self) -> None:
        if self._words[self._control] != self._control_seen:
            self._control_seen = self._words[self._control]
            for link in self._links:
                link.look_for_flush()
            self.on_control()
        for frame in self._channel.read():
            self.handle(frame)
        if self._channel.lost and not self._ending:
            # After a stop, that is how it ends for who is slow to follow.
            self._end(*(() if self._stopping else (Error("the daemon is gone; the dataflow has ended"),)))

    def handle(self, frame: control.ToNode) -> None:
        """Act on a frame of the daemon."""
        if self._ending:
            return
        match frame:
            case control.InputsClosed(inputs=inputs):
                for input_id in inputs:
                    if input_id in self.ports:
                        self.ports[input_id].source_closed()
            case control.TextInput(inputs=inputs, text=text):
                for input_id in inputs:
                    port = self.ports.get(input_id)
                    if isinstance(port, LocalInput):
                        port.put_text(text)
            case control.StopFrame():
                self._stop()
            case control.ParamUpdateFrame(key=key, value=value):
                self.parameters[key] = value
                self._pending.append(ParamUpdate(key, value))
            case control.ParamDeletedFrame(key=key):
                self.parameters.pop(key, None)
                self._pending.append(ParamDeleted(key))
            case control.ReloadFrame(operators=operators, modules=modules):
                self._pending.append(Reload(operators=operators, modules=modules))
                if not operators:  # another process follows, most likely
                    for link in self._links:
                        link.release()
            case control.PublishRequest():
                self.on_send_for(frame)
            case (
                control.AttachLink() | control.DetachLink() | control.AttachInput() | control.DetachInput()
            ):
                self.on_rewire(frame)
            case WriteEventLog():
                self.on_write_event_log(frame)
            case control.NodeFailedFrame():
                self._pending.append(NodeFailed(frame.node_id, frame.error, list(frame.affected_input_ids)))
            case control.NodeRestartedFrame():
                self._pending.append(NodeRestarted(frame.node_id))
                self._turn += [port for port in self.ports.values() if port.source_back(frame.node_id)]
            case _:
                pass  # the handshake's frames come only before there is an inbox

    def _stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._pending.append(Stop("MANUAL"))
        for port in self._turn:
            port.stop()

    def close_inputs(self, input_ids: list[str]) -> None:
        """Stop receiving on some inputs; no event tells of it."""
        for input_id in input_ids:
            self.ports[input_id].close()
        self._turn = [port for port in self._turn if port.id not in input_ids]
        self._next_turn = 0
        if not self._turn:
            self._ending = True

    def close(self) -> None:
        """End the stream at once; what was not taken is not delivered. Wakes whoever waits."""
        # Without the lock, which a thread that waits holds; perhaps this one, in a signal handler.
        self._pending.clear()
        self._ending = True
        self._turn = []
        for port in self.ports.values():
            port.close()
        self._doorbell.ring()
        interceptors, self._interceptors = self._interceptors, ()
        for interceptor in interceptors:
            interceptor.close()


def timed_out(timeout: float | None) -> Error:
    return Error(f"Timeout event stream error: Receiver timed out after {timeout} s", is_timeout=True)
