"""A cluster of machines that are all this one, and its commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from commands import needs_a_process, run_command
from ports import free_port
from waiting import TIMEOUT


class Cluster:
    """A cluster file for machines that are this one, and the commands."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self.file = folder / "cluster.yml"
        self.tls: dict[str, str] = {}
        self.write("left", "right")

    def write(self, *machines: str, **more: str) -> None:
        listed = [{"id": id, "host": "localhost", "labels": {"side": id}, **more} for id in machines]
        coordinator = {"addr": "127.0.0.1", "port": self.port, **self.tls}
        self.file.write_text(json.dumps({"coordinator": coordinator, "machines": listed}))

    def dora(self, *arguments: str, status: int = 0) -> str:
        found, printed = self.try_dora(*arguments)
        assert found == status, f"dora cluster {' '.join(arguments)}: {printed}"
        return printed

    def try_dora(self, *arguments: str) -> tuple[int, str]:
        """Run a command of `dora cluster`; return its exit status and all that it printed."""
        if not needs_a_process("cluster", *arguments):
            return run_command("cluster", *arguments, folder=self.folder)
        return self.run_process(*arguments)

    def run_process(self, *arguments: str) -> tuple[int, str]:
        """Do what `try_dora` does, but always with a process for the command."""
        done = subprocess.run(
            [sys.executable, "-m", "dora", "cluster", *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
        )
        return done.returncode, done.stdout

    def machines(self) -> dict[str, str]:
        """Return machine → how its daemon is."""
        status, printed = self.try_dora("status", "cluster.yml", "-f", "json")
        found = {row["machine"]: row["daemon"] for row in map(json.loads, printed.splitlines())}
        assert status == (set(found.values()) != {"connected"}), printed
        return found

    def pid(self, machine: str) -> int:
        return int((self.folder / "data" / f"daemon-{machine}.pid").read_text())
