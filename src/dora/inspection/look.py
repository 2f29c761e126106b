"""Looking at the outputs of a running dataflow: the taps of one command."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Generator, Sequence
from typing import Final

from dora.daemon.runs import DaemonClient
from dora.dataflow.links import TAP_QUEUE
from dora.errors import ConnectError, DoraError
from dora.inspection.topics import Topic
from dora.inspection.watched import AdaptiveTap
from dora.transport.board import Board
from dora.transport.places import board_of, prefix_of, router_of
from dora.transport.taps import open_taps
from dora.wire.inspection import Inspection
from dora.wire.message import Message
from dora.wire.requests import CloseTaps, Inspect, OpenTaps

# Seconds between looks. At each, what fits into the queue of a tap is taken: so all messages of a topic
# with up to 2,000 a second are seen, and of a faster one some; taking all would cost it a processor.
_PERIOD: Final = 0.005
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
            self.watched = [AdaptiveTap(topic, self._engine, self._board.words) for topic in topics]
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
        self, until: Callable[[], bool] = lambda: False, period: float = _PERIOD
    ) -> Generator[tuple[AdaptiveTap, Message | None], None, None]:
        """Yield messages as they come, until the dataflow ends or ``until`` says so.

        After each look, which is every ``period`` seconds or less often if there is much to do, a pair
        with None is yielded, for what else there is to do.
        """
        nobody = self.watched[0]
        while not until():
            self._renew()
            begun = time.thread_time()
            for watched in self.watched:
                for _ in range(TAP_QUEUE):
                    message = watched.take()
                    if message is None:
                        break
                    yield watched, message
                    del message
                    if until():
                        return
                watched.thin()  # after a look, which on a busy machine may be the only one meanwhile
            if self.ended:
                return
            yield nobody, None
            self.ended = self._wait(self._pause(period, time.thread_time() - begun))

    def _pause(self, period: float, computed: float) -> float:
        """Return how many seconds to sleep; a flood is not looked at any longer than it has to be."""
        pause = _LONGEST_REST
        if any(watched.tapped for watched in self.watched):
            pause = max(period, min(computed * _REST, _LONGEST_REST))
        return min(pause, *(watched.due_s for watched in self.watched))

    def _wait(self, seconds: float) -> bool:
        """Sleep; tell whether the daemon has closed the connection, as it does at the end."""
        readable, _, _ = select.select([self._run], (), (), seconds)
        return bool(readable)

    def _renew(self) -> None:
        now = time.monotonic_ns()
        if now - self._renewed_ns > _RENEWAL_NS:
            self._renewed_ns = now
            for watched in self.watched:
                watched.renew(now + _LEASE_NS)

    def close(self) -> None:
        """Take the taps away."""
        self.watched = []
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
