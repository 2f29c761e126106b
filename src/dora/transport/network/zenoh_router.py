"""The Zenoh router that a daemon hosts: the meeting point of its nodes' sessions.

It routes in native threads, so the daemon's Python does not lie on the path of any message. It
listens on a Unix socket in the directory of the run: nobody else's processes can reach it, and it is
a fifth faster than the loopback interface.
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

# Zenoh's default closes the connection to a receiver that takes nothing for 5 s, and with it goes
# what was on its way: a program stopped in a debugger would lose messages without a trace.
_PATIENCE_US: Final = 600_000_000

# Whoever sends to a receiver that takes nothing occupies a thread in which the router receives.
# Zenoh has two of them by default: two such senders would hold up the whole dataflow. The number counts
# for the process, from its first session on.
_RUNTIME_VARIABLE: Final = "ZENOH_RUNTIME"
_RUNTIME: Final = "(rx: (worker_threads: 32))"
_opening: Final = threading.Lock()  # the environment is that of all threads


def make_config(**options: Any) -> zenoh.Config:
    """Return the configuration of one session: no discovery, nothing but the given endpoints.

    The keys of ``options`` are Zenoh's with ``__`` for ``/``.
    """
    config = zenoh.Config()
    settings = {
        "scouting__multicast__enabled": False,
        "scouting__gossip__enabled": False,
        "scouting__delay": 0,
        # Its segments in /dev/shm outlive a killed process, and links over Zenoh are for networks.
        "transport__shared_memory__enabled": False,
        "transport__link__tx__queue__congestion_control__block__wait_before_close": _PATIENCE_US,
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


def open_session(config: zenoh.Config, runtime: str) -> zenoh.Session:
    """Open a session, with threads as ``runtime`` tells if it is the first one of the process.

    Raises ``zenoh.ZError``. What the user says in ``$ZENOH_RUNTIME`` has precedence.
    """
    with _opening:
        chosen = os.environ.get(_RUNTIME_VARIABLE)
        os.environ[_RUNTIME_VARIABLE] = chosen or runtime
        try:
            return zenoh.open(config)
        finally:
            if chosen is None:
                del os.environ[_RUNTIME_VARIABLE]  # it is not for those that inherit the environment
