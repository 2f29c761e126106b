"""The protocol between a daemon and a template process.

The daemon sends one byte with four descriptors: a memory file with a `ForkRequest`, the pipes for output
and errors, and one end of a socket pair, the *channel* of this start. Everything about the new process is
told on its channel. Its end of file means: there is no process, or nobody knows its exit status.
"""

from __future__ import annotations

import array
import os
import socket
from typing import Final

import msgspec

from dora.dataflow.model import Scheduling
from dora.wire.decoders import DecodeError, msgpack_decoder

DESCRIPTORS: Final = 4
CHANNEL: Final = 3  # its place among them
_MAX_ANSWER: Final = 1 << 16  # bytes; a longer answer counts as none, and the node starts plainly
_MAX_STATES: Final = 1 << 17  # bytes
STATE: Final = b"state"  # sent without descriptors: the template answers with `TemplateState` of each
REAP: Final = b"reap"  # sent on the channel: the daemon has killed the process group


class ForkRequest(msgspec.Struct, frozen=True):
    """A process to be forked. Texts are as the kernel has them, in bytes."""

    command: tuple[bytes, ...]  # as for a plain start: interpreter, options, script
    environment: tuple[bytes, ...]  # "NAME=value"
    directory: str
    scheduling: Scheduling
    umask: int
    limits: dict[int, tuple[int, int]]  # resource → soft and hard limit
    ignored: frozenset[int]  # signals that the daemon ignores
    context: str  # of the daemon, see `dora.daemon.template.context.context`
    modules: tuple[str, ...]  # of dora, that the process is going to need beside what every node has
    preload: tuple[tuple[str, str], ...]  # packages that the dataflow names, and their places in its file


class Forked(msgspec.Struct, frozen=True, tag=True):
    """Sent by the new process before it runs anything."""

    pid: int


class PassedOn(msgspec.Struct, frozen=True, tag=True):
    """Another process has the request: a template that may have to import packages, or a spare process."""

    pid: int
    importing: bool


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The process has to be started plainly.

    ``place`` and ``fault`` belong to a package that the dataflow names and that cannot be imported: where
    it is named, and its traceback.
    """

    reason: str
    place: str = ""
    fault: str = ""


class ExitStatus(msgspec.Struct, frozen=True, tag=True):
    """The exit status of the process: the code, or minus the signal."""

    status: int


Answer = Forked | PassedOn | Refused | ExitStatus


class TemplateState(msgspec.Struct, frozen=True):
    """One template process. ``packages``: imported beside the ones of every node."""

    pid: int
    packages: list[str]
    starts: int  # nodes that it was asked for and could fork
    since: float  # seconds since the Unix epoch


_encode = msgspec.msgpack.Encoder().encode
_decode_answer = msgpack_decoder(Answer)
_decode_request = msgpack_decoder(ForkRequest)
_decode_states = msgpack_decoder(list[TemplateState])


def send_request(connection: socket.socket, request: ForkRequest, descriptors: list[int]) -> None:
    """Send a request with the descriptors of output, errors and channel; raises ``OSError``."""
    memory = os.memfd_create("dora-start", os.MFD_CLOEXEC)
    try:
        os.write(memory, _encode(request))
        pass_on(connection, [memory, *descriptors])
    finally:
        os.close(memory)


def pass_on(connection: socket.socket, descriptors: list[int]) -> None:
    """Send the descriptors of a request; raises ``OSError``."""
    rights = array.array("i", descriptors)
    connection.sendmsg([b"s"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def receive_descriptors(connection: socket.socket) -> list[int] | None:
    """Return the descriptors of the next request, none for `STATE`, None at the end of the connection.

    Raises ``ValueError`` for anything else, ``OSError``, and ``BlockingIOError`` if there is none.
    """
    data, descriptors, _, _ = socket.recv_fds(connection, 16, DESCRIPTORS)
    if not data:
        return None
    if data == STATE and not descriptors:
        return []
    if len(descriptors) != DESCRIPTORS:
        for descriptor in descriptors:
            os.close(descriptor)
        raise ValueError("this is no request to start a process")
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return descriptors


def read_request(memory: int) -> ForkRequest:
    """Return the request in a memory file; raises ``ValueError``."""
    size = os.fstat(memory).st_size
    try:
        request: ForkRequest = _decode_request(os.pread(memory, size, 0))
    except DecodeError as error:
        raise ValueError(str(error)) from None
    return request


def send_answer(channel: socket.socket, answer: Answer) -> bool:
    """Send an answer; return False if nobody wants it any more."""
    try:
        channel.send(_encode(answer))
    except OSError:
        return False
    return True


def receive_answer(channel: socket.socket) -> Answer | None:
    """Return the next answer, None if there will be none; raises ``BlockingIOError``."""
    try:
        data = channel.recv(_MAX_ANSWER)
        answer: Answer | None = _decode_answer(data) if data else None
    except BlockingIOError:
        raise
    except (OSError, DecodeError):
        return None
    return answer


def send_states(connection: socket.socket, states: list[TemplateState]) -> None:
    """Answer `STATE`; raises ``OSError``."""
    connection.send(_encode(states))


def receive_states(connection: socket.socket) -> list[TemplateState]:
    """Return the answer to `STATE`; raises ``OSError``."""
    try:
        states: list[TemplateState] = _decode_states(connection.recv(_MAX_STATES))
    except DecodeError as error:
        raise ConnectionError(str(error)) from None
    return states
