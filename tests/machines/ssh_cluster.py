"""A cluster of several hosts with a real ssh server on each, and a cluster file for them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from hosts import Host
from sshd import Keys

DORA = str(Path(sys.executable).with_name("dora"))


class Cluster:
    """Commands on the first host, for a cluster of all hosts."""

    def __init__(self, hosts: dict[str, Host], folder: Path) -> None:
        self.hosts = hosts
        self.folder = folder
        self.keys = Keys(folder / "keys")
        self.desk, self.robot = hosts["desk"], hosts["robot"]
        self.machines: list[dict[str, Any]] = [
            {"id": id, "host": host.address, "dora": DORA, "labels": {"name": id}}
            for id, host in hosts.items()
        ]
        self.write()

    def write(self) -> None:
        cluster = {"coordinator": {"addr": self.desk.address}, "machines": self.machines}
        (self.folder / "cluster.yml").write_text(json.dumps(cluster))

    def client(self, authority: str) -> dict[str, str]:
        """Return the variables by which commands find the coordinator."""
        return {"DORA_COORDINATOR_ADDR": self.desk.address, "DORA_COORDINATOR_CA": authority}

    def dora(self, *arguments: str, status: int = 0, authority: str = "") -> str:
        """Run a command on the desk; ``authority`` is for commands that do not read the cluster file."""
        environment = {"PATH": self.keys.path, **self.client(authority)}
        command = [sys.executable, "-m", "dora", *arguments]
        # pip takes its time on a busy machine.
        return self.desk.run(command, status=status, env=environment, cwd=self.folder, timeout=240.0)
