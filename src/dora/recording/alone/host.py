"""The host of a node that runs alone: recorded events come in, and what it sends goes to a function.

The inbox is the one of a replay (`dora.node.replay.inbox`), but messages do not come from other nodes: it
looks them up. So any part of the events can be left out, and no event has to be waited for.

A node that makes calls or sends goals waits for answers, which are not among its events. When it sends a
request, the recorded answers to the request that it had sent at the same event arrive, with the new id.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from dora.node.events import Event, Input
from dora.node.receive.inbox import Inbox
from dora.node.replay.clock import ReplayClock, ReplayedTime
from dora.node.replay.inbox import ReplayInbox
from dora.node.standalone.host import LocalHost
from dora.recording.alone.recorded_node import Key, RecordedNode, Step, altered, correlation_of
from dora.recording.mcap.format import body_start
from dora.transport.latch import Latch, LatchInMemory, ReadLatch
from dora.wire.correlation import GOAL_ID, REQUEST_ID
from dora.wire.event_log import Entry, EntryKind
from dora.wire.message import Message
from dora.wire.metadata import decode_metadata, encode_metadata
from dora.wire.node_config import LinkConfig, NodeConfig, OutputConfig
from dora.wire.output_rules import LatchRule

_LAST_LOOKS: Final = 100  # that find nothing after the last event; then a stop comes


class SentMessage(NamedTuple):
    """A message that the node has sent. ``step``: the event that it had taken last; 0: none."""

    step: int
    output: str
    message: Message


class RunWatch:
    """Hears of all that a node does which runs alone. A subclass overrides what it needs."""

    def taken(self, step: int, event: Event) -> None:
        """Called before the node gets an event."""

    def sent(self, sent: SentMessage) -> None:
        """Called for each message that the node sends."""


class Exchanges:
    """The requests and goals of the node: which of its ids stands for which recorded one."""

    def __init__(self, node: RecordedNode) -> None:
        self._node = node
        self._new: dict[str, str] = {}  # recorded id → the one of this run
        self._seen: set[str] = set()  # ids of this run
        self._counts: dict[tuple[int, str], int] = {}  # by event and output

    def recorded_id(self, sent: SentMessage, identity: str) -> str:
        """Return the recorded id of a new exchange; "": it is not new, or was not recorded."""
        if identity in self._seen:
            return ""
        self._seen.add(identity)
        place = sent.step, sent.output
        count = self._counts[place] = self._counts.get(place, -1) + 1
        recorded = [found for item in self._node.sent_on(*place) if (found := correlation_of(item.message))]
        distinct = list(dict.fromkeys(recorded))
        if count >= len(distinct):
            return ""
        self._new[distinct[count]] = identity
        return distinct[count]

    def translated(self, message: Message) -> Message:
        """Return a message with the id that its exchange has in this run."""
        identity = correlation_of(message) if self._new else ""
        new = self._new.get(identity, identity)
        if new == identity:
            return message
        metadata = decode_metadata(message.metadata)
        metadata |= {key: new for key in (REQUEST_ID, GOAL_ID) if metadata.get(key) == identity}
        return altered(message, body_start(message, message.body_size), encode_metadata(metadata))


@dataclass
class Position:
    """How far a node has come."""

    step: int = 0  # the number of the event that it has taken last
    threads: int = 0  # the most that there were when it took an event
    missing: int = 0  # events that had a message that is not recorded


class AloneInbox(ReplayInbox):
    """Gives out recorded events, whose messages it looks up."""

    def __init__(
        self,
        find: Callable[[Entry], Message | None],
        watch: RunWatch,
        progress: Position,
        *parts: Any,
        **options: Any,
    ) -> None:
        self._find = find
        self._watch = watch
        self._progress = progress
        self._last_looks = _LAST_LOOKS
        super().__init__(*parts, **options)

    def _make_current(self, event: Event) -> None:
        super()._make_current(event)
        progress = self._progress
        progress.threads = max(progress.threads, threading.active_count())
        self._watch.taken(progress.step, event)

    def _advance(self) -> None:
        self._has_looked = self._entry is not None and self._entry.kind == EntryKind.NOTHING
        super()._advance()

    def _was_empty(self) -> bool:
        # The log of a node that failed has the first of its last looks; the others come with an event.
        if self._entry is None and self._has_looked and self._last_looks:
            self._last_looks -= 1
            return True
        return super()._was_empty()

    def _message(self, entry: Entry) -> tuple[Event | None, bool]:
        message = self._find(entry)
        if message is None:
            self._count_missing(entry)
            return None, True
        return Input.make(self._inputs[entry.input], message), True

    def _local(self, entry: Entry) -> Event | None:
        """Return the next value, whatever its number: events before it may have been left out."""
        port = self.ports.get(self._inputs[entry.input])
        while port is not None and (event := port.poll()) is not None:
            if isinstance(event, Input):
                return event
        self._count_missing(entry)
        return None

    def _count_missing(self, entry: Entry) -> None:  # noqa: ARG002
        self._progress.missing += 1

    def _warn(self, text: str) -> None:
        """Say nothing: `Outcome` has the number of messages that are missing."""

    # ------------------------------------------------------------------ waiting for answers

    def wait_until(
        self,
        ready: Callable[[], bool],
        woken: Any,  # noqa: ARG002
        deadline: int | None,
        dispatched: Callable[[], None] = lambda: None,
    ) -> bool:
        """Return whether the answer is there: it has arrived with the request, or never comes."""
        self._poll_condition(dispatched)
        if ready() or deadline is not None:
            return ready()
        for port in self._holding_ports():
            port.source_closed()
        self._poll_condition(dispatched)
        return ready()

    async def wait_until_async(self, *condition: Any) -> bool:
        return self.wait_until(*condition)


class AloneHost(LocalHost):
    """The host of one process of a recorded node."""

    def __init__(
        self,
        node: RecordedNode,
        steps: Sequence[Step],
        watch: RunWatch,
        changed: Mapping[Key, Message],
    ) -> None:
        """``steps``: the events to give; ``changed``: messages that stand in for recorded ones."""
        config = node.config
        super().__init__(_observed(config, node.lines), node.lines + 1)
        self._node = node
        self._steps = steps
        self._watch = watch
        self._changed = changed
        self._exchanges = Exchanges(node)
        self.progress = Position()
        self._inputs = {item.id: item for item in config.inputs}
        self.time = ReplayedTime(steps[0].entry.time_ns if steps else node.first_ns, 0.0)
        for output in config.outputs:
            self._observe(output)

    def close(self) -> None:
        """Put back the clock, and free what the host holds."""
        self.time.remove()
        self._doorbell.close()
        self.channel.close()

    # ------------------------------------------------------------------ what a session asks for

    def _make_latch(self, output: OutputConfig, rule: LatchRule) -> Latch:  # noqa: ARG002
        return LatchInMemory(rule, None)

    def latch_reader(self, output_slot: int) -> ReadLatch:  # noqa: ARG002
        return list  # the latched messages are among the events

    def event_log(self) -> str:
        return "recorded"

    def inbox_type(self) -> Callable[..., Inbox]:
        self.time.install()
        clock = ReplayClock(memoryview(ReplayClock.make(start_ns=self._node.first_ns, speed=0.0)))
        parts = self._find, self._watch, self.progress, self._log(), clock, self.time, self.config
        return partial(AloneInbox, *parts)

    def _log(self) -> Iterator[Entry]:
        process = self._node.process
        names = msgspec.msgpack.encode(process.inputs)
        at = self._steps[0].entry.time_ns if self._steps else 0
        yield Entry(EntryKind.BEGIN, 0, at, process.restarts, names)
        last = 0
        for step in self._steps:
            self.progress.step = last
            if step.entry.kind != EntryKind.NOTHING:
                last = step.number
            yield step.entry
        self.progress.step = last

    # ------------------------------------------------------------------ messages

    def _find(self, entry: Entry) -> Message | None:
        key = self._node.process.key_of(entry)
        message = self._changed.get(key) or self._node.message(key)
        return None if message is None else self._exchanges.translated(message)

    def _observe(self, output: OutputConfig) -> None:
        def take(message: Message) -> None:
            self._was_sent(SentMessage(self.progress.step, output.id, message))

        self._engine.listen(output.service, take)

    def _was_sent(self, sent: SentMessage) -> None:
        if (identity := correlation_of(sent.message)) and (
            recorded := self._exchanges.recorded_id(sent, identity)
        ):
            for answer in self._node.answers.get(recorded, ()):
                message = self._node.message(answer.key)
                item = self._inputs.get(answer.input_id)
                if message is not None and item is not None:
                    self._engine.sender(OutputConfig("", item.service)).deliver(
                        self._exchanges.translated(message)
                    )
        self._watch.sent(sent)


def _observed(config: NodeConfig, slot: int) -> NodeConfig:
    """Return the configuration with a listener on every output, and without back-pressure: nobody reads."""
    tap = LinkConfig(slot=slot, node_slot=slot, bell="", consumer="(the recording)")
    outputs = [
        msgspec.structs.replace(
            output,
            links=[
                *(msgspec.structs.replace(link, queue_policy="drop_oldest") for link in output.links),
                tap,
            ],
            prewake=[],
            credit_bell="",
        )
        for output in config.outputs
    ]
    # The recorded answers to a request arrive all at once, before the node takes the first one.
    inputs = [
        msgspec.structs.replace(item, queue_size=max(item.queue_size, 1024), credit_bell="")
        if item.kind == "link"
        else item
        for item in config.inputs
    ]
    return msgspec.structs.replace(config, inputs=inputs, outputs=outputs, state_file="")
