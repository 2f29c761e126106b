"""The Zenoh router in the process of the daemon, to which its nodes connect.

It routes in native threads, so no message passes through the daemon's Python code. It listens on a Unix
socket in the directory of the run: processes of other users cannot reach it, and it is a fifth faster than
the loopback interface.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import Any, Final

import zenoh

from dora._paths import router_of
from dora.errors import TransportError

# By default, Zenoh closes the connection to a receiver that reads nothing for 5 s, and loses the messages
# in flight: a program stopped in a debugger would lose messages without a trace.
_BLOCK_TIMEOUT_US: Final = 600_000_000

# A message for a receiver that reads nothing occupies one of the threads in which the router receives.
# Zenoh has two of them by default: two such senders would block the whole dataflow. The first session of a
# process fixes the number.
_RUNTIME_VARIABLE: Final = "ZENOH_RUNTIME"
_RUNTIME: Final = "(rx: (worker_threads: 32))"
_CONNECT_TIMEOUT_MS: Final = 5000
_opening: Final = threading.Lock()  # all threads share the environment


BLOCK: Final = zenoh.CongestionControl.BLOCK


def close_session(session: zenoh.Session) -> None:
    """Close a session, unless it is closed already."""
    if session.is_closed():
        return
    try:
        session.close()  # type: ignore[no-untyped-call]  # a gap in its stubs
    except zenoh.ZError:
        pass  # the other side does not answer


def make_config(**options: Any) -> zenoh.Config:
    """Return the configuration of one session: no discovery, only the given endpoints.

    The keys of ``options`` are Zenoh's, with ``__`` for ``/``.
    """
    config = zenoh.Config()
    settings = {
        "scouting__multicast__enabled": False,
        "scouting__gossip__enabled": False,
        "scouting__delay": 0,
        # Its segments in /dev/shm outlive a killed process, and links over Zenoh are meant for networks.
        "transport__shared_memory__enabled": False,
        "transport__link__tx__queue__congestion_control__block__wait_before_close": _BLOCK_TIMEOUT_US,
        **options,
    }
    for key, value in settings.items():
        config.insert_json5(key.replace("__", "/"), json.dumps(value))
    return config


def start(run_dir: str) -> tuple[str, Callable[[], None]]:
    """Open a router in the directory of a run.

    Returns its endpoint (for `ZenohEngine`) and the function that closes it. Raises `TransportError`.
    """
    endpoint = router_of(run_dir)
    try:
        session = open_session(make_config(mode="router", listen__endpoints=[endpoint]), _RUNTIME)
    except zenoh.ZError as error:
        raise TransportError(f"the Zenoh router cannot listen on {endpoint}: {error}") from error
    return endpoint, session.close


def connect(endpoint: str) -> zenoh.Session:
    """Connect a node or an observer to the router; raises ``zenoh.ZError``."""
    return zenoh.open(
        make_config(mode="client", connect__endpoints=[endpoint], connect__timeout_ms=_CONNECT_TIMEOUT_MS)
    )


def open_session(config: zenoh.Config, runtime: str) -> zenoh.Session:
    """Open a session; ``runtime`` configures Zenoh's threads if it is the first one of the process.

    ``$ZENOH_RUNTIME`` of the user has precedence. Raises ``zenoh.ZError``.
    """
    with _opening:
        chosen = os.environ.get(_RUNTIME_VARIABLE)
        os.environ[_RUNTIME_VARIABLE] = chosen or runtime
        try:
            return zenoh.open(config)
        finally:
            if chosen is None:
                del os.environ[_RUNTIME_VARIABLE]  # child processes must not inherit it
