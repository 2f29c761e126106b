"""Sessions between nodes of different machines: the receiver listens, senders connect.

A node that gets messages from other machines listens at a TCP port, which its machine has chosen and the
coordinator has told the others. There is no discovery and nothing in between: a message takes one hop.
(Through routers, one on each machine, it took two to three times as long.)

Whoever connects shows the secret of the dataflow, which the coordinator makes for each start. With
certificates (`TlsFiles`), both sides also prove who they are, and everything is encrypted.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from typing import Any, Final

import zenoh

from dora._ownership import open_own
from dora.errors import DoraError, TransportError
from dora.transport.network.zenoh_router import make_config, open_session
from dora.wire.node_config import RemoteConfig, TlsFiles

USER: Final = "dora"
PORTS: Final = "DORA_LINK_PORTS"
_DEFAULT_PORTS: Final = (20_000, 29_999)  # below those that systems give to outgoing connections
_LEASE_MS: Final = 3000  # a machine that has not been heard of for so long is cut off
_RETRY: Final = {"period_init_ms": 50, "period_max_ms": 500, "period_increase_factor": 2}
# Connections that do not show the secret must not keep out those that do.
_MOST_STRANGERS: Final = 600
_STRANGER_PATIENCE_MS: Final = 3000
# With room for one message of 1 MiB; two, Zenoh's default, let a large message wait at every turn.
BATCHES: Final = 16
_READ_BUFFER: Final = 1 << 20  # bytes
# Of the system, for what is sent on the quick way, so that nobody waits who sends there. The system's own
# choice begins at 16 KiB. Linux doubles it, and allows 208 KiB where nobody has set `net.core.wmem_max`.
QUICK_BUFFER: Final = 1 << 20  # bytes
# How long Zenoh waits for room on a connection that still seems to be there until it closes that. The lane
# sends again what was lost, in smaller pieces. Zenoh must not give up single messages instead, its other
# way: without its priorities it discards all that follow, for good.
_CONGESTION: Final = "transport__link__tx__queue__congestion_control"
_PATIENCE_US: Final = 8_000_000
_PATIENCE_WITH_PROGRESS_US: Final = 2_000_000
# Each connection that waits like that occupies one of Zenoh's threads. With one or two of them, links
# to other machines would be held up as well.
_RUNTIME: Final = "(rx: (worker_threads: 8), tx: (worker_threads: 8), net: (worker_threads: 8))"


def choose_ports(interface: str, count: int) -> list[int]:
    """Return TCP ports that are free on an address; raises `DoraError`.

    They are among ``$DORA_LINK_PORTS`` (``20000-29999``), in random order: another run may choose, too.
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
    """Write the file by which a listener knows the secret."""
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
            transport__link__tx__queue__size__data=BATCHES,
            transport__link__rx__buffer_size=_READ_BUFFER,
            **{
                f"{_CONGESTION}__block__wait_before_close": _PATIENCE_US,
                f"{_CONGESTION}__drop__wait_before_drop": _PATIENCE_WITH_PROGRESS_US,
            },
            **options,
        ),
        _RUNTIME,
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
        transport__unicast__lowlatency=True,  # for those who connect with it
        transport__auth__usrpwd__dictionary_file=remote.passwords,
        transport__unicast__accept_pending=_MOST_STRANGERS,
        transport__unicast__accept_timeout=_STRANGER_PATIENCE_MS,
    )


def reach(endpoint: str, remote: RemoteConfig, *, quickly: bool = False) -> zenoh.Session:
    """Connect to a node of another machine; raises ``zenoh.ZError``.

    Returns at once: the connection comes, and comes again, by itself. ``quickly``: with the transport
    for low latency, see `dora.transport.network.sender`.
    """
    return _open(
        remote,
        listen__endpoints=[],
        connect__endpoints=[endpoint + (f"#so_sndbuf={QUICK_BUFFER}" if quickly else "")],
        connect__timeout_ms=-1,
        connect__exit_on_failure=False,
        transport__unicast__lowlatency=quickly,
        connect__retry=_RETRY,
    )
