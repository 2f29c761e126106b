"""Comparing two recordings: the messages of each topic one by one, in their order.

The times of messages do not count, nor does how topics interleave: two runs of the same dataflow never
agree in that. What counts is that each output carried the same messages in the same order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from dora.dataflow.report import did_you_mean, listed
from dora.errors import DoraError
from dora.recording.compare import EXACT, Tolerance, difference
from dora.recording.format import NotARecording
from dora.recording.reader import RecordedMessage, Recording
from dora.wire.decode import PayloadError
from dora.wire.metadata import MetadataError


@dataclass(frozen=True)
class MessagePlace:
    """Where two recordings differ: the message of a topic, from 1, its time in seconds from the first
    message of the first recording that has it, and what is different."""

    message: int
    time: float
    what: str


@dataclass
class TopicDiff:
    """The comparison of one topic. ``different`` counts messages, those that only one recording has too."""

    topic: str
    first_count: int = 0
    second_count: int = 0
    different: int = 0
    first: MessagePlace | None = None

    @property
    def equal(self) -> bool:
        return self.first is None


class _Side:
    """One recording, and its messages of a topic that the other one has not given yet."""

    def __init__(self, recording: Recording, topics: Collection[str]) -> None:
        self.recording = recording
        self.waiting: dict[str, deque[RecordedMessage]] = {topic: deque() for topic in topics}
        self.counts = dict.fromkeys(topics, 0)
        self.messages: Iterator[RecordedMessage] = recording.messages(topics)

    def advance(self) -> RecordedMessage | None:
        recorded = next(self.messages, None)
        if recorded is not None:
            self.waiting[recorded.topic].append(recorded)
            self.counts[recorded.topic] += 1
        return recorded

    def time(self, recorded: RecordedMessage) -> float:
        return (recorded.time_ns - self.recording.first_ns) / 1e9


def compare(
    first: Recording,
    second: Recording,
    topics: Collection[str] | None = None,
    tolerance: Tolerance = EXACT,
    *,
    metadata: bool = False,
) -> list[TopicDiff]:
    """Compare two recordings; the topics come in the order in which they begin to differ, equal ones last.

    ``topics``: these only; without them, a topic that only one recording has is a difference. Raises
    `DoraError` for a topic that neither has.
    """
    both = {**first.topics, **second.topics}
    common = first.topics.keys() & second.topics.keys()
    for topic in topics or ():
        if topic not in both:
            hint = did_you_mean(topic, both) or f"there are {listed(sorted(both))}"
            raise DoraError(f"neither recording has the topic `{topic}`; {hint}")
    wanted = list(dict.fromkeys(topics if topics is not None else both))
    found = {topic: TopicDiff(topic) for topic in wanted}
    # The others need not be read: their messages would only wait in memory, for nothing.
    compared = [topic for topic in wanted if topic in common]
    sides = _Side(first, compared), _Side(second, compared)
    open_ = True
    while open_:
        open_ = False
        for side in sides:
            recorded = side.advance()
            if recorded is not None:
                open_ = True
                _match(found[recorded.topic], sides, tolerance, metadata)
    for topic, result in found.items():
        if topic in common:
            _settle(result, sides)
        else:
            _note_missing(result, first, second)
    return sorted(
        found.values(), key=lambda each: (each.equal, each.first.time if each.first else 0.0, each.topic)
    )


def _match(result: TopicDiff, sides: tuple[_Side, _Side], tolerance: Tolerance, metadata: bool) -> None:
    ours, theirs = sides[0].waiting[result.topic], sides[1].waiting[result.topic]
    while ours and theirs:
        a, b = ours.popleft(), theirs.popleft()
        result.first_count += 1
        try:
            what = difference(a.message, b.message, tolerance, metadata=metadata)
        except (NotARecording, PayloadError, MetadataError) as error:
            what = "" if a.data == b.data else f"it cannot be compared: {error}"
        if what:
            result.different += 1
            if result.first is None:
                result.first = MessagePlace(result.first_count, sides[0].time(a), what)


def _settle(result: TopicDiff, sides: tuple[_Side, _Side]) -> None:
    """Count what has no counterpart."""
    matched = result.first_count
    result.first_count, result.second_count = (side.counts[result.topic] for side in sides)
    for name, side in zip(("first", "second"), sides, strict=True):
        left = side.waiting[result.topic]
        result.different += len(left)
        if left and result.first is None:
            result.first = MessagePlace(matched + 1, side.time(left[0]), _only(name, len(left)))


def _note_missing(result: TopicDiff, first: Recording, second: Recording) -> None:
    """Note a topic that only one of the recordings has."""
    name, recording = ("first", first) if result.topic in first.topics else ("second", second)
    count = result.different = recording.topics[result.topic].messages
    result.first_count, result.second_count = (count, 0) if recording is first else (0, count)
    begin = next(recording.messages([result.topic]), None)
    time = 0.0 if begin is None else (begin.time_ns - recording.first_ns) / 1e9
    result.first = MessagePlace(1, time, _only(name, count))


def _only(name: str, count: int) -> str:
    what = f"only the {name} recording has it"
    return f"{what}, and {count - 1:,} more" if count > 1 else what
