"""Make what every node makes at its start. A template process imports this; its forks have it then."""

from __future__ import annotations

import msgspec

from dora.transport.shm.iceoryx2 import load_iceoryx2
from dora.wire import decode
from dora.wire.node_config import Address, decode_address, encode_address
from dora.wire.node_protocol import Started, decode_to_node

# Decoders are made when they are used first.
decode_address(encode_address(Address("", "", "")))
decode_to_node(msgspec.msgpack.encode(Started(0)))
decode.warm_up()
load_iceoryx2()
