"""A template process, for the one that asks it: its own one, or a warm one of the machine."""

from __future__ import annotations

import binascii
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Final, Protocol

from dora._ownership import peer_of
from dora._paths import runtime_root
from dora._version import __version__
from dora.daemon.guardian import RUN_ID
from dora.daemon.template.context import context, is_read_early
from dora.daemon.template.protocol import STATE, TemplateState, receive_states
from dora.errors import DoraError

PROGRAM: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
BACKLOG: Final = 64  # connections to a warm template that it has not accepted yet
# Seconds. Without a limit, a stopped template whose queue is full would hold up each start for good.
_CONNECT_TIMEOUT: Final = 1.0
# How long idle threads of NumPy spin, see `dora.daemon.processes.launch_spec`.
_VARIABLES: Final = {"OPENBLAS_THREAD_TIMEOUT": "20"}


class TemplateConnection(Protocol):
    """A connection to a template process."""

    connection: socket.socket
    pid: int

    def close(self) -> None:
        """End the connection; processes that were forked go on."""

    def renew(self) -> None:
        """Have another template process, as this one has ended; raises ``OSError``."""


class OwnTemplate:
    """A template process of this one. It ends with this process."""

    def __init__(self, run_id: str, engine: str) -> None:
        """Start it, marked as a process of a run, "": of none; for its engine. Raises ``OSError``."""
        self._run_id = run_id
        self._engine = engine
        self._before: list[subprocess.Popen[bytes]] = []  # they may have processes whose ends they tell
        self._start()

    def renew(self) -> None:
        self.connection.close()
        self._before.append(self._process)
        self._start()

    def _start(self) -> None:
        self.connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._process = start_template(theirs, run_id=self._run_id, engine=self._engine)
        except OSError:
            self.connection.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid

    def close(self) -> None:
        self.connection.close()
        for process in [*self._before, self._process]:
            process.kill()
            process.wait()


class WarmTemplate:
    """A connection to a template process that the daemon of the machine keeps."""

    def __init__(self) -> None:
        """Connect to it; raises ``OSError`` if there is none that fits."""
        self._connect()

    def renew(self) -> None:
        self.close()
        self._connect()

    def _connect(self) -> None:
        self.connection, self.pid = _connect(warm_address(), _CONNECT_TIMEOUT)

    def close(self) -> None:
        self.connection.close()


def open_template(*, start: bool, run_id: str = "", engine: str = "") -> TemplateConnection | None:
    """Return the warm template of the machine if there is one that fits, else with ``start`` a new one.

    ``run_id`` marks a new one as a process of that run, which has loaded the engine.
    """
    try:
        return WarmTemplate()
    except (OSError, DoraError):
        pass  # none fits
    try:
        return OwnTemplate(run_id, engine) if start else None
    except OSError:
        return None  # all nodes start plainly


def start_template(
    served: socket.socket,
    interpreter: str = sys.executable,
    retired: Sequence[int] = (),
    *,
    run_id: str = "",
    engine: str = "",
) -> subprocess.Popen[bytes]:
    """Start a template process that serves a connection, or those that a socket accepts.

    It ends when the thread that calls this does. Into the pipe ``retired``, if any, it writes a byte when
    it accepts no more connections, because a package was changed. With a run's id, the guardian of the run
    kills it, and the templates that it has forked, also while they are stopped. It loads an engine, "": the
    usual one; nodes of other engines load theirs themselves. Raises ``OSError``.
    """
    marks = {RUN_ID: run_id} if run_id else {}
    if engine:
        marks["DORA_ENGINE"] = engine
    descriptors = [served.fileno(), *retired]
    nowhere, output = os.pipe()  # no file: streams of Python know whether they can seek
    os.close(nowhere)
    try:
        return subprocess.Popen(
            [interpreter, "-u", PROGRAM, *map(str, descriptors)],
            env={**_VARIABLES, **os.environ, "PYTHONUNBUFFERED": "1", **marks},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=descriptors,
            process_group=0,
            cwd="/",
        )
    finally:
        os.close(output)


def warm_address(interpreter: str = sys.executable) -> str:
    """Return where a warm template listens that fits this process, for an interpreter.

    The name depends on all that its processes inherit. Raises `DoraError` if the folder is not safe.
    """
    early = sorted(item for item in os.environ.items() if is_read_early(*item))
    place = f"{os.path.dirname(interpreter)} {os.path.realpath(interpreter)}"
    parts = (place, __version__, context(), repr(early))
    return f"{runtime_root()}/template-{binascii.crc32(os.fsencode(chr(0).join(parts))):08x}.sock"


def _connect(address: str, timeout: float) -> tuple[socket.socket, int]:
    """Return a connection to the template process at an address, and its id; raises ``OSError``.

    ``timeout``: seconds for this, and for each further use of the connection.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(timeout)
        connection.connect(address)
        pid, user = peer_of(connection)
        if user != os.getuid():
            raise PermissionError("another user's process listens there")
    except OSError:
        connection.close()
        raise
    return connection, pid


def ask_states(address: str, timeout: float) -> list[TemplateState]:
    """Return the states of the template process at an address, and of those that it has forked.

    Raises ``OSError`` if there is none, or it does not answer in time.
    """
    connection, _ = _connect(address, timeout)
    with connection:
        connection.send(STATE)
        return receive_states(connection)
