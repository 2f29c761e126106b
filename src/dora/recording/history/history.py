"""Look back into a recording: what was true at a moment, and what came between two.

A `History` reads any MCAP file: recordings of dora, with or without the channels about the state of the
run, and files of ROS 2, Foxglove and others. It reads a message when it is asked for one, so a file of any
size opens at once and takes a bounded amount of memory.

All times are nanoseconds since the Unix epoch. A span of time begins after its first moment and includes
its last one. A query that would decompress more than `BUDGET` gives the newest part, and says from which
moment on this part is complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dora.dataflow.graph import Box, Graph, graph_of
from dora.errors import DoraError
from dora.recording.bags.restore import type_finder
from dora.recording.history.foreign_values import FOXGLOVE_LEVELS, is_log, log_line
from dora.recording.history.readers import ForeignReader, reader_of
from dora.recording.mcap.file import damage_text, damages
from dora.recording.mcap.format import (
    DATAFLOW,
    END,
    LOG_SCHEMA,
    LOG_TOPIC,
    MARK_TOPIC,
    OWN_TOPICS,
    PARAMETERS_TOPIC,
    PROFILE,
    START,
    STATE_TOPIC,
    End,
    NotARecording,
    RecordingStart,
    dataflow_of,
    from_record,
    start_of,
)
from dora.recording.mcap.indexed import IndexedFile, Place, StoredMessage
from dora.recording.mcap.recording import RecordedMessage, TopicInfo, restored
from dora.wire.decoders import DecodeError, from_json
from dora.wire.message import Message

if TYPE_CHECKING:
    from dora.observe.preview.render import RenderedPreview

BUDGET: Final = 48 << 20  # bytes that one query decompresses: the page waits for the answer
MOST_MARKS: Final = 1000  # of one answer; the page asks for earlier ones with `Marks.before`
MOST_LINES: Final = 1000  # of one answer; `complete_from_ns` says whether there are more
SECOND: Final = 1_000_000_000


class TimedMark(NamedTuple):
    """Something that happened at a moment: see ``dora/mark`` in the format of recordings."""

    time_ns: int
    kind: str
    node: str | None
    text: str


class LoggedLine(NamedTuple):
    """A line of the log. ``level`` is one of dora's."""

    time_ns: int
    level: str
    node: str | None
    message: str


@dataclass
class RecordedOutput(TopicInfo):
    """An output, or a topic of another program, with its channels."""

    channels: list[int] = field(default_factory=list)


class Excerpt(NamedTuple):
    """The result of a query that may be cut: it has everything after ``complete_from_ns``."""

    items: list[Any]
    complete_from_ns: int


