"""Checks that the nodes with a `health_check_timeout` make progress."""

from __future__ import annotations

from collections.abc import Callable

from dora.daemon.accounting import Accounting
from dora.daemon.control_server import NodeTable
from dora.daemon.event_loop import Loop
from dora.daemon.processes.process import is_stopped
from dora.daemon.supervisor.events import Progress
from dora.daemon.supervisor.state import RunState
from dora.dataflow.model import Dataflow


class Health:
    """Checks the nodes regularly, and feeds `Progress` of each that makes progress.

    A node does if it waits for events, or has received or sent something since the last check.
    """

    def __init__(
        self,
        loop: Loop,
        state: RunState,
        nodes: NodeTable,
        accounting: Accounting,
        feed: Callable[[Progress], None],
    ) -> None:
        self._loop = loop
        self._state = state
        self._nodes = nodes
        self._accounting = accounting
        self._feed = feed
        self._counters: dict[str, tuple[int, ...]] = {}
        self._interval = 0.0
        self._checks = False  # now, or with a timer that has not expired

    def watch(self, dataflow: Dataflow) -> None:
        """Check as often as the nodes of a dataflow need it; never, if none has a timeout."""
        timeouts = [
            node.health_check_timeout
            for node in dataflow.nodes
            if node.health_check_timeout is not None and not node.is_dynamic
        ]
        # At least three looks in the shortest timeout, so a look that comes late does no harm.
        self._interval = min(dataflow.health_check_interval, min(timeouts) / 3) if timeouts else 0.0
        if timeouts and not self._checks:
            self._checks = True
            self._check()

    def _check(self) -> None:
        if not self._interval:
            self._checks = False
            return
        for node_id, node in list(self._state.nodes.items()):  # a copy: `feed` may change it
            connection = self._nodes.get(node_id)
            if node.spec.health_check_timeout is None or not node.present or connection is None:
                continue
            waits, counters = self._accounting.activity(node_id)
            moved = self._counters.get(node_id) != counters
            self._counters[node_id] = counters
            # A process that was stopped while it waited still has its flag `ASLEEP`.
            if (waits or moved) and not is_stopped(connection.pid):
                self._feed(Progress(node_id))
        self._loop.call_later(self._interval, self._check)
