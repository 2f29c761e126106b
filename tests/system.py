"""A coordinator and a daemon of a test's own, at a port and in folders of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from commands import needs_a_process, run_command
from ports import free_port
from shared_template import share_template
from waiting import TIMEOUT, wait_until

from dora.cluster.agent.identity import running_daemon
from dora.cluster.client import Client, Unreachable

FOREVER = """
from dora import Node
for event in Node():
    print("got", event["type"], flush=True)
"""


class System:
    """Runs ``dora`` in a folder; the variables that choose port and folders are set by the fixture."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = int(os.environ["DORA_COORDINATOR_PORT"])
        self.client = Client("127.0.0.1", self.port)

    def dora(self, *arguments: str, status: int = 0) -> str:
        """Run a command, expecting this exit status; return all that it printed."""
        found, printed = self.try_dora(*arguments)
        assert found == status, f"dora {' '.join(arguments)}: {printed}"
        return printed

    def try_dora(self, *arguments: str) -> tuple[int, str]:
        """Run a command; return its exit status and all that it printed."""
        if not needs_a_process(*arguments):
            return run_command(*arguments, folder=self.folder)
        done = subprocess.run(
            [sys.executable, "-m", "dora", *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
        )
        return done.returncode, done.stdout

    def dataflow(self, name: str, **scripts: str) -> str:
        """Write a dataflow of these nodes, which have a timer as input; return its file name."""
        nodes = []
        for node, script in scripts.items():
            (self.folder / f"{name}_{node}.py").write_text(textwrap.dedent(script))
            inputs = {"tick": "dora/timer/millis/50"}
            nodes.append({"id": node, "path": f"{name}_{node}.py", "inputs": inputs})
        (self.folder / f"{name}.yml").write_text(json.dumps({"nodes": nodes}))
        return f"{name}.yml"

    def start(self, file: str, *options: str) -> str:
        """Start a dataflow and return its UUID."""
        return self.dora("start", file, "--detach", *options).split()[-1]

    def status_of(self, dataflow_id: str) -> str:
        return self.client.dataflow(dataflow_id).status

    def coordinator(self) -> int:
        return self.client.status().pid

    def daemon(self) -> int:
        pid = running_daemon("127.0.0.1", self.port)
        assert pid is not None
        return pid

    def node_pids(self, dataflow_id: str) -> list[int]:
        from dora.daemon.guardian import marked_processes

        return marked_processes(dataflow_id)

    def worker(self, dataflow_id: str) -> int:
        """Return the process of a dataflow: the child of the daemon that has the guardian of its run."""
        for worker in psutil.Process(self.daemon()).children():
            for child in worker.children():
                if dataflow_id in child.cmdline():  # an argument of the guardian
                    return int(worker.pid)
        raise AssertionError(f"there is no process of {dataflow_id}")

    def end_dataflows(self) -> None:
        """End and forget all dataflows; coordinator and daemon stay."""
        for view in self.client.active():
            self.client.stop(view.uuid, None, force=True)
        wait_until(lambda: not self.client.active(), "the end of all dataflows")
        self.client.clean()
        self._wait_for_runs()

    def clean_up(self) -> None:
        """End everything, and prove that nothing is left."""
        try:
            self.client.down(force=True)
        except Unreachable:
            pass
        pid = running_daemon("127.0.0.1", self.port)
        if pid is not None:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGTERM)
        wait_until(lambda: running_daemon("127.0.0.1", self.port) is None, "the end of the daemon")
        wait_until(self._is_down, "the end of the coordinator")
        self._wait_for_runs()

    def _wait_for_runs(self) -> None:
        root = Path(os.environ["DORA_RUNTIME_DIR"])
        wait_until(lambda: not [path for path in root.glob("*") if path.is_dir()], "the end of all runs")

    def kill_the_rest(self) -> None:
        """Kill what does not end in order, the nodes included."""
        mark = f"DORA_COORDINATOR_PORT={self.port}".encode()
        for name in filter(str.isdecimal, os.listdir("/proc")):
            try:
                if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    os.kill(int(name), signal.SIGKILL)
            except OSError:
                continue  # it has just ended

    def _is_down(self) -> bool:
        try:
            self.client.status()
        except Unreachable:
            return True
        return False


@contextmanager
def own_system(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, own_template: bool = False
) -> Iterator[System]:
    """Choose a port and folders, and end what was started there.

    ``own_template``: the daemon starts a template of its own.
    """
    root = tempfile.mkdtemp(prefix="dora-test-", dir="/tmp")  # pytest's is too long for sockets
    if not own_template:
        share_template(root)
    monkeypatch.setenv("DORA_RUNTIME_DIR", root)
    monkeypatch.setenv("DORA_DATA_DIR", str(folder / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setenv("DORA_COORDINATOR_PORT", str(free_port()))
    monkeypatch.delenv("DORA_AUTH_TOKEN", raising=False)
    system = System(folder)
    yield system
    try:
        system.clean_up()
    except BaseException:
        system.kill_the_rest()
        raise
    finally:
        shutil.rmtree(root, ignore_errors=True)
