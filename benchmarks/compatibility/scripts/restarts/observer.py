"""Note what the receiver of a restarted node sees."""

import pyarrow as pa
from notes import note

from dora import Node

node = Node()
kinds = []
for event in node:
    if event.get("id") == "tick":
        node.send_output("go", pa.array([]))
        continue
    kinds.append([event["type"], event.get("id")])
    if event["type"] == "NODE_RESTARTED":
        note("NODE_RESTARTED names", sorted(event))
    if event["type"] == "INPUT_CLOSED":
        break
note("kinds", sorted(kinds))
