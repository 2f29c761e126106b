"""Output of a command that runs a dataflow: lines about its start and its end, and a status line.

On a terminal, a status line below the log shows what is built, which nodes the start waits for, and the
rate and the losses of a running dataflow. Elsewhere there are only lines, on standard error.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

import click
import msgspec

from dora.cli.progress_bar import (
    DEFAULT_WIDTH,
    FIRST_WAIT,
    Meter,
    Mode,
    drawn,
    duration,
    figures,
    is_foreground,
    parts,
    progress_mode,
)
from dora.cli.tables import counted
from dora.daemon.logs.entry import LogEntry
from dora.daemon.work import Work
from dora.wire.counters import UNSENT

if TYPE_CHECKING:
    from dora.daemon.daemon import Daemon
    from dora.daemon.logs.console import Console
    from dora.daemon.report import RunOutcome
    from dora.daemon.supervisor.result import NodeFailure
    from dora.daemon.work import BuildProgress
    from dora.wire.daemon_protocol import RunProgress

_QUIET_START: Final = 0.5  # seconds without a status line; drawing it costs the nodes that start some time
_REDRAW: Final = 0.2  # seconds
_SHORTEST: Final = 0.4  # seconds over which a rate is measured; a longer time leaves a new run without one
_LINES_KEPT: Final = 20  # per node, to find out which errors are on the terminal already


def reporter_for(progress: str) -> RunReporter:
    """Return the reporter for a value of ``--progress`` and the standard streams of this process."""
    return RunReporter(progress_mode(progress), one_screen=sys.stdout.isatty() and sys.stderr.isatty())


class RunReporter:
    """Reports how one run goes. `attach`, `watch_build` and `watch` are hooks of `dora.api.run_loaded`."""

    def __init__(self, mode: Mode, *, one_screen: bool) -> None:
        """``one_screen``: the log entries and the report are seen on the same terminal."""
        self.mode = mode
        self.page = ""  # the address of the dashboard
        self.goal = 0  # messages that the nodes given to `watch` are going to send
        self._one_screen = one_screen
        self._console: Console | None = None
        self._begun = time.monotonic()
        self._building = ("", "")  # which node, and what is done for it
        self._build: BuildProgress | None = None
        self._meter = Meter()
        self._progress: RunProgress | None = None
        self._before: tuple[float, RunProgress] | None = None
        self._rates = (0.0, 0.0)  # messages received, messages sent
        self._next_wait = FIRST_WAIT
        self._shown: dict[str, deque[str]] = {}  # the last lines of each node
        self._drawn = (0.0, "")  # when, and what
        self._changed = False  # since it was drawn

    # ----------------------------------------------------------------------- hooks

    def attach(self, console: Console) -> None:
        """Write through a console from now on."""
        self._console = console
        console.adapt = self.adapt
        if self.mode == "status line":
            console.show_below(self._status)

    def watch_build(self, progress: BuildProgress) -> None:
        """Follow a build that is about to begin."""
        self._build = progress
        if self.mode in ("lines", "long waits"):
            threading.Thread(target=self._tell_of_build, args=(progress,), daemon=True).start()

    def watch(self, daemon: Daemon, counted: Collection[str] = ()) -> None:
        """Follow a run that is about to begin; ``counted`` as in `ProgressMeter`."""
        self._begun = time.monotonic()
        self.begin(sum(not node.is_dynamic for node in daemon.dataflow.nodes))
        if self.mode == "long waits":  # a quick start does not pay for it
            daemon.loop.call_at(time.monotonic() + FIRST_WAIT, lambda: self._follow(daemon, counted))
        elif self.mode != "off":
            self._follow(daemon, counted)

    def begin(self, nodes: int) -> None:
        """Report that so many nodes are about to start."""
        if self._building[1]:
            self._begun = time.monotonic()
            self._building = ("", "")
        if self.mode == "lines":
            self.say(f"starting {counted(nodes, 'node')}")

    def say(self, text: str) -> None:
        """Write a line to standard error, after the log entries so far."""
        if self._console is not None:
            self._console.say(text)
        else:
            click.echo(text, err=True)

    def end_line(self, outcome: RunOutcome) -> str:
        """Return the line for the end of a run, "" for none."""
        if self.mode not in ("status line", "lines"):
            return ""
        lost = sum(link.dropped + link.unread + link.count(UNSENT) for link in outcome.result.links)
        received = sum(link.received for link in outcome.result.links)
        text = f"ended after {duration(time.monotonic() - self._begun)}"
        if outcome.result.links:
            text += f": {counted(received, 'message')} received, {f'{lost:,}' if lost else 'none'} lost"
        return text

    def was_shown(self, failure: NodeFailure) -> bool:
        """Return whether the last lines of a failed node are on the terminal of the report."""
        if not (self._one_screen and failure.last_lines):
            return False
        return failure.last_lines[-1] in self._shown.get(failure.node_id, ())

    # ----------------------------------------------------------------------- facts

    def _follow(self, daemon: Daemon, counted: Collection[str]) -> None:
        from dora.daemon.progress import report_progress

        if self.mode != "long waits" or not daemon.supervisor.state.opened:
            report_progress(daemon, self.advance, counted)

    def _tell_of_build(self, progress: BuildProgress) -> None:
        """Write a line now and then while one thing of a build takes long."""
        begun, due = self._begun, FIRST_WAIT
        while not progress.ended.wait(_REDRAW):
            if begun != self._begun:
                begun, due = self._begun, FIRST_WAIT
            now = time.monotonic()
            work = self._work()
            rate = self._meter.rate(now, work)
            if self._building[1] and now - begun >= due:
                due *= 2
                self.say(", ".join([f"building {self._doing(now - begun)}", *figures(work, rate)]))

    def _work(self) -> Work:
        """Return what the build does for the node that it logged last."""
        work = self._build.work_of(self._building[0]) if self._build is not None else None
        return work or Work()

    def _doing(self, seconds: float) -> str:
        return f"{': '.join(filter(None, self._building))} ({duration(seconds)})"

    def adapt(self, entry: LogEntry) -> LogEntry:
        """Take a log entry; return the one to show: an error that is on the terminal is not repeated."""
        if entry.target == "build" and entry.stream == "daemon":
            self._building = (entry.node_id or "", entry.message.partition("\n")[0])
            self._begun = time.monotonic()
        if not self._one_screen or entry.node_id is None:
            return entry
        lines = self._shown.setdefault(entry.node_id, deque(maxlen=_LINES_KEPT))
        if entry.stream != "daemon":
            lines.extend(entry.message.split("\n")[-_LINES_KEPT:])
            return entry
        head, colon, rest = entry.message.partition(": ")
        known = next((line for line in reversed(lines) if line and rest.startswith(line)), "")
        if not (colon and known):
            return entry
        return msgspec.structs.replace(entry, message=head + rest.removeprefix(known))

    def advance(self, progress: RunProgress) -> None:
        """Take the facts of the moment, each second or more often; called on one thread."""
        now = time.monotonic()
        before = self._progress
        self._progress = progress
        if self._before is None or now - self._before[0] >= _SHORTEST:
            if self._before is not None:
                seconds, earlier = now - self._before[0], self._before[1]
                self._rates = (
                    (progress.received - earlier.received) / seconds,
                    (progress.sent - earlier.sent) / seconds,
                )
            self._before = (now, progress)
        waited = now - self._begun
        if progress.started and not (before is not None and before.started):
            if self.mode != "long waits" or self._next_wait > FIRST_WAIT:
                page = f", the page is at {self.page}" if self.page else ""
                verb = "is" if progress.nodes == 1 else "are"
                took = duration(waited)
                self.say(f"{counted(progress.nodes, 'node')} {verb} running after {took}{page}")
        elif not (progress.started or progress.stopping) and waited >= self._next_wait:
            while self._next_wait <= waited:
                self._next_wait *= 2
            if self.mode != "status line":
                self.say(waiting(progress, waited))
        self._changed = True
        if self._console is not None:
            self._console.refresh()

    # ----------------------------------------------------------------------- status line

    def _status(self) -> str:
        """Return the status line, as wide as the terminal has room for; called on the console's thread."""
        now = time.monotonic()
        if now - self._begun < _QUIET_START and self._drawn[0] == 0.0:
            return ""
        if self._changed or now - self._drawn[0] >= _REDRAW:
            self._changed = False
            texts = self._parts(now) if is_foreground(sys.stdout.fileno()) else []
            width = os.get_terminal_size(sys.stdout.fileno()).columns or DEFAULT_WIDTH
            # The address has a line of its own: cut off, it would open nothing.
            page = f"\n{self.page}" if texts and 0 < len(self.page) < width else ""
            self._drawn = (now, drawn(texts, width) + page)
        return self._drawn[1]

    def _parts(self, now: float) -> list[tuple[str, str]]:
        """Return the texts of the status line, each with its style of Rich."""
        progress = self._progress
        seconds = duration(int(now - self._begun))
        if progress is None:
            return self._build_parts(now)
        if progress.stopping:
            names = shortened([node.id for node in progress.waiting])
            return [("stopping", "bold"), (f"waiting for {names}", "")] if progress.waiting else []
        if not progress.started:
            return [
                (f"starting {counted(progress.nodes, 'node')}", "bold"),
                (waiting(progress, int(now - self._begun)), ""),
            ]
        texts = [(f"{progress.running} of {counted(progress.nodes, 'node')}", "bold")]
        if self.goal:
            sent = Work()
            sent.become(progress.sent, self.goal, "message")
            texts += parts(sent, self._rates[1])
        else:
            texts.append((f"{self._rates[0]:,.0f} messages/s", ""))
        texts.append(
            (f"{progress.dropped:,} dropped", "yellow") if progress.dropped else ("none dropped", "dim")
        )
        if progress.restarting:
            texts.append((f"restarting {shortened(progress.restarting)}", "yellow"))
        if progress.failed:
            texts.append((f"failed: {shortened(progress.failed)}", "red"))
        return [*texts, (seconds, "dim")]

    def _build_parts(self, now: float) -> list[tuple[str, str]]:
        if not self._building[1]:
            return []
        texts = [("building", "bold")]
        if self._build is not None and self._build.steps > 1:
            step = min(self._build.done + 1, self._build.steps)
            texts.append((f"step {step} of {self._build.steps}", ""))
        work = self._work()
        texts += parts(work, self._meter.rate(now, work))
        return [*texts, (self._doing(int(now - self._begun)), "")]


def waiting(progress: RunProgress, seconds: float) -> str:
    """Return which nodes the start waits for, how long already, and which packages they import.

    >>> from dora.wire.daemon_protocol import RunProgress, WaitingNode
    >>> slow = WaitingNode("slow", "torch")
    >>> waiting(RunProgress(5, False, False, (slow,), 0, (), (), 0, 0, 0), 12.3)
    'waiting for slow (12 s, importing torch)'
    """
    packages = {node.loading: None for node in progress.waiting if node.loading}
    importing = f", importing {shortened(list(packages))}" if packages else ""
    return (
        f"waiting for {shortened([node.id for node in progress.waiting])} ({duration(seconds)}{importing})"
    )


def shortened(names: Sequence[str]) -> str:
    """Return the first three names, and how many there are more.

    >>> shortened(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
