"""The taps of a recorder on a running dataflow."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from dora.daemon.runs import DaemonClient
from dora.errors import ConnectError, DoraError
from dora.inspection.topics import Topic, find_tappable
from dora.recording.intake import RecordedTopic, TappedSource
from dora.recording.taped import RingTaps
from dora.transport.board import Board
from dora.transport.taps import open_taps
from dora.wire.inspection import Inspection
from dora.wire.requests import CloseTaps, OpenTaps

_LEASE_NS: Final = 2_000_000_000  # how long an output is looked at after the last renewal
_RENEWAL_NS: Final = _LEASE_NS // 4
_SETTLING: Final = 0.01  # seconds until a sender has surely seen that it is looked at


class RecorderTaps:
    """Taps on topics, each with as long a queue as there is room for."""

    def __init__(
        self, run: DaemonClient, inspection: Inspection, names: Sequence[str], room: int, *, together: bool
    ) -> None:
        """Attach to the topics of these names, or to all; raises `DoraError` if one cannot be.

        ``room``: bytes that may wait in this process. ``together``: nothing has been sent yet, so
        everything is expected.
        """
        self._run = run
        self._room = room
        topics = found_here(inspection, names)
        self.slots: set[int] = set()
        self.topics: list[RecordedTopic] = []
        self._ask(topics)
        try:
            self._board = Board.open(inspection.board)
        except OSError:
            raise ConnectError("the dataflow has just ended") from None
        self._engine = open_taps(inspection)
        # Zenoh's taps have as long a queue as this process has memory.
        self._tapes = RingTaps(len(topics) if inspection.engine == "iceoryx2" else 0)
        self._renewed_ns = 0
        try:
            self._tap(topics, together)
        except BaseException:
            self.close()
            raise

    def follow(self, inspection: Inspection) -> None:
        """Attach to outputs that the dataflow has got since."""
        topics = [topic for topic in found_here(inspection, ()) if topic.output.slot not in self.slots]
        if topics:
            self._ask(topics)
            self._tap(topics, together=False)  # without a tape; the node has looked for one already

    @property
    def tape_folder(self) -> str:
        """Where nodes find tapes for their small messages; "" if there are none."""
        return self._tapes.directory

    def renew(self) -> None:
        """Tell senders that they are still looked at; to be called several times a second."""
        now = time.monotonic_ns()
        if now - self._renewed_ns > _RENEWAL_NS:
            self._renewed_ns = now
            for topic in self.topics:
                topic.renew(now + _LEASE_NS)

    def close(self) -> None:
        """Take the taps away."""
        self.topics = []
        self._engine.close()
        self._tapes.close()
        self._board.close()
        try:
            self._run.ask(CloseTaps())
        except DoraError:
            pass  # the dataflow has ended

    def _ask(self, topics: Sequence[Topic]) -> None:
        slots = self.slots | {topic.output.slot for topic in topics}
        self._run.ask(OpenTaps(sorted(slots), to_the_end=True))
        self.slots = slots

    def _tap(self, topics: Sequence[Topic], together: bool) -> None:
        new = []
        for topic in topics:
            tap = self._engine.deep_tap(topic.output, self._room)
            source: TappedSource = tap if self.topics else self._tapes.beside(tap, topic.output.slot)
            new.append(RecordedTopic(topic, source, topic.output.max_queue_size, self._board.words))
        self.topics += new
        self._renewed_ns = 0
        self.renew()
        if not together:
            time.sleep(_SETTLING)
            for item in new:
                # What is counted up to here may have been sent before there was a tap.
                item.from_start, item.before = False, item.sent
                item.tell()


def found_here(inspection: Inspection, names: Sequence[str]) -> list[Topic]:
    """Return topics as `find_tappable` does; those of nodes on other machines are recorded there."""
    machines = {node.id: node.machine for node in inspection.nodes if node.machine != inspection.machine}
    found = find_tappable(inspection, names)
    here = [topic for topic in found if topic.node_id not in machines]
    for topic in found if names else ():
        if topic.node_id in machines:
            raise DoraError(
                f"`{topic.name}` is sent on machine `{machines[topic.node_id]}`, and can be recorded there"
            )
    if not here:
        raise DoraError(
            "all outputs of this dataflow are sent on other machines, and have to be recorded there"
        )
    return here
