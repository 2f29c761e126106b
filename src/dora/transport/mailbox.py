"""The mailbox of a machine: the Zenoh router through which one dataflow's messages from other machines come.

It is hosted by the process that runs the machine's share of the dataflow, and routes in native threads.
Nodes of other machines connect to it by an explicit TCP address, nodes of this machine by a Unix
socket. There is no discovery, and mailboxes do not know each other: a message takes two hops, from the
sender to the mailbox of the receiver's machine, and from there to the receiver.

Whoever connects shows the secret of the dataflow, which the coordinator makes for each start. With
certificates (`TlsFiles`), both sides also prove who they are, and everything is encrypted.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, Final

import zenoh

from dora.errors import TransportError
from dora.transport.places import mailbox_endpoint
from dora.transport.zenoh_router import make_config, open_router
from dora.wire.control import RemoteConfig, TlsFiles

USER: Final = "dora"
_LEASE_MS: Final = 3000  # a machine that has not been heard of for so long is cut off
_RETRY: Final = {"period_init_ms": 100, "period_max_ms": 1000, "period_increase_factor": 2}
_OPEN_MS: Final = 15_000  # for the first connection to another machine


def free_port(interface: str) -> int:
    """Return a TCP port that is free on an address; raises `TransportError`."""
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((interface, 0))
        except OSError as error:
            raise TransportError(f"cannot listen on {interface}: {error.strerror}") from None
        port: int = probe.getsockname()[1]
        return port


def _security(secret: str, tls: TlsFiles | None) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "transport__auth__usrpwd__user": USER,
        "transport__auth__usrpwd__password": secret,
    }
    if tls is not None:
        settings |= {
            "transport__link__tls__root_ca_certificate": tls.authority,
            "transport__link__tls__listen_certificate": tls.certificate,
            "transport__link__tls__listen_private_key": tls.key,
            "transport__link__tls__connect_certificate": tls.certificate,
            "transport__link__tls__connect_private_key": tls.key,
            "transport__link__tls__enable_mtls": True,
        }
    return settings


def open_mailbox(
    run_dir: str, interface: str, port: int, secret: str, tls: TlsFiles | None
) -> tuple[str, Callable[[], None]]:
    """Open the mailbox in the directory of a run, for other machines at ``interface`` and ``port``.

    Returns its endpoint for nodes of this machine and the function that closes it. Raises `TransportError`.
    """
    here = f"unixsock-stream/{run_dir}/mailbox.sock"
    passwords = f"{run_dir}/mailbox.passwords"
    with open(os.open(passwords, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"{USER}:{secret}\n")
    config = make_config(
        mode="router",
        listen__endpoints=[here, mailbox_endpoint(interface, port, tls=tls is not None)],
        transport__auth__usrpwd__dictionary_file=passwords,
        transport__link__tx__lease=_LEASE_MS,
        **_security(secret, tls),
    )
    return here, open_router(config, mailbox_endpoint(interface, port, tls=tls is not None))


def connect(to: str, remote: RemoteConfig) -> zenoh.Session:
    """Open a session with a mailbox; it connects again by itself. Raises ``zenoh.ZError``."""
    return zenoh.open(
        make_config(
            mode="client",
            connect__endpoints=[to],
            connect__timeout_ms=_OPEN_MS,
            connect__retry=_RETRY,
            transport__link__tx__lease=_LEASE_MS,
            **_security(remote.secret, remote.tls),
        )
    )
