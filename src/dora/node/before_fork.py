"""Make what every node makes at its start. A template process imports this; its forks have it then."""

from __future__ import annotations

from importlib.machinery import PathFinder

import msgspec

from dora.transport.shm.iceoryx2 import node_builder
from dora.wire import decode
from dora.wire.node_config import Address, decode_address, encode_address
from dora.wire.node_protocol import Started, decode_to_node


def warm_up() -> None:
    """Make them. A process that is forked ahead makes them again, and so copies the memory it writes to."""
    decode_address(encode_address(Address("", "", "")))  # decoders are made when they are used first
    decode_to_node(msgspec.msgpack.encode(Started(0)))
    decode.warm_up()
    if PathFinder.find_spec("iceoryx2") is not None:
        node_builder("/dev/shm/none", "none")


warm_up()
