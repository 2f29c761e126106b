"""How far a run is, as facts for a command that shows them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

import msgspec

from dora.daemon.event_loop import Loop
from dora.daemon.supervisor.supervisor import Supervisor
from dora.wire.daemon_protocol import RunProgress, WaitingNode

INTERVAL: Final = 1.0  # seconds
MOST_LOOKED_AT: Final = 20  # nodes whose imports are looked at; each takes a processor 0.3 ms
_PACKAGE: Final = re.compile(r"/(?:site|dist)-packages/([A-Za-z0-9_]+)[^/\n]*/[^\n]*$", re.MULTILINE)
FRESH: Final = 5.0  # seconds without a new library, after which an import is taken for finished


class MeasuredDaemon(Protocol):
    """The part of `dora.daemon.daemon.Daemon` that is measured."""

    supervisor: Supervisor
    loop: Loop
    on_running: Callable[[], None] | None

    def counts(self, node_ids: Collection[str]) -> tuple[int, int, int]:
        """Return how many messages all links delivered and lost, and how many these nodes have sent."""

    def loading_pid(self, node_id: str) -> int | None:
        """Return the process that imports packages for a node."""


class ProgressMeter:
    """Measures the progress of a run, on the daemon's thread."""

    def __init__(self, daemon: MeasuredDaemon, counted: Collection[str] = ()) -> None:
        """``counted``: the nodes whose sent messages are counted."""
        self._daemon = daemon
        self._counted = counted
        self._loading = LoadingPackages()

    def measure(self) -> RunProgress:
        """Return the progress now."""
        run = self._daemon.supervisor.state
        started = [node for node in run.nodes.values() if not node.spec.is_dynamic]
        waiting: list[WaitingNode] = []
        if run.stopping:
            waiting = [WaitingNode(node.id) for node in started if node.phase != "ended"]
        elif not run.opened:
            for node in started:
                if node.phase == "starting":
                    looked_at = len(waiting) < MOST_LOOKED_AT
                    loading = self._loading.package(self._daemon.loading_pid(node.id)) if looked_at else ""
                    waiting.append(WaitingNode(node.id, loading))
        received, dropped, sent = self._daemon.counts(self._counted)
        return RunProgress(
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


def merged(parts: Sequence[RunProgress]) -> RunProgress:
    """Return the progress of a dataflow on several machines; each knows all nodes and its own messages.

    >>> one = RunProgress(2, False, False, (WaitingNode("a"),), 1, (), (), 3, 0, 0)
    >>> other = RunProgress(2, False, False, (WaitingNode("a", "torch"),), 1, (), (), 4, 1, 0)
    >>> both = merged([one, other])
    >>> both.waiting, both.received, both.dropped
    ((WaitingNode(id='a', loading='torch'),), 7, 1)
    """
    loading = {node.id: node.loading for part in parts for node in part.waiting if node.loading}
    return msgspec.structs.replace(
        parts[0],
        waiting=tuple(WaitingNode(node.id, loading.get(node.id, "")) for node in parts[0].waiting),
        received=sum(part.received for part in parts),
        dropped=sum(part.dropped for part in parts),
        sent=sum(part.sent for part in parts),
    )


def report_progress(
    daemon: MeasuredDaemon, report: Callable[[RunProgress], None], counted: Collection[str]
) -> None:
    """Measure the progress of a run each second, and when all nodes have started.

    To be called before `Daemon.run`. ``report`` is called on the daemon's thread and has to be quick.
    ``counted`` as in `ProgressMeter`.
    """
    meter = ProgressMeter(daemon, counted)

    def measure() -> None:
        report(meter.measure())

    def tick() -> None:
        if daemon.supervisor.state.done:
            return
        if daemon.supervisor.state.begun:
            measure()
        daemon.loop.call_later(INTERVAL, tick)

    daemon.on_running = measure
    tick()


class LoadingPackages:
    """Tells which package a process seems to import, from the libraries that it has mapped (Linux).

    It compares them each time that it is asked. Packages without compiled modules leave no trace.
    """

    def __init__(self) -> None:
        self._seen: dict[int, frozenset[str]] = {}
        self._newest: dict[int, tuple[str, float]] = {}

    def package(self, pid: int | None) -> str:
        """Return the package that a process has loaded a library of lately; "" if there is none."""
        if pid is None:
            return ""
        libraries, packages = _mapped(pid)
        now = time.monotonic()
        seen = self._seen.get(pid, frozenset())
        if libraries - seen:
            self._seen[pid] = libraries
            before = {_owner(library) for library in seen}
            # The kernel maps each library below those before it, and lists the lowest first.
            new = next((name for name in packages if name not in before), packages[0] if packages else "")
            self._newest[pid] = (new, now)
        name, since = self._newest.get(pid, ("", 0.0))
        return name if now - since < FRESH else ""


def _owner(library: str) -> str:
    found = _PACKAGE.search(library)
    return found[1] if found is not None else ""


def _mapped(pid: int) -> tuple[frozenset[str], list[str]]:
    """Return the lines of libraries in packages, and these packages, the newest first."""
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:
            text = maps.read()
    except OSError:
        return frozenset(), []  # it has ended, or there is no /proc
    found = {match[0]: match[1] for match in _PACKAGE.finditer(text)}
    return frozenset(found), list(dict.fromkeys(found.values()))
