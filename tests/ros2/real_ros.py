"""A real ROS 2, for the tests with the mark `ros2`: processes of the environment that `make ros2` makes.

Its packages change each start of Python in their environment, so they are never beside dora.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).parent
VARIABLE = "DORA_ROS2_VENV"  # the folder of the environment
ROS_VARIABLES = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}  # of each process with ROS

# Gaps between values have what was in the memory before. With this, glibc gives out zeroes.
ZEROES = {"MALLOC_PERTURB_": "255", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}


def folder() -> Path | None:
    """Return the folder of the environment, if there is one."""
    value = os.environ.get(VARIABLE)
    return Path(value).absolute() if value else None


def environment(domain: int) -> dict[str, str]:
    """Return the variables of a process with ROS: without this Python's, and for this machine only."""
    kept = ("HOME", "PATH", "LANG", "TMPDIR")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        **ROS_VARIABLES,
        "ROS_DOMAIN_ID": str(domain),
        "PYTHONUNBUFFERED": "1",
    }


def start(script: Path, *arguments: str, domain: int, **options: Any) -> subprocess.Popen[str]:
    """Start a Python script in the environment with ROS; ``options``: for `subprocess.Popen`."""
    place = folder()
    assert place is not None, f"{VARIABLE} is not set"
    return subprocess.Popen(
        [str(place / "bin" / "python"), str(script), *arguments],
        env={**environment(domain), **options.pop("env", {})},
        text=True,
        **options,
    )


def remove_shared_memory() -> None:
    """Remove the shared memory of Fast DDS whose process was killed: the file of its lock is free."""
    folder = Path("/dev/shm")
    for lock in folder.glob("fastdds_*_el"):
        try:
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lock.with_name(lock.name.removesuffix("_el")).unlink(missing_ok=True)
                lock.unlink()
        except OSError:  # a process has it, or has just removed it
            continue
    for port in folder.glob("fastdds_port*"):  # ports that nobody listens at
        if not port.name.endswith("_el") and not port.with_name(f"{port.name}_el").exists():
            port.unlink(missing_ok=True)
    for semaphore in folder.glob("sem.fastdds_port*_mutex"):
        if not folder.joinpath(semaphore.name[4:-6]).exists():
            semaphore.unlink(missing_ok=True)


class RealRos:
    """Answers questions about messages with rclpy; a process behind a pipe (`ros_server.py`)."""

    def __init__(self, domain: int = 87) -> None:
        self._process = start(
            HERE / "ros_server.py", domain=domain, env=ZEROES, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> RealRos:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, *question: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the process with ROS ended"
        good, answer = json.loads(line)
        assert good, answer
        return answer

    def serialize(self, name: str, value: dict[str, Any]) -> bytes:
        """Return what `rclpy` makes of a value; after the message, it leaves bytes of any value."""
        return bytes.fromhex(self._ask("serialize", name, value))

    def echo(self, name: str, data: bytes) -> bytes:
        """Return what `rclpy` makes of a message that it has read from ``data``."""
        return bytes.fromhex(self._ask("echo", name, data.hex()))

    def show(self, name: str, data: bytes) -> str:
        """Return how `rclpy` shows a message that it has read from ``data``."""
        return str(self._ask("show", name, data.hex()))

    def wire(self, name: str, value: dict[str, Any]) -> bytes:
        """Return the bytes that a subscription gets of a message that a publisher sends."""
        return bytes.fromhex(self._ask("wire", name, value))
