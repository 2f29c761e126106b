"""Compare messages and recordings, and find where they differ."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dora.dataflow.problems import did_you_mean, listed
from dora.errors import DoraError
from dora.recording.mcap.format import NotARecording, body_start
from dora.recording.mcap.recording import RecordedMessage, Recording
from dora.wire.decode import PayloadError, decode_arrow
from dora.wire.message import Message
from dora.wire.metadata import MetadataError, decode_metadata

# Metadata about when and where a message was sent, which is not part of its content.
_OF_THE_RUN: Final = ("timestamp", "open_telemetry_context")
_SHOWN: Final = 60  # characters of a value
MOST_PLACES: Final = 500  # differences of a topic that are listed; further ones are only counted


@dataclass(frozen=True)
class Tolerance:
    """How far numbers may be apart: ``absolute``, or ``relative`` to the first one; the larger counts."""

    absolute: float = 0.0
    relative: float = 0.0

    def allows(self, a: float, b: float) -> bool:
        """Return whether two numbers count as equal; two NaN do, whatever the tolerance."""
        if a == b or (math.isnan(a) and math.isnan(b)):
            return True
        apart = abs(a - b)
        # A part of infinity is infinity, too, but no number is near it.
        return apart < math.inf and apart <= max(self.absolute, self.relative * abs(a))


EXACT: Final = Tolerance()


def parse_tolerance(text: str) -> Tolerance:
    """Return the tolerance that ``0.001`` or ``0.1%`` means; raises ``ValueError``.

    >>> parse_tolerance("1e-3"), parse_tolerance("5%")
    (Tolerance(absolute=0.001, relative=0.0), Tolerance(absolute=0.0, relative=0.05))
    """
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?\d+)?)\s*(%?)\s*", text)
    try:
        number = float(found[1]) if found else -1.0
    except ValueError:
        number = -1.0
    if found is None or not 0 <= number < math.inf:
        raise ValueError(f"`{text}` is not a tolerance: write for example 0.001, 1e-6 or 0.1%")
    return Tolerance(relative=number / 100) if found[2] else Tolerance(absolute=number)


def difference(a: Message, b: Message, tolerance: Tolerance = EXACT, *, metadata: bool = False) -> str:
    """Return where two messages differ first; "" if they do not.

    ``metadata``: compare that too, except the time stamp. Raises `PayloadError` and `MetadataError`.
    """
    if metadata and (found := _of_values(_metadata(a), _metadata(b), "metadata", tolerance)):
        return found
    same_type = a.encoding == b.encoding and a.schema == b.schema
    if same_type and body_start(a, a.body_size) == body_start(b, b.body_size):
        return ""
    return of_arrays(decode_arrow(a), decode_arrow(b), tolerance)


def of_arrays(a: Any, b: Any, tolerance: Tolerance = EXACT) -> str:
    """Return where two Arrow arrays differ first; "" if they do not."""
    import pyarrow as pa

    if a.type != b.type:
        return f"the type is {a.type} and {b.type}"
    if len(a) != len(b):
        return f"there are {len(a):,} and {len(b):,} values"
    numeric = pa.types.is_integer(a.type) or pa.types.is_floating(a.type)
    if numeric and not a.null_count and not b.null_count:
        return _of_numbers(a.to_numpy(), b.to_numpy(), tolerance)
    no_form = (pa.ArrowException, ValueError, ArithmeticError)
    try:
        return _of_values(a.to_pylist(), b.to_pylist(), "", tolerance)
    except no_form:
        # A time, or a scale, that Python has no form for: types are equal here, so comparing the unscaled
        # integers is enough.
        plain = _of_integers(a.type)
    try:
        return _of_values(a.view(plain).to_pylist(), b.view(plain).to_pylist(), "", tolerance)
    except no_form:  # such as a struct that has two fields of one name
        for index in range(len(a)):
            if not a[index : index + 1].equals(b[index : index + 1]):
                return f"[{index}] differs, and Python has no form for it"
    return ""


def _of_integers(of: Any) -> Any:
    """Return the Arrow type of the same layout that has integers, as decimals, for times and decimals."""
    import pyarrow as pa
    from pyarrow import types

    if isinstance(of, pa.BaseExtensionType):
        return _of_integers(of.storage_type)
    if types.is_decimal(of) or types.is_temporal(of):
        widest = {32: pa.decimal32(9), 64: pa.decimal64(18), 128: pa.decimal128(38), 256: pa.decimal256(76)}
        return widest[of.bit_width]
    if types.is_struct(of):
        return pa.struct([field.with_type(_of_integers(field.type)) for field in of])
    if types.is_map(of):
        return pa.map_(_of_integers(of.key_type), _of_integers(of.item_type), of.keys_sorted)
    if types.is_dictionary(of):
        return pa.dictionary(of.index_type, _of_integers(of.value_type), of.ordered)
    if types.is_fixed_size_list(of):
        return pa.list_(of.value_field.with_type(_of_integers(of.value_type)), of.list_size)
    for is_such, make in (
        (types.is_list, pa.list_),
        (types.is_large_list, pa.large_list),
        (types.is_list_view, pa.list_view),
        (types.is_large_list_view, pa.large_list_view),
    ):
        if is_such(of):
            return make(of.value_field.with_type(_of_integers(of.value_type)))
    return of


def _of_numbers(a: Any, b: Any, tolerance: Tolerance) -> str:
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):
        same = a == b
        if a.dtype.kind == "f":
            same |= np.isnan(a) & np.isnan(b)
        if tolerance != EXACT and not same.all():
            left, right = a.astype(np.float64), b.astype(np.float64)
            room = np.maximum(tolerance.absolute, tolerance.relative * np.abs(left))
            apart = np.abs(left - right)
            same |= (apart < math.inf) & (apart <= room)  # as `Tolerance.allows`
    if same.all():
        return ""
    index = int(np.argmin(same))
    more = int(same.size - np.count_nonzero(same)) - 1
    text = f"[{index}] is {a[index]} and {b[index]}"
    return f"{text}, and {more:,} more" if more else text


def _of_values(a: Any, b: Any, where: str, tolerance: Tolerance) -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in (*a, *(key for key in b if key not in a)):
            if key not in a or key not in b:
                return f"{where}.{key} is only in the {'first' if key in a else 'second'}"
            if found := _of_values(a[key], b[key], f"{where}.{key}", tolerance):
                return found
        return ""
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return f"{where} has {len(a):,} and {len(b):,} values"
        for index, (left, right) in enumerate(zip(a, b, strict=True)):
            if found := _of_values(left, right, f"{where}[{index}]", tolerance):
                return found
        return ""
    if isinstance(a, tuple) and isinstance(b, tuple):  # an entry of a map, which is shown with its key
        same = a[0] == b[0] and not _of_values(a[1], b[1], where, tolerance)
        return "" if same else f"{where} is {_shown(a)} and {_shown(b)}"
    if _is_number(a) and _is_number(b):
        return "" if tolerance.allows(a, b) else f"{where} is {a} and {b}"
    return "" if a == b and type(a) is type(b) else f"{where} is {_shown(a)} and {_shown(b)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _metadata(message: Message) -> Mapping[str, Any]:
    plain: dict[str, Any] = decode_metadata(message.metadata)
    return {key: value for key, value in plain.items() if key not in _OF_THE_RUN}


# Comparing two recordings: the messages of each topic one by one, in their order.
#
# Times and the interleaving of topics do not count, because two runs of a dataflow never agree in them.
# Each output must have the same messages in the same order.


@dataclass(frozen=True)
class MessagePlace:
    """Where two recordings differ: the message of a topic (from 1), its time and the difference.

    The time is in seconds from the first message of the first recording that has it.
    """

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
    # The first `MOST_PLACES` differences; if there are none, the first message that one recording lacks.
    places: list[MessagePlace] = field(default_factory=list)

    @property
    def first(self) -> MessagePlace | None:
        """The first difference."""
        return self.places[0] if self.places else None

    @property
    def equal(self) -> bool:
        """Whether both recordings have the same messages, within the tolerance."""
        return not self.places


class _Side:
    """One recording, and its messages that wait for their counterparts in the other one."""

    def __init__(self, recording: Recording, topics: Collection[str]) -> None:
        self.recording = recording
        self.waiting: dict[str, deque[RecordedMessage]] = {topic: deque() for topic in topics}
        self.counts = dict.fromkeys(topics, 0)
        self.messages: Iterator[RecordedMessage] = recording.messages(topics)
        self.ended = False

    def advance(self, other: _Side) -> RecordedMessage | None:
        recorded = next(self.messages, None)
        if recorded is None:
            self.ended = True
            return None
        topic = recorded.topic
        self.counts[topic] += 1
        # Of messages that will have no counterpart, the first is enough: all of them may fill the memory.
        if not (self.waiting[topic] and other.has_given_all(topic)):
            self.waiting[topic].append(recorded)
        return recorded

    def has_given_all(self, topic: str) -> bool:
        """Return whether no further message of a topic comes."""
        recording = self.recording
        if self.ended or recording.end is None or recording.damage:
            return self.ended
        return self.counts[topic] >= recording.topics[topic].messages

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
    # The other topics are not read: their messages would only fill the memory.
    compared = [topic for topic in wanted if topic in common]
    sides = _Side(first, compared), _Side(second, compared)
    open_ = True
    while open_:
        open_ = False
        for side, other in (sides, sides[::-1]):
            recorded = side.advance(other)
            if recorded is not None:
                open_ = True
                _match(found[recorded.topic], sides, tolerance, metadata)
    for topic, result in found.items():
        if topic in common:
            _count_unmatched(result, sides)
        else:
            _count_missing(result, first, second)
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
            if len(result.places) < MOST_PLACES:
                result.places.append(MessagePlace(result.first_count, sides[0].time(a), what))


def _count_unmatched(result: TopicDiff, sides: tuple[_Side, _Side]) -> None:
    """Count messages without a counterpart."""
    matched = result.first_count
    result.first_count, result.second_count = (side.counts[result.topic] for side in sides)
    for name, side in zip(("first", "second"), sides, strict=True):
        left = side.counts[result.topic] - matched
        result.different += left
        if left and result.equal:
            time = side.time(side.waiting[result.topic][0])
            result.places.append(MessagePlace(matched + 1, time, _only(name, left)))


def _count_missing(result: TopicDiff, first: Recording, second: Recording) -> None:
    """Report a topic that only one of the recordings has."""
    name, recording = ("first", first) if result.topic in first.topics else ("second", second)
    count = result.different = recording.topics[result.topic].messages
    result.first_count, result.second_count = (count, 0) if recording is first else (0, count)
    begin = next(recording.messages([result.topic]), None)
    time = 0.0 if begin is None else (begin.time_ns - recording.first_ns) / 1e9
    result.places.append(MessagePlace(1, time, _only(name, count)))


def _only(name: str, count: int) -> str:
    what = f"only the {name} recording has it"
    return f"{what}, and {count - 1:,} more" if count > 1 else what
