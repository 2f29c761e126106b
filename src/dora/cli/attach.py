"""Shows a dataflow of the coordinator as ``dora run`` shows its own: its logs, its progress and its end."""

from __future__ import annotations

import functools
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

import click
import msgspec

from dora.cli.process import interrupts_held, termination_as_interrupt
from dora.cli.progress_bar import FIRST_WAIT
from dora.cli.reports import report_end
from dora.daemon.client import DaemonClient, running
from dora.daemon.logs.console import Console
from dora.daemon.logs.display import Display, unshown_warning
from dora.daemon.logs.formats import renderer, wants_colour
from dora.daemon.logs.reader import LogReader
from dora.errors import ConnectError, DoraError
from dora.transport.tokens import TokenError

if TYPE_CHECKING:
    from dora.cli.run_reporter import RunReporter
    from dora.cli.running import RunningDataflow
    from dora.cluster.client import Client
    from dora.cluster.http_api import DataflowView

LOG_INTERVAL: Final = 0.1  # seconds between reads of the log files
STATUS_INTERVAL: Final = 0.5  # seconds between requests to the coordinator, once all nodes run
_START_INTERVAL: Final = 0.25  # seconds between questions about the progress while nodes start
_INTERVAL: Final = 1.0  # and then


class Watching(msgspec.Struct, frozen=True):
    """How `attach_to` shows a dataflow, and when it stops it. Times are in seconds."""

    display: Display = Display()
    stop_after: float | None = None  # from the moment at which all nodes are ready
    grace: float | None = None
    kills: bool = False  # the second Ctrl-C kills the nodes, and the third returns
    check: Callable[[], None] = lambda: None  # called now and then; what it raises ends the command


_PLAIN: Final = Watching()


def attach_to(
    client: Client, view: DataflowView, reporter: RunReporter, watching: Watching = _PLAIN
) -> int:
    """Show the logs of a dataflow until it ends; return the exit status.

    The first Ctrl-C stops the dataflow, the second returns at once.
    """
    console = _console(view, watching.display)
    try:
        with (
            closing(LogReader(view.log_directory)) as logs,
            termination_as_interrupt(),
            following(client, view, reporter, console),
        ):
            view, detached = _show(client, view, reporter, console, watching, logs)
    finally:
        console.close()
    if console.not_shown:
        click.echo(unshown_warning(console.not_shown, view.log_directory), err=True)
    if detached:
        click.echo("\ndetached; the dataflow is still stopping", err=True)
        return 1
    return report_end(view, reporter)


def _show(
    client: Client,
    view: DataflowView,
    reporter: RunReporter,
    console: Console,
    watching: Watching,
    logs: LogReader,
) -> tuple[DataflowView, bool]:
    """Show the logs until the end; return the last state, and whether the user has detached."""
    announced = unreachable = False
    interrupts = 0
    asked_at = 0.0
    end = math.inf
    while True:
        try:
            watching.check()
            if time.monotonic() >= end:
                end = math.inf
                client.stop(view.uuid, watching.grace, False)
            if time.monotonic() - asked_at >= (STATUS_INTERVAL if announced else LOG_INTERVAL):
                asked_at = time.monotonic()
                view, unreachable = _poll_status(client, view, unreachable, reporter)
                if not announced and _has_started(view):
                    announced = True
                    if watching.stop_after is not None:
                        end = time.monotonic() + watching.stop_after
                    if reporter.mode in ("long waits", "off"):  # otherwise it says so
                        console.say(f"dataflow started: {view.uuid}", to_output=True)
            with interrupts_held():  # an interrupt here would lose entries that were read
                for entry in logs.entries():
                    console(entry)
            if view.status in ("Finished", "Failed"):  # known before the last entries were read
                return view, False
            time.sleep(LOG_INTERVAL)
        except KeyboardInterrupt:
            interrupts += 1
            if interrupts > 1 + watching.kills:
                return view, True
            if interrupts == 1:
                then = "kills its nodes" if watching.kills else "detaches from it"
                reporter.say(f"\nstopping the dataflow; a second Ctrl-C {then}")
            client.stop(view.uuid, watching.grace, interrupts > 1)


