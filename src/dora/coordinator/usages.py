"""What running dataflows use, as their machines tell when they are asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Final

from dora.coordinator.fleet import DaemonLink
from dora.coordinator.protocol import GetUsage, RunUsage

USAGE_TIMEOUT: Final = 0.15  # seconds for the answers; who is late is shown with former numbers
FRESH: Final = 1.0  # seconds for which numbers are good enough for the next who asks


class UsageCollector:
    """The newest numbers of every machine. For one event loop."""

    def __init__(self) -> None:
        self._found: dict[str, Sequence[RunUsage]] = {}  # by machine
        self._missing: set[str] = set()
        self._complete = asyncio.Event()
        self._asked_at = -FRESH

    async def measure(self, links: Mapping[str, DaemonLink]) -> None:
        """Ask these machines, unless somebody has just done so."""
        now = time.monotonic()
        if now - self._asked_at >= FRESH:
            self._asked_at = now
            self._found = {machine: self._found.get(machine, ()) for machine in links}
            self._missing = set(links)
            self._complete.clear()
            for link in links.values():
                link.send(GetUsage())
        if self._missing:
            try:
                await asyncio.wait_for(self._complete.wait(), USAGE_TIMEOUT)
            except TimeoutError:
                pass

    def take(self, machine: str, runs: Sequence[RunUsage]) -> None:
        """Note what a machine tells."""
        self._found[machine] = runs
        self._missing.discard(machine)
        if not self._missing:
            self._complete.set()

    def totals(self) -> dict[str, tuple[float, int]]:
        """Return percent of one core and bytes of memory of each dataflow, on all its machines."""
        totals: dict[str, tuple[float, int]] = {}
        for runs in self._found.values():
            for run in runs:
                cpu, memory = totals.get(run.dataflow_id, (0.0, 0))
                totals[run.dataflow_id] = round(cpu + run.cpu, 1), memory + run.memory
        return totals
