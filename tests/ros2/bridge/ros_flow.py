"""A dataflow with `ros2:` nodes that runs beside a test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import yaml
from ros_meeting import Meeting, ros_python
from waiting import TIMEOUT, wait_until

from dora import Ros2Context, Ros2Transport

TRANSPORTS: dict[str, Any] = {
    "zenoh": {"kind": "zenoh", "compatibility": "rep2016"},
    "dds": {"kind": "dds"},
    "rclpy": {"kind": "rclpy"},
}


class RosFlow:
    """A running dataflow, whose `ros2:` nodes are in the domain of a test."""

    def __init__(self, folder: Path, met: Meeting) -> None:
        self.folder = folder
        self.engine = met.engine
        self.domain = met.domain
        self._nodes: list[dict[str, Any]] = []
        self._process: subprocess.Popen[str] | None = None
        self._contexts: list[Ros2Context] = []

    @property
    def fibonacci(self) -> str:
        """The type of an action that the engine has."""
        return "test_msgs/Fibonacci" if self.engine == "rclpy" else "example_interfaces/Fibonacci"

    @property
    def paths(self) -> list[str]:
        """Folders with the types of a real ROS, where the engine needs one."""
        return [str(ros_python().parents[1] / "share")] if self.engine == "rclpy" else []

    def context(self) -> Ros2Context:
        """Open a context of the test, in the same domain; it is closed at the end."""
        transport = Ros2Transport(self.engine, "rep2016" if self.engine == "zenoh" else None)
        context = Ros2Context(self.paths, transport, self.domain)
        self._contexts.append(context)
        return context

    def node(self, node_id: str, script: str, **fields: Any) -> None:
        (self.folder / f"{node_id}.py").write_text(textwrap.dedent(script))
        self._nodes.append({"id": node_id, "path": f"{node_id}.py", **fields})

    def ros2(self, node_id: str, block: dict[str, Any], **fields: Any) -> None:
        place = {"transport": TRANSPORTS[self.engine], "domain_id": self.domain, "ros_paths": self.paths}
        block = {**place, **block}
        self._nodes.append({"id": node_id, "ros2": block, **fields})

    def start(self, *command: str) -> None:
        """Start the dataflow with ``dora run``, or another command and its options."""
        (self.folder / "dataflow.yml").write_text(yaml.safe_dump({"nodes": self._nodes}))
        self._log = (self.folder / "log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dora", *(command or ("run",)), "dataflow.yml"],
            cwd=self.folder,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def lines(self, name: str, count: int = 1) -> list[str]:
        """Wait for so many lines in a file that a node writes; return all."""
        path = self.folder / name

        def found() -> list[str]:
            lines = path.read_text().splitlines() if path.exists() else []
            return lines if len(lines) >= count else []

        return wait_until(found, lambda: f"{count} lines in {name}: {found()}\n{self.log()}")

    def wait_for_log(self, text: str) -> None:
        wait_until(lambda: text in self.log(), lambda: f"{text!r} in\n{self.log()}")

    def pid_of(self, node_id: str) -> int:
        """Return the process of a node that runs."""
        from dora.daemon.client import running
        from dora.observe.tap_session import inspect

        (run,) = running()
        with run:
            (pid,) = [node.pid for node in inspect(run).nodes if node.id == node_id]
        assert pid is not None
        return pid

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        self.end()

    def end(self) -> int:
        """Wait for the end of the dataflow; return the exit status."""
        assert self._process is not None
        status = self._process.wait(TIMEOUT)
        self._log.close()
        return status

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGTERM)
            self._process.wait(TIMEOUT)