def _console(view: DataflowView, display: Display = _PLAIN.display) -> Console:
    colour = wants_colour(sys.stdout.isatty(), os.environ)
    render = renderer(display.format, colour=colour, nodes=view.nodes, dataflow_id=view.uuid)
    return Console(sys.stdout, render, display.filter)


def _has_started(view: DataflowView) -> bool:
    """Return whether all nodes have been ready; a short dataflow may have ended since."""
    return view.status == "Running" or (view.status == "Finished" and not view.reason)


def _poll_status(
    client: Client, view: DataflowView, unreachable: bool, reporter: RunReporter
) -> tuple[DataflowView, bool]:
    """Return the state of the dataflow, and whether the coordinator is unreachable."""
    from dora.cluster.client import Unreachable

    try:
        return client.dataflow(view.uuid), False
    except (Unreachable, TokenError):
        if not unreachable:
            reporter.say(f"no answer from the coordinator at {client.where}; the dataflow goes on")
        return view, True


# --------------------------------------------------------------------------- progress


@contextmanager
def following(
    client: Client, view: DataflowView, reporter: RunReporter, console: Console | None = None
) -> Iterator[None]:
    """Report the progress of a dataflow in this block.

    Without a console, its logs are not shown, and nothing is reported any more when all nodes run.
    """
    if reporter.mode == "off":
        if console is not None:
            reporter.attach(console)
        yield
        return
    shown = console or _console(view)
    reporter.attach(shown)
    ended = threading.Event()
    follower = _Follower(client, view, reporter, ended)
    # In threads, because a daemon may take seconds to answer, and the logs must not wait for that.
    threads = [threading.Thread(target=follower.follow, args=(console is None,), daemon=True)]
    if console is None:
        threads.append(threading.Thread(target=follower.read_logs, daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()  # they are not waited for: one may be waiting for an answer
        if console is None:
            shown.close()


class _Follower:
    def __init__(
        self, client: Client, view: DataflowView, reporter: RunReporter, ended: threading.Event
    ) -> None:
        self._client = client
        self._view = view
        self._reporter = reporter
        self._ended = ended
        # Once: the daemons are looked for again and again.
        self._warn = functools.cache(lambda text: reporter.say(f"warning: {text}"))

    def read_logs(self) -> None:
        """Give the log entries to the reporter alone, which finds the steps of the build in them."""
        with closing(LogReader(self._view.log_directory)) as logs:
            while not self._ended.wait(_START_INTERVAL):
                for entry in logs.entries():
                    self._reporter.adapt(entry)

    def follow(self, until_started: bool) -> None:
        """Ask the daemons how far the run is, again and again, until the end."""
        every = _START_INTERVAL
        begun = False
        run: RunningDataflow | None = None
        # A quick start does not pay for a line that is not printed.
        self._ended.wait(FIRST_WAIT if self._reporter.mode == "long waits" else 0.0)
        try:
            while not self._ended.wait(every):
                try:
                    if run is None:
                        run = _connect(self._client, self._view.uuid, self._warn)
                        continue
                    progress = run.progress()
                except DoraError:
                    # It is built, or has ended, or a machine is cut off.
                    if run is not None:
                        run.close()
                    run, every = None, _INTERVAL
                    continue
                if self._ended.is_set() or (until_started and progress.started):
                    return
                if not begun:
                    begun = True
                    self._reporter.begin(progress.nodes)
                self._reporter.advance(progress)
                every = _INTERVAL if progress.started else _START_INTERVAL
        finally:
            if run is not None:
                run.close()


def _connect(client: Client, dataflow_id: str, on_silent: Callable[[str], None]) -> RunningDataflow:
    """Connect to the daemon of a dataflow, or to one of them; raises `DoraError`.

    ``on_silent`` as for `running`: one of them may be the dataflow's.
    """
    from dora.cli.running import RunningDataflow

    local: DaemonClient | None = None
    for run in running(on_silent):
        if local is None and run.description.dataflow_id == dataflow_id:
            local = run
        else:
            run.close()
    if local is not None:
        return RunningDataflow(local, client=client)
    view = client.dataflow(dataflow_id)
    if not view.machines:
        raise ConnectError("no machine runs it yet")
    return RunningDataflow(None, view, client)
