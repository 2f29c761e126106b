"""A coordinator on the first of several hosts, and a daemon on each of them."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from commands import needs_a_process, run_command
from hosts import Host
from tokens import TOKEN
from waiting import wait_until

from dora._paths import AUTHORITY_VARIABLE, DEFAULT_PORT, NO_TLS
from dora.cluster.client import Client
from dora.daemon.supervisor.result import DataflowResult
from dora.transport.tokens import Token

PLAIN = {AUTHORITY_VARIABLE: NO_TLS}
DORA = (sys.executable, "-P", "-m", "dora")
_LOOK_FOR_RUNS = {"node", "param", "top", "topic"}
_COMMAND_SERVER = Path(__file__).with_name("command_server.py")


class Spread:
    """Runs ``dora`` on the first host, in a folder that all hosts see.

    With `PLAIN` in ``env``, nothing is encrypted.
    """

    def __init__(self, hosts: dict[str, Host], folder: Path, env: Mapping[str, str]) -> None:
        self.hosts = hosts
        self.folder = folder
        self.first = next(iter(hosts.values()))
        self.env = {
            "DORA_COORDINATOR_ADDR": self.first.address,
            "DORA_AUTH_TOKEN": TOKEN,
            **env,
        }
        self.processes: dict[str, subprocess.Popen[Any]] = {}
        self._addresses = 0  # that hosts got later
        self._command_servers: dict[str, subprocess.Popen[str]] = {}  # host → process, gone with the host

    def background(
        self, host: Host, name: str, *arguments: str, env: Mapping[str, str] | None = None
    ) -> None:
        """Start a component on a host; what it says is in ``<name>.txt``."""
        with open(self.folder / f"{name}.txt", "ab") as output:
            self.processes[name] = host.popen(
                [*DORA, *arguments],
                env={**self.env, **(env or {})},
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
            )

    def start_coordinator(self) -> None:
        plain = ["--no-tls"] if self.env.get(AUTHORITY_VARIABLE) == NO_TLS else []
        self.background(self.first, "coordinator", "coordinator", "--interface", self.first.address, *plain)

    def start_daemon(self, machine: str, *more: str) -> None:
        self.background(self.hosts[machine], machine, "daemon", "--machine-id", machine, *more)

    def another_address(self) -> str:
        """Return an address in the network that no host has had."""
        self._addresses += 1
        return f"{self.first.address.rpartition('.')[0]}.{100 + self._addresses}"

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.txt").read_text(errors="replace")

    def dora(self, *arguments: str, status: int | None = 0, host: Host | None = None) -> str:
        """Run a command on a host, the first one by default; returns all that it printed.

        What only asks the coordinator runs in the process of the test. What also looks for runs on its host
        runs there, in one process for all commands that return.
        """
        if arguments[0] in _LOOK_FOR_RUNS or (host is not None and not needs_a_process(*arguments)):
            found, printed = self._ask_server(host or self.first, arguments)
        elif needs_a_process(*arguments):
            host = host or self.first
            return host.run([*DORA, *arguments], env=self.env, status=status, cwd=self.folder)
        else:
            env = self.first.environment(self.env)
            found, printed = run_command(*arguments, folder=self.folder, env=env)
        assert status is None or found == status, f"{arguments}: {printed}"
        return printed

    def _ask_server(self, host: Host, arguments: tuple[str, ...]) -> tuple[int, str]:
        if (server := self._command_servers.get(host.name)) is None:
            server = self._command_servers[host.name] = host.popen(
                [sys.executable, "-P", _COMMAND_SERVER],
                env=self.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=self.folder,
            )
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps(arguments) + "\n")
        server.stdin.flush()
        found, printed = json.loads(server.stdout.readline())
        return found, printed

    def machines(self) -> dict[str, Any]:
        printed = self.dora("status", "--format", "json", status=None)
        found = json.JSONDecoder().raw_decode(printed)[0]  # an error may follow
        return {machine["id"]: machine for machine in found.get("machines", ())}

    def wait_for_machines(self, *names: str) -> None:
        def connected() -> bool:
            found = self.machines()
            return all(name in found and found[name]["status"] == "connected" for name in names)

        wait_until(connected, lambda: f"{names} to connect: {self.said('coordinator')}")

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            (self.folder / name).write_text(textwrap.dedent(text))

    def start(self, file: str, *options: str) -> str:
        """Start a dataflow and return its UUID."""
        printed = self.dora("start", file, "--detach", *options)
        assert "dataflow started: " in printed, printed
        return printed.partition("dataflow started: ")[2].strip()

    def status(self, dataflow: str) -> str:
        for line in self.dora("list", "--format", "json").splitlines():
            view = json.loads(line)
            if view["uuid"] == dataflow:
                return str(view["status"])
        raise AssertionError(f"there is no {dataflow}")

    def result(self, dataflow: str) -> DataflowResult:
        """Return the result of a dataflow that has ended."""
        client = Client(
            self.first.address,
            DEFAULT_PORT,
            authority=self.env.get(AUTHORITY_VARIABLE, ""),
            token=Token(TOKEN, "the test"),
        )
        result = client.dataflow(dataflow).result
        assert result is not None
        return result

    def wait_for(self, dataflow: str, *statuses: str) -> str:
        return str(
            wait_until(
                lambda: found if (found := self.status(dataflow)) in statuses else "",
                lambda: f"{statuses}: {self.logs(dataflow)}\n{self.said('coordinator')}",
            )
        )

    def logs(self, dataflow: str) -> str:
        return self.dora("logs", dataflow)

    def wait_for_log(self, dataflow: str, text: str) -> str:
        return str(
            wait_until(
                lambda: found if text in (found := self.logs(dataflow)) else "",
                lambda: f"{text!r} in the logs: {self.logs(dataflow)}",
            )
        )


@contextmanager
def spread_over(
    hosts: dict[str, Host], folder: Path, env: Mapping[str, str] | None = None
) -> Iterator[Spread]:
    """Run a coordinator and a daemon for each host."""
    system = Spread(hosts, folder, env or {})
    system.start_coordinator()
    for name in hosts:
        system.start_daemon(name)
    system.wait_for_machines(*hosts)
    yield system
