"""A process with a real rclpy, which does what a test asks for."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from real_ros import ZEROES, environment
from ros_meeting import ros_python


class RclpyPeer:
    """A process with rclpy: it has the methods of ``Peer`` in ``rclpy_peer.py``."""

    def __init__(self, domain: int, name: str = "peer") -> None:
        script = Path(__file__).with_name("rclpy_peer.py")
        self.process = subprocess.Popen(
            [str(ros_python()), str(script), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment(domain), **ZEROES},
        )
        self._read()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process with rclpy has ended"
        return json.loads(line)

    def __getattr__(self, name: str) -> Any:
        def ask(**arguments: Any) -> Any:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps([name, arguments]) + "\n")
            self.process.stdin.flush()
            return self._read()

        return ask

    def close(self) -> None:
        """End the process, which leaves the graph."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def files_of(pid: int) -> int:
    """Return the number of open files of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads_of(pid: int) -> int:
    """Return the number of threads of a process."""
    return len(os.listdir(f"/proc/{pid}/task"))


def memory_of(pid: int) -> int:
    """Return the memory that a process has for itself, in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split()[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    return (sizes["Private_Clean:"] + sizes["Private_Dirty:"]) // 1024
