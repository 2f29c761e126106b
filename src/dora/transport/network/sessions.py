"""Zenoh sessions between nodes of different machines: the receiver listens, senders connect.

A node that receives from other machines listens at a TCP port. Its machine chooses the port, and the
coordinator sends it to the others. There is neither discovery nor a router: a message takes one hop.

A sender authenticates with the secret of the dataflow, which the coordinator creates for each start. With
certificates (`TlsFiles`), both sides also prove their identity, and the connection is encrypted.
"""

from __future__ import annotations

import os
import random
import socket
import stat
import struct
from collections.abc import Iterator
from typing import Any, Final

import zenoh

from dora._ownership import open_own
from dora.errors import DoraError, TransportError
from dora.transport.network.zenoh_router import make_config, open_session
from dora.wire.node_config import RemoteConfig, TlsFiles

USER: Final = "dora"
PORTS: Final = "DORA_LINK_PORTS"
DSCP: Final = "DORA_LINK_DSCP"
_DEFAULT_PORTS: Final = (20_000, 29_999)  # below those that systems give to outgoing connections
_LEASE_MS: Final = 3000  # without a sign of life from a machine, after which it is cut off
# Until a connection is attempted again. The system repeats the first packet of an attempt after one second,
# and later after two, four, eight and more. With Zenoh's 10 s, a link was back up to 4 s after the network.
_OPEN_TIMEOUT_MS: Final = 3000
_RETRY: Final = {"period_init_ms": 50, "period_max_ms": 500, "period_increase_factor": 2}
# Connections that do not authenticate must not keep out those that do.
_MAX_UNAUTHENTICATED: Final = 600
_AUTHENTICATION_TIMEOUT_MS: Final = 3000
# Room for one message of 1 MiB. Zenoh's default of two makes a large message wait for every batch.
BATCHES: Final = 16
_READ_BUFFER: Final = 1 << 20  # bytes
# The send buffer of the fast path, so that a sender never blocks there. The system's own choice starts at
# 16 KiB. Linux doubles the value, and allows 208 KiB unless `net.core.wmem_max` is set.
FAST_PATH_BUFFER: Final = 1 << 20  # bytes
# How long Zenoh waits for room on a connection before it closes it. The send window then retransmits what
# was lost, in smaller fragments. Messages must not be dropped one by one instead: without priorities, Zenoh
# then discards all that follow, for good.
_CONGESTION: Final = "transport__link__tx__queue__congestion_control"
_BLOCK_TIMEOUT_US: Final = 8_000_000
_DROP_TIMEOUT_US: Final = 2_000_000
# Every connection that waits like that occupies one of Zenoh's threads for sending. If none were left, the
# links to other machines would wait, too.
_THREADS: Final = 8
_MOST_THREADS: Final = 40
_LARGEST_DSCP: Final = 63
_EVENTS: Final = 256  # of a session that are kept between two checks
_NO_LINGER: Final = struct.pack("ii", 0, 0)


def find_free_ports(interface: str, count: int) -> list[int]:
    """Return ``count`` TCP ports that are free on an address; raises `DoraError`.

    They are in ``$DORA_LINK_PORTS`` (``20000-29999``), in random order, because another run may choose too.
    """
    found: list[int] = []
    for port in _candidates():
        if len(found) == count:
            break
        if _is_free(interface, port):
            found.append(port)
    if len(found) < count:
        raise TransportError(f"there are not enough free ports on {interface}; widen {PORTS}")
    return found


def dscp_from_environment() -> int:
    """Return the number in ``$DORA_LINK_DSCP``, 0 if there is none; raises `DoraError`.

    It is the mark (RFC 2474) of the packets on the fast path, by which Wi-Fi and routers put them first.
    """
    text = os.environ.get(DSCP, "0")
    if not text.isdecimal() or int(text) > _LARGEST_DSCP:
        raise DoraError(f"{DSCP} is `{text}`; write a number from 0 to {_LARGEST_DSCP}, for example 46")
    return int(text)


def _candidates() -> Iterator[int]:
    first, last = _DEFAULT_PORTS
    if text := os.environ.get(PORTS):
        try:
            first, last = (int(part) for part in text.split("-"))
        except ValueError:
            first = 0
        if not 0 < first <= last < 65536:
            raise DoraError(f"{PORTS} is `{text}`; write a range of ports, for example 20000-29999")
    yield from random.sample(range(first, last + 1), last - first + 1)


