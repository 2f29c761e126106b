"""The connection to the daemon: find it, register, get the configuration, exchange frames."""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Iterator
from typing import Protocol

from dora._ownership import UnsafeFile, connect_own
from dora._paths import SOCKET_NAME, board_of, is_run_name, prefix_of, runtime_root
from dora._version import __version__
from dora.errors import ConnectError, DaemonLost
from dora.node.own_thread import lock_of_threads
from dora.wire.decoders import DecodeError
from dora.wire.framing import FrameBuffer, FrameError, encode_frame
from dora.wire.node_config import Address, NodeConfig, decode_address
from dora.wire.node_protocol import (
    PROTOCOL_VERSION,
    Register,
    Registered,
    RegistrationRefused,
    ToDaemon,
    ToNode,
    decode_to_node,
)

_log = logging.getLogger("dora.node")
# Seconds for a daemon that is too busy to read. After them this side closes anyway, and a `Node` of the
# same id may be refused, because the daemon has not noticed the end of this one.
_LEAVE_LIMIT = 2.0
# Seconds for a dataflow that may have the node of this program. One that is suspended never answers; it
# must not keep the program from joining another.
_ANSWER_LIMIT = 5.0


class DaemonChannel(Protocol):
    """A connection to the daemon, or what stands in for it."""

    lost: bool

    def fileno(self) -> int: ...
    def send(self, message: ToDaemon) -> None: ...
    def wait(self) -> ToNode: ...
    def read(self) -> Iterator[ToNode]: ...
    def is_readable(self) -> bool: ...
    def leave(self) -> None: ...
    def close(self) -> None: ...


class _QuietSocket(socket.socket):
    """A socket that goes without a warning.

    Python warns of each one that is open at the end of a program, as that of a node usually is.
    """

    def __del__(self) -> None:
        self.close()


