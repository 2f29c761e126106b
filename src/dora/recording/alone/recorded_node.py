"""One node of a recording: the events that one of its processes took, the messages, and what it sent."""

from __future__ import annotations

import json
import os
import tempfile
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, BinaryIO, Final, NamedTuple

from dora.dataflow.layout import RunContext
from dora.dataflow.loader import load, parse
from dora.dataflow.model import Dataflow
from dora.dataflow.plan import plan
from dora.dataflow.problems import no_node
from dora.errors import DataflowError, DoraError
from dora.recording.mcap.format import LOG_SCHEMA, LOG_TOPIC, PARAMETERS_TOPIC, restore
from dora.recording.mcap.recording import RecordedMessage, Recording
from dora.recording.mcap.schemas import message_class
from dora.wire.correlation import GOAL_ID, REQUEST_ID, carries_correlation
from dora.wire.decoders import msgpack_decoder
from dora.wire.event_log import Entry, EntryKind, entries
from dora.wire.message import ORIGIN, ORIGIN_NS, Message, pack_head
from dora.wire.metadata import MetadataError, decode_metadata
from dora.wire.node_config import NodeConfig

_decode = msgpack_decoder(dict[str, Any])
MEMORY: Final = 256 << 20  # bytes of messages; a node may have taken more images than fit into it
_LAST_LINES: Final = 100
_DATAFLOW_ID: Final = "00000000-0000-7000-8000-000000000000"


class Step(NamedTuple):
    """One event that the node took. ``number`` counts them, from 1: it stays when others are left out."""

    number: int
    entry: Entry


class Key(NamedTuple):
    """A recorded message: its output as ``node/output``, and its number on this output."""

    topic: str
    sequence: int


class Contents:
    """The messages that a node took, as they are stored: in memory, and beyond a limit in a temporary file.

    A message is added once. Forked processes read the same file.
    """

    def __init__(self, memory: int = MEMORY) -> None:
        """``memory``: once so many bytes are in memory, further ones go to a file."""
        self._memory = memory
        self._kept: dict[Key, bytes] = {}
        self._places: dict[Key, tuple[int, int]] = {}  # in the file: offset, size
        self._file: BinaryIO | None = None
        self._size = 0  # of the file

    def __setitem__(self, key: Key, data: bytes) -> None:
        """Add a message; raises `DoraError` if there is no room."""
        if self._memory > 0:
            self._memory -= len(data)
            self._kept[key] = data
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="dora-")  # noqa: SIM115 - open as long as this
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise DoraError(
                f"the messages of the node do not fit into memory, and not into {tempfile.gettempdir()}: "
                f"{error.strerror}; TMPDIR names another folder"
            ) from None
        self._places[key] = self._size, len(data)
        self._size += len(data)

    def get(self, key: Key) -> bytes | None:
        """Return a message, None if it is not there."""
        place = self._places.get(key)
        if place is None:
            return self._kept.get(key)
        assert self._file is not None
        offset, size = place
        return os.pread(self._file.fileno(), size, offset)  # forks share the position of the file

    def __contains__(self, key: object) -> bool:
        return key in self._kept or key in self._places


class RecordedAnswer(NamedTuple):
    """A message that answers a request or a goal of the node, and that the node took while it waited."""

    input_id: str
    key: Key


@dataclass
class RecordedProcess:
    """The events of one process of a node. ``restarts``: how many processes there were before it."""

    restarts: int
    inputs: dict[str, str]  # id → source, in the order that entries count in
    steps: list[Step] = field(default_factory=list)
    from_start: bool = False  # from the first event that the process took

    @cached_property
    def topics(self) -> list[str]:
        """The sources of the inputs, in the order that entries count in."""
        return list(self.inputs.values())

    def key_of(self, entry: Entry) -> Key:
        """Return the message that an entry names."""
        return Key(self.topics[entry.input], entry.number)

    def keys(self, taken: Iterable[Entry]) -> Iterator[Key]:
        """Yield the messages that entries name, also those in sets."""
        for entry in taken:
            if entry.kind == EntryKind.MESSAGE:
                yield self.key_of(entry)
            elif entry.kind == EntryKind.SYNC:
                yield from self.keys(entries(entry.content))


