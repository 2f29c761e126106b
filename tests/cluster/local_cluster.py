"""A cluster of machines that are all this one, and its commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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
        done = self.dora_whatever(*arguments)
        assert done.returncode == status, f"dora cluster {' '.join(arguments)}: {done.stdout}"
        return done.stdout

    def dora_whatever(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command, whatever its exit status."""
        return subprocess.run(
            [sys.executable, "-m", "dora", "cluster", *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
        )

    def machines(self) -> dict[str, str]:
        """Return machine → how its daemon is."""
        done = self.dora_whatever("status", "cluster.yml", "-f", "json")
        found = {row["machine"]: row["daemon"] for row in map(json.loads, done.stdout.splitlines())}
        assert done.returncode == (set(found.values()) != {"connected"}), done.stdout
        return found

    def pid(self, machine: str) -> int:
        return int((self.folder / "data" / f"daemon-{machine}.pid").read_text())

    def bundle(self, machine: str) -> Path:
        """Return the file with the key and the certificate of a machine."""
        return self.folder / "data" / f"machine-{machine}.pem"

    def start_daemon(self, machine: str) -> subprocess.Popen[bytes]:
        """Start a daemon by hand."""
        options = ["--machine-id", machine, "--coordinator-port", str(self.port)]
        return subprocess.Popen(
            [sys.executable, "-m", "dora", "daemon", *options],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
