"""The replay inbox: it gives out its events in the order of an event log, so a replay repeats the run.

`dora.node.interceptors.event_log` wrote the log. Messages come from the other nodes as usual and are
recognised by their numbers; a message that comes before its turn is held. Ticks and the events of the
daemon come from the log, with their recorded times. So a node that computes its outputs from its events
alone sends the same again, at any speed of the replay and under any load of the system.

Changed code may not send a message of the log. If the message cannot come any more, because its source has
ended or has sent a later one, its entry is skipped; if it does not come for too long, the node is stopped.
"""

from __future__ import annotations

import mmap
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from dora.node.events import (
    BudgetMissed,
    DeadlineMet,
    DeadlineMissed,
    Event,
    Input,
    InputClosed,
    InputRecovered,
    NodeFailed,
    NodeRestarted,
    ParamDeleted,
    ParamUpdate,
    SafeStateEntered,
    SafeStateLeft,
    Stop,
    Synced,
    Text,
    Tick,
)
from dora.node.log import write_log
from dora.node.receive.inbox import Inbox, timed_out
from dora.node.receive.input_port import InputPort
from dora.node.receive.path_meter import InputMeter
from dora.node.receive.safe_state import SafeValue, safe_array
from dora.node.replay.clock import ReplayClock, ReplayedTime
from dora.wire import node_config, node_protocol
from dora.wire.decoders import msgpack_decoder
from dora.wire.event_log import Entry, EntryKind, entries
from dora.wire.message import SEQUENCE, Message

_monotonic = time.monotonic_ns
_decode = msgpack_decoder(dict[str, Any])
# Events of the daemon and of ports. A replay makes them of the entries that they had.
_REPLAYED: Final[dict[str, type[Event]]] = {
    kind.type: kind
    for kind in (
        *(Stop, InputClosed, InputRecovered, NodeFailed, NodeRestarted, ParamUpdate, ParamDeleted),
        *(SafeStateEntered, SafeStateLeft, DeadlineMissed, DeadlineMet, BudgetMissed),
    )
}

CLOCK_FILE: Final = "clock"
STEP_POLL_NS: Final = 5_000_000  # between polls for the next step: a word of shared memory, without a bell
# Of an input whose turn is later; then its sender waits.
_HELD_MOST: Final = 1000  # messages
_HELD_BYTES: Final = 64 << 20


def replay_inbox(path: str, config: node_config.NodeConfig) -> Callable[..., Inbox]:
    """Return the inbox type of a node that follows an event log."""
    clock = ReplayClock.open(os.path.join(os.path.dirname(path), CLOCK_FILE))
    replayed = ReplayedTime(clock.start_ns, clock.speed)
    replayed.install()
    return partial(ReplayInbox, _read(path), clock, replayed, config)