@dataclass
class RecordedNode:
    """All that is recorded of one process of a node, enough to run it by itself.

    ``contents`` are the messages that it took, as they are stored; ``sent`` what it sent. ``answers`` are
    by the id of the request or goal. ``missing`` messages were taken, and are not in the recording.
    """

    node_id: str
    dataflow: Dataflow
    file: str | None  # of the dataflow, if it is not the recorded one
    config: NodeConfig
    lines: int  # of the board that the configuration needs
    process: RecordedProcess
    processes: int  # of the node, in the recording
    origin: Recording
    contents: Contents = field(default_factory=Contents)
    sent: list[RecordedMessage] = field(default_factory=list)
    answers: dict[str, list[RecordedAnswer]] = field(default_factory=dict)
    missing: int = 0

    @property
    def first_ns(self) -> int:
        """The time of the first message of the recording."""
        return self.origin.first_ns or self.origin.start.started

    @property
    def failed(self) -> bool:
        """Whether the recording says that the node has failed."""
        return self.origin.end is not None and self.node_id in self.origin.end.failed

    @cached_property
    def last_lines(self) -> list[str]:
        """The lines that the node logged before its end."""
        log = message_class(LOG_SCHEMA)
        found = (log.FromString(data) for _, data in self.origin.context(LOG_TOPIC))
        return list(deque((entry.message for entry in found if entry.name == self.node_id), _LAST_LINES))

    @property
    def steps(self) -> list[Step]:
        """All events, in order."""
        return self.process.steps

    @cached_property
    def inputs(self) -> list[str]:
        """The ids of the inputs, in the order that entries count in."""
        return list(self.process.inputs)

    def message(self, key: Key) -> Message | None:
        """Return a message that the node took, None if it is not recorded."""
        data = self.contents.get(key)
        return None if data is None else restore(data)

    def keys(self, steps: Iterable[Step]) -> list[Key]:
        """Return the messages of events, each once."""
        return list(dict.fromkeys(self.process.keys(step.entry for step in steps)))

    def seconds(self, time_ns: int) -> float:
        """Return a moment in seconds from the first message of the recording."""
        return (time_ns - self.first_ns) / 1e9

    @cached_property
    def sent_at(self) -> dict[int, list[RecordedMessage]]:
        """Its sent messages, by the number of the event that it had taken last; 0: before the first."""
        found: dict[int, list[RecordedMessage]] = {}
        # Looks that found nothing are no events, and all but the first of a run are written late.
        taken = [step for step in self.steps if step.entry.kind != EntryKind.NOTHING]
        times = [step.entry.time_ns for step in taken]
        for recorded in self.sent:
            place = bisect_right(times, recorded.time_ns)
            found.setdefault(taken[place - 1].number if place else 0, []).append(recorded)
        return found

    def sent_on(self, step: int, output: str) -> list[RecordedMessage]:
        """Return the messages that it sent on an output after an event, and before the next one."""
        topic = f"{self.node_id}/{output}"
        return [item for item in self.sent_at.get(step, ()) if item.topic == topic]

    def step_at(self, seconds: float) -> int:
        """Return the number of the first event from a moment on, else of the last one; 0 without events."""
        moment = self.first_ns + round(seconds * 1e9)
        later = (step.number for step in self.steps if step.entry.time_ns >= moment)
        return next(later, self.steps[-1].number if self.steps else 0)

    def describe(self, entry: Entry) -> str:
        """Return what an event was, in a few words."""
        match entry.kind:
            case EntryKind.MESSAGE | EntryKind.LOCAL:
                return f"message {entry.number:,} of input `{self.inputs[entry.input]}`"
            case EntryKind.TICK:
                return f"a tick of `{self.inputs[entry.input]}`"
            case EntryKind.TEXT:
                return f"a line of input `{self.inputs[entry.input]}`"
            case EntryKind.SYNC:
                return f"a set of messages that `{self.inputs[entry.input]}` leads"
            case EntryKind.SAFE:
                return f"the safe value of input `{self.inputs[entry.input]}`"
            case EntryKind.TIMEOUT:
                return "a wait that ended by its timeout"
            case EntryKind.NOTHING:
                return "a look that found no event"
        fields = _decode(entry.content)
        return f"{fields.get('type')} {fields.get('id') or ''}".strip()


