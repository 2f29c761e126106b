"""Run small dataflows of fake nodes, which speak the control protocol and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from waiting import wait_until

from dora.daemon.guardian import marked_processes
from dora.daemon.logs.entry import LogEntry
from dora.daemon.options import LocalRunOptions
from dora.daemon.run import run_dataflow
from dora.daemon.supervisor.result import DataflowResult
from dora.dataflow.model import Dataflow, InputSpec, NodeOutput, NodeSpec, TimerSource
from dora.transport.engines import best_engine
from dora.wire.correlation import uuid7

HERE = os.path.dirname(__file__)

OnEntry = Callable[[LogEntry], None]


class Bench:
    """Writes scripts, runs dataflows, keeps what they printed."""

    def __init__(self, directory: Path, root: str) -> None:
        self.directory = directory
        self.root = root
        self.entries: list[LogEntry] = []
        self.ids: list[str] = []
        self._drivers: list[subprocess.Popen[str]] = []

    def node(
        self, node_id: str, script: str | None, *, inputs: dict[str, str] | None = None, **more: Any
    ) -> NodeSpec:
        """Make a node from the text of its script; inputs as in ``{"x": "camera/image"}``."""
        if script is not None:
            (self.directory / f"{node_id}.py").write_text(textwrap.dedent(script))
            more.setdefault("path", f"{node_id}.py")
        parsed = []
        for input_id, source in (inputs or {}).items():
            producer, _, output = source.partition("/")
            if producer == "timer":
                parsed.append(InputSpec(input_id, TimerSource(10_000_000, "dora/timer/millis/10")))
            else:
                parsed.append(InputSpec(input_id, NodeOutput(producer, output)))
        return NodeSpec(node_id, inputs=tuple(parsed), **more)

    def dataflow(self, *nodes: NodeSpec, **more: Any) -> Dataflow:
        return Dataflow(nodes, str(self.directory), env={"PYTHONPATH": HERE}, **more)

    def run(
        self,
        *nodes: NodeSpec,
        on_entry: OnEntry | None = None,
        options: LocalRunOptions | None = None,
        **more: Any,
    ) -> DataflowResult:
        """Run to the end in this thread. ``on_entry`` sees each log entry, in the daemon's thread."""
        dataflow_id = uuid7()  # runs may be started by several threads
        self.ids.append(dataflow_id)

        def on_log(entry: LogEntry) -> None:
            self.entries.append(entry)
            if on_entry is not None:
                on_entry(entry)

        dataflow = self.dataflow(*nodes, **more)
        options = options or LocalRunOptions(engine=best_engine())
        quiet = msgspec.structs.replace(options, black_box=0.0)  # it has tests of its own
        return run_dataflow(dataflow, quiet, on_log, dataflow_id)

    def lines(self, node_id: str | None) -> list[str]:
        """Return what a node printed, and what the daemon said about it."""
        return [entry.message for entry in self.entries if entry.node_id == node_id]

    def drive(self, *nodes: NodeSpec) -> tuple[subprocess.Popen[str], str]:
        """Run in another process; returns it and the id of the dataflow."""
        import msgspec

        self.ids.append(uuid7())
        (self.directory / "dataflow.json").write_bytes(msgspec.json.encode(self.dataflow(*nodes)))
        driver = subprocess.Popen(
            [sys.executable, f"{HERE}/driver.py", str(self.directory / "dataflow.json"), self.ids[-1]],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._drivers.append(driver)
        return driver, self.ids[-1]

    def clean_up(self) -> None:
        for driver in self._drivers:
            driver.kill()
            driver.wait()
            if driver.stdout is not None:
                driver.stdout.close()
        for dataflow_id in self.ids:
            for pid in marked_processes(dataflow_id):
                os.kill(pid, signal.SIGKILL)

    def assert_nothing_left(self, dataflow_id: str) -> None:
        short = dataflow_id.replace("-", "")[-12:]
        assert short not in os.listdir(self.root), "a run left its directory"
        assert not [name for name in os.listdir("/dev/shm") if short in name], "shared memory is left"
        # A killed process has an environment until it is really gone.
        wait_until(lambda: not marked_processes(dataflow_id), "the end of all processes")


def when(text: str, action: Callable[[str], None]) -> OnEntry:
    """Do something once, with the rest of the line, when a line starts with ``text``."""
    done = []

    def on_entry(entry: LogEntry) -> None:
        if entry.message.startswith(text) and not done:
            done.append(1)
            action(entry.message.removeprefix(text).strip())

    return on_entry