class SocketChannel:
    """A connection to the daemon. Requests block briefly; frames are read without blocking."""

    def __init__(self, path: str, limit: float | None = None) -> None:
        """Connect, within ``limit`` seconds; raises `ConnectError`, `UnsafeFile` if not this user's."""
        self.path = path
        self._frames = FrameBuffer()
        self._sending, self._is_held = lock_of_threads()  # frames of several threads do not mix
        self.lost = False
        try:
            self._socket = _QuietSocket(fileno=connect_own(path, limit).detach())
            self._socket.settimeout(None)
        except OSError as error:
            raise ConnectError(f"the daemon cannot be reached at {path}: {error.strerror}") from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: ToDaemon) -> None:
        """Send a frame; raises `DaemonLost`, also in a signal handler that has interrupted this method."""
        if self._is_held():
            raise DaemonLost("a signal handler cannot reach the daemon while it interrupts a frame to it")
        try:
            with self._sending:
                self._socket.sendall(encode_frame(message))
        except OSError as error:
            self.lost = True
            raise DaemonLost("the daemon is gone") from error

    def wait(self) -> ToNode:
        """Block for the next frame; raises `DaemonLost`."""
        while True:
            for message in self._decoded():
                return message
            try:
                data = self._socket.recv(1 << 16)
            except OSError as error:
                self.lost = True
                raise DaemonLost("the daemon is gone") from error
            if not data:
                self.lost = True
                raise DaemonLost("the daemon closed the connection")
            self._frames.feed(data)

    def read(self) -> Iterator[ToNode]:
        """Yield the frames that are there; sets ``lost`` at the end of the connection."""
        while not self.lost:
            try:
                # Not a non-blocking socket: `send` may have to wait for a busy daemon on the same one.
                data = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.lost = True
                break
            self._frames.feed(data)
        try:
            yield from self._decoded()
        except DaemonLost as error:
            _log.error("%s", error)

    def _decoded(self) -> Iterator[ToNode]:
        """Yield the complete frames; raises `DaemonLost` for data that is no frame of a daemon."""
        try:
            for body in self._frames:
                yield decode_to_node(body)
        except (FrameError, DecodeError) as error:
            self.lost = True
            raise DaemonLost(
                f"the daemon sent data that is no frame of this version of dora ({error}); the connection "
                "to it is closed"
            ) from error

    def is_readable(self, seconds: float = 0.0) -> bool:
        """Return whether a frame, or the end of the connection, is there; wait ``seconds`` for it."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000.0))

    def leave(self) -> None:
        """Close once the daemon has read everything, so that this node can be joined again at once."""
        deadline = time.monotonic() + _LEAVE_LIMIT
        try:
            self._socket.shutdown(socket.SHUT_WR)  # the daemon reads up to this end, then closes its side
            while (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(1 << 16):
                    break
        except OSError:
            pass  # the daemon is gone, or too busy
        self.close()

    def close(self) -> None:
        self._socket.close()


def connect(node_id: str | None) -> tuple[SocketChannel, NodeConfig]:
    """Register with the daemon; raises `NotInDataflow`, `ConnectError`.

    A program that a dataflow started uses the address in its environment, whatever ``node_id`` is;
    so one script can be a static and a dynamic node.
    """
    try:
        return _connect(node_id)
    except UnsafeFile as error:
        raise ConnectError(str(error)) from error


def _connect(node_id: str | None) -> tuple[SocketChannel, NodeConfig]:
    text = os.environ.get("DORA_NODE_CONFIG")
    if text:
        try:
            address = decode_address(text)
        except ValueError as error:
            raise ConnectError(f"DORA_NODE_CONFIG cannot be read: {error}") from error
        return _register(address)
    assert node_id is not None  # the other ways to become a node are tried before this one
    from dora.dataflow.names import node_id_fault  # its patterns are for dynamic nodes only

    if fault := node_id_fault(node_id):
        raise ConnectError(f"{node_id!r} is not a node id: it {fault}")
    return _find_dynamic(node_id)


def _register(address: Address) -> tuple[SocketChannel, NodeConfig]:
    channel = SocketChannel(address.socket)
    reply = _introduce(channel, address.node_id, dynamic=False, incarnation=address.incarnation)
    if isinstance(reply, NodeConfig):
        return channel, _with_own_files(reply, os.path.dirname(address.socket))
    channel.close()
    raise ConnectError(reply)


def _with_own_files(config: NodeConfig, run_dir: str) -> NodeConfig:
    """Derive the paths in a configuration from the directory of the run.

    The daemon's own paths are not trusted; raises `ConnectError` if a bell is elsewhere.
    """

    def moved(bell: str) -> str:
        folder, name = os.path.split(bell)
        if bell and folder != config.run_dir:
            raise ConnectError(f"the daemon names a doorbell of another run, {bell}")
        return bell and f"{run_dir}/{name}"

    for output in config.outputs:
        output.credit_bell = moved(output.credit_bell)
        for link in output.links:
            link.bell = moved(link.bell)
        for target in output.prewake:
            target.bell = moved(target.bell)
    for item in config.inputs:
        item.credit_bell = moved(item.credit_bell)
    config.bell = moved(config.bell)
    config.run_dir, config.prefix, config.board = run_dir, prefix_of(run_dir), board_of(run_dir)
    return config


def _introduce(
    channel: SocketChannel,
    node_id: str,
    *,
    dynamic: bool,
    incarnation: int = 0,
    dataflow: str = "",
    limit: float | None = None,
) -> NodeConfig | str:
    """Return the configuration, or why the daemon refused; it has ``limit`` seconds to answer."""
    channel.send(
        Register(
            node_id=node_id,
            pid=os.getpid(),
            version=__version__,
            protocol=PROTOCOL_VERSION,
            dynamic=dynamic,
            incarnation=incarnation,
            dataflow=dataflow,
        )
    )
    if limit is not None and not channel.is_readable(limit):
        return f"the dataflow at {channel.path} has not answered for {limit:g} s; is it suspended?"
    try:
        reply = channel.wait()
    except DaemonLost as error:
        if not isinstance(error.__cause__, FrameError | DecodeError):
            raise
        return (
            f"the daemon answered the registration of node `{node_id}` with an unknown message "
            f"({error.__cause__}), and this node uses dora {__version__} with protocol {PROTOCOL_VERSION}; "
            "install the same version in both environments"
        )
    match reply:
        case Registered(config=config):
            return config
        case RegistrationRefused(reason=reason):
            return reason
        case other:
            return f"the daemon answered with {type(other).__name__}"


def _find_dynamic(node_id: str) -> tuple[SocketChannel, NodeConfig]:
    """Register as a dynamic node with the running dataflow of this user that declares it."""
    wanted = os.environ.get("DORA_DATAFLOW", "")
    root = runtime_root()
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        names = []
    found: list[tuple[SocketChannel, NodeConfig]] = []
    refusals: list[str] = []
    # All runs are asked, also after one has accepted: the order of names decides nothing.
    for name in filter(is_run_name, names):
        try:
            channel = SocketChannel(f"{root}/{name}/{SOCKET_NAME}", _ANSWER_LIMIT)
        except ConnectError as error:
            if not isinstance(error.__cause__, ConnectionError | FileNotFoundError):
                refusals.append(str(error))
            continue  # most likely, of a dataflow that has ended
        try:
            reply = _introduce(channel, node_id, dynamic=True, dataflow=wanted, limit=_ANSWER_LIMIT)
        except DaemonLost:  # the dataflow ends at this moment
            channel.close()
            continue
        if isinstance(reply, NodeConfig):
            found.append((channel, _with_own_files(reply, f"{root}/{name}")))
        else:
            channel.close()
            refusals.append(reply)
    if len(found) == 1:
        return found[0]
    for channel, _ in found:
        channel.close()
    if found:
        ids = ", ".join(config.dataflow_id for _, config in found)
        raise ConnectError(
            f"more than one running dataflow has a dynamic node `{node_id}`; set DORA_DATAFLOW to the name "
            f"or the UUID of one: {ids}"
        )
    if not refusals:
        raise ConnectError(
            f"no dataflow is running that node `{node_id}` could join; start one with `dora run`"
        )
    raise ConnectError("; ".join(dict.fromkeys(refusals)))