def altered(message: Message, body: bytes, metadata: bytes) -> Message:
    """Return a message with another body of the same type, or other metadata, and all else as it is."""
    header = message.header
    head = pack_head(
        message.encoding,
        message.schema,
        metadata,
        len(body),
        message.sequence,
        message.time_ns,
        origin_ns=header[ORIGIN_NS],
        origin=header[ORIGIN],
        trail=message.trail,
    )
    return type(message)(head + body)


def correlation_of(message: Message) -> str:
    """Return the id of the exchange that a message belongs to, "" if it belongs to none."""
    if not carries_correlation(message):
        return ""
    try:
        metadata = decode_metadata(message.metadata)
    except MetadataError:
        return ""
    found = metadata.get(REQUEST_ID) or metadata.get(GOAL_ID)
    return found if isinstance(found, str) else ""


# ------------------------------------------------------------------------------ reading a recording


def recorded_node(
    recording: Recording,
    node_id: str,
    *,
    file: str | None = None,
    folder: str | None = None,
    back: int = 0,
) -> RecordedNode:
    """Read what a recording has of a node: of its last process that took an event.

    ``back``: of a process that came so many before the last one. ``file``: take the node from this dataflow
    file instead of the recorded dataflow. ``folder``: the folder of the recorded dataflow, if it is another
    one now. Raises `DoraError` if the node cannot be run from this recording.
    """
    if recording.ros2 is not None:
        raise DoraError(
            f"{recording.path} is a bag of ROS 2, which has no order of events; `dora record` keeps it"
        )
    if not recording.has_orders():
        raise DoraError(
            f"{recording.path} lacks the order in which nodes took their events, so none can run alone; "
            "`dora record FILE` keeps it"
        )
    dataflow = _dataflow(recording, file, folder)
    ids = [node.id for node in dataflow.nodes]
    if node_id not in ids:
        raise DoraError(f"{recording.path}: {no_node(node_id, ids)}")
    planned = plan(dataflow, RunContext(_DATAFLOW_ID, "/nowhere", "", "", "iceoryx2"))
    config = planned.configs[node_id]
    begun = _processes(recording, config)
    processes = [process for process in begun if process.steps] or begun[1:]  # one may fail at its start
    if not (processes and config.inputs):
        raise DoraError(f"{recording.path} has no event that node `{node_id}` took, so it cannot run alone")
    process = processes[-1 - back]
    config.restart_count = process.restarts
    config.parameters = _parameters(recording, node_id, config.parameters)
    node = RecordedNode(node_id, dataflow, file, config, planned.lines, process, len(processes), recording)
    _read_messages(node)
    return node


def _dataflow(recording: Recording, file: str | None, folder: str | None) -> Dataflow:
    if file is not None:
        return load(file)
    working_dir = folder if folder is not None else recording.start.working_dir
    if not recording.dataflow:
        raise DoraError(f"{recording.path} has no dataflow in it; give the file: --dataflow FILE")
    if not os.path.isdir(working_dir):
        raise DoraError(
            f"the folder of the recorded dataflow, {working_dir}, is not here; give the file of the "
            "dataflow: --dataflow FILE"
        )
    try:
        return parse(
            json.dumps(recording.dataflow, ensure_ascii=False),  # YAML has no surrogates
            shown_file=f"the dataflow in {recording.path}",
            file=recording.start.file if folder is None else None,
            working_dir=working_dir,
            environ=os.environ,
        )
    except DataflowError as error:
        raise DoraError(f"the recorded dataflow cannot be run any more: {error}") from None


