"""The control socket of a recorder, in the directory of the run.

A command sends one line of JSON, a `RecorderRequest`, and gets one back, a `RecorderStatus` or a
`RecorderAnswer`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from dora._ownership import connect_own, is_own_peer
from dora.errors import ConnectError, DoraError
from dora.wire.decoders import from_json

PREFIX: Final = "rec-"  # of the socket's name, before the number of the process
# Seconds for a status. Recorders are asked one after the other: one that is stopped (SIGSTOP) must not hide
# the others, and is left out.
_PATIENCE: Final = 5.0
_MAX_LINE: Final = 1 << 16  # bytes of a request; a client that sends more is dropped


class RecorderRequest(msgspec.Struct):
    do: Literal["status", "save", "stop"]


class RecorderStatus(msgspec.Struct, kw_only=True):
    """A recorder at work. Times are nanoseconds since the Unix epoch."""

    pid: int
    path: str  # of the file; for a ring, of the next one
    started: int
    topics: list[str]
    messages: int
    bytes: int  # of their payloads
    last_seconds: float | None = None  # set: a ring of that length, which writes only on request


class RecorderAnswer(msgspec.Struct):
    path: str = ""
    messages: int = 0
    lost: int = 0
    error: str = ""


class ControlClient:
    """A command that has connected."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._data = b""

    def fileno(self) -> int:
        return self._connection.fileno()

    def read(self) -> RecorderRequest | None:
        """Return the request once it has arrived; raises ``ConnectionError`` if it never will."""
        try:
            data = self._connection.recv(_MAX_LINE)
        except BlockingIOError:
            return None
        except OSError:
            data = b""  # a broken connection counts as closed
        self._data += data
        line, end, _ = self._data.partition(b"\n")
        if not data or len(self._data) > _MAX_LINE:
            raise ConnectionError
        if not end:
            return None
        try:
            return from_json(line, RecorderRequest)
        except msgspec.DecodeError:
            raise ConnectionError from None

    def answer(self, answer: RecorderStatus | RecorderAnswer) -> None:
        """Answer, and close."""
        try:
            self._connection.sendall(msgspec.json.encode(answer) + b"\n")
        except OSError:
            pass  # the command is gone
        self.close()

    def close(self) -> None:
        self._connection.close()


class ControlSocket:
    """The socket that a recorder listens on; ``close`` removes it."""

    def __init__(self, run_dir: str) -> None:
        self._path = f"{run_dir}/{PREFIX}{os.getpid()}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(self._path)
            os.chmod(self._path, 0o600)  # before `listen`: until then nobody can connect
            self._socket.listen(8)
        except OSError as error:
            self._socket.close()
            raise DoraError(f"{self._path} cannot be made: {error.strerror or error}") from None
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def accept(self) -> ControlClient | None:
        """Return a command that has connected; None if there is none, or if it is another user's."""
        try:
            connection = self._socket.accept()[0]
        except OSError:
            return None
        if is_own_peer(connection):
            return ControlClient(connection)
        connection.close()
        return None

    def close(self) -> None:
        """Stop listening, and remove the socket."""
        self._socket.close()
        try:
            os.unlink(self._path)
        except OSError:
            pass  # the run has removed it


def statuses(run_dir: str) -> Iterator[RecorderStatus]:
    """Yield the status of each recorder of a run."""
    try:
        names = sorted(name for name in os.listdir(run_dir) if name.startswith(PREFIX))
    except OSError:
        return  # the run has ended
    for name in names:
        try:
            yield from_json(_ask(f"{run_dir}/{name}", RecorderRequest("status"), _PATIENCE), RecorderStatus)
        except (ConnectError, msgspec.DecodeError):
            continue  # it has just ended, or was killed


def ask(
    run_dir: str, pid: int, do: Literal["save", "stop"], patience: float | None = None
) -> RecorderAnswer:
    """Make a recorder save its ring, or end; return the result.

    Raises `ConnectError` if it cannot be reached, `DoraError` if it failed.
    """
    data = _ask(f"{run_dir}/{PREFIX}{pid}", RecorderRequest(do), patience)
    try:
        answer = from_json(data, RecorderAnswer)
    except msgspec.DecodeError:
        raise ConnectError(f"the recorder with the process id {pid} has ended meanwhile") from None
    if answer.error:
        raise DoraError(answer.error)
    return answer


def _ask(path: str, request: RecorderRequest, patience: float | None) -> bytes:
    data = b""
    try:
        with connect_own(path, patience) as connection:
            connection.sendall(msgspec.json.encode(request) + b"\n")
            while not data.endswith(b"\n") and (part := connection.recv(_MAX_LINE)):
                data += part
    except OSError as error:
        raise ConnectError(f"the recorder at {path} does not answer: {error}") from None
    return data