def _is_free(interface: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((interface, port))
        except OSError as error:
            if isinstance(error, PermissionError) or error.errno in (98, 48):  # in use: Linux, macOS
                return False
            raise TransportError(f"cannot listen on {interface}: {error.strerror}") from None
        return True


def write_passwords(path: str, secret: str) -> None:
    """Write the file with which a listener checks the secret."""
    with open(open_own(path, os.O_WRONLY | os.O_CREAT), "w") as file:
        file.truncate()
        file.write(f"{USER}:{secret}\n")


def _open(remote: RemoteConfig, **options: Any) -> zenoh.Session:
    if remote.tls is not None:
        options |= _tls(remote.tls)
    return open_session(
        make_config(
            mode="peer",
            transport__auth__usrpwd__user=USER,
            transport__auth__usrpwd__password=remote.secret,
            transport__unicast__qos__enabled=False,  # it would exclude low latency
            transport__link__tx__lease=_LEASE_MS,
            transport__unicast__open_timeout=_OPEN_TIMEOUT_MS,
            transport__link__tx__queue__size__data=BATCHES,
            transport__link__rx__buffer_size=_READ_BUFFER,
            **{
                f"{_CONGESTION}__block__wait_before_close": _BLOCK_TIMEOUT_US,
                f"{_CONGESTION}__drop__wait_before_drop": _DROP_TIMEOUT_US,
            },
            **options,
        ),
        _runtime(len(remote.reach)),
    )


def _runtime(peers: int) -> str:
    """Return the configuration of Zenoh's threads for connections to at most this many nodes.

    >>> _runtime(2)
    '(rx: (worker_threads: 8), tx: (worker_threads: 10), net: (worker_threads: 8))'
    """
    sending = min(_THREADS + peers, _MOST_THREADS)
    return (
        f"(rx: (worker_threads: {_THREADS}), tx: (worker_threads: {sending}), "
        f"net: (worker_threads: {_THREADS}))"
    )


def _tls(files: TlsFiles) -> dict[str, Any]:
    return {
        "transport__link__tls__root_ca_certificate": files.authority,
        "transport__link__tls__listen_certificate": files.certificate,
        "transport__link__tls__listen_private_key": files.key,
        "transport__link__tls__connect_certificate": files.certificate,
        "transport__link__tls__connect_private_key": files.key,
        "transport__link__tls__enable_mtls": True,
    }


def listen(node_id: str, remote: RemoteConfig) -> zenoh.Session:
    """Listen for nodes of other machines; raises ``zenoh.ZError``."""
    return _open(
        remote,
        listen__endpoints=[remote.listen[node_id]],
        transport__unicast__lowlatency=True,  # for connections that ask for it
        transport__auth__usrpwd__dictionary_file=remote.passwords,
        transport__unicast__accept_pending=_MAX_UNAUTHENTICATED,
        transport__unicast__accept_timeout=_AUTHENTICATION_TIMEOUT_MS,
    )


def connect(endpoint: str, remote: RemoteConfig, *, low_latency: bool = False) -> zenoh.Session:
    """Connect to a node of another machine; raises ``zenoh.ZError``.

    Returns at once: Zenoh connects, and reconnects, in the background. ``low_latency``: with Zenoh's
    low-latency transport, see `dora.transport.network.fast_path.FastPath`.
    """
    return _open(
        remote,
        listen__endpoints=[],
        connect__endpoints=[endpoint + (_fast_path_options(remote) if low_latency else "")],
        connect__timeout_ms=-1,
        connect__exit_on_failure=False,
        transport__unicast__lowlatency=low_latency,
        connect__retry=_RETRY,
    )


def _fast_path_options(remote: RemoteConfig) -> str:
    """Return the options of the fast path's socket, as the end of an endpoint."""
    mark = f";dscp={remote.dscp << 2}" if remote.dscp else ""  # Zenoh takes the whole byte of the header
    return f"#so_sndbuf={FAST_PATH_BUFFER}{mark}"


class Connections:
    """The connections of a session, to be checked periodically.

    Zenoh sets ``SO_LINGER`` on its sockets: the thread that closes one waits up to 10 s until the other
    side has acknowledged everything, which a machine that is cut off does not. It is one of the few threads
    that receive, and without them the links to other machines stand still. `check` takes the option away,
    so the system closes the connection in the background.
    """

    def __init__(self, session: zenoh.Session, endpoint: str) -> None:
        """Start to listen for events; raises ``zenoh.ZError``.

        ``endpoint``: where the session listens, or to which it connects.
        """
        self._port = _port(endpoint)
        self._events = session.info.declare_link_events_listener(zenoh.handlers.RingChannel(_EVENTS))
        # The first connection may be there already. Zenoh 1.10 panics when it is asked for its connections.
        _close_in_background(self._port)

    def check(self) -> bool:
        """Return whether a connection was lost since the last time, even if there is a new one."""
        is_lost = has_new = False
        try:
            while (event := self._events.try_recv()) is not None:
                if event.kind == zenoh.SampleKind.DELETE:
                    is_lost = True
                else:
                    has_new = True
        except zenoh.ZError:
            pass  # the session is closed
        if has_new:
            _close_in_background(self._port)
        return is_lost


def _port(endpoint: str) -> int:
    """Return the port of an endpoint.

    >>> _port("tcp/10.0.0.1:20000"), _port("tls/[fe80::1]:20001#iface=eth0")
    (20000, 20001)
    """
    return int(endpoint.partition("#")[0].partition("?")[0].rpartition(":")[2])


def _close_in_background(port: int) -> None:
    """Reset ``SO_LINGER`` of this process's connections from or to this port."""
    for name in os.listdir("/dev/fd"):
        try:
            if not stat.S_ISSOCK(os.stat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as connection:
                if (port,) in (connection.getsockname()[1:2], connection.getpeername()[1:2]):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        except OSError:
            pass  # it is closed by now, or not connected
