"""Fail once, and end well."""

import pyarrow as pa
from notes import note

from dora import Node

node = Node()
note(f"process {node.restart_count()}: is_restart", node.is_restart())
for event in node:
    if event["type"] == "INPUT":
        if not node.is_restart():
            raise SystemExit(3)
        node.send_output("value", pa.array(["again"]))
        break
