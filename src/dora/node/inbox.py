"""The inbox: which event comes next, and how to sleep until there is one.

Order. Events of one input keep their order, its closing comes after its data. Between inputs the
inbox takes turns, starting after the one served last. What the daemon says (a node failed, a manual
stop) comes at once. After a manual stop what is buffered is still delivered, then the stream ends;
so it does after the last input closed.

Sleeping. A node waits on its doorbell, see `dora.transport.doorbell`. Waking a sleeping process
costs 20 to 70 µs, more than a whole message; so while messages have lately been coming within the
*spin budget*, the node looks for the next one that long before it goes to sleep. An idle node never
spins: each fruitless look makes the next less likely.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import Final

from dora.errors import ReceiveClosed
from dora.node.control import ControlChannel
from dora.node.events import Error, Event, NodeFailed, NodeRestarted, Stop
from dora.node.input import Port, QueuePort
from dora.transport.board import ASLEEP, CONTROL, WORDS, Board
from dora.transport.doorbell import Doorbell, memory_fence
from dora.wire import control

_monotonic = time.monotonic_ns
_yield_cpu = getattr(os, "sched_yield", lambda: time.sleep(0))

DEFAULT_SPIN_US: Final = 50
_WAKE_COST_NS: Final = 80_000
_TRUST: Final = 3  # fruitless looks until the node stops spinning
_END_PAUSE: Final = 0.02  # seconds; for programs that ask on and on after the end


class Inbox:
    """All inputs of a node. Its methods may be called from any thread, one receives at a time."""

    def __init__(
        self,
        ports: list[Port],
        channel: ControlChannel,
        board: Board,
        node_slot: int,
        doorbell: Doorbell,
        *,
        spin_us: float = DEFAULT_SPIN_US,
        clock_is_work: bool = True,
    ) -> None:
        """``clock_is_work``: a node with timers goes on when all its data inputs are closed."""
        self.ports = {port.id: port for port in ports}
        self._turn: list[Port] = list(ports)  # open ports
        self._next_turn = 0
        self._clocks = [port for port in ports if not port.is_data]
        self._clock_is_work = clock_is_work
        self._channel = channel
        self._words = board.words
        self._asleep = node_slot * WORDS + ASLEEP
        self._control = node_slot * WORDS + CONTROL
        self._control_seen = 0
        self._doorbell = doorbell
        self._pending: deque[Event] = deque()
        self._stopping = False
        self._ending = False  # no further events but the pending ones
        self._ended_calls = 0
        self._lock = threading.Lock()
        self._spin_ns = int(spin_us * 1000)
        self._trust = 0

    # ------------------------------------------------------------------ taking events

    def next(self, timeout: float | None) -> Event | None:
        """Return the next event, None at the end of the stream, an `Error` event on expiry."""
        with self._lock:
            event = self._poll()
            if event is not None:
                return event
            return self._wait(timeout)

    def try_next(self) -> Event | None:
        """Return an event that is there, else None; never blocks."""
        if not self._lock.acquire(blocking=False):
            return None  # another thread is waiting for the next event: it gets it
        try:
            return self._poll()
        finally:
            self._lock.release()

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
        if self._words[self._control] != self._control_seen and self._lock.acquire(blocking=False):
            try:
                self._read_control()
            finally:
                self._lock.release()
        return not self._pending and not any(port.ready() for port in list(self._turn))

    @property
    def ended(self) -> bool:
        """True once the stream is over and every event has been taken."""
        return self._ending and not self._pending

    def _poll(self) -> Event | None:
        if self._words[self._control] != self._control_seen:
            self._read_control()
        if self._pending:
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
                if not port.open:
                    self._retire(port)
                return event
        if self._stopping:
            self._ending = True
        return None

    def _retire(self, port: Port) -> None:
        """Take a closed input out of the turn; after the last one the node is asked to stop."""
        self._turn.remove(port)
        self._next_turn = 0
        if any(other.is_data for other in self._turn):
            return
        if self._clocks and self._clock_is_work:
            return
        self._end(Stop("ALL_INPUTS_CLOSED"))

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
        start = _monotonic()
        deadline = None if timeout is None else start + int(timeout * 1e9)
        if self._trust and self._spin_ns and timeout != 0:
            event = self._spin(
                start + self._spin_ns if deadline is None else min(deadline, start + self._spin_ns)
            )
            if event is not None or self._ending:
                return event
        words = self._words
        while True:
            words[self._asleep] = 1
            memory_fence()
            try:
                event = self._poll()
                if event is not None or self._ending:
                    break
                wake_at = self._wake_at(deadline)
                if wake_at is None:
                    readable = self._doorbell.wait(None)
                else:
                    readable = self._doorbell.wait(max(wake_at - _monotonic(), 0) * 1e-9)
            finally:
                words[self._asleep] = 0
            if readable:
                self._read_control()
            event = self._poll()
            if event is not None or self._ending:
                break
            if deadline is not None and _monotonic() >= deadline:
                return Error(
                    f"Timeout event stream error: Receiver timed out after {timeout} s", is_timeout=True
                )
        if not self._trust and _monotonic() - start < self._spin_ns + _WAKE_COST_NS:
            self._trust = 1
        return event

    def _spin(self, until: int) -> Event | None:
        """Look for an event until then, giving way to whoever else wants the processor."""
        while True:
            event = self._poll()
            if event is not None or self._ending:
                self._trust = _TRUST
                return event
            if _monotonic() >= until:
                self._trust -= 1
                return None
            _yield_cpu()

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
            time.sleep(_END_PAUSE)

    async def next_async(self, timeout: float | None) -> Event | None:
        """As `next`, in an asyncio loop: other tasks run while this one waits."""
        import asyncio  # 40 ms, for those who use it

        event = self.try_next()
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
        fds = (self._doorbell.fd, self._channel.fileno())
        for fd in fds:
            loop.add_reader(fd, rung.set)
        words = self._words
        try:
            while True:
                rung.clear()
                words[self._asleep] = 1
                memory_fence()
                event = self._poll_readable()
                if event is not None or self._ending:
                    return event
                now = _monotonic()
                if deadline is not None and now >= deadline:
                    return Error(
                        f"Timeout event stream error: Receiver timed out after {timeout} s",
                        is_timeout=True,
                    )
                wake_at = self._wake_at(deadline)
                try:
                    await asyncio.wait_for(
                        rung.wait(), None if wake_at is None else max(wake_at - now, 0) * 1e-9
                    )
                except TimeoutError:
                    pass
                self._doorbell.clear()
        finally:
            words[self._asleep] = 0
            for fd in fds:
                loop.remove_reader(fd)

    def _poll_readable(self) -> Event | None:
        with self._lock:
            self._read_control()
            return self._poll()

    # ------------------------------------------------------------------ the daemon's word

    def _read_control(self) -> None:
        self._control_seen = self._words[self._control]
        for frame in self._channel.read():
            self.handle(frame)
        if self._channel.lost and not self._ending:
            self._end(Error("the daemon is gone; the dataflow has ended"))

    def handle(self, frame: control.ToNode) -> None:
        """Act on a frame of the daemon."""
        match frame:
            case control.InputsClosed(inputs=inputs):
                for input_id in inputs:
                    if input_id in self.ports:
                        self.ports[input_id].source_closed()
            case control.TextInput(inputs=inputs, text=text):
                for input_id in inputs:
                    port = self.ports.get(input_id)
                    if isinstance(port, QueuePort):
                        port.put_text(text)
            case control.Stop():
                self._stop()
            case control.NodeFailed():
                self._pending.append(NodeFailed(frame.node_id, frame.error, list(frame.affected_input_ids)))
            case control.NodeRestarted():
                self._pending.append(NodeRestarted(frame.node_id))
            case _:
                pass  # the handshake's frames come only before there is an inbox

    def _stop(self) -> None:
        if self._stopping or self._ending:
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
        """End the stream at once; what was not taken is not delivered."""
        self._pending.clear()
        self._ending = True
        for port in self.ports.values():
            port.close()
        self._turn = []
