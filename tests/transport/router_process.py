"""A Zenoh router, until this process is killed or its standard input ends."""

from __future__ import annotations

import sys

from dora.transport.zenoh.router import start

endpoint, close = start(sys.argv[1])
print(endpoint, flush=True)
sys.stdin.read()
close()
