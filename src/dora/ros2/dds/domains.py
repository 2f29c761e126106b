"""Domains of Cyclone DDS in this process, with the reach that ROS's variables ask for."""

from __future__ import annotations

import os
import socket
import threading
from typing import Final
from xml.sax.saxutils import quoteattr

from cyclonedds.core import DDSException
from cyclonedds.domain import Domain

from dora.errors import ConnectError
from dora.ros2.dds.calls import print_errors_only

# A user's own configuration has precedence: it may say the same things.
_OWN_CONFIG: Final = "CYCLONEDDS_URI"
_RANGE: Final = "ROS_AUTOMATIC_DISCOVERY_RANGE"
_PEERS: Final = "ROS_STATIC_PEERS"
_LOCALHOST_ONLY: Final = "ROS_LOCALHOST_ONLY"  # before Iron
_MOST_PARTICIPANTS: Final = 120  # on one machine without multicast; each has a port of its own

_LOOPBACK_TOO: Final = (
    '<General><Interfaces><NetworkInterface autodetermine="true" multicast="false"/>'
    '<NetworkInterface address="127.0.0.1" multicast="false"/></Interfaces>'
    "<AllowMulticast>false</AllowMulticast></General>"
)
_LOOPBACK: Final = (
    '<General><Interfaces><NetworkInterface address="127.0.0.1" multicast="false"/></Interfaces>'
    "<AllowMulticast>false</AllowMulticast></General>"
)

# Contexts open in several threads. A domain is configured once, for the first of them.
_lock: Final = threading.Lock()
_domains: Final[dict[int, tuple[Domain | None, int]]] = {}  # id → the domain, and how many use it


def config_from_environment() -> str:
    """Return the XML for Cyclone that ROS's variables ask for; empty for its defaults (the subnet).

    Raises `ConnectError` for a value of a variable that has no meaning.
    """
    if os.environ.get(_OWN_CONFIG):
        return ""
    reach = os.environ.get(_RANGE, "").upper()
    if not reach and os.environ.get(_LOCALHOST_ONLY) == "1":
        reach = "LOCALHOST"
    peers = [_checked(peer.strip()) for peer in os.environ.get(_PEERS, "").split(";") if peer.strip()]
    if reach in ("", "SYSTEM_DEFAULT", "SUBNET"):
        return _config(peers) if peers else ""
    # The others announce themselves on the loopback interface, so this participant has to listen there.
    if reach == "LOCALHOST":
        return _config(["localhost", *peers], _LOOPBACK if not peers else _LOOPBACK_TOO)
    if reach == "OFF":
        # As in rmw_cyclonedds: nobody else has this tag, and no port of ours is where others look.
        alone = f"<ParticipantIndex>none</ParticipantIndex><Tag>ros_discovery_off_{os.getpid()}</Tag>"
        return f"<CycloneDDS><Domain>{_LOOPBACK}<Discovery>{alone}</Discovery></Domain></CycloneDDS>"
    raise ConnectError(f"`{_RANGE}={reach}` has no meaning: it is SUBNET, LOCALHOST, OFF or SYSTEM_DEFAULT")


def _checked(peer: str) -> str:
    """Return the name or address of a machine as it is; Cyclone aborts the process for an unknown one."""
    try:
        socket.getaddrinfo(peer, None, socket.AF_INET)
    except OSError as error:
        raise ConnectError(
            f"`{peer}` in ${_PEERS} is no machine that is known here: {error.strerror}"
        ) from error
    return peer


def _config(peers: list[str], general: str = "") -> str:
    items = "".join(f"<Peer address={quoteattr(peer)}/>" for peer in peers)
    return (
        f"<CycloneDDS><Domain>{general}<Discovery><ParticipantIndex>auto</ParticipantIndex>"
        f"<MaxAutoParticipantIndex>{_MOST_PARTICIPANTS}</MaxAutoParticipantIndex>"
        f"<Peers>{items}</Peers></Discovery></Domain></CycloneDDS>"
    )


def open_domain(domain_id: int) -> None:
    """Configure a domain, for the first context of this process in it. Raises `ConnectError`."""
    with _lock:
        domain, users = _domains.get(domain_id, (None, 0))
        if not users:
            config = config_from_environment()
            if not os.environ.get(_OWN_CONFIG):
                print_errors_only()
            try:
                domain = Domain(domain_id, config) if config else None
            except DDSException as error:
                raise ConnectError(f"DDS cannot open domain {domain_id}: {error}") from error
        _domains[domain_id] = (domain, users + 1)


def close_domain(domain_id: int) -> None:
    """Release a domain after `open_domain`; the last one closes it."""
    with _lock:
        domain, users = _domains.pop(domain_id)
        if users > 1:
            _domains[domain_id] = (domain, users - 1)
