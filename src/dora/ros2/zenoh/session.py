"""Zenoh sessions as rmw_zenoh has them: a peer that finds the others through a router.

Data goes straight from peer to peer. Only to find each other they need the router, which listens on
`ROUTER` by default.
"""

from __future__ import annotations

import json
import os
from typing import Any, Final
from urllib.parse import unquote, urlparse

import zenoh

from dora.errors import ConnectError

ROUTER: Final = "tcp/localhost:7447"
ROUTER_ENDPOINT: Final = "tcp/[::]:7447"  # on which a router listens
CONFIG_VARIABLE: Final = "ZENOH_SESSION_CONFIG_URI"  # as for rmw_zenoh
OVERRIDE_VARIABLE: Final = "ZENOH_CONFIG_OVERRIDE"  # key=value;key=value

_CONNECT_TIMEOUT_MS: Final = 5000  # then the user is told that no router answers

# The configuration of rmw_zenoh's sessions, where it differs from Zenoh's defaults.
_SESSION: Final[dict[str, Any]] = {
    "mode": "peer",
    "connect/endpoints": [ROUTER],
    "connect/timeout_ms": _CONNECT_TIMEOUT_MS,
    "connect/exit_on_failure": True,  # rmw_zenoh waits without limit; here the user learns what is missing
    "listen/endpoints": ["tcp/localhost:0"],
    "scouting/multicast/enabled": False,
    "scouting/gossip/enabled": True,
    "scouting/gossip/target": {"router": ["router", "peer"], "peer": ["router"]},
    # In rmw_zenoh, the side with the greater id connects. This side always does, and waits for it, or else
    # the first messages could be lost.
    "scouting/gossip/autoconnect_strategy": "always",
    "timestamping/enabled": True,  # the history of a publisher needs it
    # Many nodes that start at once would exceed the limits of Zenoh, so rmw_zenoh has larger ones.
    "queries_default_timeout": 60_000,
    "transport/unicast/open_timeout": 60_000,
    "transport/unicast/accept_timeout": 60_000,
    "transport/unicast/accept_pending": 10_000,
    "transport/unicast/max_sessions": 10_000,
    "transport/link/tx/lease": 60_000,
    # Its segments in /dev/shm outlive a killed process.
    "transport/shared_memory/enabled": False,
}
_ROUTER: Final[dict[str, Any]] = {
    "mode": "router",
    "scouting/delay": 0,
    "scouting/multicast/enabled": False,
    "scouting/gossip/enabled": True,
    "scouting/gossip/target": {"router": ["router", "peer"], "peer": ["router"]},
    "timestamping/enabled": True,
    "transport/link/tx/lease": 60_000,  # as of the sessions
    "transport/shared_memory/enabled": False,
}


def open_session(config_uri: str | None = None) -> zenoh.Session:
    """Open a session; raises `ConnectError` if the configuration cannot be used or no router answers.

    ``config_uri`` is the path or ``file:`` address of a Zenoh configuration, which replaces the one of
    rmw_zenoh as a whole; default is ``$ZENOH_SESSION_CONFIG_URI``. ``$ZENOH_CONFIG_OVERRIDE`` changes keys
    of either.
    """
    path = config_uri or os.environ.get(CONFIG_VARIABLE, "")
    config = _read_config(path) if path else _make_config(_SESSION)
    _override(config, os.environ.get(OVERRIDE_VARIABLE, ""))
    try:
        return zenoh.open(config)
    except zenoh.ZError as error:
        raise ConnectError(_unreachable(config, path, error)) from error


def open_router(endpoint: str) -> zenoh.Session:
    """Open a router that listens on an endpoint (``tcp/localhost:7447``); raises `ConnectError`."""
    try:
        return zenoh.open(_make_config({**_ROUTER, "listen/endpoints": [endpoint]}))
    except zenoh.ZError as error:
        raise ConnectError(f"the Zenoh router cannot listen on {endpoint}: {_reason(error)}") from error


def _make_config(settings: dict[str, Any]) -> zenoh.Config:
    config = zenoh.Config()
    for key, value in settings.items():
        config.insert_json5(key, json.dumps(value))
    return config


def _read_config(uri: str) -> zenoh.Config:
    parsed = urlparse(uri)
    path = unquote(parsed.path) if parsed.scheme == "file" else uri
    try:
        return zenoh.Config.from_file(path)
    except zenoh.ZError as error:
        raise ConnectError(f"the Zenoh configuration {uri} cannot be used: {_reason(error)}") from error


def _override(config: zenoh.Config, text: str) -> None:
    for item in filter(None, (part.strip() for part in text.split(";"))):
        key, equals, value = item.partition("=")
        try:
            if not equals:
                raise ValueError("it has the form key=value;key=value")
            config.insert_json5(key.strip(), value.strip())
        except (zenoh.ZError, ValueError) as error:
            raise ConnectError(f"`{item}` in ${OVERRIDE_VARIABLE} cannot be used: {error}") from error


def _unreachable(config: zenoh.Config, path: str, error: zenoh.ZError) -> str:
    try:
        endpoints = json.loads(config.get_json("connect/endpoints"))
    except (zenoh.ZError, ValueError):
        endpoints = []
    if isinstance(endpoints, dict):  # one list for each mode
        endpoints = [item for items in endpoints.values() for item in items]
    where = " or ".join(map(str, endpoints)) or "an address"
    source = f" (from {path})" if path else ""
    return (
        f"no Zenoh router answers at {where}{source}: start one there "
        "(`ros2 run rmw_zenoh_cpp rmw_zenohd`, without ROS `python -m dora.ros2.zenoh`), or name another "
        f"one in a Zenoh configuration and give its path as `config_uri` ({_reason(error)})"
    )


def _reason(error: zenoh.ZError) -> str:
    """Return what Zenoh says, without the places in its source code."""
    return str(error).partition(" at /")[0].rstrip(".")
