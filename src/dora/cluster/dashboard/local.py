"""The dashboard of one `dora run --ui`, in the process of the run.

A process of its own serves the page (`dora.cluster.dashboard.local_server`), so the run loads no server.
This module opens the listening socket and starts that process, which ends with its standard input: then the
run has ended or was killed.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import msgspec

from dora.daemon.processes.ending import end_by_stdin
from dora.dataflow.model import Dataflow

if TYPE_CHECKING:
    from dora.daemon.supervisor.result import DataflowResult

HOST: Final = "127.0.0.1"
FIRST_PORT: Final = 6020
PORTS: Final = 20  # ports that are tried before any free one
# Seconds; more than `FINISH_TIMEOUT`, in which the server still sends the pages how the run has ended.
END_TIMEOUT: Final = 2.0


class LocalRun(msgspec.Struct, frozen=True):
    """The run that the page shows."""

    dataflow_id: str
    name: str
    file: str | None
    log_directory: str
    nodes: list[str]
    created: float  # seconds since the Unix epoch
    ticket: str  # logs in a browser


class LocalDashboard:
    """The dashboard in the process of the run: an address, and the process that serves it."""

    def __init__(self) -> None:
        self._listener = listen()
        self._process: subprocess.Popen[bytes] | None = None
        self.ticket = secrets.token_hex(16)  # 128 bits; the address fits into 80 columns

    @property
    def address(self) -> str:
        """The address that logs in a browser."""
        return f"http://{HOST}:{self._listener.getsockname()[1]}/open?ticket={self.ticket}"

    def start(self, subject: LocalRun) -> None:
        """Start the process. Browsers that have connected before get their answers then."""
        descriptor = self._listener.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dora.cluster.dashboard.local_server", str(descriptor)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[descriptor],
            start_new_session=True,  # so that Ctrl-C goes to the run only
        )
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(subject) + b"\n")
        self._process.stdin.flush()

    def finish(self, result: DataflowResult) -> None:
        """Show how the run ended on the pages that are open; `close` waits until they have it."""
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(result) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the process was killed

    def close(self) -> None:
        """End the process."""
        port = self._listener.getsockname()[1]
        self._listener.close()
        if self._process is None:
            return
        end_by_stdin(self._process, END_TIMEOUT)
        if self._process.returncode < 0:  # it was killed, and has not removed it
            from dora.cluster.dashboard.page_file import remove_page_file

            remove_page_file(port)


def free_port() -> int:
    """Return a port for a page of another machine, which ssh is going to listen at."""
    with listen() as listener:
        port: int = listener.getsockname()[1]
        return port


def listen() -> socket.socket:
    """Return a socket that listens on this machine, at the first free port from 6020 on."""
    for port in (*range(FIRST_PORT, FIRST_PORT + PORTS), 0):
        # Only where a socket names its protocol, asyncio turns off Nagle's algorithm. With it, the body of
        # each answer would wait for the acknowledgement of the head: 40 ms.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen(64)
        except OSError:
            listener.close()
            continue
        return listener
    raise AssertionError("some port is always free")


def open_dashboard(dataflow: Dataflow, dataflow_id: str) -> LocalDashboard:
    """Serve the dashboard of a dataflow that is about to run."""
    dashboard = LocalDashboard()
    directory = os.path.join(dataflow.working_dir, "out", dataflow_id)
    nodes = [node.id for node in dataflow.nodes]
    run = LocalRun(
        dataflow_id, dataflow.file_stem, dataflow.file, directory, nodes, time.time(), dashboard.ticket
    )
    dashboard.start(run)
    return dashboard
