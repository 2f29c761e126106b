"""Adds two numbers on request."""

import pyarrow as pa
import pyarrow.compute as pc

from dora import Node

node = Node()
for event in node:
    if event["type"] == "INPUT":
        total = pc.sum(event["value"]).as_py()
        # The request's metadata carries the request_id, by which the client knows its answer.
        node.send_service_response("response", pa.array([total]), event["metadata"])
