"""Ask the daemons for the numbers of what runs, and count what is asked of the coordinator itself.

The daemons are asked at the same time; one that does not answer soon is left out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from dora.coordinator.protocol import GetMetrics, MetricsResult
from dora.wire.survey import DataflowMetrics

METRICS_TIMEOUT: Final = 2.0  # seconds for the daemons' answers

Send = Callable[[GetMetrics], None]


class MetricsCollector:
    """Asks daemons for surveys and gathers their answers. For one event loop."""

    def __init__(self) -> None:
        self._number = 0
        self._waiting: dict[int, tuple[set[str], dict[str, list[DataflowMetrics]], asyncio.Event]] = {}

    async def ask(self, machines: Mapping[str, Send]) -> dict[str, list[DataflowMetrics]]:
        """Return the surveys of those daemons that answer in time."""
        self._number += 1
        number = self._number
        found: dict[str, list[DataflowMetrics]] = {}
        complete = asyncio.Event()
        self._waiting[number] = set(machines), found, complete
        try:
            for send in machines.values():
                send(GetMetrics(number))
            if machines:
                await asyncio.wait_for(complete.wait(), METRICS_TIMEOUT)
        except TimeoutError:
            pass
        finally:
            del self._waiting[number]
        return found

    def take(self, machine: str, answer: MetricsResult) -> None:
        """Note an answer; one that comes too late is for nobody."""
        if answer.number in self._waiting:
            missing, found, complete = self._waiting[answer.number]
            found[machine] = answer.surveys
            missing.discard(machine)
            if not missing:
                complete.set()


class RequestCounter:
    """Counts the requests of the API by method, path and status."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, int]] = Counter()
        self.seconds: dict[tuple[str, str], float] = {}

    def add(self, method: str, path: str, status: int, seconds: float) -> None:
        """Note a request. ``path`` is the one of the route, so that names do not make new series."""
        self.counts[method, path, status] += 1
        self.seconds[method, path] = self.seconds.get((method, path), 0.0) + seconds
