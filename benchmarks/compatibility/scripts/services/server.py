"""Answer."""

import pyarrow as pa
from notes import attempt, note

from dora import Node

node = Node()
number = 0
for event in node:
    if event["type"] == "INPUT":
        number += 1
        note(f"request {number}: keys", sorted(event["metadata"]))
        node.send_service_response("response", pa.array([number]), event["metadata"])
attempt("no request id", node.send_service_response, "response", pa.array([0]), {})
attempt("no metadata", node.send_service_response, "response", pa.array([0]))
