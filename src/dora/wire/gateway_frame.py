"""The frames between gateways: a header and perhaps a body."""

from __future__ import annotations

import struct
from typing import Final

# Kind, flags, stream, then the bytes of the body or a number.
HEADER: Final = struct.Struct("<BBHQ")
DATA, ACK, PING, PONG, TEXT = range(1, 6)
HAS_BODY: Final = (DATA, TEXT)
ASKS_FOR_ACK: Final = 1  # flag of DATA: acknowledge at once
