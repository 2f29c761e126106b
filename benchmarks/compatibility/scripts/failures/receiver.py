"""Note how a failure is told."""

import pyarrow as pa
from notes import note, plain

from dora import Node

node = Node()
node.send_output("go", pa.array([]))
kinds = []
for event in node:
    kinds.append(event["type"])
    if event["type"] == "NODE_FAILED":
        note("NODE_FAILED names", sorted(event))
        note("id", event["id"])
        value = dict(event["value"])
        note("value names", sorted(value))
        note("error is text", isinstance(value.pop("error"), str))
        note("affected inputs", sorted(value.pop("affected_input_ids")))
        note("value", plain(value))
note("kinds", sorted(kinds))