def _read(path: str) -> Iterator[Entry]:
    if not os.path.getsize(path):
        return iter(())
    with open(path, "rb") as file:
        return entries(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


class ReplayInbox(Inbox):
    """Gives events in the order of an event log.

    Its ports lack the layers whose events are in the log, see `dora.node.receive.stack`.
    """

    def __init__(
        self,
        log: Iterator[Entry],
        clock: ReplayClock,
        replayed: ReplayedTime,
        config: node_config.NodeConfig,
        ports: list[InputPort],
        *parts: Any,
        **options: Any,
    ) -> None:
        super().__init__(ports, *parts, **options)
        self._open_ports = [port for port in ports if port.is_data]  # ticks come from the record
        self._clocks = []
        self.missing = 0  # messages of the record that did not come
        self._node_id = config.node_id
        self._safe_values = {item.id: item.source_rules.safe_state for item in config.inputs}
        self._clock = clock
        self._replayed = replayed
        self._entries = log
        self._inputs: list[str] = []
        self._held: dict[str, deque[Input]] = {
            item.id: deque() for item in config.inputs if item.kind == "link"
        }
        self._local_inputs = {item.id for item in config.inputs if item.kind == "local"}
        # The number of the last message that was given, of inputs whose source is latched.
        self._given = {item.id: 0 for item in config.inputs if item.source_rules.latched}
        self._groups_by_lead = {group.inputs[0]: group for group in config.syncs}
        # By input: the messages of the last set, and of the one that is being made; None for one that did
        # not come. The next set may have them again.
        self._of_sets: dict[str, dict[int, Input | None]] = {
            name: {} for group in config.syncs for name in group.inputs
        }
        # By the input that leads.
        self._set_counts = {name: {"complete": 0, "incomplete": 0} for name in self._groups_by_lead}
        self._meters = {
            item.id: InputMeter(self.paths, item.slot) for item in config.inputs if item.kind != "timer"
        }
        self._sample_at: dict[str, int] = {}  # by input: the number of the message to sample next
        self._closed: set[str] = set()  # inputs on which nothing will come any more
        self._entry: Entry | None = None
        self._empty_polls = 0  # of the present entry, if its kind is NOTHING
        self._timeout: float | None = None  # of the present wait
        self._wake: int | None = None  # when to poll again, on CLOCK_MONOTONIC
        self._received_at = 0
        self._stop_given = False
        for entry in self._entries:  # earlier processes are over
            if entry.kind == EntryKind.BEGIN and entry.number >= config.restart_count:
                self._inputs = list(_decode(entry.content))
                break
        self._advance()

    def group_statistics(self) -> dict[str, dict[str, int]]:
        """Return how many sets of each group were given so far."""
        return self._set_counts

    def _advance(self) -> None:
        self._empty_polls = 0
        self._entry = next(self._entries, None)
        while self._entry is not None and self._entry.kind == EntryKind.BEGIN:
            self._inputs = list(_decode(self._entry.content))
            self._entry = next(self._entries, None)

    # ------------------------------------------------------------------ taking events

    def next(self, timeout: float | None) -> Event | None:
        """Return the next event of the log, or its timeout."""
        self._timeout = timeout
        return super().next(None)

    async def next_async(self, timeout: float | None) -> Event | None:
        self._timeout = timeout
        return await super().next_async(None)

    def try_next(self) -> Event | None:
        if self._was_empty():
            return None
        self._timeout = None
        return super().next(None)

    def is_empty(self) -> bool:
        return self._was_empty() or (self._entry is None and self._ending)

    def _was_empty(self) -> bool:
        """Return whether the recorded node found no event at this point."""
        entry = self._entry
        if entry is None or entry.kind != EntryKind.NOTHING:
            return False
        self._replayed.advance(0)
        self._empty_polls += 1
        if self._empty_polls >= entry.number:
            self._advance()
        self._report_nothing()
        return True

    def _next_event(self) -> Event | None:
        self.current.header = None
        if self._words[self._control_word] != self._control_seen:
            self._read_control()
        if self._pending:
            return self._pending.popleft()
        self._wake = None
        event = None
        if not (self._ending or self._stopping):
            event = self._next_recorded()
            if event is None and self._pending:
                return self._pending.popleft()
        if event is None and (self._ending or self._stopping):
            self._finish()
        return event

    def _next_recorded(self) -> Event | None:
        while (entry := self._entry) is not None and not self._stopping:
            event: Event | None = None
            match entry.kind:
                case EntryKind.MESSAGE | EntryKind.SYNC:
                    find = self._message if entry.kind == EntryKind.MESSAGE else self._set
                    event, certain = find(entry)
                    if not certain:
                        return None
                case EntryKind.NOTHING:
                    pass  # this time it waits
                case EntryKind.TIMEOUT if self._timeout is None:
                    pass
                case _:
                    if not self._is_due(entry):
                        return None
                    event = self._make(entry)
            self._advance()
            if event is not None:
                self._replayed.advance(entry.time_ns)
                self._make_current(event)
                return event
        if self._stop_given or self._stopping:
            self._ending = not self._pending
            return None
        self._stop_given = True
        return Stop("MANUAL")

    def _make_current(self, event: Event) -> None:
        """Make an event the current one, and sample it, both with the time of the recording."""
        if isinstance(event, Synced):
            self.current.follow_set(event)
        if not isinstance(event, Input):
            return
        content: Any = event._content
        self.current.header = content.header
        if content.header is None:
            return
        self.current.trail = content.trail
        meter = self._meters.get(event["id"])
        number = content.header[SEQUENCE]
        if meter is not None and number >= self._sample_at.get(event["id"], 0):
            self._sample_at[event["id"]] = meter.sample(content, number, self._replayed.stamp())

    def _is_due(self, entry: Entry) -> bool:
        now = _monotonic()
        at = self._clock.due(entry.time_ns, self.epoch_ns)
        if at is None:
            self._wake = now + STEP_POLL_NS
            return False
        self._wake = at
        return at <= now

    def _make(self, entry: Entry) -> Event | None:
        self._served_data = False
        match entry.kind:
            case EntryKind.TICK:
                missed = int(entry.content or b"0")
                return Input.make(self._inputs[entry.input], Tick(entry.number, missed))
            case EntryKind.TEXT:
                return Input.make(self._inputs[entry.input], Text(entry.content.decode(), entry.number))
            case EntryKind.SAFE:
                return self._safe_value(entry)
            case EntryKind.LOCAL:
                return self._local(entry)
            case EntryKind.TIMEOUT:
                return timed_out(self._timeout)
        return self._make_control_event(_decode(entry.content))

    def _safe_value(self, entry: Entry) -> Event | None:
        """Return the safe value of an input; None if the dataflow has none for it any more."""
        safe = self._safe_values.get(self._inputs[entry.input])
        if safe is None:
            return None
        content = SafeValue(safe_array(safe), safe.metadata, entry.number, entry.content.decode())
        return Input.make(self._inputs[entry.input], content)

    def _make_control_event(self, fields: dict[str, Any]) -> Event | None:
        """Return the recorded event of the daemon, or of a port; None for one that cannot be repeated."""
        kind = _REPLAYED.get(str(fields.get("type")))
        if kind is None or not fields.keys() >= set(kind.__match_args__):
            return None
        event = kind.__new__(kind)
        event.update(fields)
        if kind is Stop:
            self._stop_given = True
        elif kind is ParamUpdate:
            self.parameters[event["id"]] = event["value"]
        elif kind is ParamDeleted:
            self.parameters.pop(event["id"], None)
        return event

    # ------------------------------------------------------------------ messages

    def _message(self, entry: Entry) -> tuple[Event | None, bool]:
        """Return the message of an entry, None if it is not there; and whether that is final."""
        input_id = self._inputs[entry.input]
        held = self._held.get(input_id)
        if entry.number <= self._given.get(input_id, 0):
            return None, True  # of a latched output: a later process of the recorded node got it again
        while held is not None:
            while held and held[0].sequence < entry.number:
                held.popleft()  # the recorded node dropped it
            if held and held[0].sequence == entry.number:
                self._served_data = True
                if input_id in self._given:
                    self._given[input_id] = entry.number
                return held.popleft(), True
            if held or input_id in self._closed:
                break
            if not self._hold_arrived(input_id):
                return None, self._stop_if_overdue(entry)
        self._count_missing(entry)
        return None, True

    def _set(self, entry: Entry) -> tuple[Event | None, bool]:
        """Return the set of an entry, None without its leading message; and whether that is final."""
        group = self._groups_by_lead.get(self._inputs[entry.input])
        if group is None:  # the dataflow is another one now
            self._count_missing(entry)
            return None, True
        members = list(entries(entry.content))
        if any(member.kind != EntryKind.MESSAGE for member in members) and not self._is_due(entry):
            return None, False
        found: dict[str, dict[int, Input | None]] = {name: {} for name in group.inputs}
        for member in members:
            name = self._inputs[member.input]
            known = self._of_sets.get(name)
            if known is None or name not in found:
                continue
            if member.number not in known:
                event, certain = self._of_set(member)
                if not certain:
                    return None, False
                known[member.number] = event if isinstance(event, Input) else None
            found[name][member.number] = known[member.number]
        # Of an input that is missing here, the next set may have the messages of the one before.
        self._of_sets.update((name, events) for name, events in found.items() if events)
        inputs: dict[str, Input | list[Input] | None] = {}
        missing = []
        for name, events in found.items():
            there = [event for event in events.values() if event is not None]
            inputs[name] = there if name in group.history else there[-1] if there else None
            if not there:
                missing.append(name)
        if group.inputs[0] in missing:
            return None, True
        self._set_counts[group.inputs[0]]["incomplete" if missing else "complete"] += 1
        return Synced(inputs, missing), True

    def _of_set(self, entry: Entry) -> tuple[Event | None, bool]:
        """Return a message of a set, None if it is not there; and whether that is final."""
        return self._message(entry) if entry.kind == EntryKind.MESSAGE else (self._make(entry), True)

    def _local(self, entry: Entry) -> Event | None:
        """Return the value of an entry: this thread sent it, so it has arrived or never comes."""
        input_id = self._inputs[entry.input]
        port = self.ports.get(input_id) if input_id in self._local_inputs else None
        while port is not None and (event := port.poll()) is not None:
            if isinstance(event, Input) and port.taken >= entry.number:
                return event
        self._count_missing(entry)
        return None

    def _hold_arrived(self, wanted: str) -> bool:
        """Hold the events that have arrived; return False if there were none."""
        found = False
        for port in tuple(self._open_ports):
            held = self._held.get(port.id)
            if held is None or (port.id != wanted and _is_full(held)):
                continue
            event = port.poll()
            if event is None:
                continue
            found = True
            if isinstance(event, Input):
                held.append(event)
            elif not port.open:
                self._closed.add(port.id)
                self._open_ports = [other for other in self._open_ports if other.id != port.id]
        if found:
            self._received_at = _monotonic()
        return found

    def _stop_if_overdue(self, entry: Entry) -> bool:
        """Stop the node if a message has not come for too long; return whether that is so."""
        due = self._clock.due(entry.time_ns, self.epoch_ns)
        if due is None:
            return False
        until = max(due, self._received_at, self.epoch_ns) + self._clock.patience_ns
        self._wake = until
        if _monotonic() < until:
            return False
        self._warn(
            f"message {entry.number:,} of input `{self._inputs[entry.input]}` did not come for "
            f"{self._clock.patience_ns / 1e9:g} s, so this node is stopped: its source sends other things "
            "than it did"
        )
        self._stop(Stop("MANUAL"))
        return True

    def _count_missing(self, entry: Entry) -> None:
        self.missing += 1
        if self.missing == 1:
            what = f"message {entry.number:,} of input `{self._inputs[entry.input]}`"
            self._warn(f"{what} did not come: from here on, the replay differs from the recording")

    def _warn(self, text: str) -> None:
        write_log(self._node_id, "warn", text)

    # ------------------------------------------------------------------ frames of the daemon

    def handle(self, frame: node_protocol.ToNode) -> None:
        """Act on frames that the log cannot have: a manual stop, and changes of links."""
        match frame:
            case (
                node_protocol.NodeFailedFrame()
                | node_protocol.TextInput()
                | node_protocol.SourceFailed()
                | node_protocol.SafeStateFrame()
            ):
                pass
            case node_protocol.NodeRestartedFrame():
                for port in self.ports.values():
                    if port.source_back(frame.node_id):
                        self._closed.discard(port.id)
                        self._open_ports = [*self._open_ports, port]
            case _:
                super().handle(frame)

    def _wake_at(self, deadline: int | None) -> int | None:
        at = super()._wake_at(deadline)
        if self._wake is None:
            return at
        return self._wake if at is None else min(at, self._wake)

    def close(self) -> None:
        if self.missing > 1:
            self._warn(f"{self.missing:,} messages of the recording did not come")
            self.missing = 0
        super().close()


def _is_full(held: deque[Input]) -> bool:
    if not held:
        return False
    content = held[-1]._content
    size = content.body_size if isinstance(content, Message) else 0
    return len(held) >= _HELD_MOST or len(held) * size > _HELD_BYTES
