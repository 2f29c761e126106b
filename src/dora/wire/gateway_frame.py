"""The id at the beginning of a connection between gateways, and the frames: a header and perhaps a body."""

from __future__ import annotations

import struct
from typing import Final

# A connection begins with the id of its dataflow, by which the daemon of the other machine finds the
# gateway. All that follows is for the gateway.
ID_LENGTH: Final = 36  # ASCII characters of a UUID

# Kind, flags, stream, then the bytes of the body or a number.
HEADER: Final = struct.Struct("<BBHQ")
DATA, ACK, PING, PONG, TEXT = range(1, 6)
HAS_BODY: Final = (DATA, TEXT)
ASKS_FOR_ACK: Final = 1  # flag of DATA: acknowledge at once
