"""Make what every node makes at its start. A template process imports this; its forks have it then."""

from __future__ import annotations

import os
from importlib import import_module

import msgspec

import dora.node.interceptors.event_log
import dora.node.send.kept_output  # noqa: F401 - both are for the black box, which nearly every run has
from dora.transport.engines import ENGINES, EngineEntry, best_engine
from dora.wire import decode
from dora.wire.node_config import Address, decode_address, encode_address
from dora.wire.node_protocol import Started, decode_to_node


def warm_up() -> None:
    """Make them. A process that is forked ahead makes them again, and so copies the memory it writes to."""
    decode_address(encode_address(Address("", "", "")))  # decoders are made when they are used first
    decode_to_node(msgspec.msgpack.encode(Started(0)))
    decode.warm_up()
    if not (engine := _engine()).fault():
        import_module(engine.module).warm_up()


def _engine() -> EngineEntry:
    """Return the engine of the processes that are going to be forked, as far as it is known."""
    # From `environb`, so that it does not count as a variable that packages read: nodes may have another.
    name = os.environb.get(b"DORA_ENGINE", b"").decode(errors="replace")
    return next((entry for engine, entry in ENGINES.items() if engine == name), ENGINES[best_engine()])


warm_up()
