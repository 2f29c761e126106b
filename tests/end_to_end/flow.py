"""Dataflows of real processes, written and run by tests."""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import yaml
from shared_template import left_by_runs
from waiting import TIMEOUT

import dora
from dora.daemon.guardian import marked_processes
from dora.daemon.logs.entry import LogEntry
from dora.daemon.supervisor.result import DataflowResult, LinkReport
from dora.wire.counters import LEFT_OUT


class Flow:
    """One folder with scripts and a dataflow file. What the nodes print is kept."""

    def __init__(self, directory: Path, root: str) -> None:
        self.directory = directory
        self.root = root
        self.entries: list[LogEntry] = []
        self.preload: bool | None = None  # whether nodes start from a template process; None: where it pays
        self._nodes: list[dict[str, Any]] = []

    def node(self, node_id: str, script: str | None = None, **fields: Any) -> None:
        """Add a node; ``script`` is the text of its program."""
        if script is not None:
            (self.directory / f"{node_id}.py").write_text(textwrap.dedent(script))
            fields.setdefault("path", f"{node_id}.py")
        self._nodes.append({"id": node_id, **fields})

    def file(self, name: str, text: str) -> str:
        (self.directory / name).write_text(textwrap.dedent(text))
        return name

    def write(self) -> str:
        path = self.directory / "dataflow.yml"
        path.write_text(yaml.safe_dump({"nodes": self._nodes}, sort_keys=False))
        return str(path)

    def run(self, **options: Any) -> DataflowResult:
        """Run to the end in this process; raises `dora.DataflowFailed`."""
        options.setdefault("preload", self.preload)
        return dora.run(self.write(), on_log=self.entries.append, **options)

    def run_command(self, *arguments: str, command: str = "run") -> subprocess.CompletedProcess[str]:
        """Run ``dora run``, or another command with a dataflow file, as a user does."""
        return subprocess.run(
            [sys.executable, "-m", "dora", command, self.write(), *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def printed(self, node_id: str) -> list[str]:
        """Return the lines that a node printed, errors included."""
        return [entry.message for entry in self.entries if entry.node_id == node_id]

    def assert_nothing_left(self) -> None:
        left = left_by_runs(self.root)
        assert not left, f"a run left {left}: {[os.listdir(f'{self.root}/{each}') for each in left]}"
        for dataflow_id in _names(self.directory / "out"):
            short = dataflow_id.replace("-", "")[-12:]
            assert glob.glob(f"/dev/shm/*{short}*") == [], "a run left its shared memory"

    def kill_the_rest(self) -> None:
        """Kill what runs although its test has ended, which has failed then."""
        for dataflow_id in _names(self.directory / "out"):
            for pid in marked_processes(dataflow_id):
                os.kill(pid, signal.SIGKILL)


def _names(directory: Path) -> list[str]:
    return os.listdir(directory) if directory.exists() else []


def link(result: DataflowResult, name: str) -> LinkReport:
    """Return the report of a link, after checking that every message is accounted for."""
    (report,) = [item for item in result.links if item.link == name]
    left_out = sum(report.count(counter) for counter in LEFT_OUT)
    assert report.sent == report.received + report.dropped + left_out + report.unread, report
    return report
