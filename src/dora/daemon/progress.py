"""How far a run is, as facts: measured each second for a command that shows them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

import msgspec

from dora.daemon.processes.loading import LoadingPackages

if TYPE_CHECKING:
    from dora.daemon.daemon import Daemon

INTERVAL: Final = 1.0  # seconds


class WaitingNode(msgspec.Struct, frozen=True):
    """A node that the start, or the end, of the dataflow waits for."""

    id: str
    loading: str = ""  # the package that it seems to import


class RunProgress(msgspec.Struct, frozen=True):
    """A run at one moment."""

    nodes: int  # those that dora starts
    started: bool  # all of them have been ready
    stopping: bool
    waiting: tuple[WaitingNode, ...]  # not ready yet, or while stopping: not ended yet
    running: int
    restarting: tuple[str, ...]
    failed: tuple[str, ...]
    received: int  # messages, of all links to this machine
    dropped: int
    sent: int  # messages of the nodes that were to be counted


class ProgressReporter:
    """Measures the progress of a run each second, when all nodes have started, and at each stop.

    ``report`` is called on the daemon's thread and has to be quick.
    """

    def __init__(
        self, daemon: Daemon, report: Callable[[RunProgress], None], counted: Collection[str] = ()
    ) -> None:
        """``counted``: the nodes whose sent messages are counted. To be created before `Daemon.run`."""
        self._daemon = daemon
        self._report = report
        self._counted = counted
        self._loading = LoadingPackages()
        daemon.on_running = self._measure
        self._tick()

    def _tick(self) -> None:
        if self._daemon.supervisor.state.done:
            return
        if self._daemon.supervisor.state.begun:
            self._measure()
        self._daemon.loop.call_at(time.monotonic() + INTERVAL, self._tick)

    def _measure(self) -> None:
        run = self._daemon.supervisor.state
        started = [node for node in run.nodes.values() if not node.spec.is_dynamic]
        waiting: list[WaitingNode] = []
        if run.stopping:
            waiting = [WaitingNode(node.id) for node in started if node.phase != "ended"]
        elif not run.opened:
            for node in started:
                if node.phase == "starting":
                    waiting.append(WaitingNode(node.id, self._loading.package(node.pid)))
        received, dropped, sent = self._daemon.counts(self._counted)
        progress = RunProgress(
            nodes=len(started),
            started=run.opened,
            stopping=run.stopping,
            waiting=tuple(waiting),
            running=sum(node.phase == "running" for node in started),
            restarting=tuple(node.id for node in started if node.between_processes),
            failed=tuple(failure.node_id for failure in run.failures if failure.kind != "cascading"),
            received=received,
            dropped=dropped,
            sent=sent,
        )
        self._report(progress)