class History:
    """An open recording; ``with`` closes it. Not for several threads at once."""

    def __init__(self, path: str) -> None:
        """Open an MCAP file, or the folder of a bag of ROS 2 with one.

        Raises `NotARecording` for another file, `DoraError` if there is none.
        """
        self.path = path
        self._file = IndexedFile(_file_of(path))
        try:
            self.is_own = self._file.profile == PROFILE
            self.start = self._read_start()  # of a file of another program, it says nothing
            self.end = from_record(self._file.metadata[END], End) if END in self._file.metadata else None
            self._special: dict[str, list[int]] = {}  # topics of dora → channels
            self._logs: dict[int, ForeignReader] = {}  # channels of other programs that are logs
            self._readers: dict[int, Callable[[RecordedMessage], Message]] = {}
            self.outputs: dict[str, RecordedOutput] = {}
            # Time and number of the last message that was drawn, by output, for who draws.
            self.drawn: dict[str, tuple[int, int, RenderedPreview]] = {}
            self._note_channels()
            self._all = [id_ for output in self.outputs.values() for id_ in output.channels]
            edges = self._file.edges(self._all)
            everything = self._file.edges(
                [*self._all, *(id_ for ids in self._special.values() for id_ in ids)]
            )
            if everything is None:
                reason = f" ({self.damage})" if self.damage else ""
                raise NotARecording(f"{path} has no messages{reason}, so there is nothing to look at")
            self.first_ns = edges[0] if edges else everything[0]
            self.last_ns = everything[1]
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ----------------------------------------------------------------------- about the file

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._file.size

    @property
    def damage(self) -> str:
        """Why the end of the file, or a part, cannot be read; "" if all can be."""
        return self._file.damage

    @property
    def name(self) -> str:
        """The name of the dataflow, or of the file."""
        return self.start.name or os.path.basename(self.path.rstrip("/"))

    @property
    def has_state(self) -> bool:
        """Whether the state of nodes and links was recorded."""
        return STATE_TOPIC in self._special

    @cached_property
    def descriptor(self) -> dict[str, Any]:
        """The recorded dataflow as plain values, {} if there is none."""
        return dataflow_of(self._file.enclosed.get(DATAFLOW, b"{}"))

    @cached_property
    def graph(self) -> Graph:
        """The graph of the dataflow; of a foreign file, a box for each name space of its topics."""
        if self.is_own and self.descriptor.get("nodes"):
            from dora.dataflow.loader import parse

            text = json.dumps(self.descriptor, ensure_ascii=False)  # which is YAML, too
            try:
                return graph_of(parse(text, working_dir=self.start.working_dir or "/", environ={}))
            except DoraError:
                pass  # another version of dora has written it
        outputs: dict[str, list[str]] = {}
        for name in self.outputs:
            space, _, output = name.rpartition("/")
            outputs.setdefault(space, []).append(output)
        boxes = (
            Box(id=space, label=space or "/", kind="node", outputs=tuple(names))
            for space, names in outputs.items()
        )
        return Graph(tuple(boxes), (), ())

    def activity(self, parts: int) -> list[float]:
        """Return how many bytes a second came in each of so many equal parts of the time."""
        width = max(self.last_ns - self.first_ns, 1) / parts
        found = [0.0] * parts
        for first_ns, last_ns, size in self._file.bytes_over_time():
            begin = min(max(int((first_ns - self.first_ns) / width), 0), parts - 1)
            end = min(max(int((last_ns - self.first_ns) / width), begin), parts - 1)
            for part in range(begin, end + 1):
                found[part] += size / (end - begin + 1) / (width / SECOND)
        return found

    # ----------------------------------------------------------------------- messages

    def message_at(self, output: str, time_ns: int) -> RecordedMessage | None:
        """Return the newest message of an output at or before a time, None if there is none yet.

        Its ``message`` raises `NotARecording` if it is damaged. Raises `NotARecording` where the file is.
        """
        place = self._file.newest(self._channels(output), time_ns)
        return None if place is None else self._recorded(output, place)

    def messages(self, output: str, after_ns: int, until_ns: int, limit: int) -> Excerpt:
        """Return the newest messages of an output in a span of time, oldest first; at most ``limit``."""
        places = self._file.places(self._channels(output), after_ns, until_ns)
        return self._newest(places, after_ns, limit, lambda place: self._recorded(output, place))

    def backward(self, output: str, until_ns: int, limit: int) -> Iterator[RecordedMessage]:
        """Yield messages of an output from a time backward, at most ``limit``, as they are asked for."""
        at = until_ns
        for _ in range(limit):
            place = self._file.newest(self._channels(output), at)
            if place is None:
                return
            yield self._recorded(output, place)
            at = place.time_ns - 1

    def curve(self, output: str, after_ns: int, until_ns: int, points: int) -> Excerpt:
        """Return messages of an output that are spread over a span of time; at most ``points``."""
        places = self._file.places(self._channels(output), after_ns, until_ns)
        step = -(-len(places) // points) if places else 1
        return self._newest(places[::step], after_ns, points, lambda place: self._recorded(output, place))

    def next_time(self, outputs: Iterable[str], time_ns: int) -> int | None:
        """Return the time of the first message of some outputs after a time."""
        place = self._file.next([id_ for output in outputs for id_ in self._channels(output)], time_ns)
        return None if place is None else place.time_ns

    def last_time(self, outputs: Iterable[str], time_ns: int) -> int | None:
        """Return the time of the last message of some outputs at or before a time."""
        place = self._file.newest([id_ for output in outputs for id_ in self._channels(output)], time_ns)
        return None if place is None else place.time_ns

    def rate(self, output: str, time_ns: int) -> float:
        """Return how many messages of an output came in the second before a time."""
        return float(self._file.count(self._channels(output), time_ns - SECOND, time_ns))

    # ----------------------------------------------------------------------- the run

    def marks(self, until_ns: int | None = None) -> Excerpt:
        """Return the newest marks up to a time (None: the end), oldest first.

        A file without any has one for each node that failed, at its end.
        """
        until = self.last_ns if until_ns is None else until_ns
        if MARK_TOPIC not in self._special:
            failed = self.end.failed if self.end is not None and until >= self.last_ns else []
            return Excerpt([TimedMark(self.last_ns, "failed", node, "") for node in failed], -1)
        read = self._json(MARK_TOPIC, -1, until, MOST_MARKS)
        found = []
        for time_ns, value in read.items:
            node = value.get("node")
            kind, text = str(value.get("kind", "")), str(value.get("text", ""))
            found.append(TimedMark(time_ns, kind, None if node is None else str(node), text))
        return Excerpt(found, read.complete_from_ns)

    def state_at(self, time_ns: int) -> Mapping[str, Any] | None:
        """Return the state of nodes and links at a time, as the page gets it; None if it is not known."""
        newest = self._file.newest(self._special.get(STATE_TOPIC, ()), time_ns)
        if newest is None:
            return None
        found = self._parsed(newest)
        return found if isinstance(found, Mapping) else None

    def states(self, after_ns: int, until_ns: int) -> Excerpt:
        """Return the times and the states in a span of time, oldest first."""
        # The page asks for a minute, in which a recorder writes 60 states.
        return self._json(STATE_TOPIC, after_ns, until_ns, 600)

    def parameters_at(self, node_id: str, time_ns: int) -> dict[str, Any]:
        """Return the parameters of a node at a time. Without changes in the file, the dataflow's own.

        Raises `NotARecording` if their last change is behind more of other nodes than `BUDGET` allows.
        """

        def fits(value: Mapping[str, Any]) -> bool:
            return value.get("node") == node_id and isinstance(value.get("values"), dict)

        newest = self._json(PARAMETERS_TOPIC, -1, time_ns, 1, fits)
        for _, value in newest.items:
            return dict(value["values"])
        if newest.complete_from_ns >= 0:
            raise NotARecording(
                f"the parameters of `{node_id}` are not known: other nodes have changed theirs too often"
            )
        for node in self.descriptor.get("nodes", ()):
            if isinstance(node, dict) and node.get("id") == node_id:
                own = node.get("parameters")
                return dict(own) if isinstance(own, dict) else {}
        return {}

    def log(
        self,
        after_ns: int,
        until_ns: int,
        limit: int = MOST_LINES,
        fits: Callable[[LoggedLine], bool] = lambda _: True,
    ) -> Excerpt:
        """Return the newest lines of the log in a span of time that ``fits`` accepts, oldest first."""
        channels = [*self._special.get(LOG_TOPIC, ()), *self._logs]
        places = self._file.places(channels, after_ns, until_ns)
        return self._newest(places, after_ns, limit, self._line, fits)

    # ----------------------------------------------------------------------- reading

    def _channels(self, output: str) -> list[int]:
        known = self.outputs.get(output)
        return known.channels if known is not None else []

    def _newest(
        self,
        places: list[Place],
        after_ns: int,
        limit: int,
        read: Callable[[Place], Any],
        fits: Callable[[Any], bool] = lambda _: True,
    ) -> Excerpt:
        """Read places from the end on, until there are enough or it becomes too much work."""
        found: list[Any] = []
        complete_from = after_ns
        allowed = self._file.unpacked + BUDGET
        for place in reversed(places):
            if len(found) >= limit or (self._file.unpacked >= allowed and not self._file.is_at_hand(place)):
                complete_from = place.time_ns
                break
            try:
                item = read(place)
            except NotARecording:
                continue
            if fits(item):
                found.append(item)
        return Excerpt(found[::-1], complete_from)

    def _stored(self, place: Place) -> StoredMessage:
        try:
            return self._file.read(place)
        except damages() as error:
            raise NotARecording(f"{self.path} is damaged there: {damage_text(error)}") from None

    def _recorded(self, output: str, place: Place) -> RecordedMessage:
        stored = self._stored(place)
        return RecordedMessage(
            output, stored.sequence, stored.time_ns, stored.data, self._readers[place.channel]
        )

    def _parsed(self, place: Place) -> Any:
        try:
            return from_json(self._stored(place).data)
        except DecodeError as error:
            raise NotARecording(f"a message about the run is damaged: {error}") from None

    def _json(
        self,
        topic: str,
        after_ns: int,
        until_ns: int,
        limit: int,
        fits: Callable[[Mapping[str, Any]], bool] = lambda _: True,
    ) -> Excerpt:
        places = self._file.places(self._special.get(topic, ()), after_ns, until_ns)

        def read(place: Place) -> tuple[int, Any]:
            return place.time_ns, self._parsed(place)

        return self._newest(
            places, after_ns, limit, read, lambda item: isinstance(item[1], Mapping) and fits(item[1])
        )

    def _line(self, place: Place) -> LoggedLine:
        stored = self._stored(place)
        reader = self._logs.get(place.channel)
        try:
            if reader is not None:
                _, level, name, text = log_line(reader.parse(stored.data))
                return LoggedLine(stored.time_ns, level, name or None, text)
            from dora.recording.mcap.schemas import message_class

            entry = message_class(LOG_SCHEMA).FromString(stored.data)
        except NotARecording:
            raise
        except Exception as error:  # noqa: BLE001 - whatever another program has written
            raise NotARecording(f"a line of the log cannot be read: {error}") from None
        return LoggedLine(
            stored.time_ns,
            FOXGLOVE_LEVELS.get(entry.level, "stdout"),
            None if entry.name == "dora" else entry.name,
            entry.message,
        )

    # ----------------------------------------------------------------------- opening

    def _read_start(self) -> RecordingStart:
        if not self.is_own:
            return RecordingStart(dora="", dataflow_id="", started=0)
        return start_of(self.path, self._file.metadata.get(START))

    def _note_channels(self) -> None:
        file = self._file
        find_type = type_finder("")
        for id_, channel in file.channels.items():
            schema = file.schemas.get(channel.schema_id)
            topic = channel.topic
            if self.is_own and topic.startswith(OWN_TOPICS):
                self._special.setdefault(topic, []).append(id_)
                continue
            if self.is_own:
                self._readers[id_] = restored
            else:
                topic = topic if topic.startswith("/") else f"/{topic}"
                reader = reader_of(channel, schema, find_type)
                self._readers[id_] = reader
                if isinstance(reader, ForeignReader) and is_log(reader.schema):
                    self._logs[id_] = reader
            output = self.outputs.setdefault(topic, RecordedOutput(topic))
            output.channels.append(id_)
            output.note(channel, schema, file.counts[id_])


def _file_of(path: str) -> str:
    """Return the MCAP file of a bag of ROS 2 that has one, for the folder of the bag."""
    from dora.recording.bags.bag_file import is_bag_without_mcap

    if os.path.isdir(path):
        found = sorted(name for name in os.listdir(path) if name.endswith(".mcap"))
        if len(found) == 1:
            return os.path.join(path, found[0])
        if found:
            raise NotARecording(
                f"{path} has {len(found)} files: give one of them, such as {os.path.join(path, found[0])}"
            )
        raise NotARecording(f"{path} is a folder without an MCAP file; give a file such as drive.mcap")
    if is_bag_without_mcap(path):
        raise NotARecording(
            f"{path} is no MCAP file; `ros2 bag convert` makes one of a bag with other files "
            "(storage_id: mcap in its output options)"
        )
    return path