def _processes(recording: Recording, config: NodeConfig) -> list[RecordedProcess]:
    """Return the processes of a node, in order; the first is the one that ran when the recording began."""
    planned = {item.id: item.source for item in config.inputs}
    found = [RecordedProcess(0, planned)]
    count = 0
    first = recording.start.together
    for node_id, data in recording.orders():
        if node_id != config.node_id:
            continue
        for entry in entries(data):
            if entry.kind == EntryKind.BEGIN:
                # A process that began while it was recorded is there from its first event on.
                from_start = first or any(process.steps for process in found)
                found.append(
                    RecordedProcess(entry.number, dict(_decode(entry.content)), from_start=from_start)
                )
                first = False
                count = 0
                continue
            count += 1
            if entry.input >= len(found[-1].inputs) and entry.kind not in _WITHOUT_INPUT:
                raise DoraError(f"{recording.path}: the order of events of `{node_id}` is damaged")
            found[-1].steps.append(Step(count, entry))
    return found


_WITHOUT_INPUT: Final = (EntryKind.EVENT, EntryKind.TIMEOUT, EntryKind.NOTHING)


def _read_messages(node: RecordedNode) -> None:
    """Read the messages that the process took, the answers that it waited for, and what it sent.

    Messages that were latched before the recording began become its first events.
    """
    process, contents = node.process, node.contents
    known = {item.id for item in node.config.inputs}
    inputs = {source: name for name, source in process.inputs.items() if name in known}
    outputs = {f"{node.node_id}/{output.id}" for output in node.config.outputs}
    wanted = set(process.keys(step.entry for step in process.steps))
    latched: list[Key] = []
    if not process.from_start:
        for item in node.origin.latched(inputs):
            key = Key(item.topic, item.message.sequence)
            contents[key] = item.data
            if key not in wanted:
                latched.append(key)
    exchanges: set[str] = set()
    correlated: list[tuple[str, Key, bytes]] = []
    for recorded in node.origin.messages(outputs | inputs.keys()):
        message = recorded.message
        key = Key(recorded.topic, message.sequence)
        if recorded.topic in outputs:
            node.sent.append(recorded)
            if identity := correlation_of(message):
                exchanges.add(identity)
        if recorded.topic not in inputs:
            continue
        if key in wanted and key not in contents:
            contents[key] = recorded.data
        elif key not in wanted and (identity := correlation_of(message)):
            correlated.append((identity, key, recorded.data))
    for identity, key, data in correlated:
        if identity in exchanges:
            contents[key] = data
            node.answers.setdefault(identity, []).append(RecordedAnswer(inputs[key.topic], key))
    node.missing = sum(key not in contents for key in wanted)
    process.steps[:0] = _latched_steps(node, [(inputs[key.topic], key) for key in latched])


def _latched_steps(node: RecordedNode, latched: list[tuple[str, Key]]) -> list[Step]:
    """Return events for latched messages, by input. In a `sync` group, they come with the sets."""
    process = node.process
    grouped = {name for group in node.config.syncs for name in group.inputs}
    at = process.steps[0].entry.time_ns if process.steps else node.origin.start.started
    places = {topic: place for place, topic in enumerate(process.topics)}
    return [
        Step(number - len(latched), Entry(EntryKind.MESSAGE, places[key.topic], at, key.sequence))
        for number, (input_id, key) in enumerate(latched)
        if input_id not in grouped
    ]


def _parameters(recording: Recording, node_id: str, declared: dict[str, Any]) -> dict[str, Any]:
    """Return the values that the parameters had when the recording began."""
    for _, data in recording.context(PARAMETERS_TOPIC):
        try:
            update = json.loads(data)
        except ValueError:
            continue
        if (
            isinstance(update, dict)
            and update.get("node") == node_id
            and isinstance(update.get("values"), dict)
        ):
            return dict(update["values"])
    return declared
