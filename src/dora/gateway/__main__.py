"""A gateway as a process: ``python -m dora.gateway``.

The daemon writes configurations to standard input, one a line; when that ends, the gateway ends. It writes
log entries to standard output: a level and a text, as JSON. The level `applied` is no entry: the next
configuration is in use.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from dora.errors import DoraError
from dora.wire.decoders import from_json
from dora.wire.node_config import GatewayConfig


def main() -> None:
    """Run the gateway that standard input describes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the daemon decides when it ends

    def log(level: str, text: str) -> None:
        try:
            os.write(1, json.dumps([level, text]).encode() + b"\n")
        except OSError:
            pass  # the daemon has ended, and this process is about to

    # Byte by byte: what follows the first line is for the gateway, which reads the descriptor itself.
    line = b""
    while not line.endswith(b"\n"):
        part: Any = os.read(0, 1)
        if not part:
            return
        line += part
    from dora.gateway.gateway import Gateway

    try:
        gateway = Gateway(from_json(line, GatewayConfig), 0, log)
    except (DoraError, OSError) as error:
        log("error", f"the gateway to other machines cannot start: {error}")
        sys.exit(1)
    log("applied", "")
    gateway.run()
    os._exit(0)  # nothing of it may be destroyed: receivers still read what it has sent


if __name__ == "__main__":
    main()
