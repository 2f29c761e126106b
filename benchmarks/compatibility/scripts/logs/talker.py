"""Print and log."""

import logging
import sys

from dora import Node

node = Node()
node.next()
print("plain line", flush=True)
print("to stderr", file=sys.stderr, flush=True)
for level in ("error", "warn", "info", "debug", "trace"):
    node.log(level, f"at {level}", "some.target", {"key": "value"})
logging.warning("by logging")
print('{"level": "info", "message": "JSON"}', flush=True)
