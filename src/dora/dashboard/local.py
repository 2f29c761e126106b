"""The dashboard of one `dora run --ui`, in a process of its own: ``python -m dora.dashboard.local``.

It gets a socket that listens already, and ends when its standard input does: the run has ended then, or was
killed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from typing import Final

import msgspec

from dora.wire.decoders import from_json

HOST: Final = "127.0.0.1"
FIRST_PORT: Final = 6020
PORTS: Final = 20  # that are tried; if all are taken, any will do
FAREWELL: Final = 2.0  # seconds


class LocalRun(msgspec.Struct, frozen=True):
    """The run that is shown."""

    dataflow_id: str
    name: str
    file: str | None
    log_directory: str
    nodes: list[str]
    created: float  # seconds since the Unix epoch
    ticket: str  # lets in a browser


class LocalDashboard:
    """The dashboard as the run sees it: an address, and a process that serves it."""

    def __init__(self) -> None:
        self._listener = _listen()
        self._process: subprocess.Popen[bytes] | None = None
        self.ticket = secrets.token_hex(32)

    @property
    def address(self) -> str:
        """Where a browser is let in."""
        return f"http://{HOST}:{self._listener.getsockname()[1]}/open?ticket={self.ticket}"

    def start(self, subject: LocalRun) -> None:
        """Start the process; browsers that came before are answered then."""
        descriptor = self._listener.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dora.dashboard.local", str(descriptor)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[descriptor],
            start_new_session=True,  # Ctrl-C is meant for the run
        )
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(subject) + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End the process."""
        self._listener.close()
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(FAREWELL)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _listen() -> socket.socket:
    for port in (*range(FIRST_PORT, FIRST_PORT + PORTS), 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen(64)
        except OSError:
            listener.close()
            continue
        return listener
    raise AssertionError("some port is always free")


async def _serve(descriptor: int, subject: LocalRun, rest: int) -> None:
    from dora.coordinator.connections import room
    from dora.coordinator.server import make_server
    from dora.dashboard.local_pages import make_app

    run = os.getppid()

    def stop() -> None:
        if os.getppid() == run:  # else it was killed, and whoever adopts us is to go on
            os.kill(run, signal.SIGINT)

    app, dashboard = make_app(subject, stop)
    server = make_server(app, room())
    loop = asyncio.get_running_loop()

    def end() -> None:
        server.should_exit = True

    def wait_for_the_end() -> None:
        while os.read(rest, 1 << 16):
            pass
        loop.call_soon_threadsafe(end)

    threading.Thread(target=wait_for_the_end, name="dora-run-ended", daemon=True).start()
    try:
        await server.serve([socket.socket(fileno=descriptor)])
    finally:
        await dashboard.close()


def main() -> None:
    """Serve the run that standard input tells of."""
    line = sys.stdin.buffer.readline()
    if line:
        subject = from_json(line, LocalRun)
        asyncio.run(_serve(int(sys.argv[1]), subject, sys.stdin.fileno()))


if __name__ == "__main__":
    main()
