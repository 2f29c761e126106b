"""The interface of all recordings: files of `dora record`, and bags of ROS 2."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from dora.recording.mcap.format import ARROW_TYPE, DECLARED_TYPE, End, RecordingStart, restore
from dora.wire.message import Message

if TYPE_CHECKING:
    from dora.dataflow.model import Dataflow


def restored(recorded: RecordedMessage) -> Message:
    """Restore a message that dora recorded; raises `NotARecording`."""
    return restore(recorded.data)


class RecordedMessage(NamedTuple):
    """One message. ``time_ns`` is when it was sent, ``sequence`` its number on its output.

    Of a message that was latched before the recording began, ``time_ns`` is this begin. Of a bag, it is
    when the message was recorded, and ``sequence`` its number among those that were read.
    """

    topic: str
    sequence: int
    time_ns: int
    data: bytes
    restore: Callable[[RecordedMessage], Message] = restored

    @property
    def message(self) -> Message:
        """The message exactly as it was sent; raises `NotARecording` if it is damaged."""
        return self.restore(self)


@dataclass
class TopicInfo:
    """The facts about one output. ``types``: Arrow types as text; ``declared``: the dataflow's type."""

    name: str
    types: list[str] = field(default_factory=list)
    schemas: list[str] = field(default_factory=list)
    declared: str = ""
    messages: int = 0

    def note(self, channel: Any, schema: Any, messages: int) -> None:
        """Add the facts about one of its channels. ``schema``: None if the channel has none."""
        self.messages += messages
        self.declared = channel.metadata.get(DECLARED_TYPE, self.declared)
        for known, name in (
            (self.types, channel.metadata.get(ARROW_TYPE, "")),
            (self.schemas, schema.name if schema is not None else ""),
        ):
            if name and name not in known:
                known.append(name)


class Recording(ABC):
    """An open recording; ``with`` closes it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = 0  # bytes
        self.damage = ""  # why the end of the file, or a part, cannot be read
        self.start: RecordingStart
        self.end: End | None = None  # None: the file was cut off
        self.dataflow: dict[str, Any] = {}  # its descriptor
        self.topics: dict[str, TopicInfo] = {}
        # Of a bag of ROS 2: its distribution, "" if the bag does not say. None: dora wrote the recording.
        self.ros2: str | None = None
        self.left_out: dict[str, str] = {}  # topics of a bag that cannot be read → the encoding of messages
        self.first_ns = self.last_ns = 0  # times of the first and the last message
        self.reached_ns = 0  # time of the last message that was read

    @property
    def complete(self) -> bool:
        """Whether the file has every message that was sent during the recording."""
        return self.end is not None and self.end.complete and not self.damage

    @property
    def messages_lost(self) -> int:
        """How many messages are known to be missing."""
        return self.end.lost if self.end is not None else 0

    @property
    def count(self) -> int:
        """How many messages the file has, of all outputs."""
        return sum(topic.messages for topic in self.topics.values())

    @property
    def duration(self) -> float:
        """Seconds from the first message to the last."""
        return (self.last_ns - self.first_ns) / 1e9

    @abstractmethod
    def messages(
        self, topics: Collection[str] | None = None, begin_ns: int | None = None, end_ns: int | None = None
    ) -> Iterator[RecordedMessage]:
        """Yield messages of ``topics`` (None: all) in the order of sending.

        From the time ``begin_ns`` on (None: the start), before ``end_ns`` (None: to the end). A file that
        was cut off gives them in the order of recording. Ends at a damaged place.
        """

    def take_blocks(self, dataflow: Dataflow) -> tuple[dict[str, str], list[str]]:  # noqa: ARG002
        """Of a bag: give outputs the topics that they get from ROS 2, by the ``ros2`` blocks of nodes.

        Returns what a player needs to do the same: ``topics`` and ``image_topics``, as for
        `dora.recording.bags.bag.RosBag`.
        """
        return {}, []

    def topic_of(self, node_id: str, output: str) -> str:
        """Return the topic that replaces an output of a node."""
        return f"{node_id}/{output}"

    def outputs_in(self, dataflow: Dataflow) -> set[str]:  # noqa: ARG002
        """Return the outputs, as ``node/output``, that the recording has messages of.

        Raises `DoraError` if it is clear that the dataflow has none of them.
        """
        return set(self.start.topics) | set(self.topics)

    def latched(self, topics: Collection[str]) -> Iterator[RecordedMessage]:  # noqa: ARG002
        """Yield the messages that were latched before the recording began."""
        return iter(())

    def orders(self) -> Iterator[tuple[str, bytes]]:
        """Yield, by node, the order in which it took its events, in pieces (`dora.wire.event_log`)."""
        return iter(())

    def context(self, topic: str) -> Iterator[tuple[int, bytes]]:  # noqa: ARG002
        """Yield the messages of a topic that is no output, such as ``dora/log``, with their times."""
        return iter(())

    def has_orders(self) -> bool:
        """Return whether the order in which nodes took their events was recorded."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Close the files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
