"""Output of a command that runs a dataflow: lines about its start and its end, and a status line.

On a terminal, a status line below the log shows what is built, which nodes the start waits for, and the
rate and the losses of a running dataflow. Elsewhere there are only lines, on standard error.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import click
import msgspec

from dora.cli.tables import counted
from dora.daemon.logs.entry import LogEntry
from dora.daemon.logs.formats import wants_colour

if TYPE_CHECKING:
    from dora.daemon.daemon import Daemon
    from dora.daemon.logs.console import Console
    from dora.daemon.progress import RunProgress
    from dora.daemon.report import RunOutcome
    from dora.daemon.supervisor.result import NodeFailure

_Function = TypeVar("_Function", bound=Callable[..., object])

Mode = Literal["status line", "lines", "long waits", "off"]

FIRST_WAIT: Final = 5.0  # seconds until a line says which nodes the start waits for; then twice as many
_QUIET_START: Final = 0.5  # seconds without a status line; drawing it costs the nodes that start some time
_REDRAW: Final = 0.2  # seconds
_LINES_KEPT: Final = 20  # per node
_DEFAULT_WIDTH: Final = 80  # of a terminal that does not know its own

progress_option: Callable[[_Function], _Function] = click.option(
    "--progress",
    type=click.Choice(["auto", "plain", "off"]),
    default="auto",
    envvar="DORA_PROGRESS",
    show_envvar=True,
    help="How to show the progress: plain is lines; auto is a status line on a terminal, and elsewhere "
    "lines about a start that takes long [auto].",
)


def reporter_for(progress: str) -> RunReporter:
    """Return the reporter for a value of ``--progress`` and the standard streams of this process."""
    terminal = sys.stdout.isatty() and sys.stderr.isatty()
    mode: Mode = "off"
    if progress == "plain":
        mode = "lines"
    elif progress == "auto" and not terminal:
        mode = "long waits"
    elif progress == "auto":
        mode = "status line" if wants_colour(True, os.environ) else "lines"
    return RunReporter(mode, one_screen=terminal)


class RunReporter:
    """Reports how one run goes. `attach` and `watch` are hooks of `dora.api.run_loaded`."""

    def __init__(self, mode: Mode, *, one_screen: bool) -> None:
        """``one_screen``: the log entries and the report are seen on the same terminal."""
        self.mode = mode
        self.page = ""  # the address of the dashboard
        self.goal = 0  # messages that the nodes given to `watch` are going to send
        self._one_screen = one_screen
        self._console: Console | None = None
        self._begun = time.monotonic()
        self._building = ""
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
        console.adapt = self._adapt
        if self.mode == "status line":
            console.show_below(self._status)

    def watch(self, daemon: Daemon, counted: Collection[str] = ()) -> None:
        """Follow a run that is about to begin; ``counted`` as in `ProgressReporter`."""
        self._begun = time.monotonic()
        self._building = ""
        if self.mode == "lines":
            nodes = sum(not node.is_dynamic for node in daemon.dataflow.nodes)
            self.say(f"starting {counted_nodes(nodes)}")
        if self.mode == "long waits":  # a quick start does not pay for it
            daemon.loop.call_at(time.monotonic() + FIRST_WAIT, lambda: self._follow(daemon, counted))
        elif self.mode != "off":
            self._follow(daemon, counted)

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
        lost = sum(link.dropped + link.unread + link.unsent for link in outcome.result.links)
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
        from dora.daemon.progress import ProgressReporter

        if self.mode != "long waits" or not daemon.supervisor.state.opened:
            ProgressReporter(daemon, self._advance, counted)

    def _adapt(self, entry: LogEntry) -> LogEntry:
        """Return the entry to show: an error that is on the terminal already is not repeated."""
        if entry.target == "build" and entry.stream == "daemon":
            self._building = f"{entry.node_id}: {entry.message.partition(chr(10))[0]}"
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

    def _advance(self, progress: RunProgress) -> None:
        """Take the facts of the moment; called on the daemon's thread."""
        now = time.monotonic()
        before = self._progress
        self._progress = progress
        if self._before is None or now - self._before[0] >= 0.9:
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
                self.say(f"{counted_nodes(progress.nodes)} {verb} running after {took}{page}")
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
            from dora.cli.status_line import drawn, is_foreground

            parts = self._parts(now) if is_foreground(sys.stdout.fileno()) else []
            width = os.get_terminal_size(sys.stdout.fileno()).columns or _DEFAULT_WIDTH
            # The address has a line of its own: cut off, it would open nothing.
            page = f"\n{self.page}" if parts and 0 < len(self.page) < width else ""
            self._drawn = (now, drawn(parts, width) + page)
        return self._drawn[1]

    def _parts(self, now: float) -> list[tuple[str, str]]:
        """Return the texts of the status line, each with its style of Rich."""
        progress = self._progress
        seconds = duration(int(now - self._begun))
        if progress is None:
            return [("building", "bold"), (f"{self._building} ({seconds})", "")] if self._building else []
        if progress.stopping:
            names = shortened([node.id for node in progress.waiting])
            return [("stopping", "bold"), (f"waiting for {names}", "")] if progress.waiting else []
        if not progress.started:
            return [
                (f"starting {counted_nodes(progress.nodes)}", "bold"),
                (waiting(progress, int(now - self._begun)), ""),
            ]
        parts = [(f"{progress.running} of {counted_nodes(progress.nodes)}", "bold")]
        if self.goal:
            parts += goal_parts(progress.sent, self.goal, self._rates[1])
        else:
            parts.append((f"{self._rates[0]:,.0f} messages/s", ""))
        parts.append(
            (f"{progress.dropped:,} dropped", "yellow") if progress.dropped else ("none dropped", "dim")
        )
        if progress.restarting:
            parts.append((f"restarting {shortened(progress.restarting)}", "yellow"))
        if progress.failed:
            parts.append((f"failed: {shortened(progress.failed)}", "red"))
        return [*parts, (seconds, "dim")]


def counted_nodes(number: int) -> str:
    """Return a number of nodes with its noun."""
    return counted(number, "node")


def waiting(progress: RunProgress, seconds: float) -> str:
    """Return which nodes the start waits for, how long already, and which packages they import.

    >>> from dora.daemon.progress import RunProgress, WaitingNode
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


def goal_parts(sent: int, goal: int, rate: float) -> list[tuple[str, str]]:
    """Return how much is done, the rate, and the time left.

    >>> goal_parts(600, 1000, 100.0)
    [('60 % of 1,000 messages', 'cyan'), ('100 messages/s', ''), ('4 s left', '')]
    """
    done = min(sent, goal)
    parts = [
        (f"{100 * done // goal} % of {counted(goal, 'message')}", "cyan"),
        (f"{rate:,.0f} messages/s", ""),
    ]
    if rate > 0 and done < goal:
        parts.append((f"{duration(int((goal - done) / rate))} left", ""))
    return parts


def duration(seconds: float) -> str:
    """Return a time for people; below ten seconds, a float has a decimal.

    >>> duration(0.84), duration(7), duration(12.3), duration(75), duration(7300)
    ('0.8 s', '7 s', '12 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 10 and isinstance(seconds, float):
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
