"""The clock of this machine, compared with the coordinator's by the round trips of heartbeats."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Protocol

from dora.cluster.heartbeat import Heartbeat, HeartbeatAnswer
from dora.cluster.protocol import (
    HEARTBEAT_INTERVAL,
    RunSpec,
    ToCoordinator,
    ToDaemon,
)
from dora.wire.clock import ClockFilter, round_trip


class Run(Protocol):
    """A dataflow of this machine."""

    spec: RunSpec

    def command(self, message: ToDaemon) -> None: ...


class ClockSync:
    """Sends heartbeats, and tells the workers of distributed dataflows how the clocks differ."""

    def __init__(self) -> None:
        self._filter = ClockFilter()
        self._last: HeartbeatAnswer | None = None

    async def send_heartbeats(self, outgoing: asyncio.Queue[ToCoordinator]) -> None:
        """Send a heartbeat whenever nothing else is sent, without end."""
        while True:
            if outgoing.empty():
                outgoing.put_nowait(Heartbeat(time.time_ns(), self._filter.best))
            await asyncio.sleep(HEARTBEAT_INTERVAL)

    def take(self, answer: HeartbeatAnswer, runs: Iterable[Run]) -> None:
        """Learn from an answer, and pass it on to all dataflows."""
        self._filter.add(round_trip(answer.sent_ns, answer.received_ns, answer.answered_ns, time.time_ns()))
        self._last = answer
        for run in runs:
            self.tell(run)

    def tell(self, run: Run) -> None:
        """Pass the differences of the clocks on to a dataflow that runs on several machines."""
        if self._last is not None and len(set(run.spec.machines.values())) > 1:
            run.command(self._last)
