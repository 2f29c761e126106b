"""Taps on outputs of a running dataflow, for as long as one query runs."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from operator import sub
from typing import Final

from dora._paths import board_of, prefix_of
from dora.daemon.client import DaemonClient
from dora.dataflow.plan import TAP_QUEUE
from dora.errors import ConnectError, DoraError, TransportError
from dora.observe.topics import Topic
from dora.transport.board import BYTES, SENT, TAPPED, WORDS, Board
from dora.transport.latch import latch_path, read_latch
from dora.transport.taps import Tap, TapEngine, open_taps
from dora.wire.daemon_protocol import CloseTaps, Inspect, Inspection, OpenTaps
from dora.wire.message import Message

# How a flood is observed without slowing it down.
#
# Messages that wait in a tap are memory that the sender cannot reuse. A sender of large messages is fast
# because it reuses the same few while they are in its cache; one or two more cost it some ten percent,
# however seldom the tap is polled. For a sender of many thousand small messages a second, a tap is one more
# receiver, which costs a third of the rate. So a flood is tapped for a tenth of the time only. In that time
# messages are complete: their numbers and times give the true rate.

# The room of a tap: with 16 messages of 1 MiB, the sender would be a quarter slower.
_WAITING_BYTES: Final = 2 << 20
_FLOOD_OF_BYTES: Final = (200, 500_000_000)  # messages and bytes a second, both
_FLOOD_OF_MESSAGES: Final = 5_000  # a second
_OPEN_NS: Final = 30_000_000  # how long a flood is tapped
_CLOSED_NS: Final = 270_000_000  # and how long it is left alone afterwards
_JUDGE_NS: Final = 500_000_000  # how often other outputs are checked for being a flood


class AdaptiveTap:
    """A tap on one topic that is closed most of the time while the topic is a flood.

    ``received`` counts messages, ``missed`` those that were not seen, which says nothing about the links of
    the dataflow.
    """

    def __init__(self, topic: Topic, engine: TapEngine, words: memoryview) -> None:
        """Attach; raises `TransportError`."""
        self.topic = topic
        self.received = 0
        self.missed = 0
        self._engine = engine
        self._words = words
        self._sent_word = topic.output.slot * WORDS + SENT
        self._bytes_word = topic.output.slot * WORDS + BYTES
        self._seen = 0  # sequence number of the last message
        self._latched_to = 0  # sequence number of the last message of the latch
        self._judged = 0, 0, 0
        self._places = TAP_QUEUE
        self._places = self._places_now()
        self._tap: Tap | None = engine.tap(topic.output, self._places)
        self._judged = self._reading()
        self._judge_at = self._judged[0] + _OPEN_NS

    def _places_now(self) -> int:
        """Return how many places suit the messages since the last judgement.

        Only while an output has a link or a tap are its bytes counted, so the mean of all may be too small.
        """
        _, sent, size = map(sub, self._reading(), self._judged)
        return max(2, min(TAP_QUEUE, _WAITING_BYTES // max(size // sent, 1))) if sent else self._places

    @property
    def tapped(self) -> bool:
        """Whether the tap is open."""
        return self._tap is not None

    @property
    def due_s(self) -> float:
        """Seconds until `adapt` has something to do."""
        return max(0.0, (self._judge_at - time.monotonic_ns()) / 1e9)

    def take(self) -> Message | None:
        """Take a message if there is one."""
        if self._tap is None or self._words[self._sent_word] == self._seen:
            return None
        message = self._tap.receive()
        while message is not None and message.sequence <= self._latched_to:
            message = self._tap.receive()
        if message is None:
            return None
        if self._seen and message.sequence > self._seen:
            self.missed += message.sequence - self._seen - 1
        self._seen = message.sequence
        self.received += 1
        return message

    def take_latched(self, board: str) -> list[Message]:
        """Return the messages of the latch, if the output has one; `take` skips them from then on.

        ``board``: the path of the board.
        """
        if not self.topic.output.latched:
            return []
        messages = read_latch(latch_path(board, self.topic.output.slot))
        if messages:
            self._seen = self._latched_to = messages[-1].sequence
        return messages

    def adapt(self) -> None:
        """Close the tap on a flood, or open it again, when it is time."""
        now = time.monotonic_ns()
        if now < self._judge_at:
            return
        places = self._places_now()
        if self._tap is None:
            self._open(places)
            self._judge_at = now + _OPEN_NS
            return
        before, self._judged = self._judged, self._reading()
        seconds = (self._judged[0] - before[0]) / 1e9
        messages, size = (self._judged[1] - before[1]) / seconds, (self._judged[2] - before[2]) / seconds
        large = messages > _FLOOD_OF_BYTES[0] and size > _FLOOD_OF_BYTES[1]
        if large or messages > _FLOOD_OF_MESSAGES:
            self._close()
            self._judge_at = now + _CLOSED_NS
        else:
            if places < self._places / 2:
                self._close()
                self._open(places)
            self._judge_at = now + _JUDGE_NS

    def _open(self, places: int) -> None:
        self._places = places
        try:
            self._tap = self._engine.tap(self.topic.output, places)
        except TransportError:
            pass  # the dataflow is ending

    def _close(self) -> None:
        tap, self._tap = self._tap, None
        assert tap is not None
        self._engine.close_tap(tap)

    def _reading(self) -> tuple[int, int, int]:
        return time.monotonic_ns(), self._words[self._sent_word], self._words[self._bytes_word]


# Seconds between two polls, each of which takes what the queue of a tap holds: all messages of a topic with
# up to 2,000 a second, and some of a faster one; taking all would occupy a processor.
PERIOD: Final = 0.005
_REST: Final = 8  # a poll is followed by a pause that many times as long as its computing time
_LONGEST_REST: Final = 0.05  # seconds, also while no tap is open: the query may end


def inspect(run: DaemonClient) -> Inspection:
    """Ask a daemon for the state of its dataflow.

    The files of a run follow from its directory; the daemon's own statements about them are not trusted.
    """
    answer = run.ask(Inspect())
    assert isinstance(answer, Inspection)
    answer.run_dir = run.run_dir
    answer.prefix = prefix_of(run.run_dir)
    answer.board = board_of(run.run_dir)
    return answer


_LEASE_NS: Final = 2_000_000_000  # how long an output stays tapped after the last renewal, or a kill
_RENEWAL_NS: Final = _LEASE_NS // 4  # a busy machine may delay some of them


class TapLease:
    """The permission to tap some outputs of a dataflow, and its lease on the board; `close` ends all taps.

    A sender also sends on an output without links while the lease of a tap on it lasts.
    """

    def __init__(
        self, run: DaemonClient, inspection: Inspection, slots: Iterable[int], *, until_end: bool = False
    ) -> None:
        """Ask for taps on the outputs with these slots; raises `DoraError` if one has too many already.

        ``until_end``: messages of an ended sender wait until the taps have taken them.
        """
        self.slots: set[int] = set()
        self._run = run
        self._until_end = until_end
        self.add(slots)
        try:
            self._board = Board.open(inspection.board)
        except OSError:
            raise ConnectError("the dataflow has just ended") from None
        self._inspection = inspection
        try:
            self.engine = open_taps(inspection)
        except BaseException:
            self._board.close()
            self._remove_leftovers()
            raise

    @property
    def words(self) -> memoryview:
        """The words of the board, valid until `close`."""
        return self._board.words

    def add(self, slots: Iterable[int]) -> None:
        """Ask for taps on further outputs."""
        slots = self.slots | set(slots)
        self._run.ask(OpenTaps(sorted(slots), until_end=self._until_end))
        self.slots = slots
        self._renewed_ns = 0  # the next `renew` covers the new ones at once

    def renew(self) -> None:
        """Renew the lease if it is time; call it several times a second."""
        now = time.monotonic_ns()
        if now - self._renewed_ns > _RENEWAL_NS:
            self._renewed_ns = now
            words = self._board.words
            for slot in self.slots:
                words[slot * WORDS + TAPPED] = now + _LEASE_NS

    def close(self) -> None:
        """Close all taps."""
        self.engine.close()
        self._board.close()
        self._remove_leftovers()
        try:
            self._run.ask(CloseTaps())
        except DoraError:
            pass  # the dataflow has ended

    def _remove_leftovers(self) -> None:
        """Remove what the taps have made in a directory that the daemon had removed meanwhile."""
        directory = self._inspection.run_dir
        if os.path.exists(directory) and not os.path.exists(f"{directory}/lock"):  # which goes last
            from dora.daemon.guardian import remove_run_files

            remove_run_files(directory, self._inspection.prefix)


class TapSession:
    """Taps on some topics of a running dataflow; ``with`` closes them."""

    def __init__(self, run: DaemonClient, inspection: Inspection, topics: Sequence[Topic]) -> None:
        """Open the taps; raises `DoraError` if a topic has too many already, `TransportError`."""
        self._run = run
        self.ended = False  # the dataflow has
        self._lease = TapLease(run, inspection, [topic.output.slot for topic in topics])
        try:
            self.taps = [AdaptiveTap(topic, self._lease.engine, self._lease.words) for topic in topics]
        except BaseException:
            self.close()
            raise
        # After the taps are there: what a sender sends because of the lease finds a tap.
        self._lease.renew()

    @property
    def words(self) -> memoryview:
        """The words of the board, valid until `close`."""
        return self._lease.words

    def messages(
        self, until: Callable[[], bool] = lambda: False, period: float = PERIOD
    ) -> Generator[tuple[AdaptiveTap, Message | None], None, None]:
        """Yield messages as they arrive, until the dataflow ends or ``until`` returns True.

        After each poll, every ``period`` seconds or less often if there is much to do, it yields a pair
        with None, so that the caller can do other things.
        """
        first = self.taps[0]
        while not until():
            self._lease.renew()
            begun = time.thread_time()
            for tap in self.taps:
                for _ in range(TAP_QUEUE):
                    message = tap.take()
                    if message is None:
                        break
                    yield tap, message
                    del message
                    if until():
                        return
                tap.adapt()  # after a poll, which on a busy machine may be the only one for long
            if self.ended:
                return
            yield first, None
            self.ended = self._wait(self._pause(period, time.thread_time() - begun))

    def _pause(self, period: float, computed: float) -> float:
        """Return how many seconds to sleep; the tap of a flood is not open longer than necessary."""
        pause = _LONGEST_REST
        if any(tap.tapped for tap in self.taps):
            pause = max(period, min(computed * _REST, _LONGEST_REST))
        return min(pause, *(tap.due_s for tap in self.taps))

    def _wait(self, seconds: float) -> bool:
        """Sleep; return whether the daemon has closed the connection, which it does at the end."""
        readable, _, _ = select.select([self._run], (), (), seconds)
        return bool(readable)

    def close(self) -> None:
        """Close the taps."""
        self.taps = []
        self._lease.close()

    def __enter__(self) -> TapSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
