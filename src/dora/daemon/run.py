"""Run a dataflow in this process: everything that `dora run` and `dora.run` share."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import TYPE_CHECKING, Any

from dora._paths import run_path
from dora.daemon.daemon import Daemon
from dora.daemon.event_loop import Loop
from dora.daemon.logs.entry import LogEntry
from dora.daemon.options import LocalRunOptions, RunOptions, choose_engine, finish_grace_from_environment
from dora.daemon.run_directory import RunDirectory, check_shared_memory, usable_root
from dora.daemon.signals import SignalEchoes
from dora.daemon.supervisor.result import DataflowResult
from dora.daemon.watchdog import Watchdog
from dora.dataflow.layout import Placement, RunContext
from dora.dataflow.model import Dataflow
from dora.transport.engines import ENGINES
from dora.wire.correlation import uuid7
from dora.wire.node_config import EngineName

if TYPE_CHECKING:
    from dora.daemon.template.process import TemplateConnection

HARD_EXIT = 130  # as shells show an end by SIGINT: 128 + 2


def run_dataflow(
    dataflow: Dataflow,
    options: LocalRunOptions,
    on_log: Callable[[LogEntry], None],
    dataflow_id: str | None = None,
    on_daemon: Callable[[Daemon], None] | None = None,
) -> DataflowResult:
    """Run a dataflow to its end and return the result; nothing of it is left then.

    May be called any number of times, also at once from several threads. Called in the main thread
    it takes SIGINT, SIGTERM and SIGHUP meanwhile: the first stops the dataflow, the second kills its
    nodes, the third ends this process; one that arrives twice at once counts once. ``on_log`` gets
    every log entry, in the calling thread; if it raises, the dataflow is stopped and the exception
    raised again. ``on_daemon`` gets the daemon before anything starts, to command it from another
    thread. Raises `DoraError` if the run cannot even begin.
    """
    stop_after = None if options.stop_after is None else time.monotonic() + options.stop_after
    engine = choose_engine(options)
    check_shared_memory(ENGINES[engine].memory_to_start)
    finish_grace = finish_grace_from_environment()
    dataflow_id = dataflow_id or uuid7()
    run_id = options.run_id or dataflow_id
    with ExitStack() as stack:  # each is closed, whatever else fails
        # First, so it is closed last: the guardian lives until the last file is removed.
        watchdog = Watchdog(run_id, run_path(run_id, usable_root()))
        stack.callback(watchdog.dismiss)
        run = RunDirectory.create(dataflow_id, run_id)
        stack.callback(run.remove)
        run.name = options.name
        template = template_for(dataflow, options, run_id, engine)
        if template is not None:
            stack.callback(template.close)
        placement = Placement() if options.join is None else options.join()
        context = RunContext(
            dataflow_id=run.dataflow_id,
            run_dir=run.path,
            prefix=run.prefix,
            board=run.board,
            engine=engine,
            tap_queue=options.tap_queue,
            trace=options.trace_config,
            placement=placement,
            coordinator=options.coordinator,
        )
        loop = Loop()
        stack.callback(loop.close)  # after the daemon, which takes its descriptors out of it
        daemon = Daemon(loop, dataflow, options, context, run, on_log, watchdog, finish_grace, template)
        stack.callback(daemon.close)
        if on_daemon is not None:
            on_daemon(daemon)
        with _Interrupts(daemon):
            result = daemon.run(stop_after)
        log_error = daemon.run_log.error
    if log_error is not None:
        raise log_error
    return result


def template_for(
    dataflow: Dataflow, options: RunOptions, run_id: str, engine: EngineName
) -> TemplateConnection | None:
    """Return a template process for the nodes of a run; None if it can, or shall, have none."""
    if options.preload is False or not sys.platform.startswith("linux"):
        return None
    from dora.daemon.template.process import open_template

    return open_template(start=options.preload or saves_time(dataflow), run_id=run_id, engine=engine)


def saves_time(dataflow: Dataflow) -> bool:
    """Return whether a run should start a template process of its own, where none is warm.

    It has to import everything first, and meanwhile the cores of the machine start as many nodes plainly.
    So it is for more nodes, and for those whose packages the dataflow names.
    """
    nodes = [n for n in dataflow.nodes if not (n.preload is None or n.is_dynamic or n.is_shell)]
    return any(node.preload for node in nodes) or len(nodes) > (os.cpu_count() or 1)


class _Interrupts:
    """Signal handlers for as long as a dataflow runs in the main thread."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._count = 0
        self._echoes = SignalEchoes()
        self._before: dict[int, Any] = {}
        self._wakeup = -1

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows handlers in the main thread only
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup
            self._before[number] = signal.signal(number, self._handle)
        # The kernel may give a signal to another thread, which does not wake the loop by itself.
        self._wakeup = signal.set_wakeup_fd(self._daemon.loop.wake_fd, warn_on_full_buffer=False)

    def __exit__(self, *_: object) -> None:
        if self._before:
            signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._echoes.is_echo(number):
            return
        self._count += 1
        if self._count >= 3:
            self._daemon.kill_hard()
            os._exit(HARD_EXIT)  # `sys.exit` would begin a clean-up, which may hang
        self._daemon.interrupt(self._count)
