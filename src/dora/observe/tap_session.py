"""Looking at the outputs of a running dataflow: the taps of one command."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Generator, Sequence
from typing import Final

from dora._paths import board_of, prefix_of, router_of
from dora.daemon.client import DaemonClient
from dora.dataflow.plan import TAP_QUEUE
from dora.errors import ConnectError, DoraError, TransportError
from dora.observe.topics import Topic
from dora.transport.board import BYTES, SENT, TAPPED, WORDS, Board
from dora.transport.taps import Tap, TapEngine, open_taps
from dora.wire.daemon_protocol import CloseTaps, Inspect, Inspection, OpenTaps
from dora.wire.message import Message

# One output under a tap, and how to look at a flood without slowing it down.
#
# Whatever waits in a tap is memory that the sender cannot use again meanwhile. A sender of large messages
# lives on using the same few again and again while they are in its cache; one or two more of them cost it
# some ten percent, however seldom somebody looks. Of many thousand small ones a second, each costs its
# sender another receiver, a third of the rate. So there is a tap on floods for a tenth of the time only. In
# that time everything is as always: neighbours are seen as neighbours, and numbers and times of sending
# tell how often messages come.

# What may wait in a tap: with 16 messages of 1 MiB, the sender would be a quarter slower.
_WAITING_BYTES: Final = 2 << 20
_FLOOD_OF_BYTES: Final = (200, 500_000_000)  # messages and bytes a second, both
_FLOOD_OF_MESSAGES: Final = 5_000  # a second
_NEAR_NS: Final = 30_000_000  # how long a flood is looked at
_AWAY_NS: Final = 270_000_000  # and how long it is left alone then
_JUDGE_NS: Final = 500_000_000  # how long others are looked at until it is judged whether they are a flood


class AdaptiveTap:
    """One topic under a tap. ``received`` counts messages, ``missed`` those that were not looked at, which
    says nothing about the dataflow's own links."""

    def __init__(self, topic: Topic, engine: TapEngine, words: memoryview) -> None:
        """Attach; raises `TransportError`."""
        self.topic = topic
        self.received = 0
        self.missed = 0
        self._engine = engine
        self._words = words
        self._sent_word = topic.output.slot * WORDS + SENT
        self._bytes_word = topic.output.slot * WORDS + BYTES
        self._tapped_word = topic.output.slot * WORDS + TAPPED
        self._seen = 0  # sequence number of the last message
        self._tap: Tap | None = engine.tap(topic.output, self._queue_size())
        self._judged = self._reading()
        self._judge_at = self._judged[0] + _NEAR_NS

    def _queue_size(self) -> int:
        sent, size = self._words[self._sent_word], self._words[self._bytes_word]
        mean_size = max(size // sent, 1) if sent else 1
        return max(2, min(TAP_QUEUE, _WAITING_BYTES // mean_size))

    def renew(self, until_ns: int) -> None:
        """Let the output be sent even if it has no links, until then."""
        self._words[self._tapped_word] = until_ns

    @property
    def tapped(self) -> bool:
        """Whether there may be something to take."""
        return self._tap is not None

    @property
    def due_s(self) -> float:
        """In how many seconds `adapt` has something to do."""
        return max(0.0, (self._judge_at - time.monotonic_ns()) / 1e9)

    def take(self) -> Message | None:
        """Take a message if there is one."""
        if self._tap is None or self._words[self._sent_word] == self._seen:
            return None
        message = self._tap.receive()
        if message is None:
            return None
        if self._seen and message.sequence > self._seen:
            self.missed += message.sequence - self._seen - 1
        self._seen = message.sequence
        self.received += 1
        return message

    def adapt(self) -> None:
        """Take the tap away from a flood, or put it there again, when it is time."""
        now = time.monotonic_ns()
        if now < self._judge_at:
            return
        if self._tap is None:
            try:
                self._tap = self._engine.tap(self.topic.output, self._queue_size())
            except TransportError:
                pass  # the dataflow is ending
            self._judge_at = now + _NEAR_NS
            return
        before, self._judged = self._judged, self._reading()
        seconds = (self._judged[0] - before[0]) / 1e9
        messages, size = (self._judged[1] - before[1]) / seconds, (self._judged[2] - before[2]) / seconds
        large = messages > _FLOOD_OF_BYTES[0] and size > _FLOOD_OF_BYTES[1]
        if large or messages > _FLOOD_OF_MESSAGES:
            tap, self._tap = self._tap, None
            self._engine.close_tap(tap)
            self._judge_at = now + _AWAY_NS
        else:
            self._judge_at = now + _JUDGE_NS

    def _reading(self) -> tuple[int, int, int]:
        return time.monotonic_ns(), self._words[self._sent_word], self._words[self._bytes_word]


# Seconds between looks. At each, what fits into the queue of a tap is taken: so all messages of a topic
# with up to 2,000 a second are seen, and of a faster one some; taking all would cost it a processor.
PERIOD: Final = 0.005
_REST: Final = 8  # a look is followed by a pause that is so many times longer than what it computed
_LONGEST_REST: Final = 0.05  # seconds, also where nothing can be seen: something else may end the look
_LEASE_NS: Final = 2_000_000_000  # how long an output is looked at after the last renewal
_RENEWAL_NS: Final = _LEASE_NS // 4


def inspect(run: DaemonClient) -> Inspection:
    """Ask a daemon how its dataflow is.

    The files of a run follow from its directory; what the daemon says about them is not believed.
    """
    answer = run.ask(Inspect())
    assert isinstance(answer, Inspection)
    answer.run_dir = run.run_dir
    answer.prefix = prefix_of(run.run_dir)
    answer.board = board_of(run.run_dir)
    answer.zenoh_endpoint = router_of(run.run_dir) if answer.zenoh_endpoint else ""
    return answer


class TapSession:
    """Taps on some topics of a running dataflow; ``with`` closes them."""

    def __init__(self, run: DaemonClient, inspection: Inspection, topics: Sequence[Topic]) -> None:
        """Attach; raises `DoraError` if too many commands look at one of them already, `TransportError`."""
        self._run = run
        self.ended = False  # the dataflow has
        run.ask(OpenTaps([topic.output.slot for topic in topics]))
        try:
            self._board = Board.open(inspection.board)
        except OSError:
            raise ConnectError("the dataflow has just ended") from None
        self._engine = open_taps(inspection)
        try:
            self.taps = [AdaptiveTap(topic, self._engine, self._board.words) for topic in topics]
        except BaseException:
            self.close()
            raise
        self._renewed_ns = 0
        self._renew()

    @property
    def words(self) -> memoryview:
        """The words of the board, valid until `close`."""
        return self._board.words

    def messages(
        self, until: Callable[[], bool] = lambda: False, period: float = PERIOD
    ) -> Generator[tuple[AdaptiveTap, Message | None], None, None]:
        """Yield messages as they come, until the dataflow ends or ``until`` says so.

        After each look, which is every ``period`` seconds or less often if there is much to do, a pair
        with None is yielded, for what else there is to do.
        """
        nobody = self.taps[0]
        while not until():
            self._renew()
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
                tap.adapt()  # after a look, which on a busy machine may be the only one meanwhile
            if self.ended:
                return
            yield nobody, None
            self.ended = self._wait(self._pause(period, time.thread_time() - begun))

    def _pause(self, period: float, computed: float) -> float:
        """Return how many seconds to sleep; a flood is not looked at any longer than it has to be."""
        pause = _LONGEST_REST
        if any(tap.tapped for tap in self.taps):
            pause = max(period, min(computed * _REST, _LONGEST_REST))
        return min(pause, *(tap.due_s for tap in self.taps))

    def _wait(self, seconds: float) -> bool:
        """Sleep; tell whether the daemon has closed the connection, as it does at the end."""
        readable, _, _ = select.select([self._run], (), (), seconds)
        return bool(readable)

    def _renew(self) -> None:
        now = time.monotonic_ns()
        if now - self._renewed_ns > _RENEWAL_NS:
            self._renewed_ns = now
            for tap in self.taps:
                tap.renew(now + _LEASE_NS)

    def close(self) -> None:
        """Take the taps away."""
        self.taps = []
        self._engine.close()
        self._board.close()
        if not self.ended:
            try:
                self._run.ask(CloseTaps())
            except DoraError:
                self.ended = True

    def __enter__(self) -> TapSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
