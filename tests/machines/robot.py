"""A host that has an ssh server, a Python with the packages that dora needs, and nothing of dora."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hosts import Host
from sshd import Keys
from waiting import wait_until

_TOOLS = ("sh", "cat", "env", "head", "mkdir", "rm", "tail", "uname")
_DORA = ("dora", "pip", "__editable__", "_editable")
PYTHON = f'exec {sys._base_executable} "$@"'  # type: ignore[attr-defined]
TIMEOUT = 240.0  # seconds for a command: pip takes its time on a busy machine


class Robot:
    """The robot and the user's machine, `desk`, whose commands go to it by ssh."""

    def __init__(self, desk: Host, robot: Host, folder: Path) -> None:
        self.desk, self.host, self.folder = desk, robot, folder
        self.keys = Keys(folder / "keys")
        self.name = f"root@{robot.address}"
        self.bin = folder / "bin"  # all programs that are found there
        self.bin.mkdir()
        for tool in _TOOLS:
            path = shutil.which(tool)
            assert path is not None, tool
            (self.bin / tool).symlink_to(path)
        self.write_program("python3", PYTHON)
        # So pip has nothing to download. A system has its packages elsewhere, and they are seen as well.
        packages = folder / "packages"
        packages.mkdir()
        for path in Path(os.__file__).parent, *map(Path, sys.path):
            if path.name == "site-packages" and path.is_dir():
                for entry in path.iterdir():
                    if entry.suffix != ".pth" and not entry.name.startswith(_DORA):
                        (packages / entry.name).symlink_to(entry)
        # Without a network, pip would try again and again.
        more = {"PATH": str(self.bin), "PYTHONPATH": str(packages), "PIP_RETRIES": "0"}
        self.keys.serve(robot, more)
        self.cache = robot.folder / ".cache" / "dora"

    def write_program(self, name: str, script: str) -> None:
        """Put a shell script among the programs of the robot."""
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def environment(self) -> dict[str, str]:
        """Return the variables for commands on the desk."""
        return self.desk.environment({"PATH": self.keys.path})

    def dora(self, folder: Path, *arguments: str, status: int | None = 0) -> str:
        """Run ``dora run --on`` on the desk, in a folder; return all that it printed."""
        command = [sys.executable, "-m", "dora", "run", "--on", self.name, *arguments]
        return self.desk.run(
            command, status=status, env={"PATH": self.keys.path}, cwd=folder, timeout=TIMEOUT
        )

    @contextmanager
    def without_environment(self) -> Iterator[None]:
        """Let the robot be as it was before the first run, in this block."""
        aside = self.cache.with_name("aside")
        if self.cache.exists():
            self.cache.rename(aside)
        try:
            yield
        finally:
            shutil.rmtree(self.cache, ignore_errors=True)
            if aside.exists():
                aside.rename(self.cache)

    def start(self, folder: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start ``dora run --on`` on the desk."""
        command = [sys.executable, "-m", "dora", "run", "--on", self.name, *arguments]
        return self.desk.popen(
            command,
            env={"PATH": self.keys.path},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )

    def programs(self, host: Host, word: str) -> dict[int, str]:
        """Return the processes of a host whose command lines contain a word."""
        found = {}
        for pid in host.pids():
            try:
                line = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
            except OSError:
                continue  # it has just ended
            if word in line:
                found[pid] = line
        return found

    def wait_until_nothing_is_left_here(self) -> None:
        """Wait until no process of a run is on the desk."""
        wait_until(lambda: not self._left(self.desk), lambda: str(self._left(self.desk)))

    def wait_until_nothing_is_left(self, timeout: float = 60.0) -> None:
        """Wait until no process of a run is on either machine, nor a file of one beside the cache."""

        def left() -> list[str]:
            return self._left(self.host) + self._left(self.desk) + [str(path) for path in self._files()]

        wait_until(lambda: not left(), lambda: str(left()), timeout)

    def _left(self, host: Host) -> list[str]:
        return [line for line in self.programs(host, "").values() if not _belongs(line)]

    def _files(self) -> list[Path]:
        kept = ("lock",)
        found = [
            path
            for host in (self.desk, self.host)
            if (host.folder / "run").is_dir()
            for path in (host.folder / "run").iterdir()
            if path.name not in kept
        ]
        cache = self.cache / "environments"
        linked = {path.resolve() for path in cache.glob("*") if path.is_symlink()}
        return found + [path for path in cache.glob("*") if path.resolve() not in linked]


def _belongs(line: str) -> bool:
    """Return whether a process is part of a host rather than of a run."""
    return not line or line.startswith(("sleep infinity", "sshd: /usr/sbin/sshd", "/usr/sbin/sshd"))


def write_dataflow(folder: Path, programs: Mapping[str, str], nodes: list[dict[str, Any]]) -> None:
    """Write a dataflow and its programs into a folder that is made."""
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(text)
    (folder / "dataflow.yml").write_text(json.dumps({"nodes": nodes}))


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Read what a command prints until a line contains a text; return all of it."""
    assert process.stdout is not None
    read = ""
    begun = time.monotonic()
    while text not in read:
        line = process.stdout.readline()
        assert line and time.monotonic() - begun < TIMEOUT, read
        read += line
    return read
